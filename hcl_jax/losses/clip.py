"""CLIP's symmetric cross entropy between two modalities."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.losses import masking
from hcl_jax.similarity import DEFAULT, Engine


def clip(
    image: Float[Array, "n d"],
    text: Float[Array, "n d"],
    *,
    scale: float | Array,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """Mean of the cross entropies image -> text and text -> image.

    l_i = 1/2 [ log sum_j exp(s x_i . y_j) - mean_p s x_i . y_p ]
        + 1/2 [ log sum_j exp(s y_i . x_j) - mean_p s y_i . x_p ]

    x, y at unit length, p over the rows with the id of i: a caption that occurs twice is right for both of its images.

    Args:
      image: [N, D].
      text: [N, D]; row i belongs to row i of image.
      scale: s > 0, the inverse temperature itself (not its logarithm), a number or a traced scalar.
      ids: int [N]; same id = positive, -1 = ignored row. None: every row its own.
      row_weights: [N], scale both directions of a row.
      engine: computes the row sums.

    Returns:
      Scalar; mean over valid rows, weights not renormalised.

    Raises:
      InputError: shapes that differ, a scale not above 0.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{clip(x, x, scale=1.0):.4f}")  # log(e + 1) - 1
      0.3133

    Reference: Radford et al. 2021, arXiv 2103.00020, figure 3.
    """
    n, _ = masking.check_matrices(image=image, text=text)
    masking.check_positive("scale", scale)
    ids = masking.row_ids(ids, n)
    valid = masking.valid_rows(ids, n)
    x, y = masking.unit(image, valid), masking.unit(text, valid)
    of_image, of_text = engine.softmax_both(x * jnp.asarray(scale, x.dtype), y, a_ids=ids, b_ids=ids)
    return masking.mean((masking.softmax_loss(of_image) + masking.softmax_loss(of_text)) / 2, valid, row_weights)


def clip_top1(
    image: Float[Array, "n d"],
    text: Float[Array, "n d"],
    *,
    ids: Integer[Array, " n"] | None = None,
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """Share of rows whose nearest row of the other modality is a positive, mean of both directions (a tie is a miss).

    A caption that a batch holds twice is such a tie, unless the ids say that it is one: an objective's `pairs` may name
    a label, such as `labels.caption`. The evaluator `retrieval` compares the captions themselves.

    Args:
      image, text, ids, engine: as in `clip`.

    Returns:
      Scalar in 0..1.

    Example:
      >>> x = jnp.eye(2)
      >>> print(clip_top1(x, x))
      1.0
    """
    n, _ = masking.check_matrices(image=image, text=text)
    ids = masking.row_ids(ids, n)
    valid = masking.valid_rows(ids, n)
    x, y = masking.unit(image, valid), masking.unit(text, valid)
    of_image = engine.best_rows(x, y, query_ids=ids, key_ids=ids)
    of_text = engine.best_rows(y, x, query_ids=ids, key_ids=ids)
    hits = (of_image.positive > of_image.negative).astype(x.dtype) + (of_text.positive > of_text.negative)
    return masking.mean(hits / 2, valid, None)
