"""From numbers of paired seeds to a verdict: holds, fails, or undecided."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from hcl_jax.errors import InputError

LEVEL = 0.95
ROUNDING = 1e-12  # nearer to the threshold than this, relative to the numbers, is on it


class Verdict(NamedTuple):
    """A judged statement.

    Attributes:
      verdict: "holds", "fails" or "undecided": the interval lies on one side of the threshold, the other, or has it
        inside.
      value: the mean over seeds; with the sign test the share of seeds on the stated side.
      low, high: the 95 % interval of `value`.
      p: two-sided p value of `value` at the threshold (sign test: at one half); nan where there is no spread.
      n: seeds that entered (sign test: ties are left out).
    """

    verdict: str
    value: float
    low: float
    high: float
    p: float
    n: int

    @property
    def half_width(self) -> float:
        """Half of the interval."""
        return (self.high - self.low) / 2


def judge(values: Sequence[float], direction: str, threshold: float, test: str = "mean") -> Verdict:
    """Judges numbers, one a seed, that are differences (or ratios, or shares) within a seed.

    Args:
      values: [n], n >= 2.
      direction: "above" or "below" the threshold is what the statement says.
      threshold: written before the run.
      test: a name of `TESTS`.

    Raises:
      InputError: fewer than two values, a value that is not finite, an unknown word.
    """
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or len(x) < 2:
        raise InputError("values", f"shape {x.shape}", "two or more, one a seed")
    if not np.isfinite(x).all():
        raise InputError("values", f"{x[~np.isfinite(x)][0]} of seed {int(np.argmin(np.isfinite(x)))}", "numbers")
    if direction not in ("above", "below"):
        raise InputError("direction", repr(direction), "above, below")
    if test not in TESTS:
        raise InputError("test", repr(test), ", ".join(TESTS))
    return TESTS[test](x, direction, threshold)


def _mean(x: np.ndarray, direction: str, threshold: float) -> Verdict:
    """Student's t interval of the mean."""
    if np.ptp(x) <= _tolerance(x, threshold):
        # No spread, no interval: the same number came out for every seed.
        mean = float(x.mean())
        on = abs(mean - threshold) <= _tolerance(x, threshold)
        side = "undecided" if on else _side(mean, mean, direction, threshold)
        return Verdict(side, mean, mean, mean, math.nan, len(x))
    found = stats.ttest_1samp(x, threshold)
    interval = found.confidence_interval(LEVEL)
    low, high = float(interval.low), float(interval.high)
    return Verdict(_side(low, high, direction, threshold), float(x.mean()), low, high, float(found.pvalue), len(x))


def _sign(x: np.ndarray, direction: str, threshold: float) -> Verdict:
    """The share of seeds on the stated side, with the exact (Clopper-Pearson) interval, against one half."""
    apart = x[np.abs(x - threshold) > _tolerance(x, threshold)]
    if not len(apart):
        return Verdict("undecided", math.nan, 0.0, 1.0, math.nan, 0)
    right = int(np.sum(apart > threshold if direction == "above" else apart < threshold))
    found = stats.binomtest(right, len(apart))
    interval = found.proportion_ci(LEVEL)
    low, high = float(interval.low), float(interval.high)
    verdict = _side(low, high, "above", 0.5)
    return Verdict(verdict, right / len(apart), low, high, float(found.pvalue), len(apart))


def _each(x: np.ndarray, direction: str, threshold: float) -> Verdict:
    """Every seed on the stated side (the threshold itself counts): for what must hold each time, not on average."""
    good = x >= threshold if direction == "above" else x <= threshold
    low, high = float(x.min()), float(x.max())
    return Verdict("holds" if good.all() else "fails", float(x.mean()), low, high, math.nan, len(x))


def _tolerance(x: np.ndarray, threshold: float) -> float:
    return ROUNDING * max(1.0, abs(threshold), float(np.abs(x).max()))


def _side(low: float, high: float, direction: str, threshold: float) -> str:
    if direction == "below":
        low, high, threshold = -high, -low, -threshold
    return "holds" if low > threshold else "fails" if high < threshold else "undecided"


# What is asked of the seeds: their mean, most of them, or each.
TESTS = {"mean": _mean, "sign": _sign, "each": _each}
