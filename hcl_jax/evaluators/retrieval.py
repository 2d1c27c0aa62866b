"""Recall@k from one view's embeddings to another's, next to its chance level."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcl_jax.errors import InputError
from hcl_jax.evaluators.accuracy import proportion_error
from hcl_jax.evaluators.neighbours import unit_rows
from hcl_jax.evaluators.result import Result, Splits
from hcl_jax.evaluators.rows import features_of, labels_of
from hcl_jax.similarity import streamed


class Recall(NamedTuple):
    """Recall in one direction.

    Attributes:
      recall: {k: share of queries with a right key among the first k}.
      standard_error: {k: sqrt(p (1 - p) / n)}.
      chance: {k: what a random ranking is expected to reach on the same ids}.
      median_rank: of the first right key; 1 is best.
      n: queries counted, those that have a right key.
      keys: keys ranked.
    """

    recall: dict[int, float]
    standard_error: dict[int, float]
    chance: dict[int, float]
    median_rank: float
    n: int
    keys: int


@jax.jit
def _ranks(queries: jax.Array, query_ids: jax.Array, keys: jax.Array, key_ids: jax.Array) -> jax.Array:
    """Rank of the first right key of each query [n]: 1 + the wrong keys that are at least as near."""
    engine, ids = streamed(), {"query_ids": query_ids, "key_ids": key_ids}
    return 1 + engine.negatives_from(queries, keys, least=engine.best_rows(queries, keys, **ids).positive, **ids)


TILE = 2**22  # similarities that are in memory at once


@jax.jit
def _ranks_in_tile(queries: jax.Array, keys: jax.Array, right: jax.Array) -> jax.Array:
    """As `_ranks`, of queries whose right keys are a table, bool [n, m]."""
    similarity = jnp.matmul(queries, keys.T, precision="highest")
    best = jnp.max(similarity, axis=1, where=right, initial=-jnp.inf, keepdims=True)
    return 1 + jnp.sum(~right & (similarity >= best), axis=1)


def chance_recall(right: np.ndarray, keys: int, k: int) -> float:
    """Expected recall@k of a random order of the keys.

    mean_i 1 - C(K - m_i, k) / C(K, k) = mean_i 1 - prod_{j < k} (K - m_i - j) / (K - j).

    Args:
      right: [n] m_i, the number of right keys of each query.
      keys: K, the number of keys.
      k: how many are looked at.

    Returns:
      A float from 0 to 1.

    Example:
      >>> chance_recall(np.array([1]), keys=4, k=1)
      0.25

    Reference: the hypergeometric probability of no right key among k drawn without replacement.
    """
    miss = np.ones(len(right))
    for j in range(min(k, keys)):
        miss *= np.maximum(keys - right - j, 0) / (keys - j)
    return float(np.mean(1.0 - miss))


def recall_at(
    queries: jax.typing.ArrayLike,
    keys: jax.typing.ArrayLike,
    query_ids: jax.typing.ArrayLike,
    key_ids: jax.typing.ArrayLike,
    k: Sequence[int] = (1, 5, 10),
) -> Recall:
    """Recall@k of queries among keys by cosine; a key with the query's id is right.

    rank_i = 1 + #{wrong keys whose similarity >= that of the best right key}; recall@k = mean_i [rank_i <= k].

    Ties count against the result: a wrong key as near as the best right one stands before it, so that collapsed
    embeddings cannot score. Rows with id -1 are neither queries nor keys (a missing view); a query whose id no key has
    is not counted.

    Args:
      queries: [n, d].
      keys: [m, d].
      query_ids: [n] int, -1 = absent.
      key_ids: [m] int, -1 = absent.
      k: the cut-offs, each >= 1.

    Returns:
      `Recall`.

    Raises:
      InputError: shapes that do not fit, values that are not finite, a k < 1, or no query with a right key.

    Example:
      >>> x = np.eye(2)
      >>> recall_at(x, x, np.array([0, 1]), np.array([0, 2]), k=(1,)).n  # one query has a right key
      1

    Reference: Radford et al. 2021, arXiv 2103.00020, table 13 (text and image retrieval, R@1, R@5, R@10).
    """
    if not k or min(k) < 1:
        raise InputError("recall k", tuple(k), "integers >= 1")
    queries, keys = features_of(queries, "queries"), features_of(keys, "keys")
    if queries.shape[1] != keys.shape[1]:
        raise InputError("keys", f"{keys.shape[1]} dimensions", f"{queries.shape[1]}, as the queries")
    query_ids, key_ids = labels_of(query_ids, len(queries), "query ids"), labels_of(key_ids, len(keys), "key ids")
    keep = key_ids >= 0
    keys, key_ids = keys[keep], key_ids[keep]
    keep = np.isin(query_ids, key_ids)
    queries, query_ids = queries[keep], query_ids[keep]
    if not len(queries):
        raise InputError("query ids", "no query with a right key", "at least one id that both views have")
    known, compact, counts = np.unique(key_ids, return_inverse=True, return_counts=True)
    query_compact = np.searchsorted(known, query_ids)
    arrays = unit_rows(queries), query_compact.astype(np.int32), unit_rows(keys), compact.astype(np.int32)
    rank = jax.device_get(_ranks(*jax.device_put(arrays)))
    return _recall(rank, counts[query_compact], len(keys), k)


def _recall(rank: np.ndarray, right: np.ndarray, keys: int, k: Sequence[int]) -> Recall:
    """Of the ranks [n] and the numbers of right keys [n]."""
    recall = {int(at): float(np.mean(rank <= at)) for at in k}
    return Recall(
        recall=recall,
        standard_error={at: proportion_error(p, len(rank)) for at, p in recall.items()},
        chance={at: chance_recall(right, keys, at) for at in recall},
        median_rank=float(np.median(rank)),
        n=len(rank),
        keys=keys,
    )


def recall_of_items(
    queries: jax.typing.ArrayLike,
    keys: jax.typing.ArrayLike,
    query_items: jax.typing.ArrayLike,
    key_items: jax.typing.ArrayLike,
    k: Sequence[int] = (1, 5, 10),
) -> Recall:
    """Recall@k between the items of paired rows: an item that stands in several rows is one query, or one key.

    Row i says that the item of query i and that of key i belong together. A caption of two pictures is one key, right
    for both; a picture with five captions is one query with five right keys. The embedding of an item is that of its
    first row.

    Args:
      queries, keys: [n, d].
      query_items, key_items: [n] int, which item is in a row, -1 = absent.
      k: the cut-offs, each >= 1.

    Returns:
      `Recall`, with n the items that are asked for and keys the items that are ranked.

    Raises:
      InputError: shapes that do not fit, values that are not finite, a k < 1, or no row with both items.

    Example:
      >>> x = np.eye(2)[[0, 0, 1, 1]]  # each caption twice
      >>> found = recall_of_items(x, x, np.arange(4), np.array([0, 0, 1, 1]), k=(1,))
      >>> found.recall[1], found.chance[1], found.n, found.keys
      (1.0, 0.5, 4, 2)

    Reference: as `recall_at`.
    """
    if not k or min(k) < 1:
        raise InputError("recall k", tuple(k), "integers >= 1")
    sides = [features_of(queries, "queries"), features_of(keys, "keys")]
    if sides[0].shape != sides[1].shape:
        raise InputError("keys", f"shape {list(sides[1].shape)}", f"{list(sides[0].shape)}, as the queries")
    items = [labels_of(query_items, len(sides[0]), "query items"), labels_of(key_items, len(sides[1]), "key items")]
    there = (items[0] >= 0) & (items[1] >= 0)
    if not there.any():
        raise InputError("query items", "no row with both items", "at least one")
    rows, places = [], []
    for side, of in zip(sides, items, strict=True):
        _, first, place = np.unique(of[there], return_index=True, return_inverse=True)
        rows.append(unit_rows(side[there][first]))
        places.append(place)
    pairs = np.unique(np.stack(places, 1), axis=0)  # by query
    n, m = map(len, rows)
    rank = np.zeros(n, np.int64)
    size = min(n, max(1, TILE // m))
    on_device = jax.device_put(rows[1])
    for start in range(0, n, size):
        start = min(start, n - size)  # the last tile goes back over some: one program
        few = pairs[slice(*np.searchsorted(pairs[:, 0], (start, start + size)))]
        right = np.zeros((size, m), bool)
        right[few[:, 0] - start, few[:, 1]] = True
        few_queries, right = jax.device_put((rows[0][start : start + size], right))
        rank[start : start + size] = jax.device_get(_ranks_in_tile(few_queries, on_device, right))
    return _recall(rank, np.bincount(pairs[:, 0]), m, k)


def recall_at_k(
    a: jax.typing.ArrayLike,
    b: jax.typing.ArrayLike,
    ids: jax.typing.ArrayLike | None = None,
    b_ids: jax.typing.ArrayLike | None = None,
    *,
    ks: Sequence[int] = (1, 5, 10),
    names: tuple[str, str] = ("a", "b"),
) -> dict[str, float]:
    """Recall@k both ways between two views, as metrics.

    Args:
      a: [n, d] embeddings of one view.
      b: [m, d] embeddings of the other.
      ids: [n] int, the same id = right, -1 = absent; None = row i of `a` belongs to row i of `b`.
      b_ids: [m]; None = `ids`.
      ks: the cut-offs.
      names: the views' names, for the keys.

    Returns:
      {"a_to_b/recall_1": share, "a_to_b/recall_1_se": its standard error, "chance/a_to_b/recall_1": a random ranking's
      expected share, "a_to_b/median_rank": of the first right key, "a_to_b/n": queries counted}, for each k, and the
      same from b to a.

    Raises:
      InputError: as `recall_at`.

    Example:
      >>> scores = recall_at_k(np.eye(2), np.eye(2), ks=(1,))
      >>> scores["a_to_b/recall_1"], scores["chance/a_to_b/recall_1"]
      (1.0, 0.5)
    """
    ids = np.arange(np.shape(a)[0]) if ids is None else ids
    b_ids = ids if b_ids is None else b_ids
    return _both_ways(recall_at(a, b, ids, b_ids, ks), recall_at(b, a, b_ids, ids, ks), names)


def _both_ways(a_to_b: Recall, b_to_a: Recall, names: tuple[str, str]) -> dict[str, float]:
    out: dict[str, float] = {}
    for way, found in ((f"{names[0]}_to_{names[1]}", a_to_b), (f"{names[1]}_to_{names[0]}", b_to_a)):
        for k, value in found.recall.items():
            out[f"{way}/recall_{k}"] = value
            out[f"{way}/recall_{k}_se"] = found.standard_error[k]
            out[f"chance/{way}/recall_{k}"] = found.chance[k]
        out |= {f"{way}/median_rank": found.median_rank, f"{way}/n": found.n}
    return out


def retrieval(
    a: Splits,
    b: Splits,
    *,
    ks: Sequence[int] = (1, 5),
    unique: bool = True,
    names: tuple[str, str] = ("a", "b"),
    items: tuple[np.ndarray, np.ndarray] | None = None,
) -> Result:
    """Recall@k both ways between two views of the test rows: `a_to_b/recall_<k>`; row i of a belongs to row i of b.

    Args:
      a, b: [n, d] of each split; only the test rows are read.
      ks: the cut-offs.
      unique: a caption, or a picture, that stands in several rows counts once (`recall_of_items`); else each row is an
        item of its own, and a key that equals the right one is wrong.
      names: of the views.
      items: [n] int of each view, equal where the rows' inputs are; None: each row is an item of its own.
    """
    if items is None or not unique:
        found = recall_at_k(a.test, b.test, ks=ks, names=names)
    else:
        back = items[::-1]
        ways = recall_of_items(a.test, b.test, *items, ks), recall_of_items(b.test, a.test, *back, ks)
        found = _both_ways(*ways, names)
    chance = {name: value for name, value in found.items() if name.startswith("chance/")}
    return Result({name: value for name, value in found.items() if name not in chance}, once=chance)
