"""What every loss does with its rows: checks, ids, weights, unit length, and the mean.

The rule of reduction, for every loss here: one value a row, times that row's weight, summed and divided by the number
of valid rows (id not -1). Weights are not renormalised: halving all weights halves the loss. Without a valid row it
is 0. (Losses on batch statistics have their own rule: moments.py.)
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Integer, Shaped

from hcl_jax.errors import InputError
from hcl_jax.similarity import IGNORED, Nearest, SoftmaxRows
from hcl_jax.similarity.tiles import lowest

# A gradient is that of a row no shorter than 1e-6: a zero vector stays zero, and one that is nearly zero has a gradient
# that a step survives.
SMALLEST_SQUARE = 1e-12
SMALL = 1e-5  # entries below: their squares leave the numbers of float32, so such rows are scaled up first


def check_matrices(**arrays: Array) -> tuple[int, int]:
    """Refuses arrays that are not all [N, D] with one N and one D; returns (N, D)."""
    (first, x), *others = arrays.items()
    if jnp.ndim(x) != 2:
        raise InputError(first, f"shape {jnp.shape(x)}", "two axes, [rows, features]")
    n, d = jnp.shape(x)
    for name, y in others:
        if jnp.shape(y) != jnp.shape(x):
            raise InputError(name, f"shape {jnp.shape(y)}", f"shape {jnp.shape(x)}, that of {first}")
    return n, d


def check_positive(name: str, value: Any) -> None:
    """Refuses a value that is not one number above zero. A traced array (a learned value) is checked for rank only."""
    if jnp.ndim(value) != 0:
        raise InputError(name, f"shape {jnp.shape(value)}", "one number")
    if not isinstance(value, jax.Array) and not 0 < float(value) < math.inf:
        raise InputError(name, value, "a number above 0")


def check_share(name: str, value: Any) -> None:
    """Refuses a value that is not one number in 0..1, 1 excluded. Of a traced array only the rank is checked."""
    if jnp.ndim(value) != 0:
        raise InputError(name, f"shape {jnp.shape(value)}", "one number")
    if not isinstance(value, jax.Array) and not 0 <= float(value) < 1:
        raise InputError(name, value, "0 to below 1")


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuses a word that is not one of `allowed`."""
    if value not in allowed:
        raise InputError(name, repr(value), ", ".join(map(repr, allowed)))


def row_ids(ids: Array | None, rows: int) -> Integer[Array, " {rows}"]:
    """Ids as a signed integer array [rows]; None makes every row its own id."""
    if ids is None:
        return jnp.arange(rows, dtype=jnp.int32)
    if isinstance(ids, np.ndarray) and ids.size and np.issubdtype(ids.dtype, np.integer):
        widest = np.iinfo(jnp.result_type(int))
        if ids.max() > widest.max or ids.min() < widest.min:
            raise InputError(
                "ids",
                f"{ids.max()}, beyond {widest.dtype}",
                "smaller ids, as those of np.unique(..., return_inverse=True)",
            )
    ids = jnp.asarray(ids)
    if ids.shape != (rows,):
        raise InputError("ids", f"shape {ids.shape}", f"shape {(rows,)}, one id a row")
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise InputError("ids", ids.dtype, "an integer type")
    if jnp.issubdtype(ids.dtype, jnp.signedinteger):
        return ids
    return ids.astype(jnp.result_type(int))


def valid_rows(ids: Array | None, rows: int) -> Bool[Array, " {rows}"]:
    """Which rows count, bool [rows]: those whose id is not -1."""
    return row_ids(ids, rows) != IGNORED


def upcast(x: Shaped[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x in float32 or wider: sums are never narrower than that, and float64 stays float64."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def mask(x: Shaped[Array, "*shape"], valid: Bool[Array, "..."]) -> Float[Array, "*shape"]:
    """x in float32 or wider, with zeros in rows that do not count: those may hold anything, NaN too."""
    x = upcast(x)
    return jnp.where(valid.reshape(valid.shape + (1,) * (x.ndim - valid.ndim)), x, 0)


def unit(x: Shaped[Array, "n d"], valid: Bool[Array, " n"]) -> Float[Array, "n d"]:
    """Rows of x at unit length, x / |x|, zero where they do not count."""
    return unit_length(mask(x, valid))


def unit_length(x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """x / |x| along the last axis, at any length from 1e-30 to 1e18 in float32; zero stays zero.

    The gradient is that of x rsqrt(max(sum x^2, 1e-12)).
    """
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    # A square beyond the largest number would make the row look like zeros: a run that diverged must not look healthy.
    square = jnp.where(square < jnp.inf, square, jnp.nan)
    short = x * jax.lax.rsqrt(jnp.maximum(square, SMALLEST_SQUARE))
    fixed = jax.lax.stop_gradient(x)
    largest = jnp.max(jnp.abs(fixed), axis=-1, keepdims=True, initial=0)
    tiny = (largest > 0) & (largest < SMALL)
    scaled = fixed / jnp.where(tiny, largest, 1)
    whole = scaled * jax.lax.rsqrt(jnp.sum(jnp.where(tiny, scaled * scaled, 1), axis=-1, keepdims=True))
    return short + jnp.where(tiny, whole - jax.lax.stop_gradient(short), 0)


def scale(u: Float[Array, "n d"], temperature: float | Array) -> Float[Array, "n d"]:
    """u / sqrt(t): rows whose products with each other are u_i . u_j / t, a symmetric matrix."""
    return u * jax.lax.rsqrt(jnp.asarray(temperature, u.dtype))


def nearest_rows(nearest: Nearest) -> tuple[Integer[Array, " n"], Bool[Array, " n"]]:
    """The row of the nearest key of each query [R], and whether there is one, bool [R]; from `engine.nearest`."""
    # Not "above the lowest": a row that is not a number has a neighbour, and its loss shall not be one either.
    return nearest.rows[:, 0], nearest.logits[:, 0] != lowest(nearest.logits.dtype)


def interleave(views: list[Array]) -> Array:
    """V arrays [N, ...] as one [N V, ...], the V views of a row side by side.

    Stacking one view below the other would move rows between devices when they are sharded; this does not.
    """
    return views[0] if len(views) == 1 else jnp.stack(views, axis=1).reshape(-1, *views[0].shape[1:])


def softmax_loss(rows: SoftmaxRows) -> Float[Array, " n"]:
    """lse minus the mean positive logit of each row, [R]; 0 without a positive or without a key."""
    has = (rows.positive_count > 0) & (rows.key_count > 0)
    return jnp.where(has, rows.lse - rows.positive_sum / jnp.maximum(rows.positive_count, 1), 0)


def weights(row_weights: Array | None, rows: int, dtype: Any) -> Float[Array, " {rows}"]:
    """Row weights [rows] in `dtype`; None is 1 for every row."""
    if row_weights is None:
        return jnp.ones((rows,), dtype)
    row_weights = jnp.asarray(row_weights)
    if row_weights.shape != (rows,):
        raise InputError("row_weights", f"shape {row_weights.shape}", f"shape {(rows,)}, one weight a row")
    return row_weights.astype(dtype)


def mean(values: Float[Array, " n"], valid: Bool[Array, " n"], row_weights: Array | None) -> Float[Array, ""]:
    """sum_i w_i values_i / number of valid rows, over the valid rows; 0 without one."""
    weighted = values * weights(row_weights, values.shape[0], values.dtype)
    count = jnp.sum(valid, dtype=values.dtype)
    return jnp.sum(jnp.where(valid, weighted, 0)) / jnp.maximum(count, 1)
