"""The foreground of tokens, the quality of a pair and its weights, against loops over pictures in NumPy."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from hcl_jax.errors import InputError
from hcl_jax.losses import foreground, pair_weights
from tests.losses.cases import normal

FAST = {"xla_backend_optimization_level": 0}
N, T, D = 8, 9, 4
IDS = np.array([3, 7, 3, -1, 0, 7, 7, 12], np.int32)
ONE = normal(50, N, T, D) * [3.0, 1.0, 0.5, 0.2] + [0.5, 0.1, 0.0, 1.0]
TWO = ONE + 0.7 * normal(51, N, T, D)


def run(f, *arrays, devices: int = 1, **settings):
    """f compiled, its arrays sharded by rows."""
    axis = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices], axis_types=axis)
    placed = [jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))) for x in arrays]
    return jax.device_get(jax.jit(functools.partial(f, **settings), compiler_options=FAST)(*placed))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def direction_by_hand(tokens, sign="centre", ids=None):
    """The right singular vector of the centred tokens, and its sign by hand."""
    kept = tokens if ids is None else tokens[np.asarray(ids) != -1]
    flat = kept.reshape(-1, kept.shape[-1])
    e1 = np.linalg.svd(flat - flat.mean(0))[2][0]
    e1 = e1 if e1[np.abs(e1).argmax()] > 0 else -e1
    side = math.isqrt(kept.shape[1])
    if sign != "centre":
        return sign * e1
    scores = kept @ e1
    if side * side == kept.shape[1] and side > 2:
        inner = [scores[:, i * side + j] for i in range(1, side - 1) for j in range(1, side - 1)]
        border = [scores[:, i * side + j] for i in range(side) for j in range(side) if {i, j} & {0, side - 1}]
        return e1 if np.mean(inner) > np.mean(border) else -e1
    return e1 if (scores > scores.mean()).sum() <= (scores < scores.mean()).sum() else -e1


def maps_by_hand(tokens, e1):
    found = []
    for picture in tokens:
        s = [float(np.dot(x, e1)) for x in picture]
        f = [(v - min(s)) / (max(s) - min(s) + 1e-7) for v in s]
        found.append(([v / sum(f) for v in f], [(1 - v) / sum(1 - v for v in f) for v in f]))
    return np.array([f for f, _ in found]), np.array([b for _, b in found])


def quality_by_hand(one, two, e1):
    def cosine(x, y):
        return float(np.dot(x, y) / np.linalg.norm(x) / np.linalg.norm(y))

    (f1, b1), (f2, b2) = maps_by_hand(one, e1), maps_by_hand(two, e1)
    rows = range(len(one))
    return np.array([cosine(f1[i] @ one[i], f2[i] @ two[i]) - cosine(b1[i] @ one[i], b2[i] @ two[i]) for i in rows])


def weights_by_hand(one, two, gamma=1.0, groups=1, shift=0, sign="centre", ids=None):
    ids = np.arange(len(one)) if ids is None else ids
    both = np.concatenate([one, two])
    quality = quality_by_hand(one, two, direction_by_hand(both, sign, np.concatenate([ids, ids])))
    weights, size = np.zeros(len(one)), len(one) // groups
    for start in range(0, len(one), size):
        keep = [i for i in range(start, start + size) if ids[i] != -1]
        powers = [math.exp(gamma * quality[i]) for i in keep]
        for k, i in enumerate(keep):
            weights[i] = len(keep) * powers[(k - shift) % len(keep)] / sum(powers)
    return weights


@pytest.mark.parametrize(
    ("sign", "shape"),
    [("centre", (N, 9, D)), ("centre", (N, 16, D)), ("centre", (N, 4, D)), ("centre", (N, 12, D)), (1, (1, 25, 3)),
     (-1, (N, 9, D))],
)  # fmt: skip
def test_the_direction_is_the_first_singular_vector(sign, shape):
    """A skewed and shifted cloud, whose grid and whose tails tell the two ends apart."""
    tokens = np.exp(normal(52, *shape)) * np.linspace(2, 0.5, shape[-1]) + 1.0
    tokens[:, shape[1] // 2] += 0.3
    for flipped in (tokens, -tokens):
        e1 = run(foreground.direction, flipped, sign=sign)
        np.testing.assert_allclose(e1, direction_by_hand(flipped, sign), atol=1e-10)
    assert np.linalg.norm(e1) == pytest.approx(1)


def test_the_centre_of_the_grid_is_the_foreground():
    """A blob in the middle of each picture, or all around it: the middle scores high both times."""
    grid = np.zeros((N, 4, 4, D))
    grid[:, 1:3, 1:3] = [2.0, -1.0, 0.0, 1.0]
    for tokens in (grid, -grid):
        tokens = (tokens + 0.01 * normal(53, *grid.shape)).reshape(N, 16, D)
        scores = (tokens @ run(foreground.direction, tokens)).reshape(N, 4, 4)
        assert scores[:, 1:3, 1:3].mean() > scores[:, 0].mean() + 1
    lone = np.zeros((N, 5, D))
    lone[:, 0] = 1.0
    for tokens in (lone, -lone):  # no grid: the one that is unlike the others
        scores = tokens @ run(foreground.direction, tokens)
        assert (scores[:, 0] > scores[:, 1:].max(1)).all()


@pytest.mark.parametrize("devices", [1, 8])
def test_ignored_rows_are_in_no_direction(devices):
    bad = ONE.copy()
    bad[3] = np.nan
    e1 = run(foreground.direction, bad, devices=devices, ids=IDS)
    np.testing.assert_allclose(e1, direction_by_hand(ONE, ids=IDS), atol=1e-10)
    assert np.abs(e1 - direction_by_hand(ONE)).max() > 1e-3


def test_maps_are_two_distributions():
    e1 = direction_by_hand(ONE)
    front, back = run(foreground.maps, ONE.copy(), e1=e1)
    for found, expected in zip((front, back), maps_by_hand(ONE, e1), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-10)
        np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
    scores = ONE @ e1
    assert (front.argmax(1) == scores.argmax(1)).all() and (back.argmax(1) == scores.argmin(1)).all()
    np.testing.assert_allclose(run(foreground.ratio, ONE.copy(), e1=e1, threshold=0.4), (scores > 0.4).mean(1))


def test_quality_of_pairs_by_hand():
    e1 = direction_by_hand(np.concatenate([ONE, TWO]))
    found = run(foreground.pair_quality, ONE.copy(), TWO.copy())
    np.testing.assert_allclose(found, quality_by_hand(ONE, TWO, e1), atol=1e-10)
    given = normal(54, D)
    found = run(foreground.pair_quality, ONE.copy(), TWO[:, :5].copy(), e1=given)  # views of two sizes
    np.testing.assert_allclose(found, quality_by_hand(ONE, TWO[:, :5], given), atol=1e-10)
    assert np.ptp(found) > 0.1


def test_one_foreground_on_two_backgrounds_is_a_good_pair():
    """Tokens of an object along x; backgrounds along y and z. The same picture twice has quality 0."""
    x, y, z = np.eye(3)
    same, other = np.array([[y, 3 * x, y, y]]), np.array([[z, z, 3 * x, z]])
    swapped = np.array([[3 * y, x, 3 * y, 3 * y]])
    e1 = x
    quality = functools.partial(run, foreground.pair_quality, e1=e1)
    assert quality(same, same) == pytest.approx(0, abs=1e-12)
    assert quality(same, other) == pytest.approx(1) and quality(same, same[:, ::-1].copy()) == pytest.approx(0)
    assert quality(same, swapped) == pytest.approx(quality_by_hand(same, swapped, e1)[0], abs=1e-10)


def test_gradient_of_the_quality_against_differences():
    e1, at = direction_by_hand(ONE), (2, 4, 1)
    step = jax.jit(jax.grad(lambda x, y: jnp.sum(foreground.pair_quality(x, y, e1))), compiler_options=FAST)
    moved = np.zeros_like(ONE)
    moved[at] = 1e-6
    slope = (quality_by_hand(ONE + moved, TWO, e1) - quality_by_hand(ONE - moved, TWO, e1)).sum() / 2e-6
    assert float(step(ONE.copy(), TWO.copy())[at]) == pytest.approx(slope, rel=1e-6) and abs(slope) > 1e-3


@pytest.mark.parametrize(
    ("settings", "devices"),
    [
        ({}, 1),
        ({"gamma": 2.5, "ids": IDS}, 1),
        ({"gamma": 2.5, "ids": IDS}, 8),
        ({"groups": 4, "gamma": 3.0}, 1),
        ({"shift": 1}, 1),
        ({"groups": 2, "shift": -3, "ids": IDS, "sign": 1}, 8),
        ({"sign": -1, "ids": IDS}, 1),
    ],
)
def test_weights_of_pairs_by_hand(settings, devices):
    weights = run(pair_weights, ONE.copy(), TWO.copy(), devices=devices, **settings)
    np.testing.assert_allclose(weights, weights_by_hand(ONE, TWO, **settings), atol=1e-10)
    ids = settings.get("ids", np.arange(N))
    for group in np.split(np.arange(N), settings.get("groups", 1)):
        assert (
            weights[group][ids[group] != -1].mean() == pytest.approx(1) and not weights[group][ids[group] == -1].any()
        )
    assert np.std(weights) > 0.01


@pytest.mark.slow(one=True)
def test_shifted_weights_are_the_same_ones():
    plain = run(pair_weights, ONE.copy(), TWO.copy(), ids=IDS)
    for shift in (1, 7, 50):
        moved = run(pair_weights, ONE.copy(), TWO.copy(), ids=IDS, shift=shift)
        np.testing.assert_array_equal(moved[IDS != -1], np.roll(plain[IDS != -1], shift))
        assert moved[3] == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["zero", "constant", "some constant", "nobody"])
def test_tokens_that_say_nothing(kind, dtype):
    """Equal tokens have no foreground: maps are uniform, front and back are one vector, the quality is 0."""
    one, two, ids = ONE.astype(dtype), TWO.astype(dtype), np.arange(N)
    if kind == "nobody":
        one[:], ids = np.nan, np.full(N, -1)
    elif kind == "some constant":
        one[2], two[2] = 1 / 3, one[2, 0] * dtype(1e6 / 3)
    else:
        one[:] = two[:] = 0.0 if kind == "zero" else 1 / 3
    weights = run(pair_weights, one, two, ids=ids)
    assert weights.dtype == dtype and np.isfinite(weights).all()
    if kind == "nobody":
        assert not weights.any()
        return
    assert weights.mean() == pytest.approx(1)
    e1 = run(foreground.direction, one)
    quality = run(foreground.pair_quality, one, two, e1=e1)
    front, back = run(foreground.maps, one, e1=e1)
    np.testing.assert_allclose(quality[2], 0, atol=1e-6)
    np.testing.assert_allclose([front[2], back[2]], np.full((2, T), 1 / T), rtol=1e-6)
    if kind != "some constant":
        np.testing.assert_allclose(weights, 1, atol=1e-6)


@pytest.mark.slow
def test_weights_take_no_gradient_and_gamma_0_gives_ones():
    gradient = jax.jit(jax.grad(lambda x, y: jnp.sum(pair_weights(x, y) ** 2)), compiler_options=FAST)
    assert not gradient(ONE.copy(), TWO.copy()).any()
    for rows in (1, 7, 49):
        tokens = normal(55, 2, rows, 16, D).astype(np.float32)
        for settings in ({}, {"groups": rows}, {"shift": 1}):
            weights = run(pair_weights, *tokens, gamma=0.0, **settings)
            assert weights.dtype == np.float32 and (weights == 1).all()


def test_narrow_tokens_are_widened():
    one, two = (jnp.asarray(x, jnp.bfloat16) for x in (ONE, TWO))
    weights = run(pair_weights, one, two)
    assert weights.dtype == np.float32
    expected = weights_by_hand(np.asarray(one, np.float64), np.asarray(two, np.float64))
    np.testing.assert_allclose(weights, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: foreground.direction(ONE[0]), ("tokens", "(9, 4)", "three axes")),
        (lambda: foreground.direction(ONE, "middle"), ("sign", "'middle'", "'centre'")),
        (lambda: foreground.maps(ONE, np.ones(3)), ("e1", "(3,)", "(4,)")),
        (lambda: foreground.ratio(ONE[0], np.ones(4), 0.0), ("tokens", "(9, 4)")),
        (lambda: foreground.pair_quality(ONE, TWO[:4]), ("tokens_2", "(4, 9, 4)", "[8, tokens, 4]")),
        (lambda: foreground.pair_quality(ONE, TWO[:, :4]), ("tokens_2", "(8, 4, 4)", "(8, 9, 4)")),
        (lambda: pair_weights(ONE, TWO[:, :4]), ("tokens_1 and tokens_2", "(8, 4, 4)")),
        (lambda: pair_weights(ONE[:, 0], TWO[:, 0]), ("tokens_1 and tokens_2", "[rows, tokens, features]")),
        (lambda: pair_weights(ONE, TWO, groups=3), ("groups", "3", "divisor of 8")),
        (lambda: pair_weights(ONE, TWO, groups=0), ("groups", "0", "divisor of 8")),
        (lambda: pair_weights(ONE, TWO, sign=0), ("sign", "0")),
        (lambda: pair_weights(ONE, TWO, gamma=np.ones(3)), ("gamma", "(3,)", "one number")),
    ],
)
def test_bad_arguments_are_one_line(call, said):
    with pytest.raises(InputError) as error:
        jax.eval_shape(call)
    text = str(error.value)
    assert all(word in text for word in said) and "\n" not in text
