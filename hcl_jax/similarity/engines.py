"""Similarity engines: reductions over the rows of a query x key similarity matrix, by integer ids.

A loss that compares every row with every other one needs sums over rows of an N x N matrix, never the matrix itself. An
engine computes those sums; the losses call its methods and know neither tiles nor devices. Every engine is a frozen,
hashable value (static under jit) with these methods; `Dense` has their equations:

  softmax_rows    log-sum-exp, sum and number of the positive logits of each query row   (differentiable)
  softmax_both    the same of the rows and of the columns of one matrix                  (differentiable)
  sigmoid_rows    sum over keys of the logistic loss                                     (differentiable)
  best_rows       largest positive and largest negative logit                            (not differentiable)
  negatives_from  how many negatives reach a number of the row                           (not differentiable)
  nearest         the k keys with the largest logits                                     (not differentiable)

Ids say who is positive with whom: query i and key j are positive when `query_ids[i] == key_ids[j]`; an id of -1 takes
the row out, as query and as key. Without keys the query rows are compared with each other, none with itself.
Temperature and scale belong to the caller: multiply the query by them (rows compared with each other: by their square
root), so that their gradients need no code here. Two sets of keys (a batch and a queue) are two calls and one
`jnp.logaddexp` of the two `lse`.

Legend: R query rows, K key rows, D features.
"""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.sharding import AxisType

from hcl_jax.errors import InputError
from hcl_jax.parallel.mesh import BATCH_AXES
from hcl_jax.similarity.dense import Dense
from hcl_jax.similarity.tiled import Tiled
from hcl_jax.similarity.tiles import IGNORED, LARGEST_TILE, PRECISIONS, BestRows, Nearest, Over, SoftmaxRows

__all__ = [
    "DEFAULT",
    "ENGINES",
    "IGNORED",
    "Auto",
    "BestRows",
    "Dense",
    "Engine",
    "Nearest",
    "Over",
    "SoftmaxRows",
    "Tiled",
    "auto",
    "dense",
    "gathered",
    "ring",
    "streamed",
]


