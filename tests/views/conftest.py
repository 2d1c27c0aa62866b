"""Draws for a test, and the numbers that an op drew."""

import numpy as np
import pytest

from hcl_jax.views import Draws


class Bench:
    """Runs one op and keeps the numbers that it drew as NumPy arrays."""

    def __init__(self, rows=8, step=3, seed=0, salt="a"):
        self.draws = Draws(seed, step, rows, np.arange(rows), salt)

    def __call__(self, op, x, **params):
        return np.asarray(op(np_tensor(x), self.draws, **params))

    def __getitem__(self, name):
        return np.asarray(self.draws.record[name])

    def target(self, name):
        return np.asarray(self.draws.targets[name])


def np_tensor(x):
    from hcl_jax.views.lazy import tf

    return tf.convert_to_tensor(x)


@pytest.fixture
def bench():
    return Bench


@pytest.fixture
def pictures():
    """Pictures uint8 [n, height, width, channels], of noise."""

    def make(n=8, height=12, width=16, channels=3, seed=0):
        return np.random.default_rng(seed).integers(0, 256, (n, height, width, channels)).astype(np.uint8)

    return make


@pytest.fixture
def waves():
    """Series float32 [n, T, C]."""

    def make(n=8, length=20, channels=3, seed=0):
        return np.random.default_rng(seed).normal(size=(n, length, channels)).astype(np.float32)

    return make
