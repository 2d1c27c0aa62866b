"""The tile loop over a mesh after one all-gather: every device has all rows of the other side against its own.

Against the ring it has one message in place of n - 1 hops, and tiles as large as it likes: with few rows a device a
ring's tiles are too small to fill one. It holds what a ring never does, all rows of the other side, and where those
have a state, that of all. Rows compared with each other: each pair is formed on both of its devices, and no state has
to be sent home.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from hcl_jax.similarity.shards import Loop
from hcl_jax.similarity.tiles import IGNORED, Side, over_tiles


def gathered_tiles(loop: Loop, shared: Any, x: Side, y: Side | None, x_state: Any, y_state: Any) -> tuple[Any, Any]:
    """`over_tiles` of a device's rows with those of all (see shards.over_shards)."""

    def gather(tree: Any) -> Any:
        return jax.tree.map(lambda a: lax.all_gather(a, loop.axes, tiled=True), tree)

    def tiles(y: Side | None, x_state: Any, y_state: Any) -> tuple[Any, Any]:
        return over_tiles(loop.kernel, shared, x, y, x_state, y_state, loop.tile)

    if y is None:
        x_state, _ = tiles(None, x_state, None)
        others, first = gather(x), lax.axis_index(loop.axes) * x.ids.size
        ids = lax.dynamic_update_slice(others.ids, jnp.full_like(x.ids, IGNORED), (first,))
        return tiles(others._replace(ids=ids), x_state, None)
    x_state, added = tiles(gather(y), x_state, gather(y_state))
    return x_state, None if y_state is None else _reduce_scatter(loop, added, y.ids.size)


def _reduce_scatter(loop: Loop, state: Any, rows: int) -> Any:
    """What all devices added to this one's rows, merged in pairs: a reduce-scatter with `merge` for the sum."""

    def from_each(a: jax.Array) -> jax.Array:
        return lax.all_to_all(a.reshape(loop.num_shards, rows, *a.shape[1:]), loop.axes, 0, 0)

    state = jax.tree.map(from_each, state)
    while (count := jax.tree.leaves(state)[0].shape[0]) > 1:
        half = count // 2
        merged = loop.merge(_between(state, 0, half), _between(state, half, 2 * half))
        odd = _between(state, 2 * half, count)
        state = jax.tree.map(lambda m, o: jnp.concatenate([m, o]), merged, odd)
    return jax.tree.map(lambda v: v[0], state)


def _between(tree: Any, start: int, stop: int) -> Any:
    return jax.tree.map(lambda v: v[start:stop], tree)
