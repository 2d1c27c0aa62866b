"""Have the embeddings collapsed to a point? A measure, not a loss."""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.losses import masking


def spread(z: Float[Array, "n d"], ids: Integer[Array, " n"] | None = None) -> Float[Array, ""]:
    """How far the rows of z spread over the sphere; no gradient.

    spread = sqrt(D) mean_j std_i(z_ij / |z_i|); 1 = even over the sphere, 0 = all rows the same direction

    Args:
      z: [N, D].
      ids: int [N]; -1 = ignored row. Other values change nothing.

    Returns:
      Scalar in 0..1, float32 or wider; 0 without a valid row.

    Raises:
      InputError: z is no matrix.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{spread(x):.4f}")  # sqrt(2) times a deviation of 1 / 2
      0.7071

    Reference: Chen and He 2021, SimSiam, arXiv 2011.10566, section 4.1 and figure 2.
    """
    each = jax.lax.stop_gradient(deviations(z, ids))
    return math.sqrt(each.shape[0]) * jnp.mean(each)


def deviations(z: Float[Array, "n d"], ids: Integer[Array, " n"] | None = None) -> Float[Array, " d"]:
    """The standard deviation of each feature of the unit rows: zeros are dead, and all zeros are collapse.

    Args:
      z: [N, D].
      ids: int [N]; -1 = ignored row. Other values change nothing.

    Returns:
      [D], float32 or wider; about 1 / sqrt(D) each for rows that are even over the sphere, 0 without a valid row.

    Raises:
      InputError: z is no matrix.

    Example:
      >>> x = jnp.eye(2)
      >>> print(deviations(x))
      [0.5 0.5]

    Reference: Chen and He 2021, SimSiam, arXiv 2011.10566, section 4.1 and figure 2.
    """
    n, _ = masking.check_matrices(z=z)
    valid = masking.valid_rows(ids, n)
    unit = masking.unit(z, valid)
    count = jnp.maximum(jnp.sum(valid, dtype=unit.dtype), 1)
    centred = masking.mask(unit - (jnp.sum(unit, axis=0) / count)[None, :], valid)
    square = jnp.sum(centred * centred, axis=0) / count
    # The root of zero has no slope. What is not finite stays so: zero would be collapse.
    zero = square == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))
