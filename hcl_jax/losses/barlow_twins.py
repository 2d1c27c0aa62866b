"""Barlow Twins: the cross-correlation of two views should be the identity."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.losses import masking
from hcl_jax.losses.moments import cross, moments, multiplicity, ratio


def barlow_twins(
    za: Float[Array, "n d"],
    zb: Float[Array, "n d"],
    *,
    redundancy_weight: float = 0.0051,
    scale: float = 1.0,
    epsilon: float = 1e-5,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Redundancy reduction over the whole batch.

    C = A^T B / N,   A, B = (z - mean) / sqrt(var + epsilon) by feature
    loss = scale [ sum_i (1 - C_ii)^2 + redundancy_weight sum_{i != j} C_ij^2 ]

    Args:
      za: first view, [N, D].
      zb: second view, [N, D]; row i is the same example as row i of za.
      redundancy_weight: lambda, weight of the squares off the diagonal.
      scale: factor on the loss (1 as in the paper; solo-learn has 0.025).
      epsilon: added to the variance.
      ids: int [N]; -1 = ignored row, in no statistic. Other values change nothing.
      row_weights: [N], multiplicity of each row in the statistics: 2 is the row twice.

    Returns:
      Scalar; a sum over feature pairs. 0 without a valid row.

    Raises:
      InputError: shapes that differ, epsilon not above 0.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{barlow_twins(x, x):.4f}")  # C = [[1, -1], [-1, 1]]: 0.0051 times 2
      0.0102

    Reference: Zbontar et al. 2021, arXiv 2103.03230, equations 1 and 2.
    """
    n, d = masking.check_matrices(za=za, zb=zb)
    masking.check_positive("epsilon", epsilon)
    valid = masking.valid_rows(ids, n)
    weight = multiplicity(valid, row_weights, masking.upcast(za).dtype)
    count = jnp.sum(weight)
    both = (moments(z, valid, weight) for z in (za, zb))
    a, b = (centred / jnp.sqrt(variance + epsilon)[None, :] for centred, variance in both)
    c = ratio(cross(a, b, weight), count)
    diagonal = jnp.diagonal(c)
    off = jnp.where(jnp.eye(d, dtype=bool), 0, c)
    loss = jnp.sum((1 - diagonal) ** 2) + redundancy_weight * jnp.sum(off**2)
    return jnp.where(count > 0, scale * loss, 0)
