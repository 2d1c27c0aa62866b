"""The tiles of a similarity matrix: what is in one, and the loop that forms each once and holds nothing larger.

A kernel looks at one tile, the block x_i against the block y_j, and adds to the running sums of the rows of either side
(kernels.py). Rows compared with each other make a symmetric matrix: a tile above the diagonal then adds to both of its
sides, and the tile below is never formed.

Legend: R query rows, K key rows, D features, B rows of a block.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Integer

from hcl_jax.errors import InputError

IGNORED = -1  # the id of a row that is neither query nor key

PRECISIONS = ("highest", "high", "default", "bfloat16")

LARGEST_TILE = 1024  # 4 MiB of float32: larger tiles were no faster on two cores, smaller ones slower

Over = Literal["all", "negatives", "positives"]


class SoftmaxRows(NamedTuple):
    """Softmax sums of each query row; see `Dense.softmax_rows`. Every field has the logits' dtype."""

    lse: Float[Array, " r"]
    positive_sum: Float[Array, " r"]
    positive_count: Float[Array, " r"]
    key_count: Float[Array, " r"]


class BestRows(NamedTuple):
    """Largest logit of each query row among its positives and its negatives; the lowest finite number if none."""

    positive: Float[Array, " r"]
    negative: Float[Array, " r"]


class Nearest(NamedTuple):
    """The k keys with the largest logits of each query row, best first: their logits and their rows."""

    logits: Float[Array, "r k"]
    rows: Integer[Array, "r k"]


class Side(NamedTuple):
    """One side of the matrix: rows [R, D], ids [R], and what a kernel reads besides, [R, ...] each."""

    rows: Array
    ids: Array
    extra: Any = None


# kernel(shared, x, y, state of x, state of y or None, diagonal) -> (state of x, state of y)
Kernel = Callable[[Any, Side, Side, Any, Any, bool], tuple[Any, Any]]


def product(x: Float[Array, "r d"], y: Float[Array, "d k"], precision: str) -> Float[Array, "r k"]:
    """x @ y in x's dtype. "bfloat16" rounds both factors and adds up in float32; else a precision as jax takes it."""
    if precision == "bfloat16":
        narrow = jnp.matmul(x.astype(jnp.bfloat16), y.astype(jnp.bfloat16), preferred_element_type=jnp.float32)
        return narrow.astype(x.dtype)
    return jnp.matmul(x, y, precision=precision, preferred_element_type=x.dtype)


def masks(
    query_ids: Integer[Array, " r"], key_ids: Integer[Array, " k"], different: Bool[Array, "r k"] | bool
) -> tuple[Bool[Array, "r k"], Bool[Array, "r k"]]:
    """Which pairs count, and which of those are positives. different: query and key are two rows."""
    counted = (query_ids != IGNORED)[:, None] & (key_ids != IGNORED)[None, :] & different
    return counted, counted & (query_ids[:, None] == key_ids[None, :])


def entering(counted: Bool[Array, "r k"], positive: Bool[Array, "r k"], over: Over) -> Bool[Array, "r k"]:
    """The pairs that enter the log-sum-exp."""
    return {"all": counted, "negatives": counted & ~positive, "positives": positive}[over]


def off_diagonal(rows: int) -> Bool[Array, "{rows} {rows}"]:
    """False on the diagonal: a row is not compared with itself."""
    row = jnp.arange(rows)
    return row[:, None] != row[None, :]


def lowest(dtype: jax.typing.DTypeLike) -> float:
    """The lowest finite number of a dtype: the log-sum-exp and the maximum over nothing."""
    return float(jnp.finfo(dtype).min)


def pvary_like(tree: Any, *rows: Array) -> Any:
    """The arrays of `tree`, varying over the mesh axes that `rows` vary over; outside of shard_map as they are.

    An engine may be called inside a user's shard_map, where a loop's carry must keep its type: zeros to start from must
    vary over the axes that the rows vary over. `jax.lax.pvary` wants the names of those axes, which are the user's. A
    choice between two equal arrays has the type of its condition, and costs nothing once compiled.
    """
    first, *others = (x[:1].ravel()[0] for x in rows)
    either = sum(others, first) > 0
    return jax.tree.map(lambda a: jnp.where(either, a, a), tree)


