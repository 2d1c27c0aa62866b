"""What a tile adds: forward sums, and the gradients pulled back through them.

With p_ij = exp(s_ij - lse_i) and g, h the cotangents of lse and of the positive sum,

  ds_ij = g_i p_ij + h_i [j positive of i]   (+ the same with i and j exchanged, where both sides were summed)
  dx_i  = sum_j ds_ij y_j,   dy_j = sum_i ds_ij x_i

Three ways through a tile, chosen by its data: when no logit can leave the range of exp (`bounded`, known from the
lengths of the rows), sums need no maximum and one exponential serves both sides; when the ids of the two blocks do not
overlap, no pair is a positive and no id is compared; else every row carries its own maximum.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from hcl_jax.parallel.sweep import Rows
from hcl_jax.parallel.tiles import (
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

# The share of log(largest number) up to which exp(s) and sums of it are safe without a maximum: |s| < 60 in float32.
SAFE_SHARE = 0.68


class SoftmaxState(NamedTuple):
    """Of each row: the maximum so far, sum of exp(s - maximum), sum and number of positives, [R] each."""

    highest: Array
    total: Array
    positive_sum: Array
    positive_count: Array


class Pull(NamedTuple):
    """What the pull reads of each row, [R] each: lse, and the cotangents of lse and of the positive sum."""

    lse: Array
    g: Array
    h: Array


def bounded(x: Array, y: Array) -> Array:
    """Can no product of the rows leave the safe range of exp? bool []; |x_i . y_j| <= max |x| max |y|."""
    largest = jnp.sqrt(jnp.max(jnp.sum(x * x, axis=1)) * jnp.max(jnp.sum(y * y, axis=1)))
    return largest <= SAFE_SHARE * math.log(float(jnp.finfo(x.dtype).max))


def softmax_start(ids: Array, safe: Array, dtype: Any) -> SoftmaxState:
    """The state before the first tile."""
    none = jnp.zeros(ids.shape, dtype)
    return SoftmaxState(jnp.where(safe, none, lowest(dtype)), none, none, none)


def softmax_merge(a: SoftmaxState, b: SoftmaxState) -> SoftmaxState:
    """The state of the same rows after the tiles of both."""
    highest = jnp.maximum(a.highest, b.highest)
    total = a.total * jnp.exp(a.highest - highest) + b.total * jnp.exp(b.highest - highest)
    return SoftmaxState(highest, total, a.positive_sum + b.positive_sum, a.positive_count + b.positive_count)


def softmax_fold(
    safe: Array,
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

    def plain() -> tuple[SoftmaxState, SoftmaxState | None]:
        if over == "positives":
            return x_state, y_state
        e = jnp.exp(s)  # sums as products: both read the one array of exponentials
        mine = x_state._replace(total=x_state.total + product(e, _valid(y, s), "highest"))
        if y_state is None:
            return mine, None
        return mine, y_state._replace(total=y_state.total + product(e.T, _valid(x, s), "highest"))

    def compared(own_maxima: bool) -> tuple[SoftmaxState, SoftmaxState | None]:
        counted, positive = masks(x.ids, y.ids, not_the_diagonal(x.ids.shape[0]) if diagonal else True)
        enters = entering(counted, positive, over)
        mine = _add(x_state, s, enters, positive, own_maxima)
        return mine, None if y_state is None else _add(y_state, s.T, enters.T, positive.T, own_maxima)

    return _branch(safe, x, y, diagonal, plain, compared)


def _add(state: SoftmaxState, s: Array, enters: Array, positive: Array, own_maxima: bool) -> SoftmaxState:
    floor = lowest(s.dtype)
    highest = state.highest
    if own_maxima:
        highest = jnp.maximum(highest, jnp.max(jnp.where(enters, s, floor), axis=1))
    e = jnp.exp(jnp.where(enters, s - highest[:, None], floor))
    return SoftmaxState(
        highest,
        state.total * jnp.exp(state.highest - highest) + jnp.sum(e, axis=1),
        state.positive_sum + jnp.sum(jnp.where(positive, s, 0), axis=1),
        state.positive_count + jnp.sum(positive, axis=1, dtype=s.dtype),
    )


def softmax_pull(
    safe: Array,
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
    sides = [(x.extra, lambda a: a[:, None])] + ([] if y.extra is None else [(y.extra, lambda a: a[None, :])])

    def plain() -> Array:
        if over == "positives":
            return jnp.zeros_like(s)
        others = (_valid(y, s)[None, :], _valid(x, s)[:, None])
        weight = [line(p.g * jnp.exp(-p.lse)) * other for (p, line), other in zip(sides, others, strict=False)]
        return jnp.exp(s) * sum(weight[1:], weight[0])

    def compared(own_maxima: bool) -> Array:
        counted, positive = masks(x.ids, y.ids, not_the_diagonal(x.ids.shape[0]) if diagonal else True)
        enters, floor = entering(counted, positive, over), lowest(s.dtype)
        ds = jnp.zeros_like(s)
        for pull, line in sides:
            # The mask comes before exp: a logit that does not count may be far above the log-sum-exp.
            ds += line(pull.g) * jnp.exp(jnp.where(enters, s - line(pull.lse), floor))
            ds += jnp.where(positive, line(pull.h), 0)
        return ds

    ds = _branch(safe, x, y, diagonal, plain, compared)
    return _pulled(ds, x, y, dx, dy, precision)


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
    by_rows, others = _pulled(ds, x, y, dx[0], dy, precision)
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


def _pulled(ds: Array, x: Rows, y: Rows, dx: Array, dy: Array | None, precision: str) -> tuple[Array, Array | None]:
    return (
        dx + product(ds, y.rows, precision),
        None if dy is None else dy + product(ds.T, x.rows, precision),
    )
