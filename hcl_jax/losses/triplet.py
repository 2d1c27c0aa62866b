"""Triplet loss: the positive is nearer than the negative by a margin."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.losses import masking
from hcl_jax.similarity import DEFAULT, Engine


def triplet(
    anchor: Float[Array, "n d"],
    positive: Float[Array, "n d"],
    negative: Float[Array, "n d"] | None = None,
    *,
    margin: float | Array = 0.2,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """Hinge on the difference of two squared distances on the sphere.

    l_i = max(0, |a_i - p_i|^2 - |a_i - n_i|^2 + margin),   a, p, n at unit length

    Without `negative`, n_i is the row of `positive` with another id that is nearest to a_i (the hardest negative); the
    gradient goes to the row that was chosen, the choice itself has none.

    Args:
      anchor: [N, D].
      positive: [N, D]; row i belongs to row i of anchor.
      negative: [N, D], the negative of each anchor. None: from the batch.
      margin: > 0. Squared distances on the sphere are 0 to 4.
      ids: int [N]; same id = no negative, -1 = ignored row. None: every row its own.
      row_weights: [N], scale the loss of each anchor.
      engine: finds the negatives.

    Returns:
      Scalar; mean over valid rows, weights not renormalised. An anchor without a negative adds 0 and is counted; so do
      those within the margin (some codes leave these out of the mean).

    Raises:
      InputError: shapes that differ, a margin not above 0.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{triplet(x, x, margin=3.0):.4f}")  # 0 - 2 + 3
      1.0000

    Reference: Schroff et al. 2015, FaceNet, arXiv 1503.03832, equations 1 to 3; the hardest negative of the batch as
    Hermans et al. 2017, arXiv 1703.07737, equation 5.
    """
    masking.check_positive("margin", margin)
    a, p, n, has_negative, valid = _triplets(anchor, positive, negative, ids, engine)
    difference = jnp.sum((a - p) ** 2, axis=1) - jnp.sum((a - n) ** 2, axis=1)
    values = jnp.where(has_negative, jnp.maximum(difference + jnp.asarray(margin, difference.dtype), 0), 0)
    return masking.mean(values, valid, row_weights)


def triplet_top1(
    anchor: Float[Array, "n d"],
    positive: Float[Array, "n d"],
    negative: Float[Array, "n d"] | None = None,
    *,
    ids: Integer[Array, " n"] | None = None,
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """Share of anchors that are nearer to their positive than to their negative (a tie is a miss).

    Args:
      anchor, positive, negative, ids, engine: as in `triplet`.

    Returns:
      Scalar in 0..1.

    Example:
      >>> x = jnp.eye(2)
      >>> print(triplet_top1(x, x))
      1.0
    """
    a, p, n, has_negative, valid = _triplets(anchor, positive, negative, ids, engine)
    nearer = jnp.sum(a * p, axis=1) > jnp.sum(a * n, axis=1)
    return masking.mean((nearer | ~has_negative).astype(a.dtype), valid, None)


def _triplets(
    anchor: Array,
    positive: Array,
    negative: Array | None,
    ids: Array | None,
    engine: Engine,
) -> tuple[Array, Array, Array, Array, Array]:
    """Unit anchors, positives and negatives [N, D]; which anchors have a negative, and which count, bool [N]."""
    given = {} if negative is None else {"negative": negative}
    count, _ = masking.check_matrices(anchor=anchor, positive=positive, **given)
    ids = masking.row_ids(ids, count)
    valid = masking.valid_rows(ids, count)
    a, p = masking.unit(anchor, valid), masking.unit(positive, valid)
    if negative is not None:
        return a, p, masking.unit(negative, valid), valid, valid
    # At unit length the largest product is the smallest distance.
    row, has_negative = masking.nearest_rows(engine.nearest(a, p, k=1, query_ids=ids, key_ids=ids, over="negatives"))
    return a, p, jnp.where(has_negative[:, None], p[row], 0), has_negative, valid