@dataclasses.dataclass(frozen=True)
class Auto:
    """The engine that chooses between the others by bytes, for each call by its shapes; logs which at trace time."""

    mesh: jax.sharding.Mesh | None
    axes: tuple[str, ...]
    limit_bytes: int
    precision: str
    told: bool = True

    def chosen(self, rows: int, keys: int, features: int, itemsize: int) -> "Dense | Tiled":
        """Dense where four R x K matrices of a device are within the limit, else streamed on one device; on a mesh
        gathered where a device has few rows, and all keys and as much for their gradients are within four times the
        limit; else ring. Dense too where no mesh is named and there are several devices."""
        num_shards = 1 if self.mesh is None else math.prod(self.mesh.shape[axis] for axis in self.axes)
        own = -(-rows // num_shards)
        needed = 4 * own * keys * itemsize
        engine: Dense | Tiled
        if needed <= self.limit_bytes:
            name, engine = "dense", Dense(self.precision)
        elif not self.told and jax.device_count() > 1:
            # Tiles without a mesh would be computed on every device; of the whole matrix the compiler splits the rows.
            name, engine = "dense, as no mesh is named", Dense(self.precision)
        elif num_shards == 1:
            name, engine = "streamed", Tiled(None, self.precision)
        elif own < LARGEST_TILE and 2 * keys * features * itemsize <= 4 * self.limit_bytes:
            name, engine = f"gathered over {num_shards}", Tiled(None, self.precision, self.mesh, self.axes, gather=True)
        else:
            name, engine = f"ring over {num_shards}", Tiled(None, self.precision, self.mesh, self.axes)
        limit = self.limit_bytes / 2**20
        size = f"{needed / 2**20:.1f} MiB a device if dense (limit {limit:.1f})"
        _log_once(
            logging.DEBUG if name.startswith("dense") else logging.INFO,
            f"engine auto: {rows} x {keys} similarities, {size}: {name}",
        )
        return engine

    def _for(self, query: Array, key: Array | None) -> "Dense | Tiled":
        return self.chosen(
            query.shape[0], (query if key is None else key).shape[0], query.shape[1], query.dtype.itemsize
        )

    def softmax_rows(self, query: Array, key: Array | None = None, **more: Any) -> SoftmaxRows:
        """See `Dense.softmax_rows`."""
        return self._for(query, key).softmax_rows(query, key, **more)

    def softmax_both(self, a: Array, b: Array, **more: Any) -> tuple[SoftmaxRows, SoftmaxRows]:
        """See `Dense.softmax_both`."""
        return self._for(a, b).softmax_both(a, b, **more)

    def sigmoid_rows(self, query: Array, key: Array, **more: Any) -> Array:
        """See `Dense.sigmoid_rows`."""
        return self._for(query, key).sigmoid_rows(query, key, **more)

    def best_rows(self, query: Array, key: Array | None = None, **more: Any) -> BestRows:
        """See `Dense.best_rows`."""
        return self._for(query, key).best_rows(query, key, **more)

    def negatives_from(self, query: Array, key: Array, **more: Any) -> Array:
        """See `Dense.negatives_from`."""
        return self._for(query, key).negatives_from(query, key, **more)

    def nearest(self, query: Array, key: Array | None = None, **more: Any) -> Nearest:
        """See `Dense.nearest`."""
        return self._for(query, key).nearest(query, key, **more)


@functools.cache
def _log_once(level: int, line: str) -> None:
    """Logs a line once: a step is traced several times."""
    logging.getLogger(__name__).log(level, line)


Engine = Dense | Tiled | Auto  # what a loss takes
# Of every loss: auto where there is one device, else dense. Above 2,048 rows auto has first derivatives alone.
DEFAULT = Auto(None, (), 2**26, "highest", told=False)


def dense(precision: str = "highest") -> Dense:
    """The engine that forms the whole matrix.

    Args:
      precision: of the similarity products, as jax takes it. "highest" is float32 on every device; "default" is
        bfloat16 products on TPU and TF32 on recent GPUs, faster, and wrong in the third digit of a logit; "bfloat16"
        rounds the factors on every device and adds up in float32.

    Returns:
      An engine, hashable and static under jit.

    Raises:
      InputError: an unknown precision.

    Example:
      >>> x, ids = jnp.eye(2), jnp.array([0, 1])
      >>> sums = dense().softmax_rows(x, query_ids=ids)
      >>> print(sums.lse)  # the only other row is at a right angle
      [0. 0.]
    """
    return Dense(_precision(precision))


def streamed(tile: int | None = None, precision: str = "highest") -> Tiled:
    """The engine that forms the matrix tile by tile, each tile once; for one device.

    Rows on a mesh give the same number, but every device then does all the work: use `ring` there.

    Args:
      tile: rows of a block; it must divide the rows. None: at most 1,024, blocks filled up.
      precision: see `dense`.

    Returns:
      An engine, hashable and static under jit.

    Raises:
      InputError: a tile below 1, an unknown precision.

    Example:
      >>> x, ids = jnp.eye(2), jnp.array([0, 1])
      >>> sums = streamed().softmax_rows(x, query_ids=ids)
      >>> print(sums.lse)  # the only other row is at a right angle
      [0. 0.]
    """
    return Tiled(_tile(tile), _precision(precision))


def ring(
    mesh: jax.sharding.Mesh,
    axes: str | tuple[str, ...] | None = None,
    tile: int | None = None,
    precision: str = "highest",
) -> Tiled:
    """The engine of tiles on a mesh: each device holds its rows and at most two visiting blocks.

    Args:
      mesh: where the rows are.
      axes: its axes that split the rows. None: those of "data" and "fsdp" that it has, else its first.
      tile: rows of a block; it must divide the rows of a device. None: at most 1,024, blocks filled up.
      precision: see `dense`.

    Returns:
      An engine, hashable and static under jit.

    Raises:
      InputError: an axis that the mesh lacks, a tile below 1, an unknown precision.

    Example:
      >>> x, ids = jnp.eye(2), jnp.array([0, 1])
      >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
      >>> sums = ring(mesh).softmax_rows(x, query_ids=ids)
      >>> print(sums.lse)  # the only other row is at a right angle
      [0. 0.]
    """
    return Tiled(_tile(tile), _precision(precision), mesh, _axes(mesh, axes))


def gathered(
    mesh: jax.sharding.Mesh,
    axes: str | tuple[str, ...] | None = None,
    tile: int | None = None,
    precision: str = "highest",
) -> Tiled:
    """The engine of tiles on a mesh where each device gathers all keys at once: no hops, and memory for all of them.

    Args and errors: see `ring`; a tile must also divide all keys.

    Example:
      >>> x, ids = jnp.eye(2), jnp.array([0, 1])
      >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
      >>> sums = gathered(mesh).softmax_rows(x, query_ids=ids)
      >>> print(sums.lse)  # the only other row is at a right angle
      [0. 0.]
    """
    return dataclasses.replace(ring(mesh, axes, tile, precision), gather=True)


def auto(
    mesh: jax.sharding.Mesh | None = None,
    axes: str | tuple[str, ...] | None = None,
    limit_bytes: int = 2**26,
    precision: str = "highest",
) -> Auto:
    """The engine that chooses by bytes: dense within the limit; else gathered or ring on a mesh, or streamed.

    Args:
      mesh: where the rows are; None: one device. Without it rows on a mesh are all computed on every device.
      axes: as in `ring`.
      limit_bytes: what four R x K matrices may take on a device; 64 MiB are 2,048 rows against each other, from where
        on tiles were twice as fast as the whole on two CPU cores.
      precision: see `dense`.

    Returns:
      An engine, hashable and static under jit. Its choices go to the log `hcl_jax.similarity`. Above the limit it has
      first derivatives alone, in reverse: `dense` is the one for `jax.jvp` and for a gradient of a gradient.

    Raises:
      InputError: an axis that the mesh lacks, a limit below 0, an unknown precision.

    Example:
      >>> type(auto(limit_bytes=0).chosen(rows=2048, keys=2048, features=128, itemsize=4)).__name__  # streamed
      'Tiled'
      >>> auto().chosen(rows=2048, keys=2048, features=128, itemsize=4)  # 64 MiB: the whole
      Dense(precision='highest')
    """
    if limit_bytes < 0:
        raise InputError("limit_bytes", limit_bytes, "a number of bytes from 0")
    return Auto(mesh, () if mesh is None else _axes(mesh, axes), int(limit_bytes), _precision(precision))


# How a config names them: (mesh, limit_bytes) -> engine over the axes of the mesh that split a batch.
ENGINES: dict[str, Callable[[Any, int], Engine]] = {
    "auto": lambda mesh, limit_bytes: auto(mesh, limit_bytes=limit_bytes),
    "dense": lambda mesh, limit_bytes: dense(),
    "streamed": lambda mesh, limit_bytes: streamed(),
    "ring": lambda mesh, limit_bytes: ring(mesh),
    "gathered": lambda mesh, limit_bytes: gathered(mesh),
}


def _axes(mesh: jax.sharding.Mesh, axes: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The axes as a tuple; None: those of data and fsdp that the mesh has, else its first. Refuses what is no ring."""
    if axes is None:
        axes = tuple(axis for axis in BATCH_AXES if axis in mesh.shape) or tuple(mesh.shape)[:1]
    axes = (axes,) if isinstance(axes, str) else tuple(axes)
    for axis in axes:
        if axis not in mesh.shape:
            raise InputError("axes", repr(axis), f"axes of the mesh: {', '.join(mesh.shape)}")
    if any(kind != AxisType.Auto for kind in mesh.axis_types):
        raise InputError("mesh", "axes of type Explicit or Manual", "axis_types=(jax.sharding.AxisType.Auto, ...)")
    return axes


def _precision(precision: str) -> str:
    if precision not in PRECISIONS:
        raise InputError("precision", repr(precision), ", ".join(PRECISIONS))
    return precision


def _tile(tile: int | None) -> int | None:
    if tile is not None and (isinstance(tile, bool) or not isinstance(tile, int) or tile < 1):
        raise InputError("tile", repr(tile), "a number of rows from 1, or None")
    return tile
