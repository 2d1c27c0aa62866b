#!/usr/bin/env bash
# A target network made by nnx.EMA changes with every batch of the online network.
#
# Seen with flax 0.12.8 and jax 0.10.2, CPU: of a model with a Linear and a BatchNorm layer,
#
#   target = nnx.EMA(model, decay=0.9, only=nnx.Param).apply_to(model)
#   target.linear.kernel is model.linear.kernel    False
#   target.norm.mean is model.norm.mean            True
#
# What the filter leaves out is not copied but shared. One training batch through `model` moves the running mean that
# `target` normalises with, from 0 to values of order 0.1, although target was not called and no EMA step was taken. For
# BYOL or MoCo that is a coupling between the two networks which no loss curve shows.
#
# hcl_jax keeps a target's parameters and statistics as leaves of their own (`stats` of a tower's target).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.3.5
JAX_PLATFORMS=cpu venv/bin/python - <<'PY'
import sys

import jax.numpy as jnp
import numpy as np
from flax import nnx


class Model(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(2, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.linear(x))


model = Model(nnx.Rngs(0))
target = nnx.EMA(model, decay=0.9, only=nnx.Param).apply_to(model)
kernel_shared = target.linear.kernel is model.linear.kernel
mean_shared = target.norm.mean is model.norm.mean
before = np.array(target.norm.mean[...])
model(jnp.full((8, 2), 5.0))
after = np.array(target.norm.mean[...])
print(f"kernel shared: {kernel_shared}, running mean shared: {mean_shared}")
print(f"the target's running mean before and after a batch of the model: {before} {after}")
sys.exit(not (not kernel_shared and mean_shared and (before != after).any()))
PY
