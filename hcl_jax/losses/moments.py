"""Weighted moments of the valid rows, for losses on batch statistics (Barlow Twins, VICReg, covariance).

A row's weight is its multiplicity: weight 2 is the row twice, weight 0 or id -1 is no row. Here, unlike in the losses
that are a mean of rows, weights are renormalised, because a statistic is a ratio of sums.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from hcl_jax.losses import masking


class Moments(NamedTuple):
    """Rows less their mean [N, D] (zero where they do not count), and the biased variance [D]."""

    centred: Float[Array, "n d"]
    variance: Float[Array, " d"]


def multiplicity(valid: Bool[Array, " n"], row_weights: Array | None, dtype: jnp.dtype) -> Float[Array, " n"]:
    """Weight of each row in a statistic, [N]: 0 where it does not count."""
    return jnp.where(valid, masking.weights(row_weights, valid.shape[0], dtype), 0)


def ratio(total: Float[Array, "*shape"], count: Float[Array, ""]) -> Float[Array, "*shape"]:
    """total / count, and 0 / 1 where count is not above 0."""
    return total / jnp.where(count > 0, count, 1)


def moments(x: Float[Array, "n d"], valid: Bool[Array, " n"], weight: Float[Array, " n"]) -> Moments:
    """Mean removed in a first pass, variance from the second: one pass would cancel in float32."""
    x, count = masking.mask(x, valid), jnp.sum(weight)
    mean = ratio(jnp.sum(weight[:, None] * x, axis=0), count)
    centred = jnp.where(valid[:, None], x - mean[None, :], 0)
    return Moments(centred, ratio(jnp.sum(weight[:, None] * centred**2, axis=0), count))


def cross(x: Float[Array, "n d"], y: Float[Array, "n d"], weight: Float[Array, " n"]) -> Float[Array, "d d"]:
    """sum_i w_i x_i y_i^T, [D, D]."""
    return jnp.matmul((weight[:, None] * x).T, y, precision="highest")


def off_diagonal(centred: Float[Array, "n d"], weight: Float[Array, " n"]) -> Float[Array, ""]:
    """(1 / D) sum_{i != j} C_ij^2 of rows without their mean, C divided by N - 1; 0 with fewer than two rows."""
    count, d = jnp.sum(weight), centred.shape[1]
    covariance = cross(centred, centred, weight) / jnp.where(count > 1, count - 1, 1)
    return jnp.sum(jnp.where(jnp.eye(d, dtype=bool), 0, covariance) ** 2) / d
