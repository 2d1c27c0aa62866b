"""The spectral contrastive loss: a factorisation of the graph of augmented views."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.losses import masking
from hcl_jax.losses.moments import cross, multiplicity


def spectral(
    za: Float[Array, "n d"],
    zb: Float[Array, "n d"],
    *,
    mu: float | None = 1.0,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Positives aligned, different rows at right angles; linear in the number of rows.

    loss = 1/mu [ -2 mean_i a_i . b_i + 1 / (N (N - 1)) sum_{i != j} (a_i . b_j)^2 ]
    sum_{i != j} (a_i . b_j)^2 = sum_{c,d} (A^T A)_cd (B^T B)_cd - sum_i (a_i . b_i)^2

    Rows are not put to unit length: a row longer than sqrt(mu) is shortened to that, a shorter one stays.

    Args:
      za: first view, [N, D].
      zb: second view, [N, D]; row i is the same example as row i of za.
      mu: > 0, the largest squared length, by which the loss is divided (the authors' code). None: neither, as in the
        paper; the loss then grows as the fourth power of the rows.
      ids: int [N]; -1 = ignored row. Other values change nothing: the second moments know no pairs.
      row_weights: [N], scale the alignment of each row; the second term counts every valid row once.

    Returns:
      Scalar; alignment is the mean over valid rows, weights not renormalised. The second term of fewer than two rows is
      0.

    Raises:
      InputError: shapes that differ, mu not above 0.

    Example:
      >>> x = jnp.eye(2)
      >>> print(spectral(x, x))  # -2 times 1, and no product of different rows
      -2.0

    Reference: HaoChen et al. 2021, arXiv 2106.04156, section 3.2; the pairs i != j, the shortened rows and the factor
    1/mu are the authors' code's.
    """
    n, _ = masking.check_matrices(za=za, zb=zb)
    if mu is not None:
        masking.check_positive("mu", mu)
    valid = masking.valid_rows(ids, n)
    a, b = (masking.mask(z, valid) if mu is None else _shortened(masking.mask(z, valid), mu) for z in (za, zb))
    products = jnp.sum(a * b, axis=1)
    ones = multiplicity(valid, None, a.dtype)
    count = jnp.sum(ones)
    others = jnp.sum(cross(a, a, ones) * cross(b, b, ones)) - jnp.sum(products**2)
    loss = masking.mean(-2 * products, valid, row_weights) + others / jnp.maximum(count * (count - 1), 1)
    return loss if mu is None else loss / mu


def _shortened(z: Array, mu: float) -> Array:
    """Rows of at most sqrt(mu), those below it as they are."""
    square = jnp.sum(z * z, axis=1, keepdims=True)
    long = square > mu
    return z * jnp.where(long, jax.lax.rsqrt(jnp.where(long, square / mu, 1)), 1)
