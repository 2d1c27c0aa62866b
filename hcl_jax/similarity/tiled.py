"""The engine that forms the similarity matrix tile by tile: streamed on one device, a ring on the devices of a mesh."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.similarity import kernels
from hcl_jax.similarity.all_gather import gathered_tiles
from hcl_jax.similarity.dense import check_k, check_keys
from hcl_jax.similarity.ring import ring_tiles
from hcl_jax.similarity.shards import over_shards
from hcl_jax.similarity.tiles import (
    IGNORED,
    BestRows,
    Kernel,
    Nearest,
    Over,
    Side,
    SoftmaxRows,
    lowest,
    over_tiles,
    pvary_like,
)


@dataclasses.dataclass(frozen=True)
class Tiled:
    """The engine of tiles; its methods are those of `Dense`, and so are their numbers.

    Memory beyond inputs and outputs: a few tiles, and with a mesh two visiting blocks of rows, or with `gather` all
    rows of the other side. Gradients are written out (the tiles are formed again from the rows), so they can be taken
    once, not twice.
    """

    tile: int | None = None
    precision: str = "highest"
    mesh: jax.sharding.Mesh | None = None
    axes: tuple[str, ...] = ()
    gather: bool = False

    def softmax_rows(
        self,
        query: Float[Array, "r d"],
        key: Float[Array, "k d"] | None = None,
        *,
        query_ids: Integer[Array, " r"],
        key_ids: Integer[Array, " k"] | None = None,
        over: Over = "all",
    ) -> SoftmaxRows:
        """See `Dense.softmax_rows`."""
        query, key = _upcast(query, key)
        return _softmax(self, over, False, query, key, query_ids, key_ids)[0]

    def softmax_both(
        self,
        a: Float[Array, "r d"],
        b: Float[Array, "k d"],
        *,
        a_ids: Integer[Array, " r"],
        b_ids: Integer[Array, " k"],
        over: Over = "all",
    ) -> tuple[SoftmaxRows, SoftmaxRows]:
        """See `Dense.softmax_both`."""
        of_a, of_b = _softmax(self, over, True, *_upcast(a, b), a_ids, b_ids)
        assert of_b is not None
        return of_a, of_b

    def sigmoid_rows(
        self,
        query: Float[Array, "r d"],
        key: Float[Array, "k d"],
        *,
        bias: Float[Array, ""],
        query_ids: Integer[Array, " r"],
        key_ids: Integer[Array, " k"],
    ) -> Float[Array, " r"]:
        """See `Dense.sigmoid_rows`."""
        query, key = _upcast(query, key)
        bias = jnp.asarray(bias, query.dtype)
        # Inside a user's shard_map the rows differ by device and the bias does not: its gradient is then their sum.
        bias = pvary_like(bias, query, key)
        return _sigmoid(self, query, key, bias, query_ids, key_ids)

    def best_rows(
        self,
        query: Float[Array, "r d"],
        key: Float[Array, "k d"] | None = None,
        *,
        query_ids: Integer[Array, " r"],
        key_ids: Integer[Array, " k"] | None = None,
    ) -> BestRows:
        """See `Dense.best_rows`."""
        query, key = jax.lax.stop_gradient((query, key))
        x, y = _sides(query, key, query_ids, key_ids)
        floor = jnp.full(x.ids.shape, lowest(x.rows.dtype), x.rows.dtype)
        start = BestRows(floor, floor)
        kernel = functools.partial(kernels.best_forward, precision=self.precision)
        return self._over_tiles(kernel, None, x, y, start, None, merge=kernels.best_merge)[0]

    def negatives_from(
        self,
        query: Float[Array, "r d"],
        key: Float[Array, "k d"],
        *,
        least: Float[Array, " r"],
        query_ids: Integer[Array, " r"],
        key_ids: Integer[Array, " k"],
    ) -> Integer[Array, " r"]:
        """See `Dense.negatives_from`."""
        x, y = _sides(query, key, query_ids, key_ids)
        x = x._replace(extra=least)
        kernel = functools.partial(kernels.negatives_forward, precision=self.precision)
        return self._over_tiles(kernel, None, x, y, jnp.zeros(x.ids.shape, jnp.int32), None)[0]

    def nearest(
        self,
        query: Float[Array, "r d"],
        key: Float[Array, "k d"] | None = None,
        *,
        k: int,
        query_ids: Integer[Array, " r"],
        key_ids: Integer[Array, " k"] | None = None,
        over: Over = "all",
    ) -> Nearest:
        """See `Dense.nearest`. Without keys the matrix is formed whole: a symmetric one saves nothing here."""
        same = key is None
        query, key = jax.lax.stop_gradient((query, key))
        x, y = _sides(query, key, query_ids, key_ids)
        y = x if y is None else y
        check_k(k, y.ids.shape[0])
        x, y = (side._replace(extra=jnp.arange(side.ids.shape[0], dtype=jnp.int32)) for side in (x, y))
        x = x if same else x._replace(extra=None)
        shape = (x.ids.shape[0], k)
        start = Nearest(jnp.full(shape, lowest(x.rows.dtype), x.rows.dtype), jnp.zeros(shape, jnp.int32))
        rising = self.mesh is None
        kernel = functools.partial(kernels.nearest_forward, over=over, precision=self.precision, rising=rising)
        return self._over_tiles(kernel, None, x, y, start, None)[0]

    def _over_tiles(
        self, kernel: Kernel, shared: Any, x: Side, y: Side | None, x_state: Any, y_state: Any, merge: Any = None
    ) -> tuple[Any, Any]:
        """Every tile once, on this device or over the mesh; see `tiles.over_tiles` and `shards.over_shards`."""
        if self.mesh is None:
            return over_tiles(kernel, shared, x, y, x_state, y_state, self.tile)
        local = gathered_tiles if self.gather else ring_tiles
        return over_shards(
            local, self.mesh, self.axes, kernel, shared, x, y, x_state, y_state, merge or _added, self.tile
        )


def _upcast(query: Array, key: Array | None) -> tuple[Any, Any]:
    """Both sides in float32 or wider: sums of exponentials leave narrower numbers."""
    return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), (query, key))


def _added(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def _sides(query: Array, key: Array | None, query_ids: Array, key_ids: Array | None) -> tuple[Side, Side | None]:
    """Both sides, with zeros in ignored rows: those may hold anything, NaN too."""

    check_keys(key, key_ids)

    def side(rows: Array, ids: Array) -> Side:
        return Side(jnp.where((ids != IGNORED)[:, None], rows, 0), ids)

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
    kernel = functools.partial(kernels.softmax_forward, over=over, precision=engine.precision)
    x_sums, y_sums = engine._over_tiles(
        kernel, None, x, y, start(x.ids), start(other.ids) if both else None, merge=kernels.softmax_merge
    )
    out = (
        _sums(x_sums, x.ids, other.ids, y is None, over),
        _sums(y_sums, other.ids, x.ids, False, over) if both else None,
    )
    return out, (query, key, query_ids, key_ids, out)


def _sums(state: kernels.SoftmaxState, ids: Array, other_ids: Array, same: bool, over: Over) -> SoftmaxRows:
    dtype = state.total.dtype
    valid = ids != IGNORED
    keys = jnp.where(valid, jnp.sum(other_ids != IGNORED, dtype=dtype) - int(same), 0)
    count = {"all": keys, "negatives": keys - state.positive_count, "positives": state.positive_count}[over]
    some = valid & (count > 0)
    lse = jnp.where(some, jnp.log(jnp.where(some, state.total, 1)) + state.shift, lowest(dtype))
    return SoftmaxRows(lse, state.positive_sum, state.positive_count, count)


def _softmax_backward(engine: Tiled, over: Over, both: bool, residuals: Any, cotangents: Any) -> tuple[Any, ...]:
    query, key, query_ids, key_ids, sums = residuals
    x, y = _sides(query, key, query_ids, key_ids)
    x = x._replace(extra=_of_rows(sums[0], cotangents[0], x.ids))
    if both and y is not None:
        y = y._replace(extra=_of_rows(sums[1], cotangents[1], y.ids))
    kernel = functools.partial(kernels.softmax_backward, over=over, precision=engine.precision)
    start = jnp.zeros_like(x.rows), None if y is None else jnp.zeros_like(y.rows)
    dx, dy = engine._over_tiles(kernel, None, x, y, *start)
    return dx, dy, None, None


def _of_rows(sums: SoftmaxRows, cotangent: SoftmaxRows, ids: Array) -> kernels.Cotangents:
    """What the backward kernel reads; rows without a key have a log-sum-exp of 0 and no cotangent."""
    some = (ids != IGNORED) & (sums.key_count > 0)
    return kernels.Cotangents(
        jnp.where(some, sums.lse, 0),
        jnp.where(some, cotangent.lse, 0),
        jnp.where(ids != IGNORED, cotangent.positive_sum, 0),
    )


_softmax.defvjp(_softmax_forward, _softmax_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sigmoid(engine: Tiled, query: Array, key: Array, bias: Array, query_ids: Array, key_ids: Array) -> Array:
    x, y = _sides(query, key, query_ids, key_ids)
    kernel = functools.partial(kernels.sigmoid_forward, precision=engine.precision)
    return engine._over_tiles(kernel, bias, x, y, jnp.zeros(x.ids.shape, x.rows.dtype), None)[0]


def _sigmoid_forward(
    engine: Tiled, query: Array, key: Array, bias: Array, query_ids: Array, key_ids: Array
) -> tuple[Array, Any]:
    return _sigmoid(engine, query, key, bias, query_ids, key_ids), (query, key, bias, query_ids, key_ids)


def _sigmoid_backward(engine: Tiled, residuals: Any, cotangent: Array) -> tuple[Any, ...]:
    query, key, bias, query_ids, key_ids = residuals
    x, y = _sides(query, key, query_ids, key_ids)
    assert y is not None
    x = x._replace(extra=jnp.where(query_ids != IGNORED, cotangent, 0))
    kernel = functools.partial(kernels.sigmoid_backward, precision=engine.precision)
    start = jnp.zeros_like(x.rows), jnp.zeros(x.ids.shape, x.rows.dtype)
    (dx, by_bias), dy = engine._over_tiles(kernel, bias, x, y, start, jnp.zeros_like(y.rows))
    return dx, dy, jnp.sum(by_bias), None, None


_sigmoid.defvjp(_sigmoid_forward, _sigmoid_backward)
