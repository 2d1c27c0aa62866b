"""The kernels: what one tile adds to the sums of its rows, forward, and to their gradients, backward.

With p_ij = exp(s_ij - lse_i) and g, h the cotangents of lse and of the positive sum,

  ds_ij = g_i p_ij + h_i [j positive of i]   (+ the same with i and j exchanged, where both sides were summed)
  dx_i  = sum_j ds_ij y_j,   dy_j = sum_i ds_ij x_i

The softmax kernels have three ways through a tile, chosen by its data (`_branch`):

  unmasked    one exponential exp(s_ij - c) serves the rows and the columns, and no id is compared
  masked      the same exponential, pairs compared by id
  own maxima  every row takes its own maximum, each side its own exponential

c is the lowest shift of the tile's rows (a logit that each has seen, or its log-sum-exp). One exponential is safe when
every row has a shift and no logit is far above c: what it loses below is nothing beside the row's own sum. The mask is
left out where the ids of the two blocks do not overlap: then no pair is a positive.

Legend: B, C rows of the blocks x and y.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Integer

from hcl_jax.similarity.tiles import (
    IGNORED,
    BestRows,
    Nearest,
    Over,
    Side,
    entering,
    lowest,
    masks,
    off_diagonal,
    product,
)

# The share of log(largest number) that a logit may be above c: 60 in float32, and sums stay far from the end.
SAFE_SHARE = 0.68


class SoftmaxState(NamedTuple):
    """Of each row: a shift near the maximum so far, sum of exp(s - shift), sum and number of positives."""

    shift: Float[Array, " b"]
    total: Float[Array, " b"]
    positive_sum: Float[Array, " b"]
    positive_count: Float[Array, " b"]


class Cotangents(NamedTuple):
    """What the backward kernel reads of each row: lse, and the cotangents of lse (g) and of the positive sum (h)."""

    lse: Float[Array, " b"]
    g: Float[Array, " b"]
    h: Float[Array, " b"]


class Tile(NamedTuple):
    """A tile: its logits [B, C], its blocks, whether they are one block, and which pairs enter the log-sum-exp."""

    logits: Float[Array, "b c"]
    x: Side
    y: Side
    diagonal: bool
    over: Over


def softmax_start(ids: Integer[Array, " b"], dtype: Any) -> SoftmaxState:
    """The state before the first tile."""
    zeros = jnp.zeros(ids.shape, dtype)
    return SoftmaxState(jnp.full(ids.shape, lowest(dtype), dtype), zeros, zeros, zeros)


def softmax_merge(a: SoftmaxState, b: SoftmaxState) -> SoftmaxState:
    """The state of the same rows after the tiles of both."""
    shift = jnp.maximum(a.shift, b.shift)
    total = a.total * jnp.exp(a.shift - shift) + b.total * jnp.exp(b.shift - shift)
    return SoftmaxState(shift, total, a.positive_sum + b.positive_sum, a.positive_count + b.positive_count)


def softmax_forward(
    shared: None,
    x: Side,
    y: Side,
    x_state: SoftmaxState,
    y_state: SoftmaxState | None,
    diagonal: bool,
    *,
    over: Over,
    precision: str,
) -> tuple[SoftmaxState, SoftmaxState | None]:
    """Adds the logits of a tile to the sums of its rows, and of its columns where there is a `y_state`."""
    tile = Tile(product(x.rows, y.rows.T, precision), x, y, diagonal, over)
    shifts = [_of_valid(x, x_state.shift, "max")] + ([] if y_state is None else [_of_valid(y, y_state.shift, "max")])
    c = functools.reduce(jnp.minimum, map(jnp.min, shifts))
    # By the lengths of the rows first: the largest logit itself costs a pass over the tile.
    safe = _largest_product(x.rows, y.rows) - c <= _safe_margin(tile)
    safe = lax.cond(safe, lambda: safe, lambda: jnp.max(tile.logits) - c <= _safe_margin(tile))
    return _branch(
        tile,
        safe,
        unmasked=lambda: _add_unmasked(tile, c, x_state, y_state),
        masked=lambda: _add_masked(tile, c, x_state, y_state),
        own_maxima=lambda: _add_by_own_maxima(tile, x_state, y_state),
    )


def _add_unmasked(
    tile: Tile, c: Array, x_state: SoftmaxState, y_state: SoftmaxState | None
) -> tuple[SoftmaxState, SoftmaxState | None]:
    if tile.over == "positives":
        return x_state, y_state
    # Sums as products: both read the one array of exponentials (v e is three times as fast as e.T v on a CPU).
    e = jnp.exp(tile.logits - c)
    x_state = _add_total(x_state, c, product(e, _valid(tile.y, e), "highest"))
    return x_state, None if y_state is None else _add_total(y_state, c, product(_valid(tile.x, e), e, "highest"))


def _add_masked(
    tile: Tile, c: Array, x_state: SoftmaxState, y_state: SoftmaxState | None
) -> tuple[SoftmaxState, SoftmaxState | None]:
    enters, positive = _pairs(tile)
    e = jnp.where(enters, jnp.exp(tile.logits - c), 0)
    x_state = _add_total(x_state, c, jnp.sum(e, axis=1))
    y_state = None if y_state is None else _add_total(y_state, c, jnp.sum(e, axis=0))
    return _add_positives(tile, positive, x_state, y_state)


def _add_by_own_maxima(
    tile: Tile, x_state: SoftmaxState, y_state: SoftmaxState | None
) -> tuple[SoftmaxState, SoftmaxState | None]:
    enters, positive = _pairs(tile)
    x_state = _shifted_to_maximum(x_state, tile.logits, enters)
    y_state = None if y_state is None else _shifted_to_maximum(y_state, tile.logits.T, enters.T)
    return _add_positives(tile, positive, x_state, y_state)


def _add_total(state: SoftmaxState, c: Array, total: Float[Array, " b"]) -> SoftmaxState:
    """Adds sums of exp(s - c). c is the lowest shift; rows that do not count have none, and must not overflow."""
    return state._replace(total=state.total + total * jnp.exp(jnp.minimum(c - state.shift, 0)))


def _shifted_to_maximum(state: SoftmaxState, s: Float[Array, "b c"], enters: Bool[Array, "b c"]) -> SoftmaxState:
    floor = lowest(s.dtype)
    shift = jnp.maximum(state.shift, jnp.max(jnp.where(enters, s, floor), axis=1))
    total = jnp.sum(jnp.exp(jnp.where(enters, s - shift[:, None], floor)), axis=1)
    return state._replace(shift=shift, total=state.total * jnp.exp(state.shift - shift) + total)


def _add_positives(
    tile: Tile, positive: Bool[Array, "b c"], x_state: SoftmaxState, y_state: SoftmaxState | None
) -> tuple[SoftmaxState, SoftmaxState | None]:
    def add(state: SoftmaxState, s: Array, positive: Array) -> SoftmaxState:
        return state._replace(
            positive_sum=state.positive_sum + jnp.sum(jnp.where(positive, s, 0), axis=1),
            positive_count=state.positive_count + jnp.sum(positive, axis=1, dtype=s.dtype),
        )

    s = tile.logits
    return add(x_state, s, positive), None if y_state is None else add(y_state, s.T, positive.T)


def softmax_backward(
    shared: None,
    x: Side,
    y: Side,
    dx: Float[Array, "b d"],
    dy: Float[Array, "c d"] | None,
    diagonal: bool,
    *,
    over: Over,
    precision: str,
) -> tuple[Float[Array, "b d"], Float[Array, "c d"] | None]:
    """Adds the gradients of a tile. `extra` of a side is its `Cotangents`; None for keys whose sums were not taken."""
    tile = Tile(product(x.rows, y.rows.T, precision), x, y, diagonal, over)
    sides = [x] + ([] if y.extra is None else [y])
    c = functools.reduce(jnp.minimum, (jnp.min(_of_valid(side, side.extra.lse, "max")) for side in sides))
    highest = functools.reduce(jnp.maximum, (jnp.max(_of_valid(side, side.extra.lse, "min")) for side in sides))
    # Ignored rows have logits of 0, which must not overflow either.
    safe = jnp.maximum(highest, 0) - c <= _safe_margin(tile)
    # Cotangents at length one: those of a mean over many rows, times exp(c - lse), would be lost below the smallest.
    size = functools.reduce(jnp.maximum, (jnp.max(jnp.abs(v)) for side in sides for v in (side.extra.g, side.extra.h)))
    size = jnp.where(size > 0, size, 1)
    ds = _branch(
        tile,
        safe,
        unmasked=lambda: _slopes_unmasked(tile, c, size),
        masked=lambda: _slopes_masked(tile, c, size),
        own_maxima=lambda: _slopes_by_own_lse(tile, size),
    )
    return _to_rows(ds, size, x, y, dx, dy, precision)


def _slopes_unmasked(tile: Tile, c: Array, size: Array) -> Float[Array, "b c"]:
    """ds / size of a tile without a positive."""
    s = tile.logits
    if tile.over == "positives":
        return jnp.zeros_like(s)
    counted = _valid(tile.x, s)[:, None] * _valid(tile.y, s)[None, :]
    return jnp.exp(s - c) * (_relative_weights(tile, c, size) * counted)


def _slopes_masked(tile: Tile, c: Array, size: Array) -> Float[Array, "b c"]:
    """ds / size by one exponential."""
    enters, positive = _pairs(tile)
    floor = lowest(tile.logits.dtype)
    # The mask comes before exp: a logit that does not count may be far above the log-sum-exp.
    s = jnp.where(enters, tile.logits, floor)
    ds = jnp.exp(jnp.maximum(s - c, floor)) * _relative_weights(tile, c, size)
    return _add_positive_slopes(tile, ds, positive, size)


def _slopes_by_own_lse(tile: Tile, size: Array) -> Float[Array, "b c"]:
    """ds / size, each row's softmax by its own log-sum-exp."""
    enters, positive = _pairs(tile)
    floor = lowest(tile.logits.dtype)
    s = jnp.where(enters, tile.logits, floor)

    def part(side: Side, axis: int) -> Array:
        g, lse = (jnp.expand_dims(v, axis) for v in (side.extra.g / size, side.extra.lse))
        return g * jnp.exp(jnp.maximum(s - lse, floor))

    ds = part(tile.x, 1) if tile.y.extra is None else part(tile.x, 1) + part(tile.y, 0)
    return _add_positive_slopes(tile, ds, positive, size)


