"""Support vector machines with an RBF kernel on frozen features: the classifier of TS2Vec, InfoGraph and GraphCL."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from hcl_jax.errors import InputError
from hcl_jax.evaluators.accuracy import Accuracy, accuracy
from hcl_jax.evaluators.folds import fold_of, over_folds
from hcl_jax.evaluators.result import Result, Splits
from hcl_jax.evaluators.rows import labelled, train_and_test

# Both grids go from strong to weak regularisation; of equal accuracies the first is taken.
SERIES_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4, math.inf)
GRAPH_GRID = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
LARGEST = 10_000  # training rows beyond which a random part of each class is fitted
INNER_FOLDS = 5
MAX_ITERATIONS = 10_000_000


class Svm(NamedTuple):
    """What a support vector machine found.

    Attributes:
      accuracy: on the test rows, with standard error and n; of a cross-validation the mean over folds and its error
        over folds.
      correct: bool [n], by row: for paired comparisons.
      c: the penalty used; in a cross-validation one for each fold.
    """

    accuracy: Accuracy
    correct: np.ndarray
    c: tuple[float, ...]


def _fit(x: np.ndarray, y: np.ndarray, grid: tuple[float, ...]) -> tuple[Any, float]:
    """(classifier, its C): the C of the grid that is best in five folds, or the only one."""
    from sklearn.dummy import DummyClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    if (x == x[0]).all():  # a collapsed encoder: libsvm would search without end for a margin that is not there
        return DummyClassifier(strategy="most_frequent").fit(x, y), grid[0]
    folds = min(INNER_FOLDS, int(np.unique(y, return_counts=True)[1].max()))
    with warnings.catch_warnings():
        # Classes with fewer rows than folds are in some folds only; a C at which libsvm gives up scores as it scores.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        machine = SVC(C=grid[-1], gamma="scale", max_iter=MAX_ITERATIONS)
        if len(grid) == 1 or folds < 2:
            return machine.fit(x, y), grid[-1]
        search = GridSearchCV(machine, {"C": list(grid)}, cv=folds, error_score="raise")
        search.fit(x, y)
    return search.best_estimator_, float(search.best_params_["C"])


def part_of(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Row numbers, sorted, of a random part in which each class keeps its share.

    Args:
      labels: [n] int.
      size: rows wanted; all where there are no more.
      seed: of the choice.

    Returns:
      int [min(n, size)].

    Example:
      >>> len(part_of(np.array([0, 0, 1, 1]), size=2, seed=0))  # one of each class
      2
    """
    if len(labels) <= size:
        return np.arange(len(labels))
    rng = np.random.default_rng((seed, 7))
    place = np.empty(len(labels))
    for c in np.unique(labels):
        at = np.flatnonzero(labels == c)
        place[at] = (rng.permutation(len(at)) + 0.5) / len(at)  # even over 0..1 within each class
    return np.sort(np.argsort(place, kind="stable")[:size])


def svm_probe(
    train_features: jax.typing.ArrayLike,
    train_labels: jax.typing.ArrayLike,
    test_features: jax.typing.ArrayLike,
    test_labels: jax.typing.ArrayLike,
    *,
    seed: int = 0,
    grid: Sequence[float] | None = None,
) -> Svm:
    """Test accuracy of a support vector machine on frozen features.

    k(x, x') = exp(-g |x - x'|^2),  g = 1 / (d var(x)),  C of 10^-4..10^4 and infinity

    C is the one with the best accuracy in five folds of the training rows; with fewer than 50 training rows, or fewer
    than five a class in the mean, it is infinity (no slack). Features are not standardised. A test class that no
    training row has counts as wrong.

    Args:
      train_features: [n, d]; beyond 10,000 rows a random part is fitted, in which each class keeps its share.
      train_labels: [n] int, -1 = left out.
      test_features: [m, d].
      test_labels: [m] int, -1 = left out.
      seed: of the random part.
      grid: the penalties to choose from, on all training rows however many; None: as above.

    Returns:
      `Svm`.

    Raises:
      InputError: shapes or values that do not fit, fewer than two training classes.

    Example:
      >>> x, y = np.array([[-1.0], [1.0]]), np.array([3, 5])
      >>> svm_probe(x, y, x, np.array([3, 3])).accuracy.value
      0.5

    Reference: Yue et al. 2022, arXiv 2106.10466, appendix (classification), and fit_svm of their code.
    """
    train, test = train_and_test(train_features, train_labels, test_features, test_labels)
    classes = _two_classes(train.labels)
    few = len(train.labels) < 50 or len(train.labels) // len(classes) < INNER_FOLDS
    if grid is None:
        part, grid = part_of(train.labels, LARGEST, seed), (math.inf,) if few else SERIES_GRID
    else:
        part = np.arange(len(train.labels))
    machine, c = _fit(train.features[part], train.labels[part], tuple(grid))
    correct = machine.predict(test.features) == test.labels
    return Svm(accuracy(correct), correct, (c,))


def _two_classes(labels: np.ndarray) -> np.ndarray:
    classes = np.unique(labels)
    if len(classes) < 2:
        raise InputError("train labels", f"only class {classes[0]} in {len(labels)} rows", "at least two classes")
    return classes


def svm_cross_validation(
    features: jax.typing.ArrayLike, labels: jax.typing.ArrayLike, folds: int = 10, seed: int = 0
) -> Svm:
    """Accuracy of a support vector machine in stratified k-fold cross-validation.

    k(x, x') = exp(-g |x - x'|^2),  g = 1 / (d var(x)),  C of 10^-3..10^3

    In each fold C is the one with the best accuracy in five folds of the training rows: the tested rows are read once.

    Args:
      features: [n, d].
      labels: [n] int, -1 = left out.
      folds: k.
      seed: of the folds.

    Returns:
      `Svm`, of the labelled rows.

    Raises:
      InputError: shapes or values that do not fit, fewer than two classes, folds as in `fold_of`.

    Example:
      >>> x, y = np.tile([[-1.0], [1.0]], (4, 1)), np.tile([0, 1], 4)
      >>> svm_cross_validation(x, y, folds=2).accuracy.value
      1.0

    Reference: Sun et al. 2020, InfoGraph, arXiv 1908.01000, section 4.1; You et al. 2020, GraphCL, arXiv 2010.13902,
    section 5, and svc_classify of both codes.
    """
    rows = labelled(features, labels, "train")
    _two_classes(rows.labels)
    fold = fold_of(rows.labels, folds, seed)
    correct = np.zeros(len(fold), bool)
    chosen = []
    for f in range(folds):
        machine, c = _fit(rows.features[fold != f], rows.labels[fold != f], GRAPH_GRID)
        correct[fold == f] = machine.predict(rows.features[fold == f]) == rows.labels[fold == f]
        chosen.append(c)
    return Svm(over_folds(correct, fold), correct, tuple(chosen))


def svm(features: Splits, labels: Splits, *, seed: int = 0, folded: bool = False) -> Result:
    """Support vector machine: `svm_accuracy`.

    Args:
      features: [n, d] of each split.
      labels: int [n] of each split, -1 = left out.
      seed: of the part of more than 10,000 rows that is fitted.
      folded: of a cross-validation: the grid of `svm_cross_validation`, not that of `svm_probe`.
    """
    found = svm_probe(*features.with_labels(labels), seed=seed, grid=GRAPH_GRID if folded else None)
    return Result({"svm_accuracy": found.accuracy}, {"svm_accuracy": found.correct})
