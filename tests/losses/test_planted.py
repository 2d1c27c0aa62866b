"""What the comparison of `test_devices` is worth: it refuses the usual mistakes of a distributed NT-Xent.

The same loss is written with collectives, as code that runs one program a device does, right and with one mistake at a
time. Rows are projected by shared parameters, whose gradient each device finds a part of.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax.losses import nt_xent
from tests.losses.cases import assert_same, normal

N, D, DEVICES, T = 16, 6, 4, 0.2
TOLERANCE = 1e-10  # of assert_same
A, B, W = normal(0, N, D), normal(1, N, D), normal(2, D, D)
EVEN = np.arange(N, dtype=np.int32)
EVEN[[3, 6, 9, 12]] = -1  # three rows of each device count
UNEVEN = np.arange(N, dtype=np.int32)
UNEVEN[[0, 1, 2, 5, 6]] = -1  # 1, 2, 4 and 4
UNEVEN[[4, 10]] = 3  # positives on three devices
FAULTS = (
    "gather without gradient",
    "mean of local means",
    "missing device factor",
    "local negatives",
)


def true(ids: np.ndarray) -> tuple:
    """Value and gradient by parameters and rows, on one device."""

    def loss(w, a, b):
        return nt_xent(a @ w, b @ w, temperature=T, ids=jnp.asarray(ids))

    return jax.device_get(jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(W, A, B))


def distributed(ids: np.ndarray, fault: str | None = None) -> tuple:
    """The same, each device with its rows."""
    axis = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((DEVICES,), ("data",), devices=jax.devices()[:DEVICES], axis_types=axis)
    split, whole = jax.P("data"), jax.P()
    add, mean = (functools.partial(f, axis_name="data") for f in (jax.lax.psum, jax.lax.pmean))

    def gather(x):
        """Rows of all devices; its gradient adds up what all devices found for a row."""
        return jax.lax.all_gather(x, "data", tiled=True)

    def step(w, a, b, ids):
        me = jax.lax.axis_index("data")
        mine = jnp.concatenate([ids, ids])
        valid = jnp.sum(ids >= 0)

        def share(w, a, b):
            """What this device adds to the loss; the shares of all are the loss."""
            u = jnp.concatenate([a @ w, b @ w])
            u = u / jnp.linalg.norm(u, axis=1, keepdims=True)
            if fault == "local negatives":
                keys, theirs, place = u, mine, jnp.arange(len(u))
            else:
                keys, theirs, place = gather(u), gather(mine), len(u) * me + jnp.arange(len(u))
            if (
                fault == "gather without gradient"
            ):  # as where a gathered tensor is a constant and the own rows are put back
                keys = jax.lax.dynamic_update_slice_in_dim(jax.lax.stop_gradient(keys), u, len(u) * me, 0)
            logits = jnp.matmul(u, keys.T, precision="highest") / T
            others = (place[:, None] != jnp.arange(len(keys))[None]) & (theirs >= 0)[None]
            positive = others & (mine[:, None] == theirs[None])
            lse = jax.nn.logsumexp(jnp.where(others, logits, -jnp.inf), axis=1, where=others)
            rows = lse - jnp.sum(logits, axis=1, where=positive) / jnp.maximum(jnp.sum(positive, axis=1), 1)
            total = jnp.sum(rows, where=mine >= 0) / 2
            return total / valid if fault == "mean of local means" else total / add(valid)

        value, (by_w, by_a, by_b) = jax.value_and_grad(share, argnums=(0, 1, 2))(w, a, b)
        if fault == "mean of local means":
            return mean(value), (mean(by_w), by_a / DEVICES, by_b / DEVICES)
        return add(value), ((mean if fault == "missing device factor" else add)(by_w), by_a, by_b)

    made = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(whole, split, split, split),
        out_specs=(whole, (whole, split, split)),
        check_vma=False,
    )
    return jax.device_get(jax.jit(made)(W, A, B, ids))


def distance(found, wanted) -> float:
    """The largest difference, relative to the largest number."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("ids", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_the_right_one_passes(ids):
    with jax.enable_x64(True):
        assert_same(distributed(ids), true(ids))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_mistake_is_found(fault):
    with jax.enable_x64(True):
        (value, (by_w, *_)), (true_value, (true_by_w, *_)) = distributed(UNEVEN, fault), true(UNEVEN)
    right_value = fault in ("gather without gradient", "missing device factor")
    if right_value:  # only the gradient tells
        assert_same(value, true_value)
    else:
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            assert_same(value, true_value)
        assert distance(value, true_value) > 1e6 * TOLERANCE
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same(by_w, true_by_w)
    assert distance(by_w, true_by_w) > 1e8 * TOLERANCE


def test_a_mean_of_means_hides_behind_even_rows():
    """Why rows are ignored unevenly in the tests of this folder."""
    with jax.enable_x64(True):
        assert_same(distributed(EVEN, "mean of local means"), true(EVEN))


def test_a_missing_factor_is_the_number_of_devices():
    with jax.enable_x64(True):
        found, wanted = distributed(UNEVEN, "missing device factor"), true(UNEVEN)
    assert_same(DEVICES * found[1][0], wanted[1][0])
