"""Losses on targets: cross entropy with classes, mean squared error with numbers (pretext tasks, auxiliary heads)."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Integer, Num

from hcl_jax.errors import InputError
from hcl_jax.losses import masking


def cross_entropy(
    logits: Float[Array, " n *entries k"],
    labels: Integer[Array, " n *entries"],
    *,
    smoothing: float = 0.0,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Softmax cross entropy with integer classes.

    l = log sum_k exp x_k - (1 - smoothing) x_y - smoothing mean_k x_k

    Args:
      logits: [N, ..., K].
      labels: int [N, ...], class 0..K-1; -1 = not counted (a masked token, a row without a label). A class out of range
        makes the loss NaN.
      smoothing: share of the target spread over all classes, 0..1.
      ids: int [N]; -1 = ignored row. Other values change nothing.
      row_weights: [N], scale all entries of a row.

    Returns:
      Scalar; mean over counted entries, weights not renormalised. 0 without one.

    Raises:
      InputError: labels that do not fit logits, or are not integers.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{cross_entropy(x, jnp.array([0, 1])):.4f}")  # log(e + 1) - 1
      0.3133
    """
    if not 0 <= smoothing <= 1:
        raise InputError("smoothing", smoothing, "0 to 1")
    logits, labels, counted = _check(logits, labels, ids)
    logits = masking.mask(logits, counted)
    picked = jnp.take_along_axis(logits, jnp.where(counted, labels, 0)[..., None], axis=-1, mode="fill")[..., 0]
    target = picked if smoothing == 0 else (1 - smoothing) * picked + smoothing * jnp.mean(logits, axis=-1)
    return _mean_of_entries(jax.nn.logsumexp(logits, axis=-1) - target, counted, row_weights)


def cross_entropy_top1(
    logits: Float[Array, " n *entries k"],
    labels: Integer[Array, " n *entries"],
    *,
    ids: Integer[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Share of the counted entries whose class has the largest logit (a tie is a miss).

    Args:
      logits, labels, ids: as in `cross_entropy`.

    Returns:
      Scalar in 0..1; 0 without a counted entry.

    Example:
      >>> x = jnp.eye(2)
      >>> print(cross_entropy_top1(x, jnp.array([0, 0])))
      0.5
    """
    logits, labels, counted = _check(logits, labels, ids)
    logits = masking.mask(logits, counted)
    own, lowest = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool), jnp.finfo(logits.dtype).min
    hits = jnp.max(jnp.where(own, logits, lowest), axis=-1) > jnp.max(jnp.where(own, lowest, logits), axis=-1)
    return _mean_of_entries(hits.astype(logits.dtype), counted, None)


def cross_entropy_count(
    logits: Float[Array, " n *entries k"],
    labels: Integer[Array, " n *entries"],
    *,
    ids: Integer[Array, " n"] | None = None,
) -> Integer[Array, ""]:
    """How many entries `cross_entropy` is a mean over.

    Args:
      logits, labels, ids: as in `cross_entropy`.

    Returns:
      Scalar.
    """
    return jnp.sum(_check(logits, labels, ids)[2])


def mean_squared_error(
    prediction: Num[Array, " n *features"],
    target: Num[Array, " n *features"],
    mask: Bool[Array, "n ..."] | None = None,
    *,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Mean squared error over the counted numbers.

    loss = mean (prediction - target)^2

    Args:
      prediction: [N, ...].
      target: [N, ...], the same shape. It takes gradients: stop them outside if it should not.
      mask: bool [N, ...], any leading part of that shape: what is counted (MAE's hidden patches). None: everything.
      ids: int [N]; -1 = ignored row. Other values change nothing.
      row_weights: [N], scale all numbers of a row.

    Returns:
      Scalar; mean over counted numbers, weights not renormalised. 0 without one.

    Raises:
      InputError: shapes that do not fit.

    Example:
      >>> x = jnp.eye(2)
      >>> print(mean_squared_error(x, jnp.zeros((2, 2))))
      0.5
    """
    prediction, target = masking.upcast(prediction), masking.upcast(target)
    counted = _numbers(prediction.shape, target.shape, mask, ids)
    difference = jnp.where(counted, prediction, 0) - jnp.where(counted, target, 0)
    return _mean_of_entries(difference**2, counted, row_weights)


def mean_squared_error_count(
    prediction: Num[Array, " n *features"],
    target: Num[Array, " n *features"],
    mask: Bool[Array, "n ..."] | None = None,
    *,
    ids: Integer[Array, " n"] | None = None,
) -> Integer[Array, ""]:
    """How many numbers `mean_squared_error` is a mean over.

    Args:
      prediction, target, mask, ids: as in `mean_squared_error`.

    Returns:
      Scalar.
    """
    return jnp.sum(_numbers(jnp.shape(prediction), jnp.shape(target), mask, ids))


def _numbers(shape: tuple[int, ...], target: tuple[int, ...], mask: Array | None, ids: Array | None) -> Array:
    """Which numbers of a prediction count, bool of its whole shape."""
    if target != shape or not shape:
        raise InputError("target", f"shape {target}", f"shape {shape}, that of prediction")
    counted = _entries(ids, shape)
    if mask is not None:
        mask = jnp.asarray(mask, bool)
        if not mask.ndim or mask.shape != shape[: mask.ndim]:
            raise InputError("mask", f"shape {mask.shape}", f"a leading part of {shape}, the shape of prediction")
        counted &= mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim))
    return counted


def _check(logits: Array, labels: Array, ids: Array | None) -> tuple[Array, Array, Array]:
    """Wide logits, int32 labels, and which entries count."""
    logits, labels = masking.upcast(logits), jnp.asarray(labels)
    if logits.ndim < 2 or labels.shape != logits.shape[:-1]:
        raise InputError("labels", f"shape {labels.shape}", f"logits {logits.shape} without the last axis")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError("labels", labels.dtype, "an integer type")
    labels = labels.astype(jnp.int32)
    return logits, labels, _entries(ids, labels.shape) & (labels != -1)


def _entries(ids: Array | None, shape: tuple[int, ...]) -> Array:
    """Which entries belong to a valid row, bool of the whole shape [N, ...]."""
    valid = masking.valid_rows(ids, shape[0])
    return jnp.broadcast_to(valid.reshape((-1,) + (1,) * (len(shape) - 1)), shape)


def _mean_of_entries(values: Array, counted: Array, row_weights: Array | None) -> Array:
    weight = masking.weights(row_weights, values.shape[0], values.dtype)
    weighted = jnp.where(counted, values * weight.reshape((-1,) + (1,) * (values.ndim - 1)), 0)
    return jnp.sum(weighted) / jnp.maximum(jnp.sum(counted, dtype=values.dtype), 1)
