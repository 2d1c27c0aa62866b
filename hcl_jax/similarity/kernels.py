"""What a tile adds: forward sums, and the gradients pulled back through them.

With p_ij = exp(s_ij - lse_i) and g, h the cotangents of lse and of the positive sum,

  ds_ij = g_i p_ij + h_i [j positive of i]   (+ the same with i and j exchanged, where both sides were summed)
  dx_i  = sum_j ds_ij y_j,   dy_j = sum_i ds_ij x_i

Three ways through a tile, chosen by its data. When every row has a shift (a logit that it has seen, or its
log-sum-exp) and no logit of the tile is far above the lowest of them, c, one exponential exp(s_ij - c) serves the rows
and the columns: what it loses below is nothing beside the row's own sum. When moreover the ids of the two blocks do not
overlap, no pair is a positive and no id is compared. Else every row takes its own maximum, each side its exponential.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from hcl_jax.similarity.sweep import Rows
from hcl_jax.similarity.tiles import (
    IGNORED,
    BestRows,
    Nearest,
    Over,
    entering,
    lowest,
    masks,
    not_the_diagonal,
    product,
)

# The share of log(largest number) that a logit may be above c: 60 in float32, and sums stay far from the end.
SAFE_SHARE = 0.68


class SoftmaxState(NamedTuple):
    """Of each row: a shift near the maximum so far, sum of exp(s - shift), sum and number of positives, [R] each."""

    shift: Array
    total: Array
    positive_sum: Array
    positive_count: Array


class Pull(NamedTuple):
    """What the pull reads of each row, [R] each: lse, and the cotangents of lse and of the positive sum."""

    lse: Array
    g: Array
    h: Array


def softmax_start(ids: Array, dtype: Any) -> SoftmaxState:
    """The state before the first tile."""
    none = jnp.zeros(ids.shape, dtype)
    return SoftmaxState(jnp.full(ids.shape, lowest(dtype), dtype), none, none, none)


def softmax_merge(a: SoftmaxState, b: SoftmaxState) -> SoftmaxState:
    """The state of the same rows after the tiles of both."""
    shift = jnp.maximum(a.shift, b.shift)
    total = a.total * jnp.exp(a.shift - shift) + b.total * jnp.exp(b.shift - shift)
    return SoftmaxState(shift, total, a.positive_sum + b.positive_sum, a.positive_count + b.positive_count)


def softmax_fold(
    shared: None,
    x: Rows,
    y: Rows,
    x_state: SoftmaxState,
    y_state: SoftmaxState | None,
    diagonal: bool,
    *,
    over: Over,
    precision: str,
) -> tuple[SoftmaxState, SoftmaxState | None]:
    """Adds the logits of a tile to the sums of its rows, and of its columns where `y_state` is there."""
    s = product(x.rows, y.rows.T, precision)
    shifts = [_of_valid(x, x_state.shift, "max")] + ([] if y_state is None else [_of_valid(y, y_state.shift, "max")])
    c = functools.reduce(jnp.minimum, map(jnp.min, shifts))
    # By the lengths of the rows first: the largest logit itself costs a pass over the tile.
    safe = _largest_product(x.rows, y.rows) - c <= _most(s)
    safe = lax.cond(safe, lambda: safe, lambda: jnp.max(s) - c <= _most(s))

    def plain() -> tuple[SoftmaxState, SoftmaxState | None]:
        if over == "positives":
            return x_state, y_state
        # Sums as products: both read the one array of exponentials (v e is three times as fast as e.T v on a CPU).
        e = jnp.exp(s - c)
        mine = _shifted(x_state, c, product(e, _valid(y, s), "highest"))
        return mine, None if y_state is None else _shifted(y_state, c, product(_valid(x, s), e, "highest"))

    def compared(own_maxima: bool) -> tuple[SoftmaxState, SoftmaxState | None]:
        counted, positive = masks(x.ids, y.ids, not_the_diagonal(x.ids.shape[0]) if diagonal else True)
        enters = entering(counted, positive, over)
        if own_maxima:
            mine = _by_own_maximum(x_state, s, enters)
            theirs = None if y_state is None else _by_own_maximum(y_state, s.T, enters.T)
        else:
            e = jnp.where(enters, jnp.exp(s - c), 0)
            mine = _shifted(x_state, c, jnp.sum(e, axis=1))
            theirs = None if y_state is None else _shifted(y_state, c, jnp.sum(e, axis=0))
        mine = _with_positives(mine, s, positive)
        return mine, None if theirs is None else _with_positives(theirs, s.T, positive.T)

    return _branch(safe, x, y, diagonal, plain, compared)


def _shifted(state: SoftmaxState, c: Array, total: Array) -> SoftmaxState:
    # c is the lowest shift; rows that do not count have none, and must not overflow.
    return state._replace(total=state.total + total * jnp.exp(jnp.minimum(c - state.shift, 0)))


def _by_own_maximum(state: SoftmaxState, s: Array, enters: Array) -> SoftmaxState:
    floor = lowest(s.dtype)
    shift = jnp.maximum(state.shift, jnp.max(jnp.where(enters, s, floor), axis=1))
    total = jnp.sum(jnp.exp(jnp.where(enters, s - shift[:, None], floor)), axis=1)
    return state._replace(shift=shift, total=state.total * jnp.exp(state.shift - shift) + total)


def _with_positives(state: SoftmaxState, s: Array, positive: Array) -> SoftmaxState:
    return state._replace(
        positive_sum=state.positive_sum + jnp.sum(jnp.where(positive, s, 0), axis=1),
        positive_count=state.positive_count + jnp.sum(positive, axis=1, dtype=s.dtype),
    )


def softmax_pull(
    shared: None,
    x: Rows,
    y: Rows,
    dx: Array,
    dy: Array | None,
    diagonal: bool,
    *,
    over: Over,
    precision: str,
) -> tuple[Array, Array | None]:
    """Adds the gradients of a tile. `extra` of a side is its `Pull`; None for keys whose sums were not taken."""
    s = product(x.rows, y.rows.T, precision)
    sides = [(x, lambda a: a[:, None])] + ([] if y.extra is None else [(y, lambda a: a[None, :])])
    c = functools.reduce(jnp.minimum, (jnp.min(_of_valid(side, side.extra.lse, "max")) for side, _ in sides))
    highest = functools.reduce(jnp.maximum, (jnp.max(_of_valid(side, side.extra.lse, "min")) for side, _ in sides))
    # Ignored rows have logits of 0, which must not overflow either.
    safe = jnp.maximum(highest, 0) - c <= _most(s)

    # Cotangents at length one: those of a mean over many rows, times exp(c - lse), would be lost below the smallest.
    cotangents = [jnp.max(jnp.abs(part)) for side, _ in sides for part in (side.extra.g, side.extra.h)]
    size = functools.reduce(jnp.maximum, cotangents)
    size = jnp.where(size > 0, size, 1)

    def weights() -> Array:
        every = [line(side.extra.g / size * jnp.exp(jnp.minimum(c - side.extra.lse, 0))) for side, line in sides]
        return sum(every[1:], every[0])

    def plain() -> Array:
        if over == "positives":
            return jnp.zeros_like(s)
        counted = _valid(x, s)[:, None] * _valid(y, s)[None, :]
        return jnp.exp(s - c) * (weights() * counted)

    def compared(own_maxima: bool) -> Array:
        counted, positive = masks(x.ids, y.ids, not_the_diagonal(x.ids.shape[0]) if diagonal else True)
        # The mask comes before exp: a logit that does not count may be far above the log-sum-exp.
        below, floor = jnp.where(entering(counted, positive, over), s, lowest(s.dtype)), lowest(s.dtype)
        if own_maxima:
            parts = [
                line(side.extra.g / size) * jnp.exp(jnp.maximum(below - line(side.extra.lse), floor))
                for side, line in sides
            ]
            ds = sum(parts[1:], parts[0])
        else:
            ds = jnp.exp(jnp.maximum(below - c, floor)) * weights()
        for side, line in sides:
            ds += jnp.where(positive, line(side.extra.h / size), 0)
        return ds

    return _pulled(_branch(safe, x, y, diagonal, plain, compared), size, x, y, dx, dy, precision)


def _largest_product(x: Array, y: Array) -> Array:
    """A number that no x_i . y_j is above: max |x_i| max |y_j|."""
    return jnp.sqrt(jnp.max(jnp.sum(x * x, axis=1)) * jnp.max(jnp.sum(y * y, axis=1)))


def _most(s: Array) -> float:
    return SAFE_SHARE * math.log(float(jnp.finfo(s.dtype).max))


def _of_valid(side: Rows, values: Array, other: str) -> Array:
    """The values of rows that count, the end of the numbers ("min", "max") for the others."""
    return jnp.where(side.ids != IGNORED, values, getattr(jnp.finfo(values.dtype), other))


def sigmoid_fold(
    bias: Array, x: Rows, y: Rows, x_state: Array, y_state: None, diagonal: bool, *, precision: str
) -> tuple[Array, None]:
    """Adds the logistic loss of every pair of a tile to its row."""
    del diagonal
    counted, positive = masks(x.ids, y.ids, True)
    s = product(x.rows, y.rows.T, precision) + bias
    return x_state + jnp.sum(jnp.where(counted, jax.nn.softplus(jnp.where(positive, -s, s)), 0), axis=1), y_state


def sigmoid_pull(
    bias: Array, x: Rows, y: Rows, dx: tuple[Array, Array], dy: Array, diagonal: bool, *, precision: str
) -> tuple[tuple[Array, Array], Array]:
    """Adds the gradients of a tile: dx is (by the rows, by the bias of each row); `extra` of x the cotangent."""
    del diagonal
    counted, positive = masks(x.ids, y.ids, True)
    s = product(x.rows, y.rows.T, precision) + bias
    slope = jnp.where(positive, -jax.nn.sigmoid(-s), jax.nn.sigmoid(s))
    ds = jnp.where(counted, slope, 0) * x.extra[:, None]
    by_rows, others = _pulled(ds, 1, x, y, dx[0], dy, precision)
    assert others is not None
    return (by_rows, dx[1] + jnp.sum(ds, axis=1)), others


def best_fold(
    shared: None, x: Rows, y: Rows, x_state: BestRows, y_state: BestRows | None, diagonal: bool, *, precision: str
) -> tuple[BestRows, BestRows | None]:
    """Keeps the largest positive and negative logit of each row."""
    counted, positive = masks(x.ids, y.ids, not_the_diagonal(x.ids.shape[0]) if diagonal else True)
    s = product(x.rows, y.rows.T, precision)
    floor = lowest(s.dtype)
    of_positives = jnp.where(positive, s, floor)
    of_negatives = jnp.where(counted & ~positive, s, floor)

    def keep(state: BestRows, axis: int) -> BestRows:
        return BestRows(
            jnp.maximum(state.positive, jnp.max(of_positives, axis)),
            jnp.maximum(state.negative, jnp.max(of_negatives, axis)),
        )

    return keep(x_state, 1), None if y_state is None else keep(y_state, 0)


def best_merge(a: BestRows, b: BestRows) -> BestRows:
    """The larger of both."""
    return BestRows(jnp.maximum(a.positive, b.positive), jnp.maximum(a.negative, b.negative))


def negatives_from_fold(
    shared: None, x: Rows, y: Rows, x_state: Array, y_state: None, diagonal: bool, *, precision: str
) -> tuple[Array, None]:
    """Adds the negatives of a tile that reach `extra` of x."""
    del diagonal
    counted, positive = masks(x.ids, y.ids, True)
    above = product(x.rows, y.rows.T, precision) >= x.extra[:, None]
    return x_state + jnp.sum(counted & ~positive & above, axis=1, dtype=jnp.int32), y_state


def nearest_fold(
    shared: None,
    x: Rows,
    y: Rows,
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
    apart = True if x.extra is None else x.extra[:, None] != y.extra[None, :]
    s = product(x.rows, y.rows.T, precision)
    s = jnp.where(entering(*masks(x.ids, y.ids, apart), over), s, lowest(s.dtype))
    k = x_state.logits.shape[1]
    if rising:
        numbers = jnp.broadcast_to(y.extra[None, :], s.shape)
        logits, order = lax.top_k(jnp.concatenate([x_state.logits, s], axis=1), k)
        numbers = jnp.concatenate([x_state.rows, numbers], axis=1)
        return Nearest(logits, jnp.take_along_axis(numbers, order, axis=1)), y_state
    # Only the k best of the tile can stay; a sort by two keys is slow.
    best, at = lax.top_k(s, min(k, s.shape[1]))
    logits = jnp.concatenate([x_state.logits, best], axis=1)
    rows = jnp.concatenate([x_state.rows, y.extra[at]], axis=1)
    falling, order = lax.sort((-logits, rows), dimension=1, num_keys=2)
    return Nearest(-falling[:, :k], order[:, :k]), y_state


def _branch(safe: Array, x: Rows, y: Rows, diagonal: bool, plain: Any, compared: Any) -> Any:
    if diagonal:
        return lax.cond(safe, lambda: compared(False), lambda: compared(True))
    which = jnp.where(safe, 1 + _overlap(x.ids, y.ids).astype(jnp.int32), 0)
    return lax.switch(which, (lambda: compared(True), plain, lambda: compared(False)))


def _overlap(a: Array, b: Array) -> Array:
    """Do the ranges of the ids meet? When not, no row of one is a positive of the other."""
    most, least = jnp.iinfo(a.dtype).max, jnp.iinfo(a.dtype).min

    def ends(ids: Array) -> tuple[Array, Array]:
        there = ids != IGNORED
        return jnp.min(jnp.where(there, ids, most)), jnp.max(jnp.where(there, ids, least))

    (a_low, a_high), (b_low, b_high) = ends(a), ends(b)
    return (a_low <= b_high) & (b_low <= a_high)


def _valid(side: Rows, like: Array) -> Array:
    return (side.ids != IGNORED).astype(like.dtype)


def _pulled(
    ds: Array, size: Array | int, x: Rows, y: Rows, dx: Array, dy: Array | None, precision: str
) -> tuple[Array, Array | None]:
    return (
        dx + size * product(ds, y.rows, precision),
        None if dy is None else dy + size * product(ds.T, x.rows, precision),
    )
