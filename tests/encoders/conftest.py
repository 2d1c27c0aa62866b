"""Weights without compiling a random draw for each of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax.encoders import Rows


@pytest.fixture
def weights():
    """A function (module, input) -> variables with NumPy's normal numbers, of the size that the initialisers give."""

    def make(module, x, seed=0):
        rng = np.random.default_rng(seed)
        shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, Rows()), x)

        def draw(path, leaf):
            name = path[-1].key
            if name in ("scale", "var"):
                return jnp.asarray(1 + 0.1 * rng.random(leaf.shape), leaf.dtype)
            fan = np.prod(leaf.shape[:-1]) if name == "kernel" else 100
            return jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(fan), leaf.dtype)

        return jax.tree_util.tree_map_with_path(draw, dict(shapes))

    return make
