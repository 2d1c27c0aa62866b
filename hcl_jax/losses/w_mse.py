"""W-MSE: views agree after each is whitened, which leaves no room for collapse; no negatives."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.losses import masking
from hcl_jax.losses.moments import cross, moments, multiplicity


def w_mse(
    za: Float[Array, "n d"],
    zb: Float[Array, "n d"],
    *,
    epsilon: float = 1e-3,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Squared distance between unit rows of the two whitened views.

    l_i = 2 - 2 cos(v_i^a, v_i^b),   v = L^-1 (z - mean),   L L^T = (1 - epsilon) S + epsilon I
    S = D Cov(z) / trace Cov(z);   each view has its own

    Args:
      za: first view, [N, D].
      zb: second view, [N, D]; row i is the same example as row i of za. N should be at least twice D.
      epsilon: > 0 and below 1, how far the covariance is shrunk to the identity. In float32 1e-3 is safe for any batch.
      ids: int [N]; -1 = ignored row, in no statistic. Other values change nothing.
      row_weights: [N], scale the loss of each row; the covariance counts every valid row once.

    Returns:
      Scalar in 0..4; mean over valid rows, weights not renormalised.

    Raises:
      InputError: shapes that differ, epsilon out of range.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
      >>> print(f"{w_mse(x, jnp.roll(x, 1, axis=0)):.4f}")  # white rows at right angles
      2.0000

    Reference: Ermolov et al. 2021, arXiv 2007.06346, section 3. Here the statistics are of the whole batch (the
    authors' code draws sub-batches) and epsilon is relative to the mean variance, so that the length of vectors does
    not matter (the code's is absolute, 0 by default).
    """
    n, _ = masking.check_matrices(za=za, zb=zb)
    masking.check_positive("epsilon", epsilon)
    masking.check_share("epsilon", epsilon)
    valid = masking.valid_rows(ids, n)
    a, b = (masking.unit(_whitened(z, valid, epsilon), valid) for z in (za, zb))
    return masking.mean(2 - 2 * jnp.sum(a * b, axis=1), valid, row_weights)


def _whitened(z: Array, valid: Array, epsilon: float) -> Array:
    ones = multiplicity(valid, None, masking.upcast(z).dtype)
    centred, variance = moments(z, valid, ones)
    # The mean biased variance is taken out first: what is factorised has trace D whatever the scale of z.
    centred = centred * jax.lax.rsqrt(jnp.maximum(jnp.mean(variance), masking.SMALLEST_SQUARE))
    eye = jnp.eye(z.shape[1], dtype=centred.dtype)
    shrunk = (1 - epsilon) * cross(centred, centred, ones) / jnp.maximum(jnp.sum(ones), 1) + epsilon * eye
    inverse = jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(shrunk), eye, lower=True)
    return jnp.matmul(centred, inverse.T, precision="highest")
