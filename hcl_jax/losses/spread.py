"""Have the embeddings collapsed to a point? A measure, not a loss."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from hcl_jax.losses import rows


def spread(z: Array, ids: Array | None = None) -> Array:
    """How far the rows of z spread over the sphere; no gradient.

    spread = sqrt(D) mean_j std_i(z_ij / |z_i|); 1 = even over the sphere, 0 = all rows the same direction

    Args:
      z: [N, D].
      ids: int [N]; -1 = ignored row. Other values change nothing.

    Returns:
      Scalar in 0..1, float32 or wider; 0 without a valid row.

    Raises:
      InputError: z is no matrix.

    Reference: Chen and He 2021, SimSiam, arXiv 2011.10566, section 4.1 and figure 2.
    """
    n, d = rows.check_matrices(z=z)
    valid = rows.valid_rows(ids, n)
    unit = jax.lax.stop_gradient(rows.unit(z, valid))
    count = jnp.maximum(jnp.sum(valid, dtype=unit.dtype), 1)
    centred = rows.clean(unit - (jnp.sum(unit, axis=0) / count)[None, :], valid)
    return math.sqrt(d) * jnp.mean(jnp.sqrt(jnp.sum(centred * centred, axis=0) / count))
