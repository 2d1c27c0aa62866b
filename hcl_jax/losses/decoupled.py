"""Decoupled contrastive learning: NT-Xent whose denominator holds the negatives alone, plain and weighted."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.losses import masking
from hcl_jax.losses.nt_xent import nt_xent
from hcl_jax.similarity import DEFAULT, Engine


def decoupled(
    za: Float[Array, "n d"],
    zb: Float[Array, "n d"],
    *,
    temperature: float | Array,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """DCL: the positive does not compete with the negatives, so small batches learn as large ones do.

    l_i = log sum_{k: id_k != id_i} exp(u_i . u_k / t) - mean_{p in P(i)} u_i . u_p / t,   u = z / |z|
    loss = (1 / 2N) sum_i l_i

    It is `nt_xent` with denominator="negatives".

    Args:
      za: first view, [N, D].
      zb: second view, [N, D]; row i is the same example as row i of za.
      temperature: t > 0, a number or a traced scalar.
      ids: int [N]; same id = positive, -1 = ignored row. None: every row its own.
      row_weights: [N], scale both rows of an example.
      engine: computes the row sums.

    Returns:
      Scalar, may be below 0; mean over valid rows, weights not renormalised. A row without a negative adds 0 and is
      counted.

    Raises:
      InputError: shapes that differ, a temperature not above 0.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{decoupled(x, x, temperature=1.0):.4f}")  # log 2 - 1: the positive is not in the sum
      -0.3069

    Reference: Yeh et al. 2022, arXiv 2110.06848, equation 6 (there the sum over the 2N rows).
    """
    return nt_xent(
        za, zb, temperature=temperature, ids=ids, row_weights=row_weights, denominator="negatives", engine=engine
    )


def decoupled_weighted(
    za: Float[Array, "n d"],
    zb: Float[Array, "n d"],
    *,
    temperature: float | Array,
    sigma: float = 0.5,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """DCLW: as `decoupled`, with more weight on the positives that are still far apart.

    l_i = log sum_{k: id_k != id_i} exp(u_i . u_k / t) - w_i mean_{p in P(i)} u_i . u_p / t
    w_i = 2 - exp(a_i . b_i / sigma) / mean_j exp(a_j . b_j / sigma),   a, b, u at unit length; no gradient through w

    The mean weight is 1, and it is the same for both rows of an example.

    Args:
      za, zb, temperature, ids, row_weights, engine: as in `decoupled`.
      sigma: > 0; the smaller, the more the weights differ.

    Returns:
      Scalar, may be below 0; mean over valid rows, row_weights not renormalised. A row without a negative adds 0 and is
      counted.

    Raises:
      InputError: shapes that differ, a temperature or sigma not above 0.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{decoupled_weighted(x, x, temperature=1.0):.4f}")  # equal cosines, weights of 1
      -0.3069

    Reference: Yeh et al. 2022, arXiv 2110.06848, equation 7 (a negative von Mises-Fisher weight). The mean is over the
    valid rows of the whole batch.
    """
    n, _ = masking.check_matrices(za=za, zb=zb)
    masking.check_positive("temperature", temperature)
    masking.check_positive("sigma", sigma)
    ids = masking.row_ids(ids, n)
    valid = masking.valid_rows(ids, n)
    a, b = masking.unit(za, valid), masking.unit(zb, valid)
    cosine = jax.lax.stop_gradient(jnp.sum(a * b, axis=1))
    # The largest is the unit: otherwise every power is 0 when sigma is small.
    powers = jnp.where(valid, jnp.exp((cosine - jnp.max(jnp.where(valid, cosine, -1))) / sigma), 0)
    mean = jnp.sum(powers) / jnp.maximum(jnp.sum(valid, dtype=powers.dtype), 1)
    weight = 2 - powers / jnp.where(mean > 0, mean, 1)
    sums = engine.softmax_rows(
        masking.scale(masking.interleave([a, b]), temperature),
        query_ids=masking.interleave([ids, ids]),
        over="negatives",
    )
    weighted = sums._replace(positive_sum=sums.positive_sum * masking.interleave([weight, weight]))
    return masking.mean(jnp.mean(masking.softmax_loss(weighted).reshape(n, 2), axis=1), valid, row_weights)
