"""Linear decodability from few labels, over several draws of the labelled rows."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from hcl_jax.errors import InputError
from hcl_jax.evaluators.accuracy import draws_error
from hcl_jax.evaluators.result import Result, Splits
from hcl_jax.evaluators.rows import labelled, train_and_test
from hcl_jax.evaluators.softmax import TOLERANCE, gram, row_space, solve, standardiser


class LabelEfficiency(NamedTuple):
    """Accuracy with n labels a class.

    Attributes:
      mean: over draws.
      standard_error: sd over draws / sqrt(draws); the draws share the test rows. nan for one draw.
      draws: how many.
      accuracies: [draws]; those of two feature sets are paired, draw by draw.
      n: test rows.
    """

    mean: float
    standard_error: float
    draws: int
    accuracies: np.ndarray
    n: int


def label_draws(labels: np.ndarray, per_class: int, draws: int, seed: int = 0) -> np.ndarray:
    """Rows that are labelled in each draw: the same number of every class, without replacement.

    A function of (labels, seed) alone, so that every feature set sees the same rows; within a draw those of fewer
    labels are among those of more.

    Args:
      labels: [n] int, without -1.
      per_class: rows of each class.
      draws: how many draws.
      seed: of all draws.

    Returns:
      int [draws, classes * per_class] rows.

    Raises:
      InputError: per_class < 1, draws < 1, or a class with fewer rows.

    Example:
      >>> label_draws(np.array([0, 0, 1, 1]), per_class=1, draws=3).shape
      (3, 2)
    """
    classes, counts = np.unique(labels, return_counts=True)
    if not 1 <= per_class <= counts.min():
        least = classes[counts.argmin()]
        raise InputError("labels per class", per_class, f"1 to {counts.min()}, the rows of class {least}")
    if draws < 1:
        raise InputError("draws", draws, "an integer >= 1")
    out = []
    for draw in range(draws):
        rng = np.random.default_rng((seed, draw))
        out.append(np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:per_class] for c in classes]))
    return np.stack(out)


def _weights(x: np.ndarray, y: np.ndarray, classes: int, l2: float) -> tuple[np.ndarray, np.ndarray]:
    """The classifier of one draw, x [m, d], within the span of its rows; one program for each m, min(m, d), classes."""
    x, basis = jax.device_put(x), None
    if x.shape[0] < x.shape[1]:
        x, basis = row_space(x)
    y, rows, weights, bias, l2, tolerance = jax.device_put(
        (
            y.astype(np.int32),
            np.ones(len(y), np.float32),
            np.zeros((classes, x.shape[1]), np.float32),
            np.zeros(classes, np.float32),
            np.float32(l2),
            np.float32(TOLERANCE),
        )
    )
    weights, bias, *_ = jax.device_get(solve(x, gram(x, rows), y, rows, l2, weights, bias, tolerance))
    return (weights if basis is None else weights @ jax.device_get(basis).T), bias


def label_efficiency(
    train_features: jax.typing.ArrayLike,
    train_labels: jax.typing.ArrayLike,
    test_features: jax.typing.ArrayLike,
    test_labels: jax.typing.ArrayLike,
    *,
    per_class: Sequence[int] = (1, 10, 100),
    draws: int = 5,
    seed: int = 0,
) -> dict[int, LabelEfficiency]:
    """Test accuracy of a logistic regression on n labels a class, mean over draws.

    Each draw is fitted with l2 = 1 / rows (scikit-learn's C = 1), for there is nothing to choose it on. Features are
    standardised by the mean and deviation of all training rows: no label is needed, and one row has no deviation.

    Args:
      train_features: [n, d], the pool.
      train_labels: [n] int, -1 = left out.
      test_features: [m, d].
      test_labels: [m] int, -1 = left out.
      per_class: labels a class.
      draws: stratified draws; five or more for a standard error worth reading.
      seed: of the draws.

    Returns:
      {n: LabelEfficiency}.

    Raises:
      InputError: shapes or values that do not fit, fewer than two classes, or more labels than the smallest class has
        rows.

    Example:
      >>> x, y = np.tile([[-1.0], [1.0]], (2, 1)), np.tile([0, 1], 2)
      >>> label_efficiency(x, y, x, y, per_class=(1,), draws=2)[1].mean
      1.0

    Reference: Henaff et al. 2019, arXiv 1905.09272, section 4 (accuracy by the number of labels).
    """
    train, test = train_and_test(train_features, train_labels, test_features, test_labels)
    classes, y = np.unique(train.labels, return_inverse=True)
    if len(classes) < 2:
        raise InputError("train labels", f"only class {classes[0]} in {len(y)} rows", "at least two classes")
    per_class = sorted(set(per_class))
    chosen = {n: label_draws(train.labels, n, draws, seed) for n in per_class}
    mean, scale = standardiser(train.features)
    tests = (test.features - mean[None, :]) / scale[None, :]
    out = {}
    for n, rows in chosen.items():
        right = []
        for row in rows:
            x = (train.features[row] - mean[None, :]) / scale[None, :]
            weights, bias = _weights(x, y[row], len(classes), 1.0 / len(row))
            guess = classes[np.argmax(tests @ weights.T + bias[None, :], axis=1)]
            right.append(np.mean(guess == test.labels))
        shares = np.array(right)
        error = draws_error(shares) if draws > 1 else float("nan")
        out[n] = LabelEfficiency(float(shares.mean()), error, draws, shares, len(tests))
    return out


def few_labels(
    features: Splits,
    labels: Splits,
    *,
    per_class: Sequence[int] = (1, 10, 100),
    draws: int = 5,
    seed: int = 0,
    folded: bool = False,
) -> Result:
    """Linear probe on n labels a class, mean over draws: `labels_<n>/accuracy`.

    Args:
      features: [n, d] of each split.
      labels: int [n] of each split, -1 = left out.
      per_class: labels a class; a number that the smallest class does not have is left out.
      draws, seed: as in `label_efficiency`.
      folded: of a cross-validation: nothing is returned, for the draws are not those of all rows.
    """
    if folded:
        return Result({})
    counts = np.unique(labelled(features.train, labels.train, "train").labels, return_counts=True)[1]
    per_class = [n for n in per_class if n <= counts.min()]
    if not per_class:
        return Result({})
    metrics, paired = {}, {}
    found = label_efficiency(*features.with_labels(labels), per_class=per_class, draws=draws, seed=seed)
    for n, few in found.items():
        metrics[f"labels_{n}/accuracy"] = few.mean
        if few.draws > 1:
            metrics[f"labels_{n}/accuracy_se"] = few.standard_error
            paired[f"labels_{n}/accuracy"] = few.accuracies
        metrics[f"labels_{n}/draws"] = few.draws
    return Result(metrics, paired)


def _points(curve: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """(log labels, accuracies), by number of labels."""
    if not curve:
        raise InputError("curve", "no point", "at least one number of labels")
    for n, value in curve.items():
        if not (n > 0 and math.isfinite(n) and math.isfinite(value)):
            raise InputError("curve", f"{n}: {value}", "{labels above 0: a finite accuracy}")
    counts = sorted(curve)
    return np.log(np.array(counts, np.float64)), np.array([curve[n] for n in counts], np.float64)


def labels_needed(curve: Mapping[int, float], target: float) -> float:
    """Number of labels at which a curve first reaches an accuracy, on straight lines in log(labels).

    log n = log n_0 + (log n_1 - log n_0) (target - a_0) / (a_1 - a_0), n_1 the first point with a_1 >= target

    The first crossing of the points as they are: a curve that falls again later has still reached it, and no points
    are smoothed.

    Args:
      curve: {labels: accuracy}, as {n: found.mean for n, found in label_efficiency(...).items()}.
      target: accuracy, such as 0.9 of that of a probe on all labels.

    Returns:
      Labels, in the unit of the curve; its smallest number where that one reaches the target (fewer may do), infinity
      where none does.

    Raises:
      InputError: no point, labels that are not above 0, values that are not finite.

    Example:
      >>> round(labels_needed({1: 0.5, 100: 0.9}, target=0.7), 4)  # half way in log(labels)
      10.0

    Reference: Henaff et al. 2019, arXiv 1905.09272, figure 1 (labels needed to match an accuracy).
    """
    logs, values = _points(curve)
    if not math.isfinite(target):
        raise InputError("target", target, "a finite accuracy")
    reached = np.flatnonzero(values >= target)
    if not len(reached):
        return math.inf
    i = int(reached[0])
    if i == 0:
        return float(min(curve))
    share = (target - values[i - 1]) / (values[i] - values[i - 1])
    return float(np.exp(logs[i - 1] + share * (logs[i] - logs[i - 1])))


def area_under_curve(curve: Mapping[int, float]) -> float:
    """Mean accuracy over log(labels): the area under straight lines between the points, divided by the range.

    area = sum_i (a_i + a_{i+1}) / 2 (log n_{i+1} - log n_i) / (log n_last - log n_first)

    Compare curves of the same numbers of labels.

    Args:
      curve: {labels: accuracy}.

    Returns:
      A float between the smallest and the largest accuracy; of one point its accuracy.

    Raises:
      InputError: as `labels_needed`.

    Example:
      >>> round(area_under_curve({1: 0.5, 10: 0.7, 100: 0.9}), 4)
      0.7

    Reference: the trapezoidal rule; Henaff et al. 2019, arXiv 1905.09272, figure 1 (the axis of log labels).
    """
    logs, values = _points(curve)
    if len(logs) == 1:
        return float(values[0])
    return float(np.sum((values[1:] + values[:-1]) / 2 * np.diff(logs)) / (logs[-1] - logs[0]))
