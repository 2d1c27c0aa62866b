#!/usr/bin/env bash
# A NumPy array that a traced function closes over has, for jnp.asarray too, the type it was traced with, whatever enable_x64 says.
#
# Seen with jax 0.10.2 on a CPU, Python 3.11: dtype of jnp.asarray(array), array a float64 array that a function closed over when
# it was called under jax.jit:
#
#                                            called without x64,      called with x64,
#                                            asked with x64           asked without
#   while the function lives                 float32                  float64
#   a copy of the array                      float64                  float32
#   the same array, the function deleted     float64                  float32
#
# One would expect jnp.asarray to look at the array and the mode alone. jax keeps the constant of the trace by the array's identity
# for as long as the jaxpr lives, and an error that was caught keeps it alive as well. In a test suite a case in one file makes a
# float64 case in another miss its tolerance, and only where both run in one process and in that order.
# tests/losses/test_errors.py gives its traces copies.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.3.5
JAX_PLATFORMS=cpu venv/bin/python - <<'PY'
import gc
import sys

import jax
import jax.numpy as jnp
import numpy as np


def types(called, asked):
    """Of the array while the function lives, of a copy, and of the array when it is gone; with and without x64."""

    def taken(array):
        with jax.enable_x64(asked):
            return jnp.asarray(array).dtype.name

    array = np.linspace(0.0, 1.0, 4)
    function = jax.jit(lambda x: x + jnp.sum(array))
    with jax.enable_x64(called):
        function(1.0)
    alive = taken(array), taken(array.copy())
    del function
    gc.collect()
    return *alive, taken(array)


found = {x64: types(x64, not x64) for x64 in (False, True)}
print(found)
wanted = {False: ("float32", "float64", "float64"), True: ("float64", "float32", "float32")}
sys.exit(not (found == wanted))
PY
