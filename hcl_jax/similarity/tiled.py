"""The engine that forms the similarity matrix tile by tile: streamed on one device, a ring on the devices of a mesh."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hcl_jax.similarity import kernels
from hcl_jax.similarity.all_gather import at_once
from hcl_jax.similarity.dense import check_k, check_keys
from hcl_jax.similarity.ring import around
from hcl_jax.similarity.shards import over_shards
from hcl_jax.similarity.sweep import Fold, Rows, sweep
from hcl_jax.similarity.tiles import IGNORED, BestRows, Nearest, Over, SoftmaxRows, lowest


@dataclasses.dataclass(frozen=True)
class Tiled:
    """The engine of tiles; its methods are those of `Dense`, and so are their numbers.

    Memory beyond inputs and outputs: a few tiles, and with a mesh two visiting blocks of rows, or with `gather` all
    rows of the other side. Gradients are written
    out (the tiles are formed again from the rows), so they can be taken once, not twice.
    """

    tile: int | None = None
    precision: str = "highest"
    mesh: jax.sharding.Mesh | None = None
    axes: tuple[str, ...] = ()
    gather: bool = False

    def softmax_rows(
        self,
        query: Array,
        key: Array | None = None,
        *,
        query_ids: Array,
        key_ids: Array | None = None,
        over: Over = "all",
    ) -> SoftmaxRows:
        """See `Dense.softmax_rows`."""
        query, key = _wide(query, key)
        return _softmax(self, over, False, query, key, query_ids, key_ids)[0]

    def softmax_both(
        self, a: Array, b: Array, *, a_ids: Array, b_ids: Array, over: Over = "all"
    ) -> tuple[SoftmaxRows, SoftmaxRows]:
        """See `Dense.softmax_both`."""
        mine, theirs = _softmax(self, over, True, *_wide(a, b), a_ids, b_ids)
        assert theirs is not None
        return mine, theirs

    def sigmoid_rows(self, query: Array, key: Array, *, bias: Array, query_ids: Array, key_ids: Array) -> Array:
        """See `Dense.sigmoid_rows`."""
        query, key = _wide(query, key)
        bias = jnp.asarray(bias, query.dtype)
        # Inside a user's shard_map the rows differ by device and the bias does not: its gradient is then their sum.
        bias = jnp.where(query[0, 0] + key[0, 0] > 0, bias, bias)
        return _sigmoid(self, query, key, bias, query_ids, key_ids)

    def best_rows(
        self, query: Array, key: Array | None = None, *, query_ids: Array, key_ids: Array | None = None
    ) -> BestRows:
        """See `Dense.best_rows`."""
        query, key = jax.lax.stop_gradient((query, key))
        x, y = _sides(query, key, query_ids, key_ids)
        none = jnp.full(x.ids.shape, lowest(x.rows.dtype), x.rows.dtype)
        start = BestRows(none, none)
        fold = functools.partial(kernels.best_fold, precision=self.precision)
        return self.sweep(fold, None, x, y, start, None, merge=kernels.best_merge)[0]

    def negatives_from(self, query: Array, key: Array, *, least: Array, query_ids: Array, key_ids: Array) -> Array:
        """See `Dense.negatives_from`."""
        x, y = _sides(query, key, query_ids, key_ids)
        x = x._replace(extra=least)
        fold = functools.partial(kernels.negatives_from_fold, precision=self.precision)
        return self.sweep(fold, None, x, y, jnp.zeros(x.ids.shape, jnp.int32), None)[0]

    def nearest(
        self,
        query: Array,
        key: Array | None = None,
        *,
        k: int,
        query_ids: Array,
        key_ids: Array | None = None,
        over: Over = "all",
    ) -> Nearest:
        """See `Dense.nearest`. Without keys the matrix is formed whole: a symmetric one saves nothing here."""
        apart = key is None
        query, key = jax.lax.stop_gradient((query, key))
        x, y = _sides(query, key, query_ids, key_ids)
        y = x if y is None else y
        check_k(k, y.ids.shape[0])
        x, y = (side._replace(extra=jnp.arange(side.ids.shape[0], dtype=jnp.int32)) for side in (x, y))
        x = x if apart else x._replace(extra=None)
        shape = (x.ids.shape[0], k)
        start = Nearest(jnp.full(shape, lowest(x.rows.dtype), x.rows.dtype), jnp.zeros(shape, jnp.int32))
        rising = self.mesh is None
        fold = functools.partial(kernels.nearest_fold, over=over, precision=self.precision, rising=rising)
        return self.sweep(fold, None, x, y, start, None)[0]

    def sweep(
        self, fold: Fold, shared: Any, x: Rows, y: Rows | None, x_state: Any, y_state: Any, merge: Any = None
    ) -> tuple[Any, Any]:
        """Every tile once, on this device or over the mesh; see `sweep.sweep` and `shards.over_shards`."""
        if self.mesh is None:
            return sweep(fold, shared, x, y, x_state, y_state, self.tile)
        local = at_once if self.gather else around
        return over_shards(
            local, self.mesh, self.axes, fold, shared, x, y, x_state, y_state, merge or _added, self.tile
        )


def _wide(query: Array, key: Array | None) -> tuple[Any, Any]:
    """Both sides in float32 or wider: sums of exponentials leave narrower numbers."""
    return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), (query, key))


def _added(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def _sides(query: Array, key: Array | None, query_ids: Array, key_ids: Array | None) -> tuple[Rows, Rows | None]:
    """Both sides, with zeros in ignored rows: those may hold anything, NaN too."""

    check_keys(key, key_ids)

    def side(rows: Array, ids: Array) -> Rows:
        return Rows(jnp.where((ids != IGNORED)[:, None], rows, 0), ids)

    return side(query, query_ids), None if key is None or key_ids is None else side(key, key_ids)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _softmax(
    engine: Tiled,
    over: Over,
    both: bool,
    query: Array,
    key: Array | None,
    query_ids: Array,
    key_ids: Array | None,
) -> tuple[SoftmaxRows, SoftmaxRows | None]:
    return _softmax_forward(engine, over, both, query, key, query_ids, key_ids)[0]


def _softmax_forward(
    engine: Tiled, over: Over, both: bool, query: Array, key: Array | None, query_ids: Array, key_ids: Array | None
) -> tuple[Any, Any]:
    x, y = _sides(query, key, query_ids, key_ids)
    other = x if y is None else y
    start = functools.partial(kernels.softmax_start, dtype=x.rows.dtype)
    fold = functools.partial(kernels.softmax_fold, over=over, precision=engine.precision)
    mine, theirs = engine.sweep(
        fold, None, x, y, start(x.ids), start(other.ids) if both else None, merge=kernels.softmax_merge
    )
    out = (
        _sums(mine, x.ids, other.ids, y is None, over),
        _sums(theirs, other.ids, x.ids, False, over) if both else None,
    )
    return out, (query, key, query_ids, key_ids, out)


def _sums(state: kernels.SoftmaxState, ids: Array, other_ids: Array, apart: bool, over: Over) -> SoftmaxRows:
    dtype = state.total.dtype
    there = ids != IGNORED
    every = jnp.where(there, jnp.sum(other_ids != IGNORED, dtype=dtype) - int(apart), 0)
    count = {"all": every, "negatives": every - state.positive_count, "positives": state.positive_count}[over]
    some = there & (count > 0)
    lse = jnp.where(some, jnp.log(jnp.where(some, state.total, 1)) + state.shift, lowest(dtype))
    return SoftmaxRows(lse, state.positive_sum, state.positive_count, count)


def _softmax_backward(engine: Tiled, over: Over, both: bool, kept: Any, cotangents: Any) -> tuple[Any, ...]:
    query, key, query_ids, key_ids, sums = kept
    x, y = _sides(query, key, query_ids, key_ids)
    x = x._replace(extra=_pull(sums[0], cotangents[0], x.ids))
    if both and y is not None:
        y = y._replace(extra=_pull(sums[1], cotangents[1], y.ids))
    fold = functools.partial(kernels.softmax_pull, over=over, precision=engine.precision)
    dx, dy = engine.sweep(fold, None, x, y, jnp.zeros_like(x.rows), None if y is None else jnp.zeros_like(y.rows))
    return dx, dy, None, None


def _pull(sums: SoftmaxRows, cotangent: SoftmaxRows, ids: Array) -> kernels.Pull:
    """Of rows that have no key: a log-sum-exp of 0 and no cotangent."""
    some = (ids != IGNORED) & (sums.key_count > 0)
    return kernels.Pull(
        jnp.where(some, sums.lse, 0),
        jnp.where(some, cotangent.lse, 0),
        jnp.where(ids != IGNORED, cotangent.positive_sum, 0),
    )


_softmax.defvjp(_softmax_forward, _softmax_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sigmoid(engine: Tiled, query: Array, key: Array, bias: Array, query_ids: Array, key_ids: Array) -> Array:
    x, y = _sides(query, key, query_ids, key_ids)
    fold = functools.partial(kernels.sigmoid_fold, precision=engine.precision)
    return engine.sweep(fold, bias, x, y, jnp.zeros(x.ids.shape, x.rows.dtype), None)[0]


def _sigmoid_forward(
    engine: Tiled, query: Array, key: Array, bias: Array, query_ids: Array, key_ids: Array
) -> tuple[Array, Any]:
    return _sigmoid(engine, query, key, bias, query_ids, key_ids), (query, key, bias, query_ids, key_ids)


def _sigmoid_backward(engine: Tiled, kept: Any, cotangent: Array) -> tuple[Any, ...]:
    query, key, bias, query_ids, key_ids = kept
    x, y = _sides(query, key, query_ids, key_ids)
    assert y is not None
    x = x._replace(extra=jnp.where(query_ids != IGNORED, cotangent, 0))
    fold = functools.partial(kernels.sigmoid_pull, precision=engine.precision)
    start = jnp.zeros_like(x.rows), jnp.zeros(x.ids.shape, x.rows.dtype)
    (dx, by_bias), dy = engine.sweep(fold, bias, x, y, start, jnp.zeros_like(y.rows))
    return dx, dy, jnp.sum(by_bias), None, None


_sigmoid.defvjp(_sigmoid_forward, _sigmoid_backward)
