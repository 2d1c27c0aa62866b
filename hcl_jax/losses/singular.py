"""Singular values of a feature matrix, with a gradient that stays finite. What losses and measures are made of."""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Shaped

from hcl_jax.errors import InputError
from hcl_jax.losses import masking


def singular_values(x: Shaped[Array, "n d"]) -> Float[Array, " r"]:
    """sigma_1 >= ... >= sigma_r of x, r = min(N, D): the roots of the eigenvalues of the smaller Gram matrix.

    Args:
      x: [N, D]. A row of zeros changes nothing but r.

    Returns:
      [r], float32 or wider. What rounding leaves of a zero is zero, and has no gradient: below
      sqrt(eps max(8, sqrt(max(N, D)))) sigma_1, which is 1e-3 sigma_1 for 64 rows in float32. NaN where x has one.

    Raises:
      InputError: no matrix, or an empty one.

    Reference: Golub and Van Loan 2013, Matrix Computations, section 8.6 (the eigenvalues of X X^T are sigma^2).
    """
    values, length = _at_length_one(x)
    return values * length


def shares(x: Shaped[Array, "n d"]) -> Float[Array, " r"]:
    """p_i = sigma_i / sum_j sigma_j, largest first; all 0 for a matrix of zeros. The length of x does not matter.

    Args:
      x: [N, D].

    Returns:
      [min(N, D)], float32 or wider; sum 1, or 0.

    Raises:
      InputError: as `singular_values`.
    """
    values, _ = _at_length_one(x)
    total = jnp.sum(values)
    return values / jnp.where(total == 0, 1, total)


def _at_length_one(x: Array) -> tuple[Array, Array]:
    """Singular values of x / max |x|, and max |x|: so the squares neither overflow nor vanish."""
    x = masking.upcast(x)
    if x.ndim != 2 or 0 in x.shape:
        raise InputError("features", f"shape {x.shape}", "[rows, features], at least [1, 1]")
    length = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
    x = x / jnp.where(length == 0, 1, length)
    short = x if x.shape[0] <= x.shape[1] else x.T
    squares = jnp.linalg.eigvalsh(jnp.matmul(short, short.T, precision="highest"))[::-1]
    # A Gram matrix squares the condition: what is this far below the largest eigenvalue is rounding. A bound that grows
    # with the size itself would take real values away: a third of the sum, of 1,797 rows of 512 features.
    rounding = jnp.finfo(x.dtype).eps * max(8.0, math.sqrt(max(x.shape)))
    counted = ~(squares <= rounding * jnp.maximum(squares[0], 0))  # NaN counts, and stays NaN
    # The root of zero has no slope: masked on both sides, so that its gradient is zero and not NaN.
    return jnp.where(counted, jnp.sqrt(jnp.where(counted, squares, 1)), 0), length
