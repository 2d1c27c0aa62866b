"""JOAO's game: which way each player moves, and where it ends. Values: test_values.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax.losses.min_max import min_max
from hcl_jax.losses.nt_xent import nt_xent
from tests.losses.cases import A, B, C, E, N, normal

T = 0.2
NEAR = A + 0.1 * normal(3, *A.shape)
# Pairs (0, 1) near, (0, 2) and (1, 2) far: the last two are hard.
VIEWS = (A, NEAR, B)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def value(*views, **settings) -> float:
    options = {"xla_backend_optimization_level": 0}
    p = settings.pop("distribution")
    run = jax.jit(lambda p, *v: min_max(*v, distribution=p, **settings), compiler_options=options)
    return float(run(jnp.asarray(p), *map(jnp.asarray, views)))


def losses(*views):
    pairs = [(i, j) for i in range(len(views)) for j in range(i + 1, len(views))]
    each = jax.jit(lambda *v: jnp.stack([nt_xent(v[i], v[j], temperature=T) for i, j in pairs]))
    return np.asarray(each(*map(jnp.asarray, views)))


@pytest.mark.slow(one=True)
def test_uniform_distribution_is_the_mean_of_the_pairs():
    views = (A, B, C, E)
    found = value(*views, distribution=np.full(6, 1 / 6), gamma=3.0)
    assert found == pytest.approx(losses(*views).mean(), rel=1e-12)
    assert value(A, B, distribution=np.ones(1)) == pytest.approx(losses(A, B)[0], rel=1e-12)


def test_one_pair_alone():
    found = value(*VIEWS, distribution=np.array([0.0, 1.0, 0.0]), gamma=0.3)
    assert found == pytest.approx(losses(*VIEWS)[1] - 0.15 * (2 / 9 + 4 / 9), rel=1e-12)


@pytest.mark.parametrize("denominator", ["all", "negatives"])
def test_the_first_view_finds_each_in_one_direction(denominator):
    """loss_cal of JOAO's and GraphCL's codes with "negatives": rows find columns, the positive out of the sum."""
    views, p = (A, NEAR, B), np.array([0.5, 0.2, 0.3])
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in views]
    each = []
    for j in range(3):
        s = np.exp(unit[0] @ unit[j].T / T)
        below = s.sum(1) - (np.diag(s) if denominator == "negatives" else 0)
        each.append(-np.log(np.diag(s) / below).mean())
    found = value(*views, distribution=p, compare="first", denominator=denominator, gamma=0.7)
    assert found == pytest.approx(p @ each - 0.35 * np.sum((p - 1 / 3) ** 2), rel=1e-10)


def test_gradient_of_the_distribution_is_the_loss_of_each_pair():
    p = np.array([0.5, 0.2, 0.3])
    slope = jax.jit(jax.grad(lambda p: min_max(*VIEWS, distribution=p, gamma=0.7)))(p)
    np.testing.assert_allclose(slope, losses(*VIEWS) - 0.7 * (p - 1 / 3), rtol=1e-10)


def play(gamma: float, steps: int = 300, rate: float = 0.5) -> np.ndarray:
    """Ascends p = softmax(x) alone, from the uniform distribution; the views stand still."""
    slope = jax.grad(lambda x: min_max(*VIEWS, distribution=jax.nn.softmax(x), gamma=gamma))
    step = jax.jit(lambda _, x: x + rate * slope(x))
    return np.asarray(jax.nn.softmax(jax.jit(lambda x: jax.lax.fori_loop(0, steps, step, x))(jnp.zeros(3))))


@pytest.mark.slow
def test_ascent_goes_to_the_hardest_pair_as_far_as_gamma_lets_it():
    hardest = int(np.argmax(losses(*VIEWS)))
    free, held, bound = play(0.0, 2000), play(5.0), play(1000.0, rate=0.01)
    assert free[hardest] > 0.95
    assert 1 / 3 < held[hardest] < free[hardest]
    # The best answer inside the simplex: p - 1 / m = (L - mean L) / gamma.
    each = losses(*VIEWS)
    inside = 1 / 3 + (each - each.mean()) / 1000
    np.testing.assert_allclose(bound, inside, atol=1e-4)
    assert (inside > 0).all()


@pytest.mark.slow(one=True)
def test_descent_of_the_encoder_and_ascent_of_the_distribution():
    """One step of each, from the same gradient with two signs, moves the value down and up."""
    p = np.array([0.4, 0.3, 0.3])
    inputs = tuple(map(jnp.asarray, VIEWS))
    gradient = jax.jit(jax.grad(lambda v, p: min_max(*v, distribution=p), argnums=(0, 1)))(inputs, p)
    start = value(*VIEWS, distribution=p)
    views = [v - 0.01 * g for v, g in zip(inputs, gradient[0], strict=True)]
    assert value(*views, distribution=p) < start
    up = np.asarray(gradient[1] - gradient[1].mean())  # stays on the simplex
    assert value(*VIEWS, distribution=p + 0.01 * up) > start
    assert all(np.abs(g).max() > 1e-4 for g in gradient[0])


def test_ignored_rows():
    out = np.arange(N) == 5
    views = [v.copy() for v in VIEWS]
    views[2][5] = np.nan
    p = np.array([0.2, 0.3, 0.5])
    found = value(*views, distribution=p, ids=np.where(out, -1, np.arange(N)))
    assert found == pytest.approx(value(*(v[~out] for v in VIEWS), distribution=p), rel=1e-10)
    alone = value(*views, distribution=p, ids=np.full(N, -1), gamma=1.0)
    assert alone == pytest.approx(-0.5 * ((p - 1 / 3) ** 2).sum(), rel=1e-10)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (functools.partial(min_max, A, distribution=np.ones(1)), ("views", "1", "two or more")),
        (functools.partial(min_max, A, B[:3], distribution=np.ones(1)), ("views[1]", "(3, 4)")),
        (functools.partial(min_max, A, B, C, distribution=np.ones(9)), ("distribution", "(9,)", "(3,)", "3 views")),
        (functools.partial(min_max, A, B, distribution=1.0), ("distribution", "()", "(1,)")),
        (functools.partial(min_max, A, B, distribution=np.ones(1), gamma=-1.0), ("gamma", "-1.0", "at least 0")),
        (functools.partial(min_max, A, B, distribution=np.ones(1), temperature=0), ("temperature",)),
        (functools.partial(min_max, A, B, distribution=np.ones(1), denominator="none"), ("denominator", "none")),
    ],
)
def test_refused(call, words):
    with pytest.raises(ValueError) as error:
        jax.eval_shape(call)
    assert all(word in str(error.value) for word in words), str(error.value)
