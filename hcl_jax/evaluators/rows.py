"""Which rows an evaluator reads: labelled, finite, on the host.

Evaluators take whole arrays on the host and compute on the first local device. Features from a mesh and features read
back from a file then go through the same program in the same order, so that online and offline numbers are equal.
"""

from typing import NamedTuple

import jax
import numpy as np

from hcl_jax.errors import InputError


class Labelled(NamedTuple):
    """Rows that carry a label: features [n, d] float32, labels [n] int."""

    features: np.ndarray
    labels: np.ndarray


def features_of(features: jax.typing.ArrayLike, where: str) -> np.ndarray:
    """Features as float32 [n, d] on the host.

    Args:
      features: [n, d], any float or integer type.
      where: the name of the array in an error.

    Returns:
      float32 [n, d].

    Raises:
      InputError: not two axes, no row, no column, or a value that is not finite.
    """
    out = np.asarray(features)
    if out.ndim != 2 or 0 in out.shape:
        raise InputError(where, f"shape {list(out.shape)}", "[rows, dimensions], at least [1, 1]")
    out = np.asarray(out, np.float32)
    # The sum of a row is finite whenever its values are, unless they are near the largest float: no boolean copy of
    # 600 MB.
    if not np.isfinite(np.sum(out, axis=1)).all():
        bad = int((~np.isfinite(out)).any(axis=1).sum())
        if bad:
            raise InputError(where, f"{bad} of {len(out)} rows with values that are not finite", "finite values")
    return out


def labels_of(labels: jax.typing.ArrayLike, count: int, where: str) -> np.ndarray:
    """Labels as int64 [n] on the host.

    Args:
      labels: [n] integers; -1 means unlabelled.
      count: the number of feature rows they belong to.
      where: the name of the array in an error.

    Returns:
      int64 [n].

    Raises:
      InputError: another shape, values that are not integers, or below -1.
    """
    out = np.asarray(labels)
    if out.shape != (count,):
        raise InputError(where, f"shape {list(out.shape)}", f"[{count}], one label a feature row")
    if not (np.issubdtype(out.dtype, np.integer) or out.dtype == bool):
        raise InputError(where, f"dtype {out.dtype}", "integer classes from 0, and -1 for a row without a label")
    out = out.astype(np.int64)
    if out.min() < -1:
        raise InputError(where, f"label {out.min()}", "classes from 0, and -1 for a row without a label")
    return out


def labelled(features: jax.typing.ArrayLike, labels: jax.typing.ArrayLike, where: str) -> Labelled:
    """The rows whose label is not -1.

    Args:
      features: [n, d].
      labels: [n] integers; -1 means unlabelled.
      where: "train" or "test", the name in an error.

    Returns:
      `Labelled`, the rows in their order.

    Raises:
      InputError: shapes that do not fit, values that are not finite, or no labelled row.
    """
    features = features_of(features, f"{where} features")
    labels = labels_of(labels, len(features), f"{where} labels")
    keep = labels >= 0
    if not keep.any():
        raise InputError(f"{where} labels", f"{len(labels)} rows, all -1", "at least one labelled row")
    return Labelled(features, labels) if keep.all() else Labelled(features[keep], labels[keep])


def train_and_test(
    train_features: jax.typing.ArrayLike,
    train_labels: jax.typing.ArrayLike,
    test_features: jax.typing.ArrayLike,
    test_labels: jax.typing.ArrayLike,
) -> tuple[Labelled, Labelled]:
    """The labelled rows of both sets, which must have the same dimensions.

    Args:
      train_features: [n, d].
      train_labels: [n], -1 = unlabelled.
      test_features: [m, d].
      test_labels: [m], -1 = unlabelled.

    Returns:
      (train, test), each `Labelled`.

    Raises:
      InputError: as `labelled`, or dimensions that differ.
    """
    train = labelled(train_features, train_labels, "train")
    test = labelled(test_features, test_labels, "test")
    if train.features.shape[1] != test.features.shape[1]:
        raise InputError(
            "test features", f"{test.features.shape[1]} dimensions", f"{train.features.shape[1]}, as the train features"
        )
    return train, test
