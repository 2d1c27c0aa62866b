"""The classifier of class means: the one of the theory, without training, to stand next to a linear probe."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Integer, Num

from hcl_jax.errors import InputError
from hcl_jax.evaluators.accuracy import Accuracy, accuracy
from hcl_jax.evaluators.rows import train_and_test

CONVENTIONS = ("product", "nearest")


class MeanClassifier(NamedTuple):
    """What the class means found.

    Attributes:
      accuracy: on the test rows, with standard error and n.
      correct: bool [m], by test row: for paired comparisons, `paired_gain(probe.correct, means.correct)`.
      means: [c, d] float64, the mean training row of each class: W^mu.
      classes: [c] int, the label of each mean.
    """

    accuracy: Accuracy
    correct: np.ndarray
    means: np.ndarray
    classes: np.ndarray


def mean_classifier(
    train_features: Num[ArrayLike, "n d"],
    train_labels: Integer[ArrayLike, " n"],
    test_features: Num[ArrayLike, "m d"],
    test_labels: Integer[ArrayLike, " m"],
    *,
    convention: str = "product",
) -> MeanClassifier:
    """Test accuracy of argmax_c f . mu_c, with mu_c the mean training row of class c.

    product   f . mu_c                   the classifier W^mu of the theory: no bias, a long mean wins
    nearest   f . mu_c - |mu_c|^2 / 2    argmin_c |f - mu_c|: the nearest mean

    Features are not standardised: the theory speaks of f itself. Moving all features by one vector changes the answers
    of "product" and not those of "nearest"; with means of equal length both are the same. Of equal scores the lower
    class wins. A test class that no training row has counts as wrong.

    Args:
      train_features: [n, d].
      train_labels: [n] int, -1 = left out.
      test_features: [m, d].
      test_labels: [m] int, -1 = left out.
      convention: "product" or "nearest".

    Returns:
      `MeanClassifier`.

    Raises:
      InputError: shapes or values that do not fit, fewer than two training classes, an unknown convention.

    Example:
      >>> x, y = np.eye(2), np.array([0, 1])
      >>> mean_classifier(x, y, x, np.zeros(2, int)).accuracy.value
      0.5

    Reference: Arora et al. 2019, arXiv 1902.09229, section 2, the mean classifier (product); Hastie, Tibshirani,
    Friedman 2009, The Elements of Statistical Learning, section 4.3 with one covariance of I, equal priors (nearest).
    """
    if convention not in CONVENTIONS:
        raise InputError("convention", repr(convention), ", ".join(map(repr, CONVENTIONS)))
    train, test = train_and_test(train_features, train_labels, test_features, test_labels)
    classes = np.unique(train.labels)
    if len(classes) < 2:
        found = f"only class {classes[0]} in {len(train.labels)} rows"
        raise InputError("train labels", found, "at least two classes")
    means = np.stack([train.features[train.labels == c].mean(axis=0, dtype=np.float64) for c in classes])
    scores = test.features.astype(np.float64) @ means.T
    if convention == "nearest":
        scores -= 0.5 * np.sum(means**2, axis=1)[None, :]
    correct = classes[np.argmax(scores, axis=1)] == test.labels
    return MeanClassifier(accuracy(correct), correct, means, classes)
