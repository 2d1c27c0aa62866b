"""TS2Vec's loss against the published loop over crops of their own length; ids, weights, devices, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from hcl_jax.errors import InputError
from hcl_jax.losses import LOSSES
from hcl_jax.losses.ts2vec import ts2vec

B, T, D = 8, 13, 3
IDS = np.array([4, 7, -1, 0, 1, 2, -1, 3], np.int32)
WEIGHTS = np.array([1.0, 0.5, 2.0, 3.0, 0.0, 1.5, 1.0, 0.25])
FAST = {"xla_backend_optimization_level": 0}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def cross_entropy(rows: np.ndarray, i: int, j: int) -> float:
    """-log softmax over k != i of rows[i] . rows[k], at j."""
    dots = [float(rows[i] @ rows[k]) for k in range(len(rows))]
    others = [d for k, d in enumerate(dots) if k != i]
    top = max(others)
    return top + np.log(sum(np.exp(d - top) for d in others)) - dots[j]


def both(x: np.ndarray, y: np.ndarray) -> float:
    """x, y [N, D]: row k of x is positive with row k of y; mean over both sides."""
    n, rows = len(x), np.concatenate([x, y])
    return float(np.mean([(cross_entropy(rows, k, n + k) + cross_entropy(rows, n + k, k)) / 2 for k in range(n)]))


def published(x: np.ndarray, y: np.ndarray, alpha: float = 0.5, temporal_unit: int = 0) -> float:
    """The loop of the published code on two crops [B, L, D]."""

    def instance() -> float:
        return 0.0 if len(x) == 1 else float(np.mean([both(x[:, t], y[:, t]) for t in range(x.shape[1])]))

    def pooled(z: np.ndarray) -> np.ndarray:
        return np.stack([z[:, 2 * t : 2 * t + 2].max(1) for t in range(z.shape[1] // 2)], 1)

    loss, depth = 0.0, 0
    while x.shape[1] > 1:
        loss += alpha * instance()
        if depth >= temporal_unit:
            loss += (1 - alpha) * float(np.mean([both(a, b) for a, b in zip(x, y, strict=True)]))
        depth += 1
        x, y = pooled(x), pooled(y)
    if x.shape[1] == 1:
        loss += alpha * instance()
        depth += 1
    return loss / depth


def crops(length: int, seed: int = 0, start_a: int = 0, start_b: int = 0, steps: int = T):
    """Buffers [B, T, D] and overlaps of one length; what lies outside the overlap is noise too."""
    za, zb = np.random.default_rng(seed).normal(size=(2, B, steps, D))
    return za, zb, *(np.tile(np.array([[s, length]], np.int32), (B, 1)) for s in (start_a, start_b))


@functools.cache
def step(**settings):
    def loss(za, zb, a, b, ids, weights):
        return ts2vec(za, zb, a, b, ids=ids, row_weights=weights, **settings)

    return jax.jit(jax.value_and_grad(loss, (0, 1)), compiler_options=FAST)


def call(*arrays, ids=None, weights=None, **settings):
    n = len(arrays[0])
    ids = np.arange(n, dtype=np.int32) if ids is None else ids
    return step(**settings)(*arrays, ids, np.ones(n) if weights is None else weights)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 6, 7, 8, 12, 13])
def test_equals_the_published_loop(length):
    start = 0 if length == T else 13 - length
    za, zb, a, b = crops(length, start_a=start)
    value, _ = call(za, zb, a, b)
    assert float(value) == pytest.approx(published(za[:, start:][:, :length], zb[:, :length]), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"alpha": 0.2}, {"alpha": 1.0}, {"temporal_unit": 2}, {"temporal_unit": 9}], ids=str
)
def test_settings(settings):
    za, zb, a, b = crops(11, start_a=1, start_b=2)
    value, _ = call(za, zb, a, b, **settings)
    assert float(value) == pytest.approx(published(za[:, 1:12], zb[:, 2:], **settings), rel=1e-12)


@pytest.mark.slow
def test_gradient_is_the_central_difference():
    za, zb, a, b = crops(3, start_a=2, steps=6)
    za, zb, a, b = za[:3], zb[:3], a[:3], b[:3]
    _, gradients = call(za, zb, a, b)
    for x, gradient in zip((za, zb), gradients, strict=True):
        wanted = np.zeros_like(x)
        for at in np.ndindex(*x.shape):
            kept, values = x[at], []
            for x[at] in (kept + 1e-6, kept - 1e-6):
                values.append(published(za[:, 2:5], zb[:, :3]))
            x[at] = kept
            wanted[at] = (values[0] - values[1]) / 2e-6
        np.testing.assert_allclose(gradient, wanted, rtol=1e-6, atol=1e-8)
        assert np.abs(wanted).max() > 1e-2
    assert not gradients[0][:, :2].any() and not gradients[0][:, 5:].any() and not gradients[1][:, 3:].any()


def test_what_lies_outside_the_overlap_does_not_matter():
    za, zb, a, b = crops(5, start_a=4)
    value, gradients = call(za, zb, a, b)
    za[:, :4], za[:, 9:], zb[:, 5:] = np.nan, np.inf, np.nan
    again, found = call(za, zb, a, b)
    assert float(again) == float(value)
    for x, y in zip(found, gradients, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_ignored_rows_are_absent_rows():
    za, zb, a, b = crops(9)
    keep = IDS >= 0
    wanted, expected = call(za[keep], zb[keep], a[keep], b[keep])
    za[2], zb[6], a[6] = np.nan, np.inf, -5
    value, gradients = call(za, zb, a, b, ids=IDS)
    assert float(value) == pytest.approx(float(wanted), rel=1e-12)
    for x, y in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(x[keep], y, atol=1e-14)
        assert not x[~keep].any()
    assert float(call(za, zb, a, b, ids=np.full(B, -1, np.int32))[0]) == 0


def test_lengths_may_differ_between_rows():
    """By hand: a row is compared with the rows that have its step, and averaged over its own levels."""
    lengths = np.array([1, 2, 3, 4, 5, 8, 13, 6])
    za, zb, a, b = crops(0)
    a[:, 1] = b[:, 1] = lengths
    x, y, left = za.copy(), zb.copy(), lengths.copy()
    total, levels = np.zeros(B), np.zeros(B)
    while left.any():
        for i in np.flatnonzero(left):
            n = left[i]
            instance = []
            for t in range(n):
                there = np.flatnonzero(left > t)
                rows = np.concatenate([x[there, t], y[there, t]])
                k, m = int(np.searchsorted(there, i)), len(there)
                instance.append((cross_entropy(rows, k, m + k) + cross_entropy(rows, m + k, k)) / 2)
            total[i] += 0.5 * np.mean(instance) + 0.5 * both(x[i, :n], y[i, :n])
            levels[i] += 1
        x, y = (
            np.stack([z[:, 2 * t : 2 * t + 2].max(1) for t in range(z.shape[1] // 2)] or [z[:, 0]], 1) for z in (x, y)
        )
        left = left // 2
    value, _ = call(za, zb, a, b, weights=WEIGHTS)
    assert float(value) == pytest.approx(float(np.mean(WEIGHTS * total / levels)), rel=1e-12)


def test_weights_are_factors_of_rows():
    arrays = crops(10)
    whole, _ = call(*arrays)
    assert float(call(*arrays, weights=np.full(B, 0.5))[0]) == pytest.approx(float(whole) / 2, rel=1e-12)
    assert sum(float(call(*arrays, weights=row)[0]) for row in np.eye(B)) == pytest.approx(float(whole), rel=1e-12)


def test_rows_of_one_id_are_positives():
    """One step: the loss is the mean over both views and over the positives, other views of the same id."""
    za, zb, a, b = crops(1)
    ids = np.array([0, 0, 1, 2, 3, 4, 5, 5], np.int32)
    rows, of = np.concatenate([za[:, 0], zb[:, 0]]), np.concatenate([ids, ids])
    values = [
        np.mean([cross_entropy(rows, i, j) for j in range(2 * B) if j != i and of[i] == of[j]]) for i in range(2 * B)
    ]
    assert float(call(za, zb, a, b, ids=ids)[0]) == pytest.approx(0.5 * np.mean(values), rel=1e-12)


@pytest.mark.slow(one=True)
def test_limits():
    za, zb, a, b = crops(T)
    zero, _ = call(0 * za, 0 * zb, a, b)  # every logit is 0
    wanted = 0.5 * (4 * np.log(2 * B - 1) + sum(np.log(2 * n - 1) for n in (13, 6, 3))) / 4
    assert float(zero) == pytest.approx(wanted, rel=1e-12)
    alone, _ = call(za[:1], zb[:1], a[:1], b[:1], alpha=1.0)
    assert float(alone) == 0  # one other vector, and it is the positive
    order = np.random.default_rng(0).permutation(B)
    shuffled, _ = call(za[order], zb[order], a, b)
    assert float(shuffled) == pytest.approx(float(call(za, zb, a, b)[0]), rel=1e-12)
    assert float(call(zb, za, b, a)[0]) == pytest.approx(float(call(za, zb, a, b)[0]), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_finite_and_wide(dtype):
    for factor in (0.0, 1e-30, 1.0, 1e4):
        za, zb, a, b = crops(7)
        za, zb = (jnp.asarray(factor * z, dtype) for z in (za, zb))
        value, gradients = call(za, zb, a, b, weights=np.ones(B, np.float32))
        assert value.dtype == jnp.float32 and np.isfinite(value)
        assert all(np.isfinite(np.asarray(g, np.float32)).all() for g in gradients)
        if factor == 1.0:
            exact = published(*(np.asarray(z[:, :7], np.float64) for z in (za, zb)))
            assert float(value) == pytest.approx(exact, rel=1e-5)


@pytest.mark.slow
def test_equal_on_eight_devices():
    za, zb, a, b = crops(11, start_b=2)
    mesh = jax.make_mesh((8,), ("d",), devices=jax.devices()[:8], axis_types=(jax.sharding.AxisType.Auto,))
    rows = [jax.device_put(x, NamedSharding(mesh, PartitionSpec("d"))) for x in (za, zb, a, b, IDS, WEIGHTS)]
    value, gradients = call(za, zb, a, b, ids=IDS, weights=WEIGHTS)
    sharded, found = step()(*rows)
    assert float(sharded) == pytest.approx(float(value), rel=1e-12)
    for x, y in zip(found, gradients, strict=True):
        assert len(x.sharding.device_set) == 8
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"za": np.ones((B, D))}, ("za", "(8, 3)", "[rows, steps, features]")),
        ({"zb": np.ones((B, T, D + 1))}, ("zb", "(8, 13, 4)", "(8, 13, 3)")),
        ({"overlap_a": np.ones((B, 1), np.int32)}, ("overlap_a", "(8, 1)", "(8, 2)")),
        ({"overlap_b": np.ones((B, 2))}, ("overlap_b", "float", "integer")),
        ({"alpha": 1.5}, ("alpha", "1.5", "from 0 to 1")),
        ({"alpha": float("nan")}, ("alpha", "nan")),
        ({"temporal_unit": -1}, ("temporal_unit", "-1", "at least 0")),
        ({"temporal_unit": 0.5}, ("temporal_unit", "0.5")),
        ({"ids": np.zeros(3, int)}, ("ids", "(3,)", "(8,)")),
        ({"row_weights": np.ones(3)}, ("row_weights", "(3,)", "(8,)")),
    ],
)
def test_refused(change, words):
    za, zb, a, b = crops(5)
    with pytest.raises(InputError) as error:
        jax.eval_shape(lambda: LOSSES["ts2vec"](**{"za": za, "zb": zb, "overlap_a": a, "overlap_b": b, **change}))
    assert all(word in str(error.value) for word in words), str(error.value)
