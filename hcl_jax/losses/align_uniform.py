"""Alignment and uniformity: positives close, all rows spread over the sphere."""

from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.losses import sphere
from hcl_jax.similarity import DEFAULT, Engine


def align_uniform(
    za: Float[Array, "n d"],
    zb: Float[Array, "n d"],
    *,
    alpha: float = 2.0,
    t: float = 2.0,
    uniformity: float = 1.0,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """Alignment of positives plus uniformity of each view.

    loss = mean_i |a_i - b_i|^alpha + uniformity 1/2 [U(a) + U(b)],   a, b at unit length
    U(x) = log mean_{i < j} exp(-t |x_i - x_j|^2)

    Args:
      za: first view, [N, D].
      zb: second view, [N, D]; row i is the same example as row i of za.
      alpha: exponent > 0 of the alignment.
      t: sharpness > 0 of the uniformity.
      uniformity: weight of the uniformity term.
      ids: int [N]; -1 = ignored row. Other values change nothing.
      row_weights: [N], scale the alignment of each row; the uniformity counts every valid row once.
      engine: computes the row sums of the uniformity.

    Returns:
      Scalar; alignment is the mean over valid rows, weights not renormalised. The uniformity of fewer than two
      rows is 0.

    Raises:
      InputError: shapes that differ, alpha or t not above 0.

    Example:
      >>> x = jnp.eye(2)
      >>> print(align_uniform(x, x))  # 0, and log exp(-2 |x_1 - x_2|^2)
      -4.0

    Reference: Wang and Isola 2020, arXiv 2005.10242, section 4.1.
    """
    near = sphere.alignment(za, zb, alpha=alpha, ids=ids, row_weights=row_weights)
    even = [sphere.uniformity(z, t=t, ids=ids, engine=engine) for z in (za, zb)]
    return near + uniformity * sum(even) / 2