def tile_size(rows: int, tile: int | None, where: str, most: int = LARGEST_TILE) -> int:
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


def over_tiles(
    kernel: Kernel, shared: Any, x: Side, y: Side | None, x_state: Any, y_state: Any, tile: int | None
) -> tuple[Any, Any]:
    """Calls the kernel on every tile of x against y; with y None on those of x against x, on and above the diagonal.

    Args:
      kernel: see above; with `diagonal` a row of the tile meets itself at the same place of the other side.
      shared: what the kernel reads in every tile.
      x, y: the sides.
      x_state, y_state: pytrees of arrays [R, ...] that the kernel adds to. y_state None: only those of x.
      tile: rows of a block, or None.

    Returns:
      (x_state, y_state) after the last tile.
    """
    x_state, y_state = pvary_like((x_state, y_state), x.rows, *(() if y is None else (y.rows,)))
    size = tile_size(x.ids.shape[0], tile, "query")
    xs, state = _cut(x, size), _cut_state(x_state, size)
    if y is None:
        return _join(_over_triangle(kernel, shared, xs, state), x_state), y_state
    # Few rows meet longer blocks of keys: the area is what fills the units.
    y_size = tile_size(y.ids.shape[0], tile, "key", most=max(LARGEST_TILE, LARGEST_TILE**2 // size))
    state, others = _over_rectangle(kernel, shared, xs, _cut(y, y_size), state, _cut_state(y_state, y_size))
    return _join(state, x_state), _join(others, y_state)


def _over_triangle(kernel: Kernel, shared: Any, xs: Side, state: Any) -> Any:
    """The tiles of blocks [blocks, B, ...] against each other, on and above the diagonal."""
    blocks = xs.ids.shape[0]

    def with_itself(i: Array, state: Any) -> Any:
        x_i = _pick(xs, i)
        return _put(state, i, kernel(shared, x_i, x_i, _pick(state, i), None, True)[0])

    def with_later(i: Array, state: Any) -> Any:
        x_i = _pick(xs, i)

        def pair(j: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            state_i, state = carry
            state_i, state_j = kernel(shared, x_i, _pick(xs, j), state_i, _pick(state, j), False)
            return state_i, _put(state, j, state_j)

        state_i, state = lax.fori_loop(i + 1, blocks, pair, (_pick(state, i), state))
        return _put(state, i, state_i)

    # The diagonal first: then every row has seen a logit.
    state = lax.fori_loop(0, blocks, with_itself, state)
    return lax.fori_loop(0, blocks, with_later, state)


def _over_rectangle(kernel: Kernel, shared: Any, xs: Side, ys: Side, x_state: Any, y_state: Any) -> tuple[Any, Any]:
    """Every block of xs against every block of ys."""

    def with_all(i: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        x_state, y_state = carry
        x_i = _pick(xs, i)

        def pair(j: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            state_i, y_state = carry
            state_j = None if y_state is None else _pick(y_state, j)
            state_i, state_j = kernel(shared, x_i, _pick(ys, j), state_i, state_j, False)
            return state_i, None if y_state is None else _put(y_state, j, state_j)

        state_i, y_state = lax.fori_loop(0, ys.ids.shape[0], pair, (_pick(x_state, i), y_state))
        return _put(x_state, i, state_i), y_state

    return lax.fori_loop(0, xs.ids.shape[0], with_all, (x_state, y_state))


def _cut(side: Side, size: int) -> Side:
    """[R, ...] -> [blocks, B, ...]; rows that fill up the last block are ignored ones."""
    return Side(_fill(side.rows, size, 0), _fill(side.ids, size, IGNORED), _cut_state(side.extra, size))


def _cut_state(state: Any, size: int) -> Any:
    return jax.tree.map(lambda a: _fill(a, size, 0), state)


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
