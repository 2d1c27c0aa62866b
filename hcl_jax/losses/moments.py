"""Weighted moments of the valid rows, for losses on batch statistics (Barlow Twins, VICReg, covariance).

A row's weight is its multiplicity: weight 2 is the row twice, weight 0 or id -1 is no row. Here, unlike in the losses
that are a mean of rows, weights are renormalised, because a statistic is a ratio of sums.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from hcl_jax.losses import rows


class Moments(NamedTuple):
    """Rows less their mean [N, D] (zero where they do not count), and the biased variance [D]."""

    centred: Array
    variance: Array


def multiplicity(valid: Array, row_weights: Array | None, dtype: jnp.dtype) -> Array:
    """Weight of each row in a statistic, [N]: 0 where it does not count."""
    return jnp.where(valid, rows.weights(row_weights, valid.shape[0], dtype), 0)


def ratio(total: Array, count: Array) -> Array:
    """total / count, and 0 / 1 where count is not above 0."""
    return total / jnp.where(count > 0, count, 1)


def moments(x: Array, valid: Array, weight: Array) -> Moments:
    """Mean removed in a first pass, variance from the second: one pass would cancel in float32."""
    x, count = rows.clean(x, valid), jnp.sum(weight)
    mean = ratio(jnp.sum(weight[:, None] * x, axis=0), count)
    centred = jnp.where(valid[:, None], x - mean[None, :], 0)
    return Moments(centred, ratio(jnp.sum(weight[:, None] * centred**2, axis=0), count))


def cross(x: Array, y: Array, weight: Array) -> Array:
    """sum_i w_i x_i y_i^T, [D, D]."""
    return jnp.matmul((weight[:, None] * x).T, y, precision="highest")


def off_diagonal(centred: Array, weight: Array) -> Array:
    """(1 / D) sum_{i != j} C_ij^2 of rows without their mean, C divided by N - 1; 0 with fewer than two rows."""
    count, d = jnp.sum(weight), centred.shape[1]
    covariance = cross(centred, centred, weight) / jnp.where(count > 1, count - 1, 1)
    return jnp.sum(jnp.where(jnp.eye(d, dtype=bool), 0, covariance) ** 2) / d
