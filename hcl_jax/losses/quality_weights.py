"""Weights of pairs by their quality, for `row_weights` of any loss. Not a loss."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.errors import InputError
from hcl_jax.losses import masking
from hcl_jax.losses.foreground import Sign, pair_direction, pair_quality
from hcl_jax.similarity import IGNORED


def quality_weights(
    quality: Float[Array, " n"], *, gamma: float | Array = 1.0, ids: Integer[Array, " n"] | None = None
) -> Float[Array, " n"]:
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

    Example:
      >>> print(np.asarray(quality_weights(jnp.array([0.0, jnp.log(3.0)]))).round(4))  # 2 (1, 3) / 4
      [0.5 1.5]

    Reference: Li et al. 2024, GenView, arXiv 2403.12003, the re-weighting of its section 3.3; n there is the batch of
    one device, here the whole batch.
    """
    if jnp.ndim(quality) != 1:
        raise InputError("quality", f"shape {jnp.shape(quality)}", "[rows], one number a row")
    if jnp.ndim(gamma) != 0:
        raise InputError("gamma", f"shape {jnp.shape(gamma)}", "one number")
    valid = masking.valid_rows(ids, jnp.shape(quality)[0])
    logits = jax.lax.stop_gradient(masking.mask(quality, valid))
    logits = logits * jax.lax.stop_gradient(jnp.asarray(gamma, logits.dtype))
    highest = jnp.max(jnp.where(valid, logits, -jnp.inf))
    powers = jnp.where(valid, jnp.exp(jnp.where(valid, logits - highest, 0)), 0)
    # Divided by their mean and not multiplied by n after a softmax: n (1 / n) is not 1 for every n.
    mean = jnp.sum(powers) / jnp.maximum(jnp.sum(valid, dtype=powers.dtype), 1)
    return powers / jnp.where(mean > 0, mean, 1)


def pair_weights(
    tokens_1: Float[Array, "n t d"],
    tokens_2: Float[Array, "n t d"],
    *,
    gamma: float | Array = 1.0,
    groups: int = 1,
    shift: int = 0,
    sign: Sign = "centre",
    ids: Integer[Array, " n"] | None = None,
) -> Float[Array, " n"]:
    """`quality_weights` of `pair_quality`, no gradient: pairs with one foreground and two backgrounds count more.

    w = quality_weights(q),   q = pair_quality(x^1, x^2, direction(both))

    Args:
      tokens_1: of the first view, [N, T, D], as a frozen encoder makes them.
      tokens_2: of the second view, [N, T, D].
      gamma: how much the quality matters; 0 gives ones exactly.
      groups: contiguous groups of rows with a mean weight of 1 each; 1 is the whole batch.
      shift: valid row i of a group gets the weight of its valid row i - shift. With 1 the weights have the same
        distribution and nothing to do with the pairs: the control of an experiment.
      sign: of the direction, see `direction`.
      ids: int [N]; -1 = ignored row, in no sum. Other values change nothing.

    Returns:
      [N], float32 or wider; mean 1 over the valid rows of each group, 0 for the others.

    Raises:
      InputError: shapes that differ, groups that do not divide N, an unknown sign.

    Example:
      >>> tokens = jnp.ones((2, 4, 3))
      >>> print(pair_weights(tokens, tokens))  # equal pairs, equal weights
      [1. 1.]

    Reference: Li et al. 2024, GenView, arXiv 2403.12003, section 3.3. There the direction is fitted beforehand on
    10,000 pictures, and a group is the rows of one device; here the direction is that of the batch.
    """
    if jnp.ndim(tokens_1) != 3 or jnp.shape(tokens_1) != jnp.shape(tokens_2):
        found = f"shapes {jnp.shape(tokens_1)} and {jnp.shape(tokens_2)}"
        raise InputError("tokens_1 and tokens_2", found, "one shape [rows, tokens, features]")
    n = jnp.shape(tokens_1)[0]
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or n % groups:
        raise InputError("groups", repr(groups), f"a divisor of {n} rows")
    valid = masking.valid_rows(ids, n)
    one, two = (jax.lax.stop_gradient(masking.mask(x, valid)) for x in (tokens_1, tokens_2))
    counted = jnp.where(valid, 0, IGNORED)
    quality = pair_quality(one, two, pair_direction(one, two, sign, ids=counted))

    def of_group(quality: Array, counted: Array) -> Array:
        return _shifted(quality_weights(quality, gamma=gamma, ids=counted), counted != IGNORED, shift)

    return jax.vmap(of_group)(quality.reshape(groups, -1), counted.reshape(groups, -1)).reshape(n)


def _shifted(weights: Array, valid: Array, shift: int) -> Array:
    """Weights [n] moved cyclically by a number of valid rows; 0 where rows do not count."""
    if not shift:
        return weights
    order = jnp.argsort(~valid, stable=True)  # the valid rows first
    at = (jnp.cumsum(valid) - 1 - shift) % jnp.maximum(jnp.sum(valid), 1)
    return jnp.where(valid, weights[order[at]], 0)
