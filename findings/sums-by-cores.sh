#!/usr/bin/env bash
# On a CPU the bits of jnp.sum depend on how many cores the process may use.
#
# Seen with jax and jaxlib 0.10.2, Python 3.11, x86-64 Linux: the same jitted functions of the same arrays, in a process with
# NPROC=1 and in one with NPROC=2 (NPROC unset stands for the cores that the process may use, so `taskset` or the limit of
# a container does the same):
#
#   sum of all      differs        sum of each row   equal
#   sum of columns  differs        matrix product    equal
#   convolution     differs
#
# XLA:CPU hands shares of one reduction to its threads and adds the shares. One expects a compiled program to give the same
# bits on the same machine; here a job step with another number of cores does not. NPROC=2 on one core gives the bits of
# two cores. hcl_jax keeps the number of threads with a run and says so when it goes on with another.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.3.5
cat > bits.py <<'PY'
import hashlib

import jax
import jax.numpy as jnp
import numpy as np

x = jnp.asarray(np.random.default_rng(0).normal(size=(2048, 1024)).astype(np.float32))
kernel = jnp.asarray(np.random.default_rng(1).normal(size=(8, 16, 3, 3)).astype(np.float32))
functions = {
    "sum of all": lambda x, k: jnp.sum(x),
    "sum of columns": lambda x, k: jnp.sum(x, axis=0),
    "sum of each row": lambda x, k: jnp.sum(x, axis=1),
    "convolution": lambda x, k: jax.lax.conv(x.reshape(128, 16, 32, 32), k, (1, 1), "SAME"),
    "matrix product": lambda x, k: x @ x.T,
}
for name, function in functions.items():
    print(name, hashlib.sha256(np.asarray(jax.jit(function)(x, kernel)).tobytes()).hexdigest()[:8], sep=": ")
PY
export JAX_PLATFORMS=cpu
NPROC=1 venv/bin/python bits.py > one
NPROC=2 venv/bin/python bits.py > two
NPROC=2 venv/bin/python bits.py > again
venv/bin/python - <<'PY'
import sys

one, two, again = (open(name).read().splitlines() for name in ("one", "two", "again"))
differs = {a.partition(":")[0] for a, b in zip(one, two, strict=True) if a != b}
print(*zip(one, two, strict=True), sep="\n")
sys.exit(not (two == again and {"sum of all", "sum of columns"} <= differs and "sum of each row" not in differs))
PY
