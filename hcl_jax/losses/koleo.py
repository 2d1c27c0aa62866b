"""KoLeo: every row keeps away from its nearest other row."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.losses import masking
from hcl_jax.similarity import DEFAULT, Engine


def koleo(
    z: Float[Array, "n d"],
    *,
    epsilon: float = 1e-8,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """Minus the log distance of each row to its nearest other row: an estimate of minus the entropy.

    l_i = -log max( min_{j != i} |u_i - u_j|, epsilon ),   u = z / |z|

    The gradient goes to both rows of the chosen pair, the choice itself has none; equal rows have none. A regulariser
    beside another loss (DINOv2 weighs it with 0.1).

    Args:
      z: [N, D].
      epsilon: > 0, the smallest distance.
      ids: int [N]; -1 = ignored row. Other values change nothing.
      row_weights: [N], scale the loss of each row; every valid row is a neighbour.
      engine: finds the neighbours.

    Returns:
      Scalar; mean over valid rows, weights not renormalised. A row without another one adds 0 and is counted.

    Raises:
      InputError: z is no matrix, epsilon not above 0.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{koleo(x):.4f}")  # -log sqrt(2)
      -0.3466

    Reference: Sablayrolles et al. 2019, arXiv 1806.03198, section 3 (L_KoLeo); Oquab et al. 2023, DINOv2, arXiv
    2304.07193, section 4 (its code adds epsilon to the distance instead).
    """
    n, _ = masking.check_matrices(z=z)
    masking.check_positive("epsilon", epsilon)
    valid = masking.valid_rows(ids, n)
    u = masking.unit(z, valid)
    row, has_neighbour = masking.nearest_rows(engine.nearest(u, k=1, query_ids=jnp.where(valid, 0, -1)))
    square = jnp.sum((u - u[row]) ** 2, axis=1)
    distinct = has_neighbour & ~(square <= epsilon**2)  # NaN counts as distinct, and stays NaN
    values = -jnp.where(
        distinct, jnp.log(jnp.where(distinct, square, 1)) / 2, jnp.log(jnp.asarray(epsilon, square.dtype))
    )
    return masking.mean(jnp.where(has_neighbour, values, 0), valid, row_weights)
