#!/usr/bin/env bash
# Flax's LayerNorm does not normalise rows whose mean is far from zero.
#
# Seen with flax 0.12.8 and jax 0.10.2, CPU: rows of 4,096 float32 numbers, mean m and deviation 0.1. Normalised, their
# deviation is 1 (0.9995 with the default epsilon of 1e-6):
#
#   m        linen.LayerNorm    use_fast_variance=False
#   10            0.999              1.000
#   500           0.564              1.000
#   1000         99.755              1.000
#
# The default takes the variance as E[x^2] - E[x]^2. In float32 E[x^2] of such a row has steps of 0.06, so the difference is
# rounding: too large, or zero, and then the row is divided by the root of epsilon. nnx.LayerNorm has the same default, and
# so have GroupNorm and BatchNorm. No warning, no nan, and a test on standard normal input passes.
#
# hcl_jax/encoders/batch_norm.py takes two passes for float32, and hcl_jax/encoders/transformer.py asks for the slow variance.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.3.5
JAX_PLATFORMS=cpu venv/bin/python - <<'PY'
import sys

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import nnx

noise = 0.1 * np.random.default_rng(0).normal(size=(1, 4096))
seen = {}
for mean in (10, 500, 1000):
    rows = jnp.asarray(mean + noise, jnp.float32)
    plain = {"use_scale": False, "use_bias": False}
    fast = float(nn.LayerNorm(**plain).apply({}, rows).std())
    slow = float(nn.LayerNorm(use_fast_variance=False, **plain).apply({}, rows).std())
    other = float(nnx.LayerNorm(4096, rngs=nnx.Rngs(0))(rows).std())
    seen[mean] = fast, slow, other
    print(f"mean {mean}: linen {fast:.3f}, nnx {other:.3f}, use_fast_variance=False {slow:.3f}")
right = all(abs(slow - 1) < 0.01 for _, slow, _ in seen.values()) and abs(seen[10][0] - 1) < 0.01
sys.exit(not (right and abs(seen[1000][0] - 1) > 0.1 and abs(seen[1000][2] - 1) > 0.1))
PY
