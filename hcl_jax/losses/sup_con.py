"""SupCon: supervised contrastive loss over any number of views, positives by label."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.errors import InputError
from hcl_jax.losses import masking
from hcl_jax.similarity import DEFAULT, Engine


def sup_con(
    *views: Float[Array, "n d"],
    temperature: float | Array,
    base_temperature: float | None = None,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """Supervised contrastive loss, the form with the sum over positives outside the logarithm.

    l_i = log sum_{k != i} exp(u_i . u_k / t) - mean_{p in P(i)} u_i . u_p / t,   u = z / |z|
    loss = (t / t_base) (1 / VN) sum_i l_i

    over the V N rows of all views; P(i) are the other rows with the label of i. A row without a positive adds 0 and is
    counted. With two views and unique ids it is NT-Xent.

    Args:
      views: V >= 1 arrays [N, D]; row i of each is the same example.
      temperature: t > 0, a number or a traced scalar.
      base_temperature: t_base > 0 of the factor; None: no factor (the authors' code has 0.07).
      ids: int [N], the labels; -1 = ignored row (no label). None: every row its own.
      row_weights: [N], scale all rows of an example.
      engine: computes the row sums.

    Returns:
      Scalar; mean over valid rows, weights not renormalised.

    Raises:
      InputError: no view, shapes that differ, a temperature not above 0.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{sup_con(x, x, temperature=1.0):.4f}")  # log(e + 2) - 1
      0.5514
      >>> print(f"{sup_con(x, temperature=1.0, ids=jnp.array([0, 0])):.4f}")  # log 1 - 0: one other row, the positive
      0.0000

    Reference: Khosla et al. 2020, arXiv 2004.11362, equation 2 (L_out).
    """
    if not views:
        raise InputError("views", "none", "one or more arrays [N, D]")
    n, _ = masking.check_matrices(**{f"views[{i}]": view for i, view in enumerate(views)})
    masking.check_positive("temperature", temperature)
    ids = masking.row_ids(ids, n)
    valid = masking.valid_rows(ids, n)
    u = masking.interleave([masking.unit(view, valid) for view in views])
    all_ids = masking.interleave([ids] * len(views))
    sums = engine.softmax_rows(masking.scale(u, temperature), query_ids=all_ids)
    values = jnp.mean(masking.softmax_loss(sums).reshape(n, len(views)), axis=1)
    loss = masking.mean(values, valid, row_weights)
    if base_temperature is None:
        return loss
    masking.check_positive("base_temperature", base_temperature)
    return loss * (jnp.asarray(temperature, loss.dtype) / base_temperature)