def _relative_weights(tile: Tile, c: Array, size: Array) -> Float[Array, " b #c"]:
    """g_i / size exp(c - lse_i), and the same of j where the columns were summed."""

    def weights(side: Side) -> Array:
        return side.extra.g / size * jnp.exp(jnp.minimum(c - side.extra.lse, 0))

    of_rows = weights(tile.x)[:, None]
    return of_rows if tile.y.extra is None else of_rows + weights(tile.y)[None, :]


def _add_positive_slopes(
    tile: Tile, ds: Float[Array, "b c"], positive: Bool[Array, "b c"], size: Array
) -> Float[Array, "b c"]:
    ds = ds + jnp.where(positive, (tile.x.extra.h / size)[:, None], 0)
    return ds if tile.y.extra is None else ds + jnp.where(positive, (tile.y.extra.h / size)[None, :], 0)


def _pairs(tile: Tile) -> tuple[Bool[Array, "b c"], Bool[Array, "b c"]]:
    """Which pairs enter the log-sum-exp, and which are positives."""
    different = off_diagonal(tile.x.ids.shape[0]) if tile.diagonal else True
    counted, positive = masks(tile.x.ids, tile.y.ids, different)
    return entering(counted, positive, tile.over), positive


def _branch(tile: Tile, safe: Array, *, unmasked: Callable, masked: Callable, own_maxima: Callable) -> Any:
    """One of the three ways through a tile; see the top of this file."""
    if tile.diagonal:
        return lax.cond(safe, masked, own_maxima)
    which = jnp.where(safe, 1 + _overlap(tile.x.ids, tile.y.ids).astype(jnp.int32), 0)
    return lax.switch(which, (own_maxima, unmasked, masked))


