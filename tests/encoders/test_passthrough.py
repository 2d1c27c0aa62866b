"""The identity for an encoder: given features, and a tower of heads on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax.encoders import ENCODERS, Rows
from hcl_jax.errors import InputError

X = np.random.default_rng(0).normal(size=(5, 7)).astype("float32")


@pytest.mark.parametrize("rows", [Rows(), Rows(train=True, present=jnp.ones(5, bool))])
def test_h_is_the_features_and_nothing_is_learned(rows):
    module = ENCODERS["identity"]()
    assert module.reads == ("features",)
    h, variables = module.init_with_output(jax.random.key(0), {"features": X}, rows)
    np.testing.assert_array_equal(h, X)
    assert jax.tree.leaves(variables) == []
    assert ENCODERS["identity"](field="other").apply({}, {"other": X[:2]}, Rows()).shape == (2, 7)


def test_other_input_is_refused():
    with pytest.raises(InputError, match="no field 'features'; allowed: a field of the view: image"):
        ENCODERS["identity"]().apply({}, {"image": X}, Rows())
    with pytest.raises(InputError, match=r"shape \(5, 7, 1\); allowed: 2 axes"):
        ENCODERS["identity"]().apply({}, {"features": X[..., None]}, Rows())
