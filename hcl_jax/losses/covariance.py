"""Covariance: features are uncorrelated. One term of VICReg, alone."""

from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.losses import masking
from hcl_jax.losses.moments import moments, multiplicity, off_diagonal


def covariance(
    z: Float[Array, "n d"], *, ids: Integer[Array, " n"] | None = None, row_weights: Float[Array, " n"] | None = None
) -> Float[Array, ""]:
    """Squared covariances of different features over the whole batch.

    loss = (1 / D) sum_{i != j} Cov(z)_ij^2,   Cov divided by N - 1

    Args:
      z: [N, D].
      ids: int [N]; -1 = ignored row, in no statistic. Other values change nothing.
      row_weights: [N], multiplicity of each row in the statistic: 2 is the row twice.

    Returns:
      Scalar; 0 with fewer than two valid rows.

    Raises:
      InputError: z is no matrix.

    Example:
      >>> x = jnp.eye(2)
      >>> print(covariance(x))  # 1 / 2 times 2 (-0.5)^2
      0.25

    Reference: Bardes et al. 2022, VICReg, arXiv 2105.04906, equations 3 and 4; Chen et al. 2024, NMTune, arXiv
    2309.17002, section 3 (L_COV).
    """
    n, _ = masking.check_matrices(z=z)
    valid = masking.valid_rows(ids, n)
    weight = multiplicity(valid, row_weights, masking.upcast(z).dtype)
    return off_diagonal(moments(z, valid, weight).centred, weight)
