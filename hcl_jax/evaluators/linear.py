"""Linear probe: multinomial logistic regression on frozen, standardised features."""

import math
from typing import Literal, NamedTuple

import jax
import numpy as np

from hcl_jax.errors import InputError
from hcl_jax.evaluators.accuracy import Accuracy, accuracy
from hcl_jax.evaluators.classifier import Classifier, class_means
from hcl_jax.evaluators.neighbours import unit_rows
from hcl_jax.evaluators.result import Result, Splits
from hcl_jax.evaluators.rows import labelled, train_and_test
from hcl_jax.evaluators.softmax import MAX_ITERATIONS, TOLERANCE, gram, row_space, solve, standardiser

# From strong to weak, each solved from the one before it.
STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


class Probe(NamedTuple):
    """A fitted linear classifier, argmax_c (W ((x - mean) / scale) + b)_c.

    Attributes:
      weights: [c, d] float32.
      bias: [c] float32.
      mean: [d] float32, of the training rows.
      scale: [d] float32, their standard deviation; 1 for a constant column.
      classes: [c] int, the label of each output.
      l2: the penalty it was fitted with.
      loss: the objective at the end, nats a row.
      gradient_norm: of the preconditioned gradient at the end.
      iterations: L-BFGS steps.
    """

    weights: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    classes: np.ndarray
    l2: float
    loss: float
    gradient_norm: float
    iterations: int


class LinearProbe(NamedTuple):
    """What a linear probe found.

    Attributes:
      accuracy: on the test rows, with standard error and n.
      correct: bool [n], by test row: for paired comparisons.
      l2: the penalty used.
      held_out: {l2: accuracy on the held-out fifth} of the strengths tried; empty when none was chosen.
      probe: the classifier, fitted on all training rows.
    """

    accuracy: Accuracy
    correct: np.ndarray
    l2: float
    held_out: dict[float, float]
    probe: Probe


class _Problem(NamedTuple):
    x: jax.Array  # [n, r] standardised, r = min(n, d)
    basis: jax.Array | None  # [d, r] when r < d
    moment: jax.Array  # [r, r]
    y: jax.Array  # [n] 0..c-1
    classes: np.ndarray
    mean: np.ndarray
    scale: np.ndarray


def _problem(
    features: np.ndarray, labels: np.ndarray, where: str = "train labels", scaling: str = "columns"
) -> _Problem:
    classes, y = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise InputError(where, f"only class {classes[0]} in {len(labels)} rows", "at least two classes")
    mean, scale = standardiser(features)
    if scaling == "rows":  # one scale for all columns: the rare words of a sparse input stay small
        scale = np.full_like(scale, max(float(np.sqrt(np.mean((features - mean[None, :]) ** 2))), 1e-12))
    x, basis = jax.device_put((features - mean[None, :]) / scale[None, :]), None
    if x.shape[0] < x.shape[1]:
        x, basis = row_space(x)
    ones = jax.device_put(np.ones(len(labels), np.float32))
    return _Problem(x, basis, gram(x, ones), jax.device_put(y.astype(np.int32)), classes, mean, scale)


def _start(problem: _Problem) -> tuple[jax.Array, jax.Array]:
    c, r = len(problem.classes), problem.x.shape[1]
    return jax.device_put((np.zeros((c, r), np.float32), np.zeros(c, np.float32)))


def _solve(problem: _Problem, rows: np.ndarray, l2: float, start, tolerance: float, max_iterations: int):
    """The same program for a held-out fit (rows with weight 0) and for the last one: it compiles once."""
    rows, l2, tolerance = jax.device_put((rows.astype(np.float32), np.float32(l2), np.float32(tolerance)))
    return solve(problem.x, problem.moment, problem.y, rows, l2, *start, tolerance, max_iterations=max_iterations)


def _probe(problem: _Problem, solution, l2: float) -> Probe:
    weights, bias, loss, norm, steps = jax.device_get(solution)
    if not math.isfinite(loss):
        raise InputError("linear probe", f"objective {loss} after {steps} steps", "features that float32 holds")
    if problem.basis is not None:
        weights = weights @ jax.device_get(problem.basis).T
    return Probe(
        weights, bias, problem.mean, problem.scale, problem.classes, float(l2), float(loss), float(norm), int(steps)
    )


