"""The tile loop over a mesh as a ring: every device keeps its rows, and blocks of the other side go round.

With n devices of R rows, D features:

  x against y    n - 1 hops; y's rows travel, and where y has a state its share is carried on with them, and home
  x against x    a pair of devices meets once: (n - 1) // 2 hops in which a tile adds to both sides, and with n even
                 one more in which both devices of a pair have each other's rows and each adds to its own

A block is sent on before the tiles of the block in hand are formed, and a state arrives while they are: both hops hide
behind the products where the hardware can send and compute at once. Memory: two visiting blocks, for any n.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hcl_jax.similarity.shards import Loop
from hcl_jax.similarity.tiles import Side, over_tiles


def ring_tiles(loop: Loop, shared: Any, x: Side, y: Side | None, x_state: Any, y_state: Any) -> tuple[Any, Any]:
    """`over_tiles` of a device's rows with those of all (see shards.over_shards)."""
    axes, num_shards, kernel, tile, merge = loop

    def send(tree: Any, hops: int = 1) -> Any:
        to = [(i, (i + hops) % num_shards) for i in range(num_shards)]
        return _in_one_message(lambda a: lax.ppermute(a, axes, to), tree)

    def tiles(visitor: Side, x_state: Any, visitor_state: Any) -> tuple[Any, Any]:
        return over_tiles(kernel, shared, x, visitor, x_state, visitor_state, tile)

    if y is None:
        nothing, block, hops, one_sided = x_state, x, (num_shards - 1) // 2, num_shards % 2 == 0
        x_state, own = over_tiles(kernel, shared, x, None, x_state, None, tile)
    else:
        nothing, block, hops, one_sided = y_state, y, num_shards - 1, False
        x_state, own = tiles(y, x_state, y_state)

    def hop(_: Any, carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        visitor, x_state, carried = carry
        following, arrived = send((visitor, carried))
        x_state, added = tiles(visitor, x_state, nothing)
        return following, x_state, None if added is None else merge(arrived, added)

    visitor = send(block)
    if hops:
        # The first visitor brings no state, and the last one is sent on only if it is needed once more.
        following = send(visitor) if hops > 1 or one_sided else visitor
        x_state, carried = tiles(visitor, x_state, nothing)
        carry = following, x_state, carried
        if one_sided:
            visitor, x_state, carried = lax.fori_loop(1, hops, hop, carry)
        elif hops > 1:
            visitor, x_state, carried = lax.fori_loop(1, hops - 1, hop, carry)
            arrived = send(carried)
            x_state, added = tiles(visitor, x_state, nothing)
            carried = None if added is None else merge(arrived, added)
        carried = send(carried, -hops)
        if y is None:
            x_state = merge(x_state, carried)
        elif own is not None:
            own = merge(own, carried)
    if one_sided:
        x_state, _ = tiles(visitor, x_state, None)
    return x_state, own


def _in_one_message(send: Callable[[jax.Array], jax.Array], tree: Any) -> Any:
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
