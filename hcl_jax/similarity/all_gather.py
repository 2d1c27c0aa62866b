"""A sweep over a mesh: every device gathers all rows of the other side, and sweeps its own rows against them.

Against the ring it has one message in place of n - 1 hops, and tiles as large as it likes: with few rows a device a
ring's tiles are too small to fill one. It holds what a ring never does, all rows of the other side, and where those
have a state, that of all. Rows compared with each other: each pair is formed on both of its devices, and nothing has to
be sent home.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from hcl_jax.similarity.shards import Sweep
from hcl_jax.similarity.sweep import Rows, sweep
from hcl_jax.similarity.tiles import IGNORED


def at_once(what: Sweep, shared: Any, x: Rows, y: Rows | None, x_state: Any, y_state: Any) -> tuple[Any, Any]:
    """`sweep` of a device's rows with those of all (see shards.over_shards)."""

    def every(tree: Any) -> Any:
        return jax.tree.map(lambda a: lax.all_gather(a, what.axes, tiled=True), tree)

    def tiles(y: Rows | None, x_state: Any, y_state: Any) -> tuple[Any, Any]:
        return sweep(what.fold, shared, x, y, x_state, y_state, what.tile)

    if y is None:
        x_state, _ = tiles(None, x_state, None)
        others, first = every(x), lax.axis_index(what.axes) * x.ids.size
        ids = lax.dynamic_update_slice(others.ids, jnp.full_like(x.ids, IGNORED), (first,))
        return tiles(others._replace(ids=ids), x_state, None)
    x_state, added = tiles(every(y), x_state, every(y_state))
    return x_state, None if y_state is None else _home(what, added, y.ids.size)


def _home(what: Sweep, state: Any, rows: int) -> Any:
    """What all devices added to this one's rows, merged in pairs."""

    def parts(a: jax.Array) -> jax.Array:
        return lax.all_to_all(a.reshape(what.ways, rows, *a.shape[1:]), what.axes, 0, 0)

    state = jax.tree.map(parts, state)
    while (count := jax.tree.leaves(state)[0].shape[0]) > 1:
        half = count // 2
        merged = what.merge(_between(state, 0, half), _between(state, half, 2 * half))
        odd = _between(state, 2 * half, count)
        state = jax.tree.map(lambda m, o: jnp.concatenate([m, o]), merged, odd)
    return jax.tree.map(lambda v: v[0], state)


def _between(tree: Any, start: int, stop: int) -> Any:
    return jax.tree.map(lambda v: v[start:stop], tree)
