"""The singular values of a feature matrix: is the space used evenly, or does one direction hold most of it?

With sigma_1 >= ... >= sigma_r, r = min(N, D), and p_i = sigma_i / sum_j sigma_j. All are differentiable: the values
come from the eigenvalues of the smaller Gram matrix, and those that rounding left of zeros count as zeros.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Shaped

from hcl_jax.errors import InputError
from hcl_jax.losses import masking, singular

CENTRINGS = ("none", "columns", "rows")


def singular_values(features: Shaped[Array, "n d"], *, centring: str = "none") -> Float[Array, " r"]:
    """sigma_1 >= ... >= sigma_r of the features, after centring.

    Args:
      features: [N, D].
      centring: "none"; "columns": each column less its mean over the rows; "rows": each row at unit length, less its
        own mean over the columns (the code of the noise study, where the row is what is centred).

    Returns:
      [min(N, D)], float32 or wider. Values that rounding left of zeros are zero (losses/singular.py says which).

    Raises:
      InputError: no matrix, or an unknown word.

    Example:
      >>> print(singular_values(jnp.diag(jnp.array([1.0, 3.0]))))
      [3. 1.]

    Reference: Golub and Van Loan 2013, Matrix Computations, section 8.6 (the eigenvalues of X X^T are sigma^2).
    """
    return singular.singular_values(_centred(features, centring))


def _centred(features: Array, centring: str) -> Array:
    if centring not in CENTRINGS:
        raise InputError("centring", repr(centring), ", ".join(map(repr, CENTRINGS)))
    x = jnp.asarray(features)
    if centring == "none" or x.ndim != 2 or 0 in x.shape:  # what is no matrix is refused by those who read it
        return x
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if centring == "columns":
        return x - jnp.mean(x, axis=0, keepdims=True)
    x = masking.unit_length(x)
    return x - jnp.mean(x, axis=1, keepdims=True)


def _shares(features: Array, centring: str) -> Array:
    return singular.shares(_centred(features, centring))


def singular_value_entropy(features: Shaped[Array, "n d"], *, centring: str = "rows") -> Float[Array, ""]:
    """SVE = -sum_i p_i log p_i: log r when all singular values are equal, 0 when one holds all.

    Args:
      features: [N, D].
      centring: see `singular_values`; the default is that of the noise study's code.

    Returns:
      Scalar in nats, 0 to log min(N, D); 0 for features without a singular value.

    Raises:
      InputError: as `singular_values`.

    Example:
      >>> print(f'{singular_value_entropy(jnp.eye(2), centring="none"):.4f}')  # log 2
      0.6931

    Reference: Chen et al. 2024, arXiv 2309.17002, section 2.3.
    """
    p = _shares(features, centring)
    return -jnp.sum(jnp.where(p != 0, p * jnp.log(jnp.where(p != 0, p, 1)), 0))


def largest_singular_value_ratio(features: Shaped[Array, "n d"], *, centring: str = "rows") -> Float[Array, ""]:
    """LSVR = -log(sigma_1 / sum_j sigma_j): log r when all singular values are equal, 0 when one holds all.

    Args:
      features: [N, D].
      centring: see `singular_values`.

    Returns:
      Scalar in nats, 0 to log min(N, D); 0 for features without a singular value.

    Raises:
      InputError: as `singular_values`.

    Example:
      >>> print(f'{largest_singular_value_ratio(jnp.eye(2), centring="none"):.4f}')  # log 2
      0.6931

    Reference: Chen et al. 2024, arXiv 2309.17002, section 2.3.
    """
    p = _shares(features, centring)
    return -jnp.log(jnp.where(p[0] != 0, p[0], 1))


def effective_rank(features: Shaped[Array, "n d"], *, centring: str = "none") -> Float[Array, ""]:
    """exp(SVE): how many directions are used, 1 to min(N, D). Without centring it is RankMe.

    Args:
      features: [N, D].
      centring: see `singular_values`.

    Returns:
      Scalar; 1 for features without a singular value.

    Raises:
      InputError: as `singular_values`.

    Example:
      >>> print(f"{effective_rank(jnp.eye(2)):.4f}")
      2.0000

    Reference: Roy and Vetterli 2007, "The effective rank", definition 1; Garrido et al. 2023, RankMe, arXiv 2210.02885,
    equation 1 (there with 1e-7 added to each p).
    """
    return jnp.exp(singular_value_entropy(features, centring=centring))
