"""Alignment and uniformity: positives close, all rows spread over the sphere."""

import jax
import jax.numpy as jnp
from jax import Array

from hcl_jax.losses import rows
from hcl_jax.parallel.similarity import DENSE, Engine


def align_uniform(
    za: Array,
    zb: Array,
    *,
    alpha: float = 2.0,
    t: float = 2.0,
    uniformity: float = 1.0,
    ids: Array | None = None,
    row_weights: Array | None = None,
    engine: Engine = DENSE,
) -> Array:
    """Alignment of positives plus uniformity of each view.

    loss = mean_i |a_i - b_i|^alpha + uniformity 1/2 [U(a) + U(b)],   a, b at unit length
    U(x) = log mean_{i < j} exp(-t |x_i - x_j|^2)

    Args:
      za: first view, [N, D].
      zb: second view, [N, D]; row i is the same example as row i of za.
      alpha: exponent > 0 of the alignment.
      t: sharpness > 0 of the uniformity.
      uniformity: weight of the uniformity term.
      ids: int [N]; -1 = ignored row. Other values change nothing.
      row_weights: [N], scale the alignment of each row; the uniformity counts every valid row once.
      engine: makes the row sums of the uniformity.

    Returns:
      Scalar; alignment is the mean over valid rows, weights not renormalised. The uniformity of fewer than two
      rows is 0.

    Raises:
      InputError: shapes that differ, alpha or t not above 0.

    Reference: Wang and Isola 2020, arXiv 2005.10242, section 4.1.
    """
    n, _ = rows.check_matrices(za=za, zb=zb)
    rows.check_positive("alpha", alpha)
    rows.check_positive("t", t)
    valid = rows.valid_rows(ids, n)
    a, b = rows.unit(za, valid), rows.unit(zb, valid)
    square = jnp.sum((a - b) ** 2, axis=1)
    # The gradient of |x|^alpha is infinite or undefined at 0 when alpha < 2; equal rows have nothing to gain: use 0.
    apart = square > 0
    distance = square if alpha == 2 else jnp.where(apart, jnp.where(apart, square, 1) ** (alpha / 2), 0)
    spread = (_uniformity(a, valid, t, engine) + _uniformity(b, valid, t, engine)) / 2
    return rows.mean(distance, valid, row_weights) + uniformity * spread


def _uniformity(x: Array, valid: Array, t: float | Array, engine: Engine) -> Array:
    """|x_i - x_j|^2 = 2 - 2 x_i . x_j on the sphere, so the sum over pairs is a softmax denominator at scale 2 t."""
    ids = jnp.where(valid, 0, -1)
    t = jnp.asarray(t, x.dtype)
    sums = engine.softmax_rows(x * jnp.sqrt(2 * t), query_ids=ids)
    pairs = jnp.sum(sums.key_count)
    some = pairs > 0
    lse = jax.nn.logsumexp(jnp.where(some, sums.lse, 0), where=jnp.where(some, sums.key_count > 0, True))
    return jnp.where(some, lse - 2 * t - jnp.log(jnp.where(some, pairs, 1)), 0)
