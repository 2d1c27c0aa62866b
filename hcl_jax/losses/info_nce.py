"""InfoNCE from a query to keys: the other keys of the batch, a queue, or both as negatives (MoCo, MoCo v3, CPC)."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.errors import InputError
from hcl_jax.losses import masking
from hcl_jax.similarity import DEFAULT, IGNORED, Engine, Over


def info_nce(
    query: Float[Array, "n d"],
    key: Float[Array, "n d"],
    negatives: Float[Array, "m d"] | None = None,
    *,
    temperature: float | Array,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
    convention: str = "mean",
    in_batch: bool | None = None,
    decoupled: bool = False,
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """Cross entropy of finding the key of each query among all keys.

    l_i = log( sum_{k in K(i)} exp(q_i . k / t) ) - mean_{p in P(i)} q_i . k_p / t,   q, k at unit length

    P(i) are the batch keys with the id of i (key i alone when ids are unique). K(i) holds P(i), the negatives, and with
    `in_batch` every key of the batch.

    Args:
      query: [N, D].
      key: [N, D]; row i is the positive of query i.
      negatives: [M, D], more keys, positives of no query (MoCo's queue, hard negatives). A row of zeros is an empty
        slot of a queue and does not count.
      temperature: t > 0, a number or a traced scalar.
      ids: int [N]; same id = positive, -1 = ignored row. None: every row its own.
      row_weights: [N], scale the loss of each query.
      convention: "mean", or "two_tau": 2 t times the mean (MoCo v3's code).
      in_batch: are the other keys of the batch negatives too? None: only where there are no `negatives`, as in the
        papers. When False, key i is the only positive of query i.
      decoupled: the positives stay out of the sum over K(i): the loss of GraphCL's and JOAO's codes, where each graph
        finds its augmented self among the augmented ones (loss_cal in gsimclr.py); Yeh et al. 2022, arXiv 2110.06848,
        equation 6, for one direction. It may be below 0; a query without a negative adds 0 and is counted.
      engine: computes the row sums.

    Returns:
      Scalar; mean over valid rows, weights not renormalised.

    Raises:
      InputError: shapes that differ, a temperature not above 0, an unknown word, in_batch=False without negatives.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{info_nce(x, x, temperature=1.0):.4f}")  # log(e + 1) - 1
      0.3133

    Reference: van den Oord et al. 2018, arXiv 1807.03748, equation 4; He et al. 2020, arXiv 1911.05722, equation 1.
    """
    n, in_batch = _check(query, key, negatives, in_batch)
    masking.check_positive("temperature", temperature)
    masking.check_choice("convention", convention, ("mean", "two_tau"))
    ids = masking.row_ids(ids, n)
    valid = masking.valid_rows(ids, n)
    q, k = masking.unit(query, valid), masking.unit(key, valid)
    q = q / jnp.asarray(temperature, q.dtype)
    if in_batch:
        over: Over = "negatives" if decoupled else "all"
        sums = engine.softmax_rows(q, k, query_ids=ids, key_ids=ids, over=over)
        positive = sums.positive_sum / jnp.maximum(sums.positive_count, 1)
        lse, key_count = sums.lse, sums.key_count
    else:
        positive = jnp.sum(q * k, axis=1)
        lse = jnp.full_like(positive, jnp.finfo(q.dtype).min) if decoupled else positive
        key_count = jnp.where(valid, 0 if decoupled else 1, jnp.zeros_like(positive))
    if negatives is not None:
        more, query_ids, key_ids = _negatives(negatives, valid)
        extra = engine.softmax_rows(q, more, query_ids=query_ids, key_ids=key_ids)
        lse, key_count = jnp.logaddexp(lse, extra.lse), key_count + extra.key_count
    # Both parts are left out where a query has nothing to be compared with, and so is their gradient.
    loss = masking.mean(jnp.where(valid & (key_count > 0), lse - positive, 0), valid, row_weights)
    return loss * (2 * jnp.asarray(temperature, loss.dtype)) if convention == "two_tau" else loss


def info_nce_top1(
    query: Float[Array, "n d"],
    key: Float[Array, "n d"],
    negatives: Float[Array, "m d"] | None = None,
    *,
    ids: Integer[Array, " n"] | None = None,
    in_batch: bool | None = None,
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """Share of queries whose nearest key is a positive (a tie with a negative is a miss).

    Args:
      query, key, negatives, ids, in_batch, engine: as in `info_nce`.

    Returns:
      Scalar in 0..1.

    Example:
      >>> x = jnp.eye(2)
      >>> print(info_nce_top1(x, x))
      1.0
    """
    n, in_batch = _check(query, key, negatives, in_batch)
    ids = masking.row_ids(ids, n)
    valid = masking.valid_rows(ids, n)
    q, k = masking.unit(query, valid), masking.unit(key, valid)
    if in_batch:
        positive, negative = engine.best_rows(q, k, query_ids=ids, key_ids=ids)
    else:
        positive = jnp.sum(q * k, axis=1)
        negative = jnp.full_like(positive, jnp.finfo(positive.dtype).min)
    if negatives is not None:
        more, query_ids, key_ids = _negatives(negatives, valid)
        negative = jnp.maximum(negative, engine.best_rows(q, more, query_ids=query_ids, key_ids=key_ids).negative)
    return masking.mean((positive > negative).astype(q.dtype), valid, None)


def _check(query: Array, key: Array, negatives: Array | None, in_batch: bool | None) -> tuple[int, bool]:
    n, d = masking.check_matrices(query=query, key=key)
    if negatives is not None and (jnp.ndim(negatives) != 2 or jnp.shape(negatives)[1] != d):
        raise InputError("negatives", f"shape {jnp.shape(negatives)}", f"[rows, {d}], the features of query")
    if negatives is None and in_batch is False:
        raise InputError("in_batch", "False without negatives", "True, or a third input with negatives")
    return n, negatives is None if in_batch is None else in_batch


def _negatives(negatives: Array, valid: Array) -> tuple[Array, Array, Array]:
    """The unit negatives [M, D], and ids that make all of them negatives of every valid query."""
    filled = jnp.any(negatives != 0, axis=1)
    return masking.unit(negatives, filled), jnp.where(valid, 0, IGNORED), jnp.where(filled, 1, IGNORED)