def _overlap(a: Integer[Array, " b"], b: Integer[Array, " c"]) -> Bool[Array, ""]:
    """Do the ranges of the ids meet? When not, no row of one is a positive of the other."""
    most, least = jnp.iinfo(a.dtype).max, jnp.iinfo(a.dtype).min

    def ends(ids: Array) -> tuple[Array, Array]:
        valid = ids != IGNORED
        return jnp.min(jnp.where(valid, ids, most)), jnp.max(jnp.where(valid, ids, least))

    (a_low, a_high), (b_low, b_high) = ends(a), ends(b)
    return (a_low <= b_high) & (b_low <= a_high)


def _largest_product(x: Float[Array, "b d"], y: Float[Array, "c d"]) -> Float[Array, ""]:
    """A number that no x_i . y_j is above: max |x_i| max |y_j|."""
    return jnp.sqrt(jnp.max(jnp.sum(x * x, axis=1)) * jnp.max(jnp.sum(y * y, axis=1)))


def _safe_margin(tile: Tile) -> float:
    """How far a logit may be above c."""
    return SAFE_SHARE * math.log(float(jnp.finfo(tile.logits.dtype).max))


def _of_valid(side: Side, values: Float[Array, " b"], other: str) -> Float[Array, " b"]:
    """The values of rows that count, the end of the numbers ("min", "max") for the others."""
    return jnp.where(side.ids != IGNORED, values, getattr(jnp.finfo(values.dtype), other))


def _valid(side: Side, like: Array) -> Float[Array, " b"]:
    """1 for rows that count, 0 for ignored ones."""
    return (side.ids != IGNORED).astype(like.dtype)


