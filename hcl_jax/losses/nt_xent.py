"""NT-Xent: SimCLR's loss over two views of a batch, every row against all 2N - 1 others."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.losses import masking
from hcl_jax.similarity import DEFAULT, Engine, Over


def nt_xent(
    za: Float[Array, "n d"],
    zb: Float[Array, "n d"],
    *,
    temperature: float | Array,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
    convention: str = "mean",
    denominator: Over = "all",
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """Normalised temperature-scaled cross entropy over the 2N rows of two views.

    l_i = log sum_{k != i} exp(u_i . u_k / t) - mean_{p in P(i)} u_i . u_p / t,   u = z / |z|
    loss = (1 / 2N) sum_i l_i

    P(i) are the other rows with the id of i. With unique ids that is the other view alone, and the loss is the paper's.

    Args:
      za: first view, [N, D].
      zb: second view, [N, D]; row i is the same example as row i of za.
      temperature: t > 0, a number or a traced scalar.
      ids: int [N]; same id = positive, -1 = ignored row. None: every row its own.
      row_weights: [N], scale both rows of an example.
      convention: "mean" over the 2N rows, or "sum_of_halves": the mean over a plus the mean over b, twice as much
        (Google's SimCLR code).
      denominator: "all", or "negatives": the positives left out of it (DCL; the loss may be below 0). GraphCL's code
        leaves them out too, of one direction: `info_nce` with decoupled=True.
      engine: computes the row sums.

    Returns:
      Scalar; mean over valid rows, weights not renormalised.

    Raises:
      InputError: shapes that differ, a temperature not above 0, an unknown word.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{nt_xent(x, x, temperature=1.0):.4f}")  # log(e + 2) - 1: one positive, two at right angles
      0.5514

    Reference: Chen et al. 2020, arXiv 2002.05709, equation 1 and algorithm 1.
    """
    n, _ = masking.check_matrices(za=za, zb=zb)
    masking.check_positive("temperature", temperature)
    masking.check_choice("convention", convention, ("mean", "sum_of_halves"))
    masking.check_choice("denominator", denominator, ("all", "negatives"))
    ids = masking.row_ids(ids, n)
    valid = masking.valid_rows(ids, n)
    u = masking.interleave([masking.unit(za, valid), masking.unit(zb, valid)])
    both = masking.interleave([ids, ids])
    sums = engine.softmax_rows(masking.scale(u, temperature), query_ids=both, over=denominator)
    halves = masking.softmax_loss(sums).reshape(n, 2)
    values = jnp.sum(halves, axis=1) if convention == "sum_of_halves" else jnp.mean(halves, axis=1)
    return masking.mean(values, valid, row_weights)


def nt_xent_top1(
    za: Float[Array, "n d"],
    zb: Float[Array, "n d"],
    *,
    ids: Integer[Array, " n"] | None = None,
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """Share of the 2N rows whose nearest other row is a positive (a tie with a negative is a miss).

    Args:
      za, zb, ids, engine: as in `nt_xent`.

    Returns:
      Scalar in 0..1.

    Example:
      >>> x = jnp.eye(2)
      >>> print(nt_xent_top1(x, x))
      1.0
    """
    n, _ = masking.check_matrices(za=za, zb=zb)
    ids = masking.row_ids(ids, n)
    valid = masking.valid_rows(ids, n)
    u = masking.interleave([masking.unit(za, valid), masking.unit(zb, valid)])
    both = masking.interleave([ids, ids])
    best = engine.best_rows(u, query_ids=both)
    hits = (best.positive > best.negative).reshape(n, 2)
    return masking.mean(jnp.mean(hits, axis=1, dtype=u.dtype), valid, None)
