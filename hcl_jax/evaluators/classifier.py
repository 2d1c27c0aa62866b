"""Classifiers of features that are kept after an evaluation: the linear probe's, and the one of class means."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from hcl_jax.errors import InputError

METHODS = ("linear", "nearest")


class Classifier(NamedTuple):
    """What is needed to name the class of a feature.

    Attributes:
      weights: [c, d] float32, of the features as they are.
      bias: [c] float32.
      means: [c, d] float32, the mean training row of each class.
      variance: of a row about its class mean, averaged over the d columns.
      classes: [c] int, the label of each row of weights and means.
    """

    weights: Float[np.ndarray, "c d"]
    bias: Float[np.ndarray, " c"]
    means: Float[np.ndarray, "c d"]
    variance: Float[np.ndarray, ""]
    classes: Int[np.ndarray, " c"]


def class_means(features: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means [c, d] float32 of the rows of each class, and the mean square [] of what is left.

    Args:
      features: [n, d] float32.
      labels: int [n].
      classes: int [c], sorted, each with a row.
    """
    y = np.searchsorted(classes, labels)
    means = np.stack([features[y == c].mean(axis=0, dtype=np.float64) for c in range(len(classes))])
    left = sum(((features[y == c] - means[c][None, :]) ** 2).sum() for c in range(len(classes)))
    return means.astype(np.float32), np.asarray(left / features.size, np.float32)


def probabilities(classifier: Classifier, features: np.ndarray, method: str = "linear") -> np.ndarray:
    """The probability of each class.

    linear    softmax_c(w_c . f + b_c), the logistic regression
    nearest   softmax_c(-|f - mu_c|^2 / 2 v), a Gaussian of one variance v about each mean; the nearest mean is first

    Args:
      classifier: c classes.
      features: [n, d].
      method: linear or nearest.

    Returns:
      float32 [n, c].

    Raises:
      InputError: an unknown method.

    Example:
      >>> ones, two = np.ones((1, 1)), np.array([[0.0], [2.0]])
      >>> print(probabilities(Classifier(two, np.zeros(2), two, np.asarray(1.0), np.arange(2)), ones, "nearest"))
      [[0.5 0.5]]
    """
    if method not in METHODS:
        raise InputError("method", repr(method), ", ".join(METHODS))
    f = np.asarray(features, np.float64)
    if method == "linear":
        scores = f @ classifier.weights.T.astype(np.float64) + classifier.bias[None, :]
    else:
        # |f|^2 is one number a row, which a softmax does not see.
        means = classifier.means.astype(np.float64)
        scores = (f @ means.T - (means**2).sum(axis=1)[None, :] / 2) / max(float(classifier.variance), 1e-12)
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)


def read(arrays: Mapping[str, np.ndarray], name: str) -> Classifier | None:
    """The classifier of a file's arrays `name.weights`, ...; None where it is not there."""
    if any(f"{name}.{field}" not in arrays for field in Classifier._fields):
        return None
    return Classifier(*(arrays[f"{name}.{field}"] for field in Classifier._fields))
