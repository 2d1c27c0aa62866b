#!/usr/bin/env bash
# optax.losses.ntxent of a batch without a positive pair is nan, with a gradient of zeros.
#
# Seen with optax 0.2.8 and jax 0.10.2, CPU, four rows:
#
#   labels [0, 0, 1, 2]    0.00046, norm of the gradient 0.016    the rows without a positive are left out of the mean
#   labels [0, 1, 2, 3]    nan,     norm of the gradient 0.0      all of them are
#
# With labels as classes, a small batch without two rows of one class is ordinary. The value says nan, so a check of the
# loss stops the run; the gradient is finite, so a guard on gradients (optax.apply_if_finite) takes the step, and weight
# decay and momentum move the parameters.
#
# Losses of hcl_jax are 0 there (tests/losses/test_degenerate.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.3.5
JAX_PLATFORMS=cpu venv/bin/python - <<'PY'
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

rows = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
seen = []
for labels in ([0, 0, 1, 2], [0, 1, 2, 3]):
    value, gradient = jax.value_and_grad(lambda z, y: optax.losses.ntxent(z, y))(rows, jnp.array(labels))
    seen.append((float(value), float(jnp.linalg.norm(gradient))))
    print(f"labels {labels}: value {seen[-1][0]:.5f}, norm of the gradient {seen[-1][1]:.3f}")
(one, slope), (none, flat) = seen
sys.exit(not (np.isfinite(one) and slope > 0 and np.isnan(none) and flat == 0))
PY
