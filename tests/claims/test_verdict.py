"""Verdicts: intervals against formulas written out, and which side of the threshold they are on."""

import math

import numpy as np
import pytest
from scipy import special

from hcl_jax.claims.report import half_width
from hcl_jax.claims.verdict import judge

X = [0.1, 0.3, 0.2, 0.4, 0.25]
T_975_4 = 2.7764451051977987  # Student's quantile, 4 degrees of freedom


def test_interval_of_the_mean():
    found = judge(X, "above", 0.0)
    half = T_975_4 * np.std(X, ddof=1) / math.sqrt(5)
    assert found.value == pytest.approx(0.25)
    assert (found.low, found.high) == (pytest.approx(0.25 - half), pytest.approx(0.25 + half))
    assert found.half_width == pytest.approx(half) == pytest.approx(half_width(np.array(X)))
    assert found.verdict == "holds" and found.n == 5


@pytest.mark.parametrize(
    ("direction", "threshold", "verdict"),
    [("above", 0.1, "holds"), ("above", 0.2, "undecided"), ("above", 0.4, "fails"),
     ("below", 0.4, "holds"), ("below", 0.3, "undecided"), ("below", 0.1, "fails")],
)  # fmt: skip
def test_sides(direction, threshold, verdict):
    assert judge(X, direction, threshold).verdict == verdict


def test_no_spread():
    found = judge([0.5, 0.5, 0.5], "above", 0.4)
    assert (found.verdict, found.low, found.high) == ("holds", 0.5, 0.5)
    assert judge([0.5, 0.5], "above", 0.5).verdict == "undecided"
    # Rounding is no side.
    assert judge([0.1 + 0.2, 0.3], "above", 0.3).verdict == "undecided"
    assert judge([1e-14, 2e-14], "above", 0.0).verdict == "undecided"
    assert judge([5e-17, 1.0, 1.0], "above", 0.0, "sign").n == 2


def test_sign_is_exact():
    found = judge([1, 1, 1, 1, 1, 1, 1, -1], "above", 0.0, "sign")
    # P(at least 7 or at most 1 of 8 heads) = 2 (1 + 8) / 256; Clopper and Pearson's limits are beta quantiles.
    assert found.p == pytest.approx(18 / 256)
    assert found.low == pytest.approx(special.betaincinv(7, 2, 0.025))
    assert found.high == pytest.approx(special.betaincinv(8, 1, 0.975))
    assert found.verdict == "undecided" and found.value == 7 / 8
    assert judge([1] * 8, "above", 0.0, "sign").verdict == "holds"
    assert judge([1] * 8, "below", 0.0, "sign").verdict == "fails"
    assert judge([1] * 5, "above", 0.0, "sign").verdict == "undecided"  # five pairs alone cannot reach 5 %
    assert judge([0, 0, 1], "above", 0.0, "sign").n == 1  # ties say nothing
    assert judge([0, 0], "above", 0.0, "sign").verdict == "undecided"


def test_each():
    assert judge([1.0, 1.0], "above", 1.0, "each").verdict == "holds"
    assert judge([1.0, 0.999], "above", 1.0, "each").verdict == "fails"
    assert judge([1e-9, 2e-7], "below", 1e-6, "each").verdict == "holds"


def test_an_undecided_effect_stays_undecided():
    """Half-width above the effect: never holds, whatever the mean."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        x = rng.standard_normal(8) + 0.3
        found = judge(x, "above", 0.0)
        if found.half_width > abs(found.value):
            assert found.verdict == "undecided"


@pytest.mark.parametrize(
    ("values", "words"),
    [([1.0], ("values", "two or more")), ([1.0, math.nan], ("nan", "seed 1")), ([math.inf, 1.0], ("inf", "seed 0"))],
)
def test_refused(values, words):
    with pytest.raises(ValueError) as error:
        judge(values, "above", 0.0)
    assert all(w in str(error.value) for w in words)
    with pytest.raises(ValueError, match="mean, sign, each"):
        judge([1.0, 2.0], "above", 0.0, "median")
