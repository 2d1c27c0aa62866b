"""Consistency: tuned features keep the direction of the features that they were made of."""

import jax
import jax.numpy as jnp
from jax import Array

from hcl_jax.losses import rows


def consistency(
    z: Array,
    features: Array,
    *,
    reduction: str = "row",
    ids: Array | None = None,
    row_weights: Array | None = None,
) -> Array:
    """Squared distance of unit rows of z to unit rows of the features, which take no gradient.

    l_i = | z_i / |z_i| - stop_gradient(f_i / |f_i|) |^2     (= 2 - 2 cos)

    Args:
      z: tuned features, [N, D].
      features: what they were made of, [N, D].
      reduction: "row", l_i (the paper), or "entry", l_i / D: the mean over all numbers (the authors' code).
      ids: int [N]; -1 = ignored row. Other values change nothing.
      row_weights: [N], scale the loss of each row.

    Returns:
      Scalar in 0..4 ("entry": 0..4/D); mean over valid rows, weights not renormalised.

    Raises:
      InputError: shapes that differ, an unknown word.

    Reference: Chen et al. 2024, NMTune, arXiv 2309.17002, section 3 (L_MSE).
    """
    n, d = rows.check_matrices(z=z, features=features)
    rows.check_choice("reduction", reduction, ("row", "entry"))
    valid = rows.valid_rows(ids, n)
    apart = rows.unit(z, valid) - jax.lax.stop_gradient(rows.unit(features, valid))
    loss = rows.mean(jnp.sum(apart**2, axis=1), valid, row_weights)
    return loss / d if reduction == "entry" else loss
