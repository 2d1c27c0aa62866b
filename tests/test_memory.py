"""Queues and centres against plain Python lists."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax import memory


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("absent", [0.0, 0.4, 1.0])
def test_queue_is_first_in_first_out_of_present_rows(absent):
    random = np.random.default_rng(0)
    slot = memory.init_fifo(jax.random.key(0), 12, 3, jnp.float32)
    oracle = collections.deque(np.asarray(slot["rows"]), maxlen=12)
    write = jax.jit(memory.write_fifo)
    for _ in range(7):
        rows, present = random.normal(size=(4, 3)).astype(np.float32), random.random(4) >= absent
        slot = write(slot, rows, present)
        oracle.extend(unit(rows)[present])
    start = int(slot["next"])
    in_order = np.roll(np.asarray(slot["rows"]), -start, axis=0)
    np.testing.assert_allclose(in_order, np.stack(oracle), atol=1e-6)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_queue_is_the_same_on_any_mesh(devices):
    mesh = jax.make_mesh(
        (devices,), ("data",), devices=jax.devices()[:devices], axis_types=(jax.sharding.AxisType.Auto,)
    )
    rows = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    present = np.array([1, 0, 1, 1, 0, 1, 1, 1], bool)
    slot = memory.init_fifo(jax.random.key(0), 16, 4, jnp.float32)
    expected = memory.write_fifo(slot, jnp.asarray(rows), jnp.asarray(present))
    shard = jax.NamedSharding(mesh, jax.P("data"))
    got = jax.jit(memory.write_fifo)(
        jax.device_put(slot, jax.NamedSharding(mesh, jax.P())),
        jax.device_put(rows, shard),
        jax.device_put(present, shard),
    )
    np.testing.assert_allclose(got["rows"], expected["rows"], rtol=1e-6)
    assert int(got["next"]) == int(expected["next"]) == 6


def test_queue_starts_with_unit_rows():
    slot = memory.init_fifo(jax.random.key(3), 32, 5, jnp.float32)
    np.testing.assert_allclose(np.linalg.norm(slot["rows"], axis=-1), 1, atol=1e-6)


def test_centre_moves_towards_the_mean_of_present_rows():
    slot = memory.init_mean(2, jnp.float32)
    rows, present = jnp.array([[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]), jnp.array([True, True, False])
    slot = memory.write_mean(slot, rows, present, 0.9)
    np.testing.assert_allclose(slot["rows"], 0.1 * np.array([2.0, 3.0]), rtol=1e-6)
    still = memory.write_mean(slot, rows, jnp.zeros(3, bool), 0.9)
    np.testing.assert_array_equal(still["rows"], slot["rows"])
