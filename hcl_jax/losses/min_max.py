"""JOAO's game: the encoder descends a mean of pair losses, the weights of the pairs ascend it."""

import functools
import itertools
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.errors import InputError
from hcl_jax.losses import masking
from hcl_jax.losses.info_nce import info_nce
from hcl_jax.losses.nt_xent import nt_xent
from hcl_jax.similarity import DEFAULT, Engine, Over


def min_max(
    *views: Float[Array, "n d"],
    distribution: Float[Array, " m"],
    temperature: float | Array = 0.2,
    gamma: float | Array = 0.1,
    denominator: Over = "all",
    compare: str = "all",
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """Loss of n augmentations under a distribution over their pairs, which the other player moves.

    loss = sum_{i < j} p_ij L(v_i, v_j) - gamma / 2 sum_{i < j} (p_ij - 1 / m)^2,   L = nt_xent

    With compare="first", as the authors' code has it, the first view, the graph as it is, finds each kind and itself:

    loss = sum_j p_j L(v_0, v_j) - gamma / 2 sum_j (p_j - 1 / n)^2,   L = info_nce of v_0 to v_j, one direction

    The encoder minimises it over its parameters, and p maximises it: give the parameter of p a negative multiplier in
    `optimizer.rules`. A step sees all n views, so the weights replace the sampling of a pair by it (JOAO draws one pair
    a step and moves p once an epoch).

    Args:
      views: n >= 2 arrays [N, D], one a kind of augmentation; row i of each is the same example.
      distribution: p, [m] with m = n (n - 1) / 2, in the order (0, 1), (0, 2), ..., (1, 2), ...; above 0 with sum 1.
        With compare="first" [n], in the order of the views. The paper has n^2 ordered pairs, the same kind twice among
        them. NT-Xent is symmetric, so an order is nothing here, and one view with itself would be two equal views: for
        a kind twice, give a second view of that kind.
      temperature: t > 0, a number or a traced scalar.
      gamma: >= 0, how strongly p is held at the uniform distribution.
      denominator: as in `nt_xent`; "negatives" is `info_nce`'s decoupled=True (the code's).
      compare: "all" pairs of two different views, or "first".
      ids: int [N]; same id = positive, -1 = ignored row. None: every row its own.
      row_weights: [N], scale the loss of each row, and not the term with gamma.
      engine: computes the row sums.

    Returns:
      Scalar; each L is the mean over valid rows. Without a valid row only the term with gamma is left.

    Raises:
      InputError: fewer than two views, shapes that differ, a distribution of another length, gamma below 0, an unknown
        word.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{min_max(x, x, distribution=jnp.ones(1), temperature=1.0):.4f}")  # one pair: log(e + 2) - 1
      0.5514

    Reference: You et al. 2021, "Graph contrastive learning automated" (JOAO), arXiv 2106.07594, equations 4 and 5;
    unsupervised_TU/joao.py of Shen-Lab/GraphCL_Automated.
    """
    if len(views) < 2:
        raise InputError("views", len(views), "two or more arrays [N, D]")
    masking.check_matrices(**{f"views[{i}]": view for i, view in enumerate(views)})
    masking.check_choice("compare", compare, ("all", "first"))
    masking.check_choice("denominator", denominator, ("all", "negatives"))
    every = range(len(views))
    chosen = list(itertools.combinations(every, 2)) if compare == "all" else [(0, j) for j in every]
    if jnp.shape(distribution) != (len(chosen),):
        found = f"shape {jnp.shape(distribution)}"
        raise InputError("distribution", found, f"shape {(len(chosen),)}, one a pair of {len(views)} views")
    if jnp.ndim(gamma) != 0 or (isinstance(gamma, int | float) and not gamma >= 0):
        raise InputError("gamma", repr(gamma), "a number of at least 0")
    common: dict[str, Any] = {"temperature": temperature, "ids": ids, "row_weights": row_weights, "engine": engine}
    loss: Any = functools.partial(nt_xent, denominator=denominator, **common)
    if compare == "first":
        loss = functools.partial(info_nce, decoupled=denominator == "negatives", **common)
    each = jnp.stack([loss(views[i], views[j]) for i, j in chosen])
    p = jnp.asarray(distribution).astype(each.dtype)
    return jnp.sum(p * each) - jnp.asarray(gamma, each.dtype) / 2 * jnp.sum((p - 1 / len(chosen)) ** 2)
