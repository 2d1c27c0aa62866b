"""Queues and centres against plain Python lists."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from worlds import batch_of, start, two_views

from hcl_jax.core import memory_bank
from hcl_jax.losses.masking import interleave


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("absent", [0.0, 0.4, 1.0])
def test_queue_is_first_in_first_out_of_present_rows(absent):
    random = np.random.default_rng(0)
    slot = memory_bank.init_fifo(jax.random.key(0), 12, 3, jnp.float32)
    oracle = collections.deque(np.asarray(slot["rows"]), maxlen=12)
    write = jax.jit(memory_bank.write_fifo)
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
    slot = memory_bank.init_fifo(jax.random.key(0), 16, 4, jnp.float32)
    expected = memory_bank.write_fifo(slot, jnp.asarray(rows), jnp.asarray(present))
    shard = jax.NamedSharding(mesh, jax.P("data"))
    got = jax.jit(memory_bank.write_fifo)(
        jax.device_put(slot, jax.NamedSharding(mesh, jax.P())),
        jax.device_put(rows, shard),
        jax.device_put(present, shard),
    )
    np.testing.assert_allclose(got["rows"], expected["rows"], rtol=1e-6)
    assert int(got["next"]) == int(expected["next"]) == 6


def test_queue_starts_with_unit_rows():
    slot = memory_bank.init_fifo(jax.random.key(3), 32, 5, jnp.float32)
    np.testing.assert_allclose(np.linalg.norm(slot["rows"], axis=-1), 1, atol=1e-6)


def test_centre_moves_towards_the_mean_of_present_rows():
    slot = memory_bank.init_mean(2, jnp.float32)
    rows, present = jnp.array([[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]), jnp.array([True, True, False])
    slot = memory_bank.write_mean(slot, rows, present, 0.9)
    np.testing.assert_allclose(slot["rows"], 0.1 * np.array([2.0, 3.0]), rtol=1e-6)
    still = memory_bank.write_mean(slot, rows, jnp.zeros(3, bool), 0.9)
    np.testing.assert_array_equal(still["rows"], slot["rows"])


def test_the_rows_of_an_example_lie_side_by_side():
    a, b = np.arange(6.0).reshape(3, 2), np.arange(6.0).reshape(3, 2) + 10
    assert interleave([a]) is a
    got = interleave([jnp.asarray(a), jnp.asarray(b)])
    np.testing.assert_array_equal(got, [a[0], b[0], a[1], b[1], a[2], b[2]])
    marks = interleave([jnp.array([True, False]), jnp.array([False, False])])
    np.testing.assert_array_equal(marks, [True, False, False, False])
    assert memory_bank.reads({"reads": "a.z"}) == ("a.z",) and memory_bank.reads({"reads": ["a.z", "b.z"]}) == (
        "a.z",
        "b.z",
    )


def target_rows(state, picture):
    """What the target makes of a view, by hand: a linear layer, a rectifier, a linear layer."""
    params = jax.tree.map(np.asarray, state.target["image"]["params"])
    hidden, out = params["encoder"]["dense1"], params["heads"]["z"]["dense"]
    h = np.maximum(picture.reshape(len(picture), -1) @ hidden["kernel"] + hidden["bias"], 0)
    return h @ out["kernel"] + out["bias"]


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("accumulate", [1, 4])
def test_slots_of_two_references(accumulate):
    """By row of the global batch, then by reference; absent rows take no place, and enter no mean."""
    c = two_views(batch_size=8)
    c.train.accumulate = accumulate
    c.towers.image.encoder = {"name": "mlp", "widths": (8,), "batch_norm": False}
    c.towers.image.heads = {"z": {"name": "linear", "features": 4}}
    c.towers.image.target = {"momentum": 0.9, "heads": ("z",)}
    both = ("b.target.z", "a.target.z")
    c.towers.image.memory = {
        "queue": {"kind": "fifo", "reads": both, "size": 32},
        "centre": {"kind": "mean_ema", "reads": both, "momentum": 0.75},
    }
    state, step, put = start(c, batch_of(c, 0, ("b",)))
    queue = collections.deque(np.asarray(state.memory["image"]["queue"]["rows"]), maxlen=32)
    centre, written = np.zeros(4), 0
    for i in range(3):
        batch = batch_of(c, i, ("b",))
        z = {v: target_rows(state, batch["views"][v]["image"]) for v in "ab"}
        taken = [z[v][r] for r in range(8) for v in "ba" if v == "a" or batch["present"]["b"][r]]
        assert 8 < len(taken) < 16
        state, _ = step(state, put(batch))
        queue.extend(unit(np.stack(taken)))
        centre = 0.75 * centre + 0.25 * np.mean(taken, 0)
        slots = state.memory["image"]
        written += len(taken)
        assert int(slots["queue"]["next"]) == written % 32
        in_order = np.roll(np.asarray(slots["queue"]["rows"]), -(written % 32), axis=0)
        np.testing.assert_allclose(in_order, np.stack(queue), atol=1e-5)
        np.testing.assert_allclose(slots["centre"]["rows"], centre, atol=1e-5)
    assert written > 32, "the queue has gone round"
