"""NNCLR: the nearest neighbour of a view, from a memory of earlier rows, stands in for it."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.errors import InputError
from hcl_jax.losses import masking
from hcl_jax.similarity import DEFAULT, Engine


def nnclr(
    za: Float[Array, "n d"],
    pb: Float[Array, "n d"],
    zb: Float[Array, "n d"],
    pa: Float[Array, "n d"],
    support: Float[Array, "m d"],
    *,
    temperature: float | Array,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
    convention: str = "mean",
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """InfoNCE from the nearest neighbour of each view to the other view's predictions.

    l_i = 1/2 [ c(NN(za_i), pb) + c(NN(zb_i), pa) ],   NN(z) = argmax_{s in support} z . s
    c(q_i, p) = log sum_j exp(q_i . p_j / t) - mean_{j: id_j = id_i} q_i . p_j / t,   all at unit length

    Only the predictions take a gradient.

    Args:
      za: embeddings of the first view, [N, D].
      pb: predictions of the second view, [N, D]; row i is the same example as row i of za.
      zb: embeddings of the second view, [N, D].
      pa: predictions of the first view, [N, D].
      support: [M, D], earlier embeddings (a queue). A row of zeros is an empty slot and is never a neighbour.
      temperature: t > 0, a number or a traced scalar.
      ids: int [N]; same id = positive, -1 = ignored row. None: every row its own.
      row_weights: [N], scale both directions of a row.
      convention: "mean" as above, or "both_ways": c is the mean of that and of the cross entropy of finding the
        neighbour of each prediction among the neighbours of the batch.
      engine: finds the neighbours and computes the row sums.

    Returns:
      Scalar; mean over valid rows, weights not renormalised. 0 while the support is empty.

    Raises:
      InputError: shapes that differ, a temperature not above 0, an unknown word.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{nnclr(x, x, x, x, x, temperature=1.0):.4f}")  # the support has the rows: log(e + 1) - 1
      0.3133

    Reference: Dwibedi et al. 2021, arXiv 2104.14548, equations 3 and 4 ("both_ways": the symmetric form
    of its section 3.2).
    """
    n, d = masking.check_matrices(za=za, pb=pb, zb=zb, pa=pa)
    if jnp.ndim(support) != 2 or jnp.shape(support)[1] != d or not jnp.shape(support)[0]:
        raise InputError("support", f"shape {jnp.shape(support)}", f"[rows, {d}], the features of za")
    masking.check_positive("temperature", temperature)
    masking.check_choice("convention", convention, ("mean", "both_ways"))
    ids = masking.row_ids(ids, n)
    valid = masking.valid_rows(ids, n)
    filled = jnp.any(support != 0, axis=1)
    memory = jax.lax.stop_gradient(masking.unit(support, filled))
    values = jnp.zeros((n,), memory.dtype)
    for z, p in ((za, pb), (zb, pa)):
        u = jax.lax.stop_gradient(masking.unit(z, valid))
        nearest = engine.nearest(u, memory, k=1, query_ids=jnp.where(valid, 0, -1), key_ids=jnp.where(filled, 0, -1))
        row, has_neighbour = masking.nearest_rows(nearest)
        query = jnp.where(has_neighbour[:, None], memory[row], 0)
        query, key = query / jnp.asarray(temperature, query.dtype), masking.unit(p, valid)
        if convention == "both_ways":
            forth, back = engine.softmax_both(query, key, a_ids=ids, b_ids=ids)
            cross = (masking.softmax_loss(forth) + masking.softmax_loss(back)) / 2
        else:
            cross = masking.softmax_loss(engine.softmax_rows(query, key, query_ids=ids, key_ids=ids))
        values += jnp.where(has_neighbour, cross, 0) / 2
    return masking.mean(values, valid, row_weights)
