"""The singular values of a feature matrix: is the space used evenly, or does one direction hold most of it?

With sigma_1 >= ... >= sigma_r, r = min(N, D), and p_i = sigma_i / sum_j sigma_j. All are differentiable: the values
come from the eigenvalues of the smaller Gram matrix, and those that rounding left of zeros count as zeros.
"""

import jax
import jax.numpy as jnp
from jax import Array

from hcl_jax.errors import InputError

CENTRINGS = ("none", "columns", "rows")


def singular_values(features: Array, *, centring: str = "none") -> Array:
    """sigma_1 >= ... >= sigma_r of the features, after centring.

    Args:
      features: [N, D].
      centring: "none"; "columns": each column less its mean over the rows; "rows": each row at unit length, less its
        own mean over the columns (the code of the noise study, where the row is what is centred).

    Returns:
      [min(N, D)], float32 or wider. Values below eps max(N, D) sigma_1 are zero.

    Raises:
      InputError: no matrix, or an unknown word.

    Reference: Golub and Van Loan 2013, Matrix Computations, section 8.6 (the eigenvalues of X X^T are sigma^2).
    """
    x = jnp.asarray(features)
    if x.ndim != 2 or 0 in x.shape:
        raise InputError("features", f"shape {x.shape}", "[rows, features], at least [1, 1]")
    if centring not in CENTRINGS:
        raise InputError("centring", repr(centring), ", ".join(map(repr, CENTRINGS)))
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if centring == "columns":
        x = x - jnp.mean(x, axis=0, keepdims=True)
    elif centring == "rows":
        x = x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=1, keepdims=True), 1e-12))
        x = x - jnp.mean(x, axis=1, keepdims=True)
    # At length one the squares neither overflow nor vanish; the measures below know no length.
    length = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
    x = x / jnp.where(length > 0, length, 1)
    short = x if x.shape[0] <= x.shape[1] else x.T
    squares = jnp.linalg.eigvalsh(jnp.matmul(short, short.T, precision="highest"))[::-1]
    # A Gram matrix squares the condition: below eps max(N, D) of the largest eigenvalue there is only rounding.
    counted = squares > jnp.finfo(x.dtype).eps * max(x.shape) * jnp.maximum(squares[0], 0)
    # The root of zero has no slope: masked on both sides, so that its gradient is zero and not NaN.
    return jnp.where(counted, jnp.sqrt(jnp.where(counted, squares, 1)), 0) * length


def _shares(features: Array, centring: str) -> Array:
    values = singular_values(features, centring=centring)
    total = jnp.sum(values)
    return values / jnp.where(total > 0, total, 1)


def singular_value_entropy(features: Array, *, centring: str = "rows") -> Array:
    """SVE = -sum_i p_i log p_i: log r when all singular values are equal, 0 when one holds all.

    Args:
      features: [N, D].
      centring: see `singular_values`; the default is that of the noise study's code.

    Returns:
      Scalar in nats, 0 to log min(N, D); 0 for features without a singular value.

    Raises:
      InputError: as `singular_values`.

    Reference: Chen et al. 2024, arXiv 2309.17002, section 2.3.
    """
    p = _shares(features, centring)
    return -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0))


def largest_singular_value_ratio(features: Array, *, centring: str = "rows") -> Array:
    """LSVR = -log(sigma_1 / sum_j sigma_j): log r when all singular values are equal, 0 when one holds all.

    Args:
      features: [N, D].
      centring: see `singular_values`.

    Returns:
      Scalar in nats, 0 to log min(N, D); 0 for features without a singular value.

    Raises:
      InputError: as `singular_values`.

    Reference: Chen et al. 2024, arXiv 2309.17002, section 2.3.
    """
    p = _shares(features, centring)
    return -jnp.log(jnp.where(p[0] > 0, p[0], 1))


def effective_rank(features: Array, *, centring: str = "none") -> Array:
    """exp(SVE): how many directions are used, 1 to min(N, D). Without centring it is RankMe.

    Args:
      features: [N, D].
      centring: see `singular_values`.

    Returns:
      Scalar; 1 for features without a singular value.

    Raises:
      InputError: as `singular_values`.

    Reference: Roy and Vetterli 2007, "The effective rank", definition 1; Garrido et al. 2023, RankMe, arXiv 2210.02885,
    equation 1 (there with 1e-7 added to each p).
    """
    return jnp.exp(singular_value_entropy(features, centring=centring))
