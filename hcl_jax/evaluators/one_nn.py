"""Nearest neighbour by Euclidean distance: the baseline of time-series classification."""

import jax
import numpy as np

from hcl_jax.evaluators.accuracy import Accuracy, accuracy
from hcl_jax.evaluators.neighbours import nearest_rows
from hcl_jax.evaluators.result import Result, Splits
from hcl_jax.evaluators.rows import train_and_test


def one_nn_predict(bank: np.ndarray, bank_labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Label of the nearest bank row, argmin_b |q - b|^2 = argmax_b q . b - |b|^2 / 2.

    Both are first centred on the bank's mean: distances stay, and float32 products lose less. Equal distances: the
    lower bank row.

    Args:
      bank: [m, d] float32.
      bank_labels: [m].
      queries: [n, d] float32.

    Returns:
      [n] labels.

    Example:
      >>> x = np.eye(2, dtype=np.float32)
      >>> one_nn_predict(x, np.array([3, 5]), 2 * x)
      array([3, 5])

    Reference: Bagnall et al. 2017, Data Mining and Knowledge Discovery 31 (1-NN Euclidean as the benchmark).
    """
    mean = bank.mean(axis=0, dtype=np.float64).astype(np.float32)[None, :]
    bank = bank - mean
    half = 0.5 * np.einsum("nd,nd->n", bank, bank)
    _, rows = nearest_rows(queries - mean, bank, 1, -half)
    return bank_labels[rows[:, 0]]


def one_nn_accuracy(
    train_features: jax.typing.ArrayLike,
    train_labels: jax.typing.ArrayLike,
    test_features: jax.typing.ArrayLike,
    test_labels: jax.typing.ArrayLike,
) -> Accuracy:
    """Accuracy of the 1-NN Euclidean classifier.

    Args:
      train_features: [m, d], for series the steps and channels flattened, not normalised.
      train_labels: [m], -1 = left out.
      test_features: [n, d].
      test_labels: [n], -1 = left out.

    Returns:
      `Accuracy` with its standard error and n.

    Raises:
      InputError: shapes or values that do not fit.

    Example:
      >>> x, y = np.eye(2), np.array([0, 1])
      >>> one_nn_accuracy(x, y, x, np.array([0, 0])).value
      0.5

    Reference: Bagnall et al. 2017, Data Mining and Knowledge Discovery 31.
    """
    train, test = train_and_test(train_features, train_labels, test_features, test_labels)
    return accuracy(one_nn_predict(train.features, train.labels, test.features) == test.labels)


def one_nn(features: Splits, labels: Splits) -> Result:
    """Nearest neighbour by Euclidean distance: `one_nn_accuracy`.

    Args:
      features: [n, d] of each split.
      labels: int [n] of each split, -1 = left out.
    """
    return Result({"one_nn_accuracy": one_nn_accuracy(*features.with_labels(labels))})
