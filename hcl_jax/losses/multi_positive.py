"""Contrast with any list of positives for each query, each with its own weight."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.errors import InputError
from hcl_jax.losses import masking
from hcl_jax.similarity import DEFAULT, Engine


def multi_positive(
    query: Float[Array, "n d"],
    key: Float[Array, "n d"],
    positives: Integer[Array, "n p"],
    weights: Float[Array, "n p"] | None = None,
    *,
    temperature: float | Array,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """Cross entropy between a listed distribution over the keys and the softmax over all keys.

    l_i = log sum_j exp(q_i . k_j / t) - sum_p w_ip q_i . k_p / t,   w_ip >= 0, sum_p w_ip = 1;   q, k at unit length

    One direction; for both, the mean of this and of the call with query and key changed. Positives by label or
    caption (UniCL, StableRep) need no list: they are the `ids` of `clip`, `info_nce` and `sup_con`, with every
    positive at the same weight. This is for what ids cannot say: unequal weights, or neighbours that are no classes
    (`instance_graph` makes such lists).

    Args:
      query: [N, D].
      key: [N, D].
      positives: int [N, P], rows of key; below 0 = none. A row named twice counts twice. A row out of range makes the
        loss NaN.
      weights: [N, P], at least 0; divided by their sum over the valid positives of a row. No gradient, as for any
        target. None: uniform.
      temperature: t > 0, a number or a traced scalar.
      ids: int [N]; -1 = ignored, as query, as key and as a positive. Other values change nothing.
      row_weights: [N], scale the loss of each query.
      engine: computes the row sums; the positives are gathered, N P D numbers.

    Returns:
      Scalar; mean over valid rows, weights not renormalised. A query without a positive adds 0 and is counted.

    Raises:
      InputError: shapes or types that do not fit, a temperature not above 0.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{multi_positive(x, x, jnp.array([[0], [1]]), temperature=1.0):.4f}")  # log(e + 1) - 1
      0.3133

    Reference: Tian et al. 2023, StableRep, arXiv 2306.00984, equations 1 to 3 (uniform weights); Yang et al. 2022,
    UniCL, arXiv 2204.03610, equation 2.
    """
    n, _ = masking.check_matrices(query=query, key=key)
    masking.check_positive("temperature", temperature)
    positives = jnp.asarray(positives)
    if positives.ndim != 2 or positives.shape[0] != n:
        raise InputError("positives", f"shape {positives.shape}", f"[{n}, positives], rows of key")
    if not jnp.issubdtype(positives.dtype, jnp.signedinteger):
        raise InputError("positives", positives.dtype, "a signed integer type")
    if weights is not None and jnp.shape(weights) != positives.shape:
        raise InputError("weights", f"shape {jnp.shape(weights)}", f"shape {positives.shape}, that of positives")
    valid = masking.valid_rows(ids, n)
    row_ids = jnp.where(valid, 0, -1)
    q, k = masking.unit(query, valid), masking.unit(key, valid)
    q = q / jnp.asarray(temperature, q.dtype)
    sums = engine.softmax_rows(q, k, query_ids=row_ids, key_ids=row_ids)

    named = jnp.maximum(positives, 0)
    counted = (positives >= 0) & valid[:, None] & jnp.take(valid, named, mode="fill", fill_value=True)
    share = jnp.ones(positives.shape, q.dtype) if weights is None else jnp.asarray(weights, q.dtype)
    share = jax.lax.stop_gradient(jnp.where(counted, share, 0))
    total = jnp.sum(share, axis=1)
    share = share / jnp.where(total == 0, 1, total)[:, None]
    near = jnp.where(counted[..., None], jnp.take(k, jnp.where(counted, named, 0), axis=0, mode="fill"), 0)
    positive = jnp.sum(share * jnp.sum(q[:, None, :] * near, axis=2), axis=1)
    # Not "above 0": NaN weights must not look like missing ones.
    return masking.mean(jnp.where(total == 0, 0, sums.lse - positive), valid, row_weights)
