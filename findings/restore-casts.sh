#!/usr/bin/env bash
# Orbax restores an array in whatever type the target has, and wraps, cuts and rounds without a word.
#
# Seen with orbax-checkpoint 0.12.8 and jax 0.10.2, CPU: saved [1.5, 257.0, 3.7, -1.0] as float32, restored with a target
# of another type (StandardCheckpointer.restore with jax.ShapeDtypeStruct):
#
#   bfloat16   [1.5, 256, 3.703, -1]
#   int8       [1, 1, 3, -1]              257 has become 1
#   bool       [True, True, True, True]
#
# Another shape or another tree is refused, with an error that names the leaf; a type is taken for a request. A model whose
# parameters are now built in bfloat16 goes on from a float32 run with a third of the digits and the optimizer's moments
# rounded alike.
#
# hcl_jax compares the types that were saved with those of the state, and refuses (hcl_jax/workdir/checkpoint.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.3.5
JAX_PLATFORMS=cpu venv/bin/python - <<'PY'
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

saver = ocp.StandardCheckpointer()
place = pathlib.Path.cwd() / "saved"
saver.save(place, {"w": jnp.asarray([1.5, 257.0, 3.7, -1.0], jnp.float32)})
saver.wait_until_finished()


def restored(kind, shape=(4,)):
    return np.asarray(saver.restore(place, {"w": jax.ShapeDtypeStruct(shape, kind)})["w"])


seen = {kind.__name__: restored(kind) for kind in (jnp.bfloat16, jnp.int8, jnp.bool_)}
for name, values in seen.items():
    print(name, values.dtype, values.tolist())
try:
    restored(jnp.float32, (2,))
    refused = False
except ValueError as error:
    refused = True
    print("another shape:", str(error).split(". ")[0])
sys.exit(not (refused and seen["int8"].tolist() == [1, 1, 3, -1] and float(seen["bfloat16"][1]) == 256 and seen["bool"].all()))
PY
