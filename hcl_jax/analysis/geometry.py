"""Where features lie on the sphere: near their positives, near their class, spread over it."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.losses import masking
from hcl_jax.losses.sphere import alignment, uniformity
from hcl_jax.losses.spread import deviations, spread

__all__ = ["alignment", "deviations", "spread", "tolerance", "uniformity"]


def tolerance(z: Float[Array, "n d"], labels: Integer[Array, " n"]) -> Float[Array, ""]:
    """Mean cosine of two different rows of one class, over all such pairs.

    tolerance = sum_c (|sum_{i in c} u_i|^2 - n_c) / sum_c n_c (n_c - 1),   u = z / |z|

    Args:
      z: [N, D].
      labels: int [N]; -1 = left out.

    Returns:
      Scalar in -1..1; 0 without two rows of one class. Rows of zeros have cosine 0 with all.

    Raises:
      InputError: shapes or types that do not fit.

    Example:
      >>> z = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> print(f"{tolerance(z, jnp.zeros(3, int)):.4f}")  # one of three pairs has cosine 1
      0.3333

    Reference: Wang and Liu 2021, "Understanding the behaviour of contrastive loss", arXiv 2012.09740, section 4.
    """
    n, _ = masking.check_matrices(z=z)
    labels = masking.row_ids(labels, n)
    valid = masking.valid_rows(labels, n)
    u = masking.unit(z, valid)
    # Rows in the order of their labels: a class is a segment, and no N x N matrix is made.
    order = jnp.argsort(labels)
    u, labels, valid = u[order], labels[order], valid[order]
    segment = jnp.cumsum(jnp.concatenate([jnp.zeros(1, jnp.int32), (labels[1:] != labels[:-1]).astype(jnp.int32)]))
    sums = jax.ops.segment_sum(u, segment, n)
    counts = jax.ops.segment_sum(valid.astype(u.dtype), segment, n)
    own = jnp.sum(u * u)
    pairs = jnp.sum(counts * (counts - 1))
    return jnp.where(pairs > 0, (jnp.sum(sums * sums) - own) / jnp.where(pairs > 0, pairs, 1), 0)
