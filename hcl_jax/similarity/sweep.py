"""Every tile of a similarity matrix once, and nothing larger than a tile in memory.

A fold looks at one tile, the block x_i against the block y_j, and adds to what is kept of the rows of either side. Rows
compared with each other make a symmetric matrix: a tile above the diagonal then adds to both of its sides, and the tile
below is never formed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from hcl_jax.errors import InputError
from hcl_jax.similarity.tiles import IGNORED

LARGEST_TILE = 1024  # 4 MiB of float32: larger tiles were no faster on two cores, smaller ones slower


class Rows(NamedTuple):
    """Rows of a matrix's side: features [R, D], ids [R], and what a fold reads besides, [R, ...] each."""

    rows: Array
    ids: Array
    extra: Any = None


# fold(shared, x, y, state of x, state of y or None, diagonal) -> (state of x, state of y)
Fold = Callable[[Any, Rows, Rows, Any, Any, bool], tuple[Any, Any]]


def tile_of(rows: int, tile: int | None, where: str, most: int = LARGEST_TILE) -> int:
    """Rows of a block: `tile`, or the largest equal share of at most `most` (a multiple of 8, the last one filled up).

    Raises:
      InputError: a tile that does not divide the rows.
    """
    if tile is None:
        blocks = -(-rows // most)
        share = -(-rows // max(blocks, 1))
        return max(-(-share // 8) * 8, 8)
    if rows % tile:
        raise InputError("tile", f"{tile} for {rows} rows of {where}", "a divisor of the rows that a device holds")
    return tile


def sweep(
    fold: Fold, shared: Any, x: Rows, y: Rows | None, x_state: Any, y_state: Any, tile: int | None
) -> tuple[Any, Any]:
    """Folds every tile of x against y; with y None the tiles of x against x on and above the diagonal.

    Args:
      fold: see above; with `diagonal` a row of the tile meets itself at the same place of the other side.
      shared: what every fold reads.
      x, y: the sides.
      x_state, y_state: pytrees of arrays [R, ...] that the fold adds to. y_state None: only the rows of x are kept.
      tile: rows of a block, or None.

    Returns:
      (x_state, y_state) after the last tile.
    """
    like = x.rows if y is None else x.rows[:1] + y.rows[:1]
    x_state, y_state = _varying((x_state, y_state), like)
    size = tile_of(x.ids.shape[0], tile, "query")
    xs, state = _cut(x, size), _cut_state(x_state, size)
    blocks = xs.ids.shape[0]
    if y is None:

        def itself(i: Array, state: Any) -> Any:
            x_i = _pick(xs, i)
            return _put(state, i, fold(shared, x_i, x_i, _pick(state, i), None, True)[0])

        def against_later(i: Array, state: Any) -> Any:
            x_i = _pick(xs, i)

            def pair(j: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
                mine, state = carry
                mine, theirs = fold(shared, x_i, _pick(xs, j), mine, _pick(state, j), False)
                return mine, _put(state, j, theirs)

            mine, state = lax.fori_loop(i + 1, blocks, pair, (_pick(state, i), state))
            return _put(state, i, mine)

        # The diagonal first: then every row has seen a logit.
        state = lax.fori_loop(0, blocks, itself, state)
        return _join(lax.fori_loop(0, blocks, against_later, state), x_state), y_state

    # Few rows meet longer blocks of keys: the area is what fills the units.
    y_size = tile_of(y.ids.shape[0], tile, "key", most=max(LARGEST_TILE, LARGEST_TILE**2 // size))
    ys, others = _cut(y, y_size), _cut_state(y_state, y_size)

    def against_all(i: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        state, others = carry
        x_i = _pick(xs, i)

        def pair(j: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            mine, others = carry
            theirs = None if others is None else _pick(others, j)
            mine, theirs = fold(shared, x_i, _pick(ys, j), mine, theirs, False)
            return mine, None if others is None else _put(others, j, theirs)

        mine, others = lax.fori_loop(0, ys.ids.shape[0], pair, (_pick(state, i), others))
        return _put(state, i, mine), others

    state, others = lax.fori_loop(0, blocks, against_all, (state, others))
    return _join(state, x_state), _join(others, y_state)


def _cut(side: Rows, size: int) -> Rows:
    """[R, ...] -> [blocks, size, ...]; rows that fill up the last block are ignored ones."""
    return Rows(_fill(side.rows, size, 0), _fill(side.ids, size, IGNORED), _cut_state(side.extra, size))


def _cut_state(state: Any, size: int) -> Any:
    return jax.tree.map(lambda a: _fill(a, size, 0), state)


def _varying(state: Any, like: Array) -> Any:
    """Inside a user's shard_map: zeros to start from differ over the same axes as the rows do."""

    # A choice between equals is nothing to the compiler, and has the type of what it depends on.
    either = like.ravel()[0] > 0
    return jax.tree.map(lambda a: jnp.where(either, a, a), state)


def _fill(a: Array, size: int, value: int) -> Array:
    missing = -a.shape[0] % size
    if missing:
        a = jnp.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1), constant_values=value)
    return a.reshape(-1, size, *a.shape[1:])


def _join(cut: Any, like: Any) -> Any:
    return jax.tree.map(lambda a, b: a.reshape(-1, *a.shape[2:])[: b.shape[0]], cut, like)


def _pick(tree: Any, i: Array) -> Any:
    return jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, i, keepdims=False), tree)


def _put(tree: Any, i: Array, values: Any) -> Any:
    return jax.tree.map(lambda a, b: lax.dynamic_update_index_in_dim(a, b, i, 0), tree, values)
