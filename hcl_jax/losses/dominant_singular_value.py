"""The dominant singular value: a few directions hold most of the features."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.errors import InputError
from hcl_jax.losses import masking
from hcl_jax.losses.moments import multiplicity
from hcl_jax.losses.singular import shares


def dominant_singular_value(
    z: Float[Array, "n d"],
    *,
    top: int = 1,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Minus the share of the largest singular values of the batch, which is not centred.

    loss = -(1 / top) sum_{k <= top} sigma_k / sum_j sigma_j

    With `top` at least min(N, D) it is a constant. Where two singular values are equal the gradient is that of one
    order of them.

    Args:
      z: [N, D].
      top: how many are pulled up: 1 (the paper) or 5 (the authors' code).
      ids: int [N]; -1 = ignored row. Other values change nothing.
      row_weights: [N], multiplicity of each row: 2 is the row twice.

    Returns:
      Scalar in -1/top..0; -1/top when they hold all, 0 for zeros or without a valid row.

    Raises:
      InputError: z is no matrix, top no whole number above 0.

    Example:
      >>> x = jnp.eye(2)
      >>> print(dominant_singular_value(x))  # one of two equal values
      -0.5

    Reference: Chen et al. 2024, NMTune, arXiv 2309.17002, section 3 (L_SVD).
    """
    n, _ = masking.check_matrices(z=z)
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise InputError("top", repr(top), "a whole number >= 1")
    valid = masking.valid_rows(ids, n)
    z = masking.mask(z, valid)
    if row_weights is not None:
        # The row twice is sqrt(2) times the row in z^T z; the root of zero has no slope.
        weight = multiplicity(valid, row_weights, z.dtype)
        z = z * jnp.where(weight > 0, jnp.sqrt(jnp.where(weight > 0, weight, 1)), 0)[:, None]
    return -jnp.sum(shares(z)[:top]) / top
