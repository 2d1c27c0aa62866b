"""Alignment of positives and uniformity of rows on the unit sphere: the two parts of a contrastive loss."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.losses import masking
from hcl_jax.similarity import DEFAULT, Engine


def alignment(
    za: Float[Array, "n d"],
    zb: Float[Array, "n d"],
    *,
    alpha: float = 2.0,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """How near positives are: mean_i |a_i - b_i|^alpha, a, b at unit length.

    Args:
      za: first view, [N, D].
      zb: second view, [N, D]; row i is the same example as row i of za.
      alpha: exponent > 0.
      ids: int [N]; -1 = ignored row. Other values change nothing.
      row_weights: [N], scale each row.

    Returns:
      Scalar, 0 to 2^alpha; mean over valid rows, weights not renormalised.

    Raises:
      InputError: shapes that differ, alpha not above 0.

    Example:
      >>> x = jnp.eye(2)
      >>> print(alignment(x, x[::-1]))
      2.0

    Reference: Wang and Isola 2020, arXiv 2005.10242, section 4.1.
    """
    n, _ = masking.check_matrices(za=za, zb=zb)
    masking.check_positive("alpha", alpha)
    valid = masking.valid_rows(ids, n)
    square = jnp.sum((masking.unit(za, valid) - masking.unit(zb, valid)) ** 2, axis=1)
    # The gradient of |x|^alpha is infinite or undefined at 0 when alpha < 2; equal rows have nothing to gain: use 0.
    distinct = square > 0
    distance = square if alpha == 2 else jnp.where(distinct, jnp.where(distinct, square, 1) ** (alpha / 2), 0)
    return masking.mean(distance, valid, row_weights)


def uniformity(
    z: Float[Array, "n d"], *, t: float = 2.0, ids: Integer[Array, " n"] | None = None, engine: Engine = DEFAULT
) -> Float[Array, ""]:
    """How evenly rows are spread: log mean_{i < j} exp(-t |u_i - u_j|^2), u = z / |z|.

    |u_i - u_j|^2 = 2 - 2 u_i . u_j, so the sum over pairs is a softmax denominator at scale 2 t.

    Args:
      z: [N, D].
      t: sharpness > 0.
      ids: int [N]; -1 = ignored row. Other values change nothing.
      engine: computes the row sums.

    Returns:
      Scalar, -4 t to 0, where all rows are equal; 0 for fewer than two rows.

    Raises:
      InputError: no matrix, t not above 0.

    Example:
      >>> x = jnp.eye(2)
      >>> print(uniformity(x))  # log exp(-2 |x_1 - x_2|^2)
      -4.0

    Reference: Wang and Isola 2020, arXiv 2005.10242, section 4.1.
    """
    n, _ = masking.check_matrices(z=z)
    masking.check_positive("t", t)
    valid = masking.valid_rows(ids, n)
    u = masking.unit(z, valid)
    scale = jnp.asarray(t, u.dtype)
    sums = engine.softmax_rows(u * jnp.sqrt(2 * scale), query_ids=jnp.where(valid, 0, -1))
    pairs = jnp.sum(sums.key_count)
    has_pair = pairs > 0
    lse = jax.nn.logsumexp(jnp.where(has_pair, sums.lse, 0), where=jnp.where(has_pair, sums.key_count > 0, True))
    return jnp.where(has_pair, lse - 2 * scale - jnp.log(jnp.where(has_pair, pairs, 1)), 0)
