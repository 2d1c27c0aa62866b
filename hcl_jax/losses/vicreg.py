"""VICReg: views agree, every feature keeps its variance, features are uncorrelated."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.losses import masking
from hcl_jax.losses.moments import moments, multiplicity, off_diagonal, ratio


def vicreg(
    za: Float[Array, "n d"],
    zb: Float[Array, "n d"],
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    target_std: float = 1.0,
    epsilon: float = 1e-4,
    convention: str = "mean",
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Variance, invariance and covariance terms over the whole batch.

    loss = invariance mean_{i,j} (a_ij - b_ij)^2 + variance 1/2 [v(a) + v(b)] + covariance [c(a) + c(b)]
    v(z) = mean_j max(0, target_std - sqrt(Var z_j + epsilon)),   c(z) = (1 / D) sum_{i != j} Cov(z)_ij^2

    Var and Cov are divided by N - 1.

    Args:
      za: first view, [N, D].
      zb: second view, [N, D]; row i is the same example as row i of za.
      invariance, variance, covariance: weights of the three terms.
      target_std: standard deviation below which a feature is pushed out.
      epsilon: added to the variance.
      convention: "mean" of the two variance terms (the authors' code), or "sum" (the paper).
      ids: int [N]; -1 = ignored row, in no statistic. Other values change nothing.
      row_weights: [N], multiplicity of each row in the statistics: 2 is the row twice.

    Returns:
      Scalar. 0 without a valid row.

    Raises:
      InputError: shapes that differ, epsilon not above 0, an unknown word.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{vicreg(x, x, covariance=0.0):.4f}")  # 25 (1 - sqrt(0.5 + 1e-4))
      7.3206
      >>> print(f"{vicreg(x, x, variance=0.0):.4f}")  # 2 covariances of -0.5, squared, by D, twice
      0.5000

    Reference: Bardes et al. 2022, arXiv 2105.04906, equations 1 to 6; the mean over features in the invariance term and
    the factor 1/2 are the authors' code's.
    """
    n, d = masking.check_matrices(za=za, zb=zb)
    masking.check_positive("epsilon", epsilon)
    masking.check_choice("convention", convention, ("mean", "sum"))
    valid = masking.valid_rows(ids, n)
    weight = multiplicity(valid, row_weights, masking.upcast(za).dtype)
    count = jnp.sum(weight)
    less_one = jnp.where(count > 1, count - 1, 1)
    distance = (masking.mask(za, valid) - masking.mask(zb, valid)) ** 2
    loss = invariance * ratio(jnp.sum(weight[:, None] * distance), count * d)
    for z in (za, zb):
        centred, biased = moments(z, valid, weight)
        std = jnp.sqrt(biased * (count / less_one) + epsilon)
        loss += variance * (0.5 if convention == "mean" else 1.0) * jnp.mean(jnp.maximum(0, target_std - std))
        loss += covariance * off_diagonal(centred, weight)
    return jnp.where(count > 0, loss, 0)
