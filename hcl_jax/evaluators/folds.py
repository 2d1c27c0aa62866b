"""Cross-validation: every row is tested by a classifier that was not trained on it."""

import warnings
from collections.abc import Callable

import numpy as np

from hcl_jax.errors import InputError
from hcl_jax.evaluators.accuracy import Accuracy, draws_error
from hcl_jax.evaluators.result import Result, Splits, result_of
from hcl_jax.evaluators.rows import Labelled


def fold_of(labels: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """The fold that tests each row: a function of labels, folds and seed alone, so all feature sets share it.

    Args:
      labels: [n] int.
      folds: k; each class is spread evenly over them.
      seed: of the shuffle.

    Returns:
      int [n], 0..k-1.

    Raises:
      InputError: folds below 2 or above the rows of the largest class, or a fold whose training rows are of one class.

    Example:
      >>> np.bincount(fold_of(np.array([0, 0, 1, 1]), folds=2)).tolist()
      [2, 2]
    """
    from sklearn.model_selection import StratifiedKFold

    classes, counts = np.unique(labels, return_counts=True)
    most = int(counts.max())
    if isinstance(folds, bool) or not isinstance(folds, int | np.integer) or not 2 <= folds <= most:
        allowed = f"a whole number from 2 to {most}, the rows of the largest class"
        raise InputError("evaluate folds", repr(folds), allowed)
    out = np.empty(len(labels), np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        split = StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32).split(np.zeros(len(labels)), labels)
        for fold, (_, test) in enumerate(split):
            out[test] = fold
    if any(len(np.unique(labels[out != fold])) < 2 for fold in range(folds)):
        raise InputError("train labels", f"classes of {', '.join(map(str, counts))} rows", "two classes in each fold")
    return out


def over_folds(correct: np.ndarray, fold: np.ndarray) -> Accuracy:
    """Mean accuracy over folds, its standard error sd / sqrt(k) over folds, and the rows counted.

    The folds share training rows, so the error is rather too small.

    Args:
      correct: bool [n].
      fold: int [n], 0..k-1.

    Example:
      >>> over_folds(np.array([True, True, True, False]), np.array([0, 0, 1, 1])).value  # (1 + 1 / 2) / 2
      0.75
    """
    return _mean([float(correct[fold == f].mean()) for f in np.unique(fold)], len(correct))


def _mean(values: list[float], n: int) -> Accuracy:
    return Accuracy(float(np.mean(values)), draws_error(np.array(values)), n)


def cross_validated(evaluator: Callable[..., Result], rows: Labelled, fold: np.ndarray) -> Result:
    """An evaluator fitted and tested fold by fold.

    Args:
      evaluator: (features, labels) -> `Result`.
      rows: the labelled rows, [n, d] and [n].
      fold: int [n], which fold tests each row.

    Returns:
      `Result`: each accuracy as its mean over folds with the error over folds; what is paired by row, of all rows.
      Numbers without an error of their own, such as a chosen penalty, differ from fold to fold and are left out.
    """
    parts = [fold == f for f in np.unique(fold)]
    found = []
    for test in parts:
        features, labels = (Splits(x[~test], x[test]) for x in rows)
        found.append(result_of(evaluator(features, labels)))
    metrics: dict[str, float | Accuracy] = {}
    paired: dict[str, np.ndarray] = {}
    for name, value in found[0].metrics.items():
        if isinstance(value, Accuracy):
            metrics[name] = _mean([one.metrics[name].value for one in found], len(fold))  # type: ignore[union-attr]
    for name, rows_of_one in found[0].paired.items():
        if len(rows_of_one) == parts[0].sum():
            paired[name] = np.zeros(len(fold), rows_of_one.dtype)
            for test, one in zip(parts, found, strict=True):
                paired[name][test] = one.paired[name]
    return Result(metrics, paired)