def fit(
    features: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    l2: float | None = None,
    *,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> Probe:
    """Fits multinomial logistic regression.

    min_{W, b} (1/n) sum_i CE(W s_i + b, y_i) + l2 / 2 |W|^2, s_i = (x_i - mean) / std; b is not penalised.

    In scikit-learn's words LogisticRegression(C) with l2 = 1 / (C n). Constant columns get no weight. Sums are
    float32, products at the highest precision.

    Args:
      features: [n, d].
      labels: [n] int, -1 = left out.
      l2: the penalty, >= 0; None = 1 / n, scikit-learn's C = 1.
      tolerance: stops at this norm of the preconditioned gradient.
      max_iterations: limit of L-BFGS steps.

    Returns:
      `Probe`.

    Raises:
      InputError: shapes or values that do not fit, fewer than two classes, l2 < 0.

    Example:
      >>> x, y = np.array([[-1.0], [1.0]]), np.array([3, 5])
      >>> probe = fit(x, y)
      >>> print(probe.classes, probe.mean, probe.scale)
      [3 5] [0.] [1.]

    Reference: Hastie, Tibshirani, Friedman 2009, The Elements of Statistical Learning, section 4.4, equation 4.17.
    """
    rows = labelled(features, labels, "train")
    l2 = 1.0 / len(rows.labels) if l2 is None else _strength(l2)
    problem = _problem(*rows)
    solution = _solve(problem, np.ones(len(rows.labels)), l2, _start(problem), tolerance, max_iterations)
    return _probe(problem, solution, l2)


def _strength(l2: float) -> float:
    if not (l2 >= 0 and math.isfinite(l2)):
        raise InputError("evaluate l2", l2, "a finite number >= 0, or None to choose it")
    return float(l2)


def logits(probe: Probe, features: np.ndarray) -> np.ndarray:
    """W ((x - mean) / scale) + b: features [n, d] float32 -> [n, c].

    Example:
      >>> x, y = np.array([[-1.0], [1.0]]), np.array([3, 5])
      >>> print(abs(logits(fit(x, y), np.zeros((1, 1), np.float32)).round(2)))  # half way between both classes
      [[0. 0.]]
    """
    weights = probe.weights / probe.scale[None, :]
    return features @ weights.T + (probe.bias - weights @ probe.mean)[None, :]


def predict(probe: Probe, features: jax.typing.ArrayLike) -> np.ndarray:
    """The class of the largest logit; of equal ones the lower class.

    Args:
      probe: a fitted classifier.
      features: [n, d].

    Returns:
      [n] labels.

    Example:
      >>> x, y = np.array([[-1.0], [1.0]]), np.array([3, 5])
      >>> predict(fit(x, y), 2 * x)
      array([3, 5])
    """
    return probe.classes[np.argmax(logits(probe, np.asarray(features, np.float32)), axis=1)]


def held_out_fifth(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Marks a random fifth of each class: a function of the labels and the seed alone, so all feature sets share it.

    Args:
      labels: [n] int.
      seed: of the choice.

    Returns:
      bool [n].

    Example:
      >>> int(held_out_fifth(np.repeat([0, 1], 10)).sum())  # two of each class
      4
    """
    rng = np.random.default_rng((seed, 5))
    held = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        at = np.flatnonzero(labels == c)
        held[rng.permutation(at)[: len(at) // 5]] = True
    return held


def _choose(problem: _Problem, y: np.ndarray, seed: int, tolerance: float, max_iterations: int):
    """Strengths from strong to weak on four fifths, each from the last; ends where both measures get worse.

    The measures are accuracy and cross-entropy. Weak strengths are the slow ones, and a choice does not need the last
    digit of the optimum: the tolerance is at least 1e-3.
    """
    held = held_out_fifth(y, seed)
    x, y = jax.device_get(problem.x)[held], y[held]
    found: dict[float, tuple[float, float]] = {}
    best, start = STRENGTHS[0], _start(problem)
    solutions = {}
    for l2 in STRENGTHS:
        solution = _solve(problem, ~held, l2, start, max(tolerance, 1e-3), max_iterations)
        weights, bias = start = solution.weights, solution.bias
        scores = (x @ jax.device_get(weights).T + jax.device_get(bias)[None, :]).astype(np.float64)
        scores -= scores.max(axis=1, keepdims=True)
        right = scores[np.arange(len(y)), y] - np.log(np.exp(scores).sum(axis=1))
        # Equal accuracy: the strength with the smaller cross-entropy.
        found[l2] = float(np.mean(scores.argmax(axis=1) == y)), float(right.mean())
        solutions[l2] = start
        if found[l2][0] < found[best][0] and found[l2][1] < found[best][1]:
            break
        best = max(best, l2, key=found.__getitem__)
    return best, solutions[best], {l2: share for l2, (share, _) in found.items()}


def linear_probe(
    train_features: jax.typing.ArrayLike,
    train_labels: jax.typing.ArrayLike,
    test_features: jax.typing.ArrayLike,
    test_labels: jax.typing.ArrayLike,
    l2: float | None = None,
    *,
    seed: int = 0,
    scaling: str = "columns",
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> LinearProbe:
    """Test accuracy of a logistic regression on frozen features.

    With l2=None the strength is the one of `STRENGTHS` that is best on a fifth of the training rows, held out by
    class; then all training rows are fitted with it. Where a class has fewer than 10 rows it is 1 / n (C = 1). The
    test rows are read once, at the end. A test class that no training row has counts as wrong.

    Args:
      train_features: [n, d].
      train_labels: [n] int, -1 = left out.
      test_features: [m, d].
      test_labels: [m] int, -1 = left out.
      l2: the penalty as in `fit`, or None to choose it.
      seed: of the held-out rows.
      scaling: "columns" as in `fit`; "rows": each row at unit length, s_i = (x_i / |x_i| - mean) / one deviation for
        all columns (the protocol of graph papers, whose inputs are sparse).
      tolerance: as in `fit`.
      max_iterations: as in `fit`.

    Returns:
      `LinearProbe`. With scaling "rows" its probe is one of rows at unit length.

    Raises:
      InputError: shapes or values that do not fit, fewer than two training classes, l2 < 0.

    Example:
      >>> x, y = np.array([[-1.0], [1.0]]), np.array([3, 5])
      >>> linear_probe(x, y, x, np.array([3, 3])).accuracy.value
      0.5

    Reference: Chen et al. 2020, arXiv 2002.05709, section 2.3 (linear evaluation); Radford et al. 2021, arXiv
    2103.00020, appendix A.3 (L-BFGS, strength chosen on held-out rows).
    """
    if scaling not in ("columns", "rows"):
        raise InputError("evaluate.scaling", repr(scaling), "columns, rows")
    train, test = train_and_test(train_features, train_labels, test_features, test_labels)
    if scaling == "rows":
        train, test = (split._replace(features=unit_rows(split.features)) for split in (train, test))
    problem = _problem(*train, scaling=scaling)
    start, held_out = _start(problem), {}
    y = np.searchsorted(problem.classes, train.labels)
    if l2 is not None:
        l2 = _strength(l2)
    elif np.bincount(y).min() >= 10:
        l2, start, held_out = _choose(problem, y, seed, tolerance, max_iterations)
    else:
        l2 = 1.0 / len(y)
    probe = _probe(problem, _solve(problem, np.ones(len(y)), l2, start, tolerance, max_iterations), l2)
    correct = predict(probe, test.features) == test.labels
    return LinearProbe(accuracy(correct), correct, probe.l2, held_out, probe)


def linear(
    features: Splits,
    labels: Splits,
    *,
    l2: float | None = None,
    scaling: Literal["columns", "rows"] = "columns",
    seed: int = 0,
) -> Result:
    """Linear probe: `linear_accuracy`, and `linear_l2`, the penalty used.

    Args:
      features: [n, d] of each split.
      labels: int [n] of each split, -1 = left out.
      l2, scaling, seed: as in `linear_probe`.
    """
    found = linear_probe(*features.with_labels(labels), l2=l2, seed=seed, scaling=scaling)
    metrics: dict[str, float | Accuracy] = {"linear_accuracy": found.accuracy, "linear_l2": found.l2}
    kept = _kept(found.probe, features.train, labels.train) if scaling == "columns" else {}
    return Result(metrics, {"linear_accuracy": found.correct}, kept=kept)


def _kept(probe: Probe, features: jax.typing.ArrayLike, labels: jax.typing.ArrayLike) -> dict[str, np.ndarray]:
    """The arrays of a `Classifier`: the probe on features as they are, and the class means."""
    weights = probe.weights / probe.scale[None, :]
    bias = probe.bias - weights @ probe.mean
    means, variance = class_means(*labelled(features, labels, "train"), probe.classes)
    return Classifier(weights, bias, means, variance, probe.classes)._asdict()
