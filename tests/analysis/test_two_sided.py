"""The two-sided bound on random finite worlds, where every expectation is a loop."""

import itertools
import math

import numpy as np
import pytest

from hcl_jax.analysis.two_sided import gaps, two_sided_bound
from hcl_jax.errors import InputError


def world(seed: int, most: int = 4):
    """A few rows of two or three classes of different sizes, near to their classes or far, around zero or not."""
    rng = np.random.default_rng(seed)
    known = [3, 4, 8][: rng.integers(2, 4)]
    labels = np.repeat(known, rng.integers(1, most, len(known)))
    centres = rng.choice([0, 1, 5]) * rng.normal(size=(10, 2)) + rng.choice([0, 3]) * rng.normal(size=(1, 2))
    return (centres[labels] + rng.normal(size=(len(labels), 2))).astype(np.float32), labels


def by_loops(x, labels, negatives, temperature):
    """R_cont and R_mean by definition: every draw of a pair and of K negatives with its probability."""
    n = len(labels)
    u = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    s = (u @ u.T / temperature).tolist()
    means = {c: u[labels == c].mean(0) for c in sorted(set(labels))}
    contrastive = supervised = 0.0
    for i in range(n):
        own = [j for j in range(n) if labels[j] == labels[i]]
        for j in own:
            for ks in itertools.product(range(n), repeat=negatives):
                p = 1 / (n * len(own) * n**negatives)
                contrastive += p * (math.log(math.exp(s[i][j]) + sum(math.exp(s[i][k]) for k in ks)) - s[i][j])
        scores = {c: float(u[i] @ mu) / temperature for c, mu in means.items()}
        supervised += (math.log(sum(map(math.exp, scores.values()))) - scores[labels[i]]) / n
    return contrastive, supervised


@pytest.mark.parametrize("temperature", [0.2, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_one_negative_is_the_exact_sum(seed, temperature):
    x, labels = world(seed)
    found = two_sided_bound(x, labels, temperature=temperature)
    contrastive, supervised = by_loops(x, labels, 1, temperature)
    assert (found.contrastive, found.mean_supervised) == pytest.approx((contrastive, supervised), rel=1e-10)
    assert found.standard_error == 0


@pytest.mark.parametrize("negatives", [1, 2, 3])
def test_the_bounds_hold_in_every_world(negatives):
    """By the loops alone and by the constants: nothing is estimated."""
    for seed in range(40):
        x, labels = world(seed, most=3)
        temperature = (0.2, 1.0, 5.0)[seed % 3]
        contrastive, supervised = by_loops(x, labels, negatives, temperature)
        _, counts = np.unique(labels, return_counts=True)
        lower, upper = gaps(counts / len(labels), negatives, temperature)
        assert contrastive + lower - 1e-9 <= supervised <= contrastive + upper + 1e-9


@pytest.mark.parametrize("negatives", [1, 2, 3])
def test_draws_estimate_the_sum(negatives):
    for seed in range(4):
        x, labels = world(seed)
        found = two_sided_bound(x, labels, negatives=negatives, temperature=0.5, draws=2000)
        contrastive, _ = by_loops(x, labels, negatives, 0.5)
        assert 0 < found.standard_error < 0.02
        assert abs(found.contrastive - contrastive) < 5 * found.standard_error
    again = two_sided_bound(x, labels, negatives=negatives, temperature=0.5, draws=2000)
    assert again == found != two_sided_bound(x, labels, negatives=negatives, temperature=0.5, draws=2000, seed=1)


def test_the_constants_by_hand():
    """Equal classes: log(C / K) + 2 log cosh(1 / t) above, log(C K / (K + 1)^2) - 2 log cosh(1 / t) below."""
    for c, k, t in [(10, 1, 1.0), (10, 64, 1.0), (100, 512, 0.1)]:
        slack = 2 * math.log(math.cosh(1 / t))
        lower, upper = gaps(np.full(c, 1 / c), k, t)
        assert upper == pytest.approx(math.log(c / k) + slack, rel=1e-12)
        assert lower == pytest.approx(math.log(c * k / (k + 1) ** 2) - slack, rel=1e-12)
        assert upper - lower == pytest.approx(2 * math.log((k + 1) / k) + 2 * slack, rel=1e-12)
    lower, upper = gaps(np.array([0.75, 0.25]), 2, 1.0)
    slack = 2 * math.log(math.cosh(1))
    assert upper == pytest.approx(math.log(0.75 * 4 / 2) + slack)
    assert lower == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4) + math.log(2 / 9) - slack)
    assert np.isfinite(gaps(np.array([0.5, 0.5]), 1, 1e-4)).all()


def test_both_bounds_meet_the_loss_at_a_high_temperature():
    """All products vanish: R_mean = log C, R_cont = log(K + 1), and log((K + 1) / K) is what is left on each side."""
    x = np.random.default_rng(0).normal(size=(12, 3))
    found = two_sided_bound(x, np.arange(12) % 4, negatives=199, temperature=1e9, draws=2)
    assert found.mean_supervised == pytest.approx(math.log(4), abs=1e-8)
    assert found.contrastive == pytest.approx(math.log(200), abs=1e-8)
    left = math.log(200 / 199)
    assert (found.upper, found.lower) == pytest.approx((math.log(4) + left, math.log(4) - left), abs=1e-7)


def test_lengths_do_not_matter_and_low_temperatures_stay_finite():
    x, labels = world(1)
    one, two = two_sided_bound(x, labels), two_sided_bound(4 * x, labels)
    np.testing.assert_allclose(one, two, rtol=1e-12)
    for negatives in (1, 5):
        found = two_sided_bound(x, labels, negatives=negatives, temperature=1e-4)
        assert np.isfinite(found).all() and found.lower <= found.mean_supervised <= found.upper
    assert np.isfinite(two_sided_bound(np.zeros((4, 2)), np.array([0, 0, 1, 1]))).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"negatives": 0}, "negatives: found 0"),
        ({"negatives": 1.5}, "negatives: found 1.5"),
        ({"draws": 1}, "draws: found 1; allowed: a whole number from 2"),
        ({"temperature": 0}, "temperature: found 0"),
        ({"temperature": float("nan")}, "temperature: found nan"),
        ({"labels": np.array([1, 1, -1])}, "two-sided labels: found only class 1"),
    ],
)
def test_bad_input(settings, words):
    with pytest.raises(InputError, match="^" + words):
        two_sided_bound(**({"features": np.ones((3, 2)), "labels": np.array([0, 1, 1])} | settings))
