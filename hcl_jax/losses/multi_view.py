"""Contrast between more than two views or modalities, any of which may be missing in a row."""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Integer

from hcl_jax.errors import InputError
from hcl_jax.losses import masking
from hcl_jax.losses.clip import clip, clip_top1
from hcl_jax.similarity import DEFAULT, IGNORED, Engine


def multi_view(
    *views: Float[Array, "n d"],
    temperature: float | Array,
    graph: str = "full",
    present: Sequence[Bool[Array, " n"] | None] | None = None,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
    convention: str = "mean",
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """Symmetric cross entropy between pairs of views, over the rows where both are there.

    loss = mean_{(a, b) in G} C(v_a, v_b),   C = 1/2 [CE(v_a -> v_b) + CE(v_b -> v_a)] at scale 1 / t (that is `clip`)

    G is every pair of views ("full"), or the pairs with the first view ("core"). With two views it is `clip`.

    Args:
      views: V >= 2 arrays [N, D]; row i of each is the same example.
      temperature: t > 0, a number or a traced scalar.
      graph: "full" or "core".
      present: V masks, bool [N] (or None: in every row): does this row have this view? A row counts in the pairs of
        which it has both views; what an absent view holds doesn't matter.
      ids: int [N]; same id = positive, -1 = ignored row. None: every row its own.
      row_weights: [N], scale the loss of each row.
      convention: "mean" over pairs, or "sum": the sum over pairs of both directions, 2 |G| times as much (CMC's code).
      engine: computes the row sums.

    Returns:
      Scalar. Each pair is the mean over its own valid rows, weights not renormalised; a pair that no row has adds 0 and
      is counted.

    Raises:
      InputError: fewer than two views, shapes that differ, a number of masks that differs, an unknown word.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{multi_view(x, x, x, temperature=1.0):.4f}")  # three pairs of log(e + 1) - 1
      0.3133

    Reference: Tian et al. 2020, Contrastive Multiview Coding, arXiv 1906.05849, section 3.3 (core view and full graph).
    """
    masking.check_positive("temperature", temperature)
    masking.check_choice("convention", convention, ("mean", "sum"))
    pairs = _pairs(views, graph, present, ids)
    losses = [
        clip(views[a], views[b], scale=1 / temperature, ids=pair_ids, row_weights=row_weights, engine=engine)
        for a, b, pair_ids in pairs
    ]
    return sum(losses[1:], losses[0]) * (2 if convention == "sum" else 1 / len(pairs))


def multi_view_top1(
    *views: Float[Array, "n d"],
    graph: str = "full",
    present: Sequence[Bool[Array, " n"] | None] | None = None,
    ids: Integer[Array, " n"] | None = None,
    engine: Engine = DEFAULT,
) -> Float[Array, ""]:
    """`clip_top1` of each pair of views, mean over the pairs that have a row.

    Args:
      views, graph, present, ids, engine: as in `multi_view`.

    Returns:
      Scalar in 0..1.

    Example:
      >>> x = jnp.eye(2)
      >>> print(multi_view_top1(x, x, x))
      1.0
    """
    pairs = _pairs(views, graph, present, ids)
    shares = jnp.stack([clip_top1(views[a], views[b], ids=pair_ids, engine=engine) for a, b, pair_ids in pairs])
    counted = jnp.stack([jnp.any(pair_ids != IGNORED) for _, _, pair_ids in pairs])
    return jnp.sum(shares) / jnp.maximum(jnp.sum(counted, dtype=shares.dtype), 1)


def _pairs(
    views: tuple[Array, ...], graph: str, present: Sequence[Bool[Array, " n"] | None] | None, ids: Array | None
) -> list[tuple[int, int, Array]]:
    """The pairs of views to compare, with the ids of each: -1 where a row lacks one of the two."""
    if len(views) < 2:
        raise InputError("views", len(views), "two or more arrays [N, D]")
    n, _ = masking.check_matrices(**{f"views[{i}]": view for i, view in enumerate(views)})
    masking.check_choice("graph", graph, ("full", "core"))
    if present is not None and len(present) != len(views):
        raise InputError("present", f"{len(present)} masks", f"{len(views)}, one a view")
    masks = [jnp.ones((n,), bool) if m is None else jnp.asarray(m, bool) for m in present or [None] * len(views)]
    for i, mask in enumerate(masks):
        if mask.shape != (n,):
            raise InputError(f"present[{i}]", f"shape {mask.shape}", f"shape {(n,)}, one a row")
    ids = masking.row_ids(ids, n)
    pairs = itertools.combinations(range(len(views)), 2)
    return [(a, b, jnp.where(masks[a] & masks[b], ids, IGNORED)) for a, b in pairs if graph == "full" or a == 0]
