"""Weights of pairs by their quality, for `row_weights` of any loss. Not a loss."""

import jax
import jax.numpy as jnp
from jax import Array

from hcl_jax.errors import InputError
from hcl_jax.losses import rows


def quality_weights(quality: Array, *, gamma: float | Array = 1.0, ids: Array | None = None) -> Array:
    """Softmax of the qualities times their number, no gradient.

    w_i = n exp(gamma q_i) / sum_j exp(gamma q_j),   the sum over the n valid rows

    Args:
      quality: q, [N]; the larger, the more the row counts.
      gamma: how much the quality matters; 0 gives ones exactly.
      ids: int [N]; -1 = ignored row, in no sum. Other values change nothing.

    Returns:
      [N], float32 or wider; mean 1 over the valid rows, 0 for the others.

    Raises:
      InputError: quality with another rank, gamma that is not one number.

    Reference: Li et al. 2024, GenView, arXiv 2403.12003, the re-weighting of its section 3.3; n there is the batch of
    one device, here the whole batch.
    """
    if jnp.ndim(quality) != 1:
        raise InputError("quality", f"shape {jnp.shape(quality)}", "[rows], one number a row")
    if jnp.ndim(gamma) != 0:
        raise InputError("gamma", f"shape {jnp.shape(gamma)}", "one number")
    valid = rows.valid_rows(ids, jnp.shape(quality)[0])
    logits = jax.lax.stop_gradient(rows.clean(quality, valid))
    logits = logits * jax.lax.stop_gradient(jnp.asarray(gamma, logits.dtype))
    highest = jnp.max(jnp.where(valid, logits, -jnp.inf))
    powers = jnp.where(valid, jnp.exp(jnp.where(valid, logits - highest, 0)), 0)
    # Divided by their mean and not multiplied by n after a softmax: n (1 / n) is not 1 for every n.
    mean = jnp.sum(powers) / jnp.maximum(jnp.sum(valid, dtype=powers.dtype), 1)
    return powers / jnp.where(mean > 0, mean, 1)
