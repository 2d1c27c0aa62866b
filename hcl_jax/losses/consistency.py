"""Consistency: tuned features keep the direction of the features that they come from."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.losses import masking


def consistency(
    z: Float[Array, "n d"],
    features: Float[Array, "n d"],
    *,
    reduction: str = "row",
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Squared distance of unit rows of z to unit rows of the features, which take no gradient.

    l_i = | z_i / |z_i| - stop_gradient(f_i / |f_i|) |^2     (= 2 - 2 cos)

    Args:
      z: tuned features, [N, D].
      features: the features that they come from, [N, D].
      reduction: "row", l_i (the paper), or "entry", l_i / D: the mean over all numbers (the authors' code).
      ids: int [N]; -1 = ignored row. Other values change nothing.
      row_weights: [N], scale the loss of each row.

    Returns:
      Scalar in 0..4 ("entry": 0..4/D); mean over valid rows, weights not renormalised.

    Raises:
      InputError: shapes that differ, an unknown word.

    Example:
      >>> x = jnp.eye(2)
      >>> print(consistency(x, x[::-1]))  # 2 - 2 cos 90
      2.0

    Reference: Chen et al. 2024, NMTune, arXiv 2309.17002, section 3 (L_MSE).
    """
    n, d = masking.check_matrices(z=z, features=features)
    masking.check_choice("reduction", reduction, ("row", "entry"))
    valid = masking.valid_rows(ids, n)
    difference = masking.unit(z, valid) - jax.lax.stop_gradient(masking.unit(features, valid))
    loss = masking.mean(jnp.sum(difference**2, axis=1), valid, row_weights)
    return loss / d if reduction == "entry" else loss
