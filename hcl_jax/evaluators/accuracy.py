"""Accuracy and how far it can be trusted."""

import math
from typing import NamedTuple

import numpy as np


class Accuracy(NamedTuple):
    """A share of right answers.

    Attributes:
      value: right / n, from 0 to 1.
      standard_error: sqrt(value (1 - value) / n), the spread over test sets of this size.
      n: answers counted.
    """

    value: float
    standard_error: float
    n: int


def proportion_error(p: float, n: int) -> float:
    """Standard error of a proportion, sqrt(p (1 - p) / n).

    Args:
      p: the proportion, 0 to 1.
      n: independent rows it was counted on.

    Returns:
      The standard error, a float.

    Example:
      >>> proportion_error(0.5, 100)
      0.05

    Reference: the binomial variance p (1 - p) n divided by n^2.
    """
    return math.sqrt(max(p * (1.0 - p), 0.0) / n)


def accuracy(correct: np.ndarray) -> Accuracy:
    """Share of True in `correct` [n], with its standard error.

    Example:
      >>> accuracy(np.array([True, True, False, False]))  # sqrt(1 / 2 times 1 / 2 / 4)
      Accuracy(value=0.5, standard_error=0.25, n=4)
    """
    p = float(np.mean(correct))
    return Accuracy(p, proportion_error(p, len(correct)), len(correct))


def paired_gain(correct: np.ndarray, baseline: np.ndarray) -> Accuracy:
    """Difference of two accuracies on the same test rows.

    gain = mean(e), standard error = sqrt((mean(e^2) - mean(e)^2) / n), with e = correct - baseline in {-1, 0, 1}.
    Rows that both get right or both get wrong cancel, so this is narrower than two separate standard errors.

    Args:
      correct: bool [n].
      baseline: bool [n], the same rows.

    Returns:
      `Accuracy`, whose value may be negative.

    Example:
      >>> paired_gain(np.array([True, True]), np.array([True, False])).value  # one of two rows is gained
      0.5

    Reference: McNemar 1947, Psychometrika 12 (the variance of a difference of correlated proportions).
    """
    e = correct.astype(np.float64) - baseline.astype(np.float64)
    return Accuracy(float(e.mean()), float(e.std() / math.sqrt(len(e))), len(e))


def draws_error(values: np.ndarray) -> float:
    """Standard error of the mean over independent draws, sd(values, n - 1) / sqrt(n); `values` [n], n >= 2.

    Example:
      >>> round(draws_error(np.array([0.8, 0.9])), 4)  # sd / sqrt(2) = 0.1 / 2
      0.05
    """
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))
