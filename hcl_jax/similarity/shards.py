"""A sweep over the rows of a mesh: split evenly, and on each device what a function of its own rows makes."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from hcl_jax.similarity.sweep import Fold, Rows, sweep
from hcl_jax.similarity.tiles import IGNORED


class Sweep(NamedTuple):
    """What is the same on every device.

    Attributes:
      axes: of the mesh, that split the rows.
      ways: devices along them.
      fold, tile: as in `sweep.sweep`.
      merge: (state, state) -> state of the same rows after the tiles of both.
    """

    axes: tuple[str, ...]
    ways: int
    fold: Fold
    tile: int | None
    merge: Any


# local(what, shared, x, y, x_state, y_state) -> (x_state, y_state), all of one device's rows
Local = Callable[[Sweep, Any, Rows, Rows | None, Any, Any], tuple[Any, Any]]


def over_shards(
    local: Local,
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
      local: see above.
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
    bound = functools.partial(local, Sweep(axes, ways, fold, tile, merge))
    out = jax.shard_map(
        bound,
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
