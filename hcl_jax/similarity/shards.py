"""The tile loop over the rows of a mesh: split evenly, and on each device the tiles of its own rows."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from hcl_jax.similarity.tiles import IGNORED, Kernel, Side, over_tiles


class Loop(NamedTuple):
    """What is the same on every device.

    Attributes:
      axes: of the mesh, that split the rows.
      num_shards: devices along them.
      kernel, tile: as in `tiles.over_tiles`.
      merge: (state, state) -> state of the same rows after the tiles of both.
    """

    axes: tuple[str, ...]
    num_shards: int
    kernel: Kernel
    tile: int | None
    merge: Any


# local(loop, shared, x, y, x_state, y_state) -> (x_state, y_state), all of one device's rows
Local = Callable[[Loop, Any, Side, Side | None, Any, Any], tuple[Any, Any]]


def over_shards(
    local: Local,
    mesh: jax.sharding.Mesh,
    axes: tuple[str, ...],
    kernel: Kernel,
    shared: Any,
    x: Side,
    y: Side | None,
    x_state: Any,
    y_state: Any,
    merge: Any,
    tile: int | None,
) -> tuple[Any, Any]:
    """`over_tiles` of global arrays whose rows lie on the mesh.

    Args:
      local: see above.
      mesh: where the rows are.
      axes: its axes that split the rows; over the others they are copies.
      kernel, shared, x, y, x_state, y_state: as in `over_tiles`; y_state is the one before any tile, and the neutral
        element of `merge`.
      merge: (state, state) -> state of the same rows after the tiles of both.
      tile: rows of a block, or None.

    Returns:
      (x_state, y_state) after the last tile, rows where they were.
    """
    num_shards = math.prod(mesh.shape[axis] for axis in axes)
    if num_shards == 1:
        return over_tiles(kernel, shared, x, y, x_state, y_state, tile)
    sizes = x.ids.shape[0], None if y is None else y.ids.shape[0]
    x, x_state = _even(x, x_state, num_shards)
    if y is not None:
        y, y_state = _even(y, y_state, num_shards)
    by_rows = PartitionSpec(axes)
    out = jax.shard_map(
        functools.partial(local, Loop(axes, num_shards, kernel, tile, merge)),
        mesh=mesh,
        in_specs=(PartitionSpec(), by_rows, by_rows, by_rows, by_rows),
        out_specs=(by_rows, by_rows),
        # Nothing is differentiated through it: gradients are tile loops of their own.
        check_vma=False,
    )(shared, x, y, x_state, y_state)
    return _first(out[0], sizes[0]), _first(out[1], sizes[1])


def _first(state: Any, rows: int | None) -> Any:
    return jax.tree.map(lambda a: a if a.shape[0] == rows else a[:rows], state)


def _even(side: Side, state: Any, num_shards: int) -> tuple[Side, Any]:
    """As many rows on every device, filled up with ignored ones."""
    missing = -side.ids.shape[0] % num_shards
    if not missing:
        return side, state

    def fill(mode: str, a: jax.Array) -> jax.Array:
        return jnp.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1), mode=mode)

    rows, extra = jax.tree.map(functools.partial(fill, "constant"), (side.rows, side.extra))
    ids = jnp.pad(side.ids, (0, missing), constant_values=IGNORED)
    # A device's start is a visitor's start too, so the rows that fill up start as every other one.
    return Side(rows, ids, extra), jax.tree.map(functools.partial(fill, "edge"), state)
