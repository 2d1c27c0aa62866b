"""Losses without negatives: a prediction moves towards a target that takes no gradient (BYOL, SimSiam)."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.errors import InputError
from hcl_jax.losses import masking


def negative_cosine(
    *pairs: Float[Array, "n d"],
    stop_gradient: bool = True,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Minus the cosine between predictions and targets, mean over the pairs.

    loss = -mean_i cos(p_i, stop_gradient(t_i));   with four inputs the mean of both pairs (SimSiam's symmetric loss)

    Args:
      pairs: prediction, target, prediction, target, ...; [N, D] each.
      stop_gradient: targets take no gradient. Without it a constant output is the easiest way to -1: the collapse
        that the method avoids.
      ids: int [N]; -1 = ignored row. Other values change nothing.
      row_weights: [N], scale the loss of each row.

    Returns:
      Scalar in -1..1; mean over valid rows, weights not renormalised.

    Raises:
      InputError: an odd number of arrays, or shapes that differ.

    Example:
      >>> x = jnp.eye(2)
      >>> print(negative_cosine(x, x), negative_cosine(x, -x))
      -1.0 1.0

    Reference: Chen and He 2021, SimSiam, arXiv 2011.10566, equations 1 to 4.
    """
    if not pairs or len(pairs) % 2:
        raise InputError("inputs", f"{len(pairs)} arrays", "prediction, target, and so on: an even number")
    names = [f"{'target' if i % 2 else 'prediction'}[{i // 2}]" for i in range(len(pairs))]
    n, _ = masking.check_matrices(**dict(zip(names, pairs, strict=True)))
    valid = masking.valid_rows(ids, n)
    target = jax.lax.stop_gradient if stop_gradient else jnp.asarray
    cosines = [
        jnp.sum(masking.unit(p, valid) * target(masking.unit(t, valid)), axis=1)
        for p, t in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    return masking.mean(-sum(cosines[1:], cosines[0]) / len(cosines), valid, row_weights)


def byol(
    *pairs: Float[Array, "n d"],
    stop_gradient: bool = True,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Squared distance between unit predictions and unit targets, summed over the pairs.

    loss = sum over pairs of mean_i (2 - 2 cos(p_i, stop_gradient(t_i)))

    Args:
      pairs: prediction of a, target of b, prediction of b, target of a (or one pair); [N, D] each.
      stop_gradient: as in `negative_cosine`.
      ids: int [N]; -1 = ignored row. Other values change nothing.
      row_weights: [N], scale the loss of each row.

    Returns:
      Scalar; mean over valid rows, weights not renormalised.

    Raises:
      InputError: an odd number of arrays, or shapes that differ.

    Example:
      >>> x = jnp.eye(2)
      >>> print(byol(x, x), byol(x, x[::-1]))  # 2 - 2 cos, of angles of 0 and 90 degrees
      0.0 2.0

    Reference: Grill et al. 2020, arXiv 2006.07733, equation 2 and the symmetric loss below it.
    """
    cosine = negative_cosine(*pairs, stop_gradient=stop_gradient, ids=ids, row_weights=row_weights)
    n = pairs[0].shape[0]
    ones = masking.mean(jnp.ones((n,), cosine.dtype), masking.valid_rows(ids, n), row_weights)
    return (ones + cosine) * len(pairs)
