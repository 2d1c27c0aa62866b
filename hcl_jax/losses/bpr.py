"""Bayesian personalised ranking: what was chosen scores above what was not."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.errors import InputError
from hcl_jax.losses import masking


def bpr(
    positive_scores: Float[Array, " n *pairs"],
    negative_scores: Float[Array, " n *pairs"],
    *,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Logistic loss of the difference of two scores.

    l_i = mean_m -log sigmoid(s+_im - s-_im)

    Args:
      positive_scores: [N], or [N, M] for M pairs a row.
      negative_scores: the same shape.
      ids: int [N]; -1 = ignored row. Other values change nothing.
      row_weights: [N], scale the loss of each row.

    Returns:
      Scalar; mean over valid rows, weights not renormalised. log 2 where the scores are equal.

    Raises:
      InputError: shapes that differ or have another rank.

    Example:
      >>> print(f"{bpr(jnp.array([1.0]), jnp.array([0.0])):.4f}")  # log(1 + 1 / e)
      0.3133

    Reference: Rendle et al. 2009, arXiv 1205.2618, section 4.1 (BPR-OPT without its prior, which is weight decay).
    """
    differences, valid = _differences(positive_scores, negative_scores, ids)
    return masking.mean(jnp.mean(-jax.nn.log_sigmoid(differences), axis=1), valid, row_weights)


def bpr_accuracy(
    positive_scores: Float[Array, " n *pairs"],
    negative_scores: Float[Array, " n *pairs"],
    *,
    ids: Integer[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Share of pairs in the right order (a tie is a miss), mean over rows.

    Args:
      positive_scores, negative_scores, ids: as in `bpr`.

    Returns:
      Scalar in 0..1.

    Example:
      >>> print(bpr_accuracy(jnp.array([1.0, 0.0]), jnp.array([0.0, 0.0])))  # a tie is a miss
      0.5
    """
    differences, valid = _differences(positive_scores, negative_scores, ids)
    return masking.mean(jnp.mean(differences > 0, axis=1, dtype=differences.dtype), valid, None)


def _differences(positive: Array, negative: Array, ids: Array | None) -> tuple[Array, Array]:
    """s+ - s-, [N, M], and which rows count, bool [N]."""
    shape = jnp.shape(positive)
    if len(shape) not in (1, 2):
        raise InputError("positive_scores", f"shape {shape}", "[rows] or [rows, pairs]")
    if jnp.shape(negative) != shape:
        raise InputError("negative_scores", f"shape {jnp.shape(negative)}", f"shape {shape}, that of positive_scores")
    valid = masking.valid_rows(ids, shape[0])
    return (masking.mask(positive, valid) - masking.mask(negative, valid)).reshape(shape[0], -1), valid
