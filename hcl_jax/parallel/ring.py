"""A sweep over a mesh: every device keeps its rows, and blocks of the other side go round the ring.

With n devices of R rows, D features:

  x against y    n - 1 hops; y's rows travel, and where y has a state its share is carried on with them, and home
  x against x    a pair of devices meets once: (n - 1) // 2 hops in which a tile adds to both sides, and with n even
                 one more in which both devices of a pair have each other's rows and each adds to its own

A block is sent on before the tiles of the block in hand are formed, and a state arrives while they are: both hops hide
behind the products where the hardware can send and compute at once. Memory: two visiting blocks, for any n.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from hcl_jax.parallel.sweep import Fold, Rows, sweep
from hcl_jax.parallel.tiles import IGNORED


def ring_sweep(
    mesh: jax.sharding.Mesh,
    axes: tuple[str, ...],
    fold: Fold,
    shared: Any,
    x: Rows,
    y: Rows | None,
    x_state: Any,
    y_state: Any,
    merge: Any,
    tile: int | None,
) -> tuple[Any, Any]:
    """`sweep.sweep` of global arrays whose rows lie on the mesh.

    Args:
      mesh: where the rows are.
      axes: its axes that split the rows; over the others they are copies.
      fold, shared, x, y, x_state, y_state: as in `sweep`; y_state is the one before any tile, and nothing for `merge`.
      merge: (state, state) -> state of the same rows after the tiles of both.
      tile: rows of a block, or None.

    Returns:
      (x_state, y_state) after the last tile, rows where they were.
    """
    ways = math.prod(mesh.shape[axis] for axis in axes)
    if ways == 1:
        return sweep(fold, shared, x, y, x_state, y_state, tile)
    sizes = x.ids.shape[0], None if y is None else y.ids.shape[0]
    x, x_state = _even(x, x_state, ways)
    if y is not None:
        y, y_state = _even(y, y_state, ways)
    by_rows = PartitionSpec(axes)
    local = functools.partial(_on_a_device, axes, ways, fold, merge, tile)
    out = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(), by_rows, by_rows, by_rows, by_rows),
        out_specs=(by_rows, by_rows),
        # Nothing is differentiated through it: gradients are sweeps of their own.
        check_vma=False,
    )(shared, x, y, x_state, y_state)
    return _first(out[0], sizes[0]), _first(out[1], sizes[1])


def _first(state: Any, rows: int | None) -> Any:
    return jax.tree.map(lambda a: a if a.shape[0] == rows else a[:rows], state)


def _even(side: Rows, state: Any, ways: int) -> tuple[Rows, Any]:
    """Rows that every device has as many of, filled up with ignored ones."""
    missing = -side.ids.shape[0] % ways
    if not missing:
        return side, state

    def fill(mode: str, a: jax.Array) -> jax.Array:
        return jnp.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1), mode=mode)

    rows, extra = jax.tree.map(functools.partial(fill, "constant"), (side.rows, side.extra))
    ids = jnp.pad(side.ids, (0, missing), constant_values=IGNORED)
    # A device's start is a visitor's start too, so the rows that fill up start as every other one.
    return Rows(rows, ids, extra), jax.tree.map(functools.partial(fill, "edge"), state)


def _on_a_device(
    axes: tuple[str, ...],
    ways: int,
    fold: Fold,
    merge: Any,
    tile: int | None,
    shared: Any,
    x: Rows,
    y: Rows | None,
    x_state: Any,
    y_state: Any,
) -> tuple[Any, Any]:
    def sent(tree: Any, hops: int = 1) -> Any:
        to = [(i, (i + hops) % ways) for i in range(ways)]
        return _together(lambda a: lax.ppermute(a, axes, to), tree)

    def tiles(visitor: Rows, x_state: Any, visitor_state: Any) -> tuple[Any, Any]:
        return sweep(fold, shared, x, visitor, x_state, visitor_state, tile)

    if y is None:
        nothing, block, hops, one_sided = x_state, x, (ways - 1) // 2, ways % 2 == 0
        x_state, own = sweep(fold, shared, x, None, x_state, None, tile)
    else:
        nothing, block, hops, one_sided = y_state, y, ways - 1, False
        x_state, own = tiles(y, x_state, y_state)

    def hop(_: Any, carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        visitor, x_state, carried = carry
        following, arrived = sent((visitor, carried))
        x_state, added = tiles(visitor, x_state, nothing)
        return following, x_state, None if added is None else merge(arrived, added)

    visitor = sent(block)
    if hops:
        # The first visitor brings no state, and the last one is sent on only if it is needed once more.
        following = sent(visitor) if hops > 1 or one_sided else visitor
        x_state, carried = tiles(visitor, x_state, nothing)
        carry = following, x_state, carried
        if one_sided:
            visitor, x_state, carried = lax.fori_loop(1, hops, hop, carry)
        elif hops > 1:
            visitor, x_state, carried = lax.fori_loop(1, hops - 1, hop, carry)
            arrived = sent(carried)
            x_state, added = tiles(visitor, x_state, nothing)
            carried = None if added is None else merge(arrived, added)
        carried = sent(carried, -hops)
        if y is None:
            x_state = merge(x_state, carried)
        elif own is not None:
            own = merge(own, carried)
    if one_sided:
        x_state, _ = tiles(visitor, x_state, None)
    return x_state, own


def _together(send: Callable[[jax.Array], jax.Array], tree: Any) -> Any:
    """Sends the arrays [R, ...] of a tree, those of one dtype side by side in one message: a hop has one latency."""
    leaves, form = jax.tree.flatten(tree)
    for dtype in {a.dtype for a in leaves}:
        places = [i for i, a in enumerate(leaves) if a.dtype == dtype]
        flat = [leaves[i].reshape(leaves[i].shape[0], -1) for i in places]
        ends = np.cumsum([a.shape[1] for a in flat])[:-1]
        parts = jnp.split(send(jnp.concatenate(flat, axis=1)), ends, axis=1)
        for i, part in zip(places, parts, strict=True):
            leaves[i] = part.reshape(leaves[i].shape)
    return jax.tree.unflatten(form, leaves)
