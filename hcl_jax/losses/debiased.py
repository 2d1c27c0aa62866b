"""Negatives corrected for those that are positives in truth, and weighted towards the hard ones."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.errors import InputError
from hcl_jax.losses import masking
from hcl_jax.similarity import DEFAULT, Engine
from hcl_jax.similarity.tiles import lowest


def debiased(
    za: Float[Array, "n d"],
    zb: Float[Array, "n d"],
    *,
    temperature: float | Array,
    tau_plus: float | Array = 0.1,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """Debiased NT-Xent: what false negatives add to the denominator is estimated from the positives and taken off.

    l_i = log( sum_{p in P(i)} exp(s_ip) + N_i g_i ) - mean_{p in P(i)} s_ip,   s_ik = u_i . u_k / t,   u = z / |z|
    g_i = max( (mean_{k in N(i)} exp(s_ik) - tau_plus mean_{p in P(i)} exp(s_ip)) / (1 - tau_plus), exp(-1 / t) )
    loss = (1 / 2N) sum_i l_i

    N(i) are the rows of other ids, N_i of them (2N - 2 when ids are unique). With tau_plus = 0 it is `nt_xent`.

    Args:
      za: first view, [N, D].
      zb: second view, [N, D]; row i is the same example as row i of za.
      temperature: t > 0, a number or a traced scalar.
      tau_plus: how probable it is that a row drawn at random is of the same class, 0 to below 1.
      ids: int [N]; same id = positive, -1 = ignored row. None: every row its own.
      row_weights: [N], scale both rows of an example.
      engine: computes the row sums: two passes.

    Returns:
      Scalar; mean over valid rows, weights not renormalised.

    Raises:
      InputError: shapes that differ, a temperature not above 0, tau_plus out of range.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{debiased(x, x, temperature=1.0, tau_plus=0.1):.4f}")  # log(e + 2 (1 - 0.1 e) / 0.9) - 1
      0.4671

    Reference: Chuang et al. 2020, arXiv 2007.00224, equations 7 and 8 (M is the number of positives of a row).
    """
    return hard_negative(
        *(za, zb), temperature=temperature, tau_plus=tau_plus, beta=0.0, ids=ids, row_weights=row_weights, engine=engine
    )


def hard_negative(
    za: Float[Array, "n d"],
    zb: Float[Array, "n d"],
    *,
    temperature: float | Array,
    tau_plus: float | Array = 0.1,
    beta: float | Array = 1.0,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """HCL: as `debiased`, with each negative weighted by how near it is.

    In g_i of `debiased`, mean_k exp(s_ik) becomes mean_k w_ik exp(s_ik)
    w_ik = exp(beta s_ik) / mean_k exp(beta s_ik)

    All means are over the negatives of row i; the gradient passes through the weights. With beta = 0 it is `debiased`,
    with tau_plus = 0 too it is `nt_xent`.

    Args:
      za, zb, temperature, tau_plus, ids, row_weights: as in `debiased`.
      beta: at least 0, how strongly near negatives count (0.5 to 2 in the paper).
      engine: computes the row sums: three passes.

    Returns:
      Scalar; mean over valid rows, weights not renormalised.

    Raises:
      InputError: shapes that differ, a temperature not above 0, tau_plus or beta out of range.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{hard_negative(x, x, temperature=1.0, tau_plus=0.0):.4f}")  # equal negatives: log(e + 2) - 1
      0.5514

    Reference: Robinson et al. 2021, arXiv 2010.04592, section 3.2 and the listing in its appendix.
    """
    n, _ = masking.check_matrices(za=za, zb=zb)
    masking.check_positive("temperature", temperature)
    masking.check_share("tau_plus", tau_plus)
    if jnp.ndim(beta) != 0 or not (isinstance(beta, jax.Array) or 0 <= float(beta) < float("inf")):
        raise InputError("beta", beta if jnp.ndim(beta) == 0 else f"shape {jnp.shape(beta)}", "one number, at least 0")
    ids = masking.row_ids(ids, n)
    valid = masking.valid_rows(ids, n)
    u = masking.scale(masking.interleave([masking.unit(za, valid), masking.unit(zb, valid)]), temperature)
    both = masking.interleave([ids, ids])
    positive = engine.softmax_rows(u, query_ids=both, over="positives")
    count = jnp.maximum(positive.positive_count, 1)
    if isinstance(beta, jax.Array) or beta > 0:
        # sum_k w_ik exp(s_ik) = N_i exp(lse at scale 1 + beta, less lse at scale beta)
        beta = jnp.asarray(beta, u.dtype)
        sharp = engine.softmax_rows(u * jnp.sqrt(1 + beta), query_ids=both, over="negatives")
        weight = engine.softmax_rows(u * jnp.sqrt(beta), query_ids=both, over="negatives")
        negatives, log_mean = sharp.key_count, sharp.lse - weight.lse
    else:
        plain = engine.softmax_rows(u, query_ids=both, over="negatives")
        negatives, log_mean = plain.key_count, plain.lse - jnp.log(jnp.maximum(plain.key_count, 1))
    has_negative = negatives > 0
    log_mean = jnp.where(has_negative, log_mean, 0)
    log_g = _corrected(log_mean, positive.lse - jnp.log(count), tau_plus, -1 / jnp.asarray(temperature, u.dtype))
    log_negatives = jnp.where(has_negative, jnp.log(jnp.maximum(negatives, 1)) + log_g, lowest(u.dtype))
    values = jnp.logaddexp(positive.lse, log_negatives) - positive.positive_sum / count
    values = jnp.where(positive.positive_count > 0, values, 0)
    return masking.mean(jnp.mean(values.reshape(n, 2), axis=1), valid, row_weights)


def _corrected(negative: Array, positive: Array, tau_plus: float | Array, floor: Array) -> Array:
    """log max((exp(negative) - tau_plus exp(positive)) / (1 - tau_plus), exp(floor)), nothing of it overflowing."""
    tau_plus = jnp.asarray(tau_plus, negative.dtype)
    # Past exp(80) times any tau_plus the floor holds; the mask keeps the logarithm and its gradient finite there.
    part = tau_plus * jnp.exp(jnp.minimum(positive - negative, 80))
    above = part < 1
    estimate = negative + jnp.log1p(-jnp.where(above, part, 0)) - jnp.log1p(-tau_plus)
    return jnp.maximum(jnp.where(above, estimate, lowest(negative.dtype)), floor)
