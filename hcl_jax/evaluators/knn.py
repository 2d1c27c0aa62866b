"""Weighted k-nearest-neighbour classifier on frozen features."""

import jax
import numpy as np

from hcl_jax.errors import InputError
from hcl_jax.evaluators.accuracy import Accuracy, accuracy
from hcl_jax.evaluators.neighbours import nearest_rows, unit_rows
from hcl_jax.evaluators.result import Result, Splits
from hcl_jax.evaluators.rows import train_and_test


def knn_predict(
    bank: np.ndarray, bank_labels: np.ndarray, queries: np.ndarray, *, k: int = 20, temperature: float = 0.07
) -> np.ndarray:
    """Class with the largest weighted vote of the k nearest bank rows.

    votes[q, c] = sum over the k nearest b with label c of exp(cos(q, b) / T); the prediction is argmax_c.

    Ties: of equal similarities the lower bank row is nearer; of equal votes the lower class wins. A row of zeros has
    cosine 0 with everything. The largest similarity of each query is taken off inside the exponent: the same winner, no
    overflow for T < 0.0113.

    Args:
      bank: [m, d] float32.
      bank_labels: [m] int, classes from 0.
      queries: [n, d] float32.
      k: neighbours; clipped to m.
      temperature: T > 0, in units of cosine.

    Returns:
      int64 [n] classes.

    Raises:
      InputError: k < 1 or temperature <= 0.

    Example:
      >>> x = np.eye(2, dtype=np.float32)
      >>> knn_predict(x, np.array([3, 5]), x, k=1)
      array([3, 5])

    Reference: Wu et al. 2018, arXiv 1805.01978, section 3.4.
    """
    if k < 1:
        raise InputError("evaluate k", k, "an integer >= 1")
    if not temperature > 0:
        raise InputError("evaluate temperature", temperature, "a number > 0")
    k = min(int(k), len(bank))
    similarity, rows = nearest_rows(unit_rows(queries), unit_rows(bank), k)
    similarity = similarity.astype(np.float64)
    weights = np.exp((similarity - similarity[:, :1]) / temperature)
    classes, compact = np.unique(bank_labels, return_inverse=True)
    cell = np.arange(len(queries))[:, None] * len(classes) + compact[rows]
    votes = np.bincount(cell.ravel(), weights.ravel(), len(queries) * len(classes)).reshape(len(queries), len(classes))
    return classes[np.argmax(votes, axis=1)]


def knn_accuracy(
    train_features: jax.typing.ArrayLike,
    train_labels: jax.typing.ArrayLike,
    test_features: jax.typing.ArrayLike,
    test_labels: jax.typing.ArrayLike,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> Accuracy:
    """Accuracy of the weighted kNN classifier; the training rows are the bank.

    State k and T beside the number: k=20, T=0.07 is DINO's choice (the default here), k=200, T=0.1 that of InstDisc and
    lightly; they can differ by points on the same features.

    Args:
      train_features: [m, d], the bank.
      train_labels: [m], -1 = left out.
      test_features: [n, d].
      test_labels: [n], -1 = left out.
      k: neighbours; clipped to the labelled bank.
      temperature: T > 0.

    Returns:
      `Accuracy` with its standard error and n.

    Raises:
      InputError: shapes or values that do not fit, k < 1, temperature <= 0.

    Example:
      >>> x, y = np.eye(2), np.array([0, 1])
      >>> knn_accuracy(x, y, x, np.array([0, 0]), k=1).value
      0.5

    Reference: Wu et al. 2018, arXiv 1805.01978, section 3.4; Caron et al. 2021, arXiv 2104.14294, appendix F.1 (k=20).
    """
    train, test = train_and_test(train_features, train_labels, test_features, test_labels)
    guess = knn_predict(train.features, train.labels, test.features, k=k, temperature=temperature)
    return accuracy(guess == test.labels)


def knn(features: Splits, labels: Splits, *, k: int = 20, temperature: float = 0.07) -> Result:
    """Weighted nearest neighbours: `knn_accuracy`.

    Args:
      features: [n, d] of each split.
      labels: int [n] of each split, -1 = left out.
      k, temperature: as in `knn_accuracy`.
    """
    found = knn_accuracy(*features.with_labels(labels), k=k, temperature=temperature)
    return Result({"knn_accuracy": found})
