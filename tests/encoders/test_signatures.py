"""The shapes in the signatures of heads and layers are those of what goes through them. Traced, not compiled."""

import dataclasses
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from hcl_jax.encoders import HEADS, Rows
from hcl_jax.encoders.batch_norm import BatchNorm
from hcl_jax.encoders.dropout import Dropout
from tests.shapes import checked

LAYERS = {**HEADS, "batch_norm": BatchNorm, "dropout": Dropout}


def traced(make, x, rows):
    """The shape of a module's output, with its `__call__` checked."""
    module = make()
    kind = type(module)
    call = nn.compact(checked(inspect.unwrap(kind.__call__)))
    module = type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})(
        **{f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in ("parent", "name")}
    )
    return jax.eval_shape(lambda x, rows: module.init_with_output(jax.random.key(0), x, rows)[0], x, rows).shape


@pytest.mark.parametrize("name", LAYERS)
def test_what_goes_through_is_what_the_signature_says(name):
    keys = jax.random.split(jax.random.key(1), 4)
    rows = Rows(present=jnp.ones(4, bool), keys=keys, train=True)
    assert traced(LAYERS[name], jnp.zeros((4, 6)), rows)[0] == 4
    assert traced(LAYERS[name], jnp.zeros((4, 5, 6)), rows)[:2] == (4, 5)
    with pytest.raises(TypeCheckError):
        traced(LAYERS[name], jnp.zeros((4, 6), jnp.int32), rows)
