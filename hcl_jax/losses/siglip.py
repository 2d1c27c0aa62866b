"""SigLIP: every image-text pair is one yes-or-no question; no softmax over the batch."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.errors import InputError
from hcl_jax.losses import masking
from hcl_jax.similarity import DEFAULT, Engine


def siglip(
    image: Float[Array, "n d"],
    text: Float[Array, "n d"],
    *,
    scale: float | Array,
    bias: float | Array,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """Sigmoid loss over all pairs: mean over images of the sum over texts.

    l_i = sum_j -log sigmoid( y_ij (s x_i . t_j + b) ),   y_ij = +1 where id_i = id_j, else -1;   x, t at unit length

    Args:
      image: [N, D].
      text: [N, D]; row i belongs to row i of image.
      scale: s > 0, a number or a traced scalar (10 at the start, in the paper).
      bias: b, a number or a traced scalar (-10 at the start, in the paper).
      ids: int [N]; same id = positive, -1 = ignored row. None: every row its own.
      row_weights: [N], scale the loss of each image.
      engine: computes the row sums.

    Returns:
      Scalar; mean over valid rows, weights not renormalised. It is N times the mean over all pairs.

    Raises:
      InputError: shapes that differ, a scale not above 0, a bias that is not one number.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{siglip(x, x, scale=1.0, bias=0.0):.4f}")  # log(1 + 1 / e) + log 2
      1.0064

    Reference: Zhai et al. 2023, arXiv 2303.15343, section 3.2 and algorithm 1.
    """
    n, _ = masking.check_matrices(image=image, text=text)
    masking.check_positive("scale", scale)
    if jnp.ndim(bias) != 0:
        raise InputError("bias", f"shape {jnp.shape(bias)}", "one number")
    ids = masking.row_ids(ids, n)
    valid = masking.valid_rows(ids, n)
    x, t = masking.unit(image, valid), masking.unit(text, valid)
    values = engine.sigmoid_rows(
        x * jnp.asarray(scale, x.dtype), t, bias=jnp.asarray(bias, x.dtype), query_ids=ids, key_ids=ids
    )
    return masking.mean(values, valid, row_weights)