def sigmoid_forward(
    bias: Array, x: Side, y: Side, x_state: Array, y_state: None, diagonal: bool, *, precision: str
) -> tuple[Array, None]:
    """Adds the logistic loss of every pair of a tile to its row."""
    del diagonal
    counted, positive = masks(x.ids, y.ids, True)
    s = product(x.rows, y.rows.T, precision) + bias
    return x_state + jnp.sum(jnp.where(counted, jax.nn.softplus(jnp.where(positive, -s, s)), 0), axis=1), y_state


def sigmoid_backward(
    bias: Array, x: Side, y: Side, dx: tuple[Array, Array], dy: Array, diagonal: bool, *, precision: str
) -> tuple[tuple[Array, Array], Array]:
    """Adds the gradients of a tile: dx is (by the rows, by the bias of each row); `extra` of x the cotangent."""
    del diagonal
    counted, positive = masks(x.ids, y.ids, True)
    s = product(x.rows, y.rows.T, precision) + bias
    slope = jnp.where(positive, -jax.nn.sigmoid(-s), jax.nn.sigmoid(s))
    ds = jnp.where(counted, slope, 0) * x.extra[:, None]
    dx_rows, dy_rows = _to_rows(ds, 1, x, y, dx[0], dy, precision)
    assert dy_rows is not None
    return (dx_rows, dx[1] + jnp.sum(ds, axis=1)), dy_rows


def best_forward(
    shared: None, x: Side, y: Side, x_state: BestRows, y_state: BestRows | None, diagonal: bool, *, precision: str
) -> tuple[BestRows, BestRows | None]:
    """Keeps the largest positive and negative logit of each row."""
    counted, positive = masks(x.ids, y.ids, off_diagonal(x.ids.shape[0]) if diagonal else True)
    s = product(x.rows, y.rows.T, precision)
    floor = lowest(s.dtype)
    of_positives = jnp.where(positive, s, floor)
    of_negatives = jnp.where(counted & ~positive, s, floor)

    def larger(state: BestRows, axis: int) -> BestRows:
        return BestRows(
            jnp.maximum(state.positive, jnp.max(of_positives, axis)),
            jnp.maximum(state.negative, jnp.max(of_negatives, axis)),
        )

    return larger(x_state, 1), None if y_state is None else larger(y_state, 0)


def best_merge(a: BestRows, b: BestRows) -> BestRows:
    """The larger of both."""
    return BestRows(jnp.maximum(a.positive, b.positive), jnp.maximum(a.negative, b.negative))


def negatives_forward(
    shared: None, x: Side, y: Side, x_state: Array, y_state: None, diagonal: bool, *, precision: str
) -> tuple[Array, None]:
    """Adds the negatives of a tile that reach `extra` of x."""
    del diagonal
    counted, positive = masks(x.ids, y.ids, True)
    above = product(x.rows, y.rows.T, precision) >= x.extra[:, None]
    return x_state + jnp.sum(counted & ~positive & above, axis=1, dtype=jnp.int32), y_state


def nearest_forward(
    shared: None,
    x: Side,
    y: Side,
    x_state: Nearest,
    y_state: None,
    diagonal: bool,
    *,
    over: Over,
    precision: str,
    rising: bool,
) -> tuple[Nearest, None]:
    """Keeps the k largest logits of each row; `extra` of a side is the number of each row.

    rising: keys come in the order of their numbers, and a stable choice leaves the lower of two equal ones in front.
    """
    del diagonal
    different = True if x.extra is None else x.extra[:, None] != y.extra[None, :]
    s = product(x.rows, y.rows.T, precision)
    s = jnp.where(entering(*masks(x.ids, y.ids, different), over), s, lowest(s.dtype))
    k = x_state.logits.shape[1]
    if rising:
        numbers = jnp.broadcast_to(y.extra[None, :], s.shape)
        logits, order = lax.top_k(jnp.concatenate([x_state.logits, s], axis=1), k)
        numbers = jnp.concatenate([x_state.rows, numbers], axis=1)
        return Nearest(logits, jnp.take_along_axis(numbers, order, axis=1)), y_state
    # Only the k best of the tile can stay; a sort by two keys is slow.
    best, column = lax.top_k(s, min(k, s.shape[1]))
    logits = jnp.concatenate([x_state.logits, best], axis=1)
    rows = jnp.concatenate([x_state.rows, y.extra[column]], axis=1)
    falling, order = lax.sort((-logits, rows), dimension=1, num_keys=2)
    return Nearest(-falling[:, :k], order[:, :k]), y_state


def _to_rows(
    ds: Array, size: Array | int, x: Side, y: Side, dx: Array, dy: Array | None, precision: str
) -> tuple[Array, Array | None]:
    return (
        dx + size * product(ds, y.rows, precision),
        None if dy is None else dy + size * product(ds.T, x.rows, precision),
    )
