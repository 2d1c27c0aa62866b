"""A loss is the same number, with the same gradient, on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from hcl_jax.losses import nt_xent
from tests.losses.cases import ONE_EACH, assert_same, evaluate


@pytest.mark.slow
@pytest.mark.seconds(240)  # 33 losses in one program
def test_equal_on_eight_devices():
    reference = evaluate(np.float64)  # on one device
    sharded = evaluate(np.float64, 8, ONE_EACH)
    for name in ONE_EACH:
        assert_same(sharded[name], reference[name], name)


def test_rows_stay_on_their_device():
    """The N x N matrix is divided among the devices: with 8, each holds an eighth of its bytes."""
    n, bytes_of = 512, {}
    for devices in (1, 8):
        axis = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices], axis_types=axis)
        z = jax.ShapeDtypeStruct((n, 16), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data")))
        step = jax.jit(jax.value_and_grad(lambda a, b: nt_xent(a, b, temperature=0.1), argnums=(0, 1)))
        bytes_of[devices] = step.lower(z, z).compile().memory_analysis().temp_size_in_bytes
    assert bytes_of[1] >= 4 * (2 * n) ** 2
    assert bytes_of[8] < bytes_of[1] / 6
