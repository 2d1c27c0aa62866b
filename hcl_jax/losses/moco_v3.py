"""MoCo v3: the queries of each view find the keys of the other among the whole batch, no queue."""

import jax
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.losses import masking
from hcl_jax.losses.info_nce import info_nce, info_nce_top1
from hcl_jax.similarity import DEFAULT, Engine


def moco_v3(
    qa: Float[Array, "n d"],
    kb: Float[Array, "n d"],
    qb: Float[Array, "n d"],
    ka: Float[Array, "n d"],
    *,
    temperature: float | Array,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
    convention: str = "two_tau",
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """Symmetric InfoNCE of predictions against the keys of a moving average, which take no gradient.

    loss = 2 t [ CE(q_a . k_b / t) + CE(q_b . k_a / t) ],   q, k at unit length, CE as in `info_nce`

    Args:
      qa: predictions of the first view, [N, D].
      kb: keys of the second view (of the moving average), [N, D]; row i is the same example as row i of qa.
      qb: predictions of the second view, [N, D].
      ka: keys of the first view, [N, D].
      temperature: t > 0, a number or a traced scalar.
      ids: int [N]; same id = positive, -1 = ignored row. None: every row its own.
      row_weights: [N], scale both directions of a row.
      convention: "two_tau" as above, or "mean": without the factor 2 t (the paper's equation, summed over both views).
      engine: computes the row sums.

    Returns:
      Scalar; mean over valid rows, summed over both directions, weights not renormalised.

    Raises:
      InputError: shapes that differ, a temperature not above 0, an unknown word.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{moco_v3(x, x, x, x, temperature=1.0):.4f}")  # 2 t times twice log(e + 1) - 1
      1.2530

    Reference: Chen, Xie and He 2021, arXiv 2104.02057, equation 1 and algorithm 1.
    """
    masking.check_matrices(qa=qa, kb=kb, qb=qb, ka=ka)
    a, b = (
        info_nce(
            query,
            jax.lax.stop_gradient(key),
            temperature=temperature,
            ids=ids,
            row_weights=row_weights,
            convention=convention,
            engine=engine,
        )
        for query, key in ((qa, kb), (qb, ka))
    )
    return a + b


def moco_v3_top1(
    qa: Float[Array, "n d"],
    kb: Float[Array, "n d"],
    qb: Float[Array, "n d"],
    ka: Float[Array, "n d"],
    *,
    ids: Integer[Array, " n"] | None = None,
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """Mean of both directions of `info_nce_top1`.

    Args:
      qa, kb, qb, ka, ids, engine: as in `moco_v3`.

    Returns:
      Scalar in 0..1.

    Example:
      >>> x = jnp.eye(2)
      >>> print(moco_v3_top1(x, x, x, x))
      1.0
    """
    return (info_nce_top1(qa, kb, ids=ids, engine=engine) + info_nce_top1(qb, ka, ids=ids, engine=engine)) / 2
