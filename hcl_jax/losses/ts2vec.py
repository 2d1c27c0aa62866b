"""TS2Vec: two crops of a series agree where they overlap, at every time scale.

Rows are compared step by step with each other and steps with the other steps of their row; the vectors are not scaled
to unit length and there is no temperature.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.errors import InputError
from hcl_jax.losses import masking

# What a key that does not count has in place of its logit: exp of it is 0, and differences of it stay finite.
NEVER = -1e30


def ts2vec(
    za: Float[Array, "b t d"],
    zb: Float[Array, "b t d"],
    overlap_a: Integer[Array, "b 2"],
    overlap_b: Integer[Array, "b 2"],
    *,
    alpha: float | Array = 0.5,
    temporal_unit: int = 0,
    ids: Integer[Array, " b"] | None = None,
    row_weights: Float[Array, " b"] | None = None,
) -> Float[Array, ""]:
    """Hierarchical contrast of two crops: instance and temporal cross entropy, averaged over levels of max-pooling.

    loss_i = 1/K sum_{k<K} [alpha I_ik + (1 - alpha) T_ik],   level k: r^k = max-pool of 2 of r^(k-1), until 1 step
    I_i = mean_t -log( e^(r_it.r'_it) / sum_j [e^(r_it.r'_jt) + 1(j != i) e^(r_it.r_jt)] ),   rows j at step t
    T_i = mean_t -log( e^(r_it.r'_it) / sum_s [e^(r_it.r'_is) + 1(s != t) e^(r_it.r_is)] ),   steps s of row i
    each also with r and r' exchanged, and the mean of both; K = floor(log2 L) + 1 for an overlap of L steps.

    Args:
      za, zb: [B, T, D], a vector a step of each crop (in buffers of T steps).
      overlap_a, overlap_b: int [B, 2], where the overlap starts in each buffer, and its steps L; L of both is equal.
        L may differ between rows: a row meets those that have its step at its level, and is averaged over its levels.
      alpha: weight of the instance part.
      temporal_unit: level from which the temporal part counts; K stays.
      ids: int [B]; same id = positive in the instance part, -1 = ignored row. None: every row its own.
      row_weights: [B], scale the loss of each row.

    Returns:
      Scalar, mean over valid rows, weights not renormalised. A row without overlap is 0 and counted.

    Raises:
      InputError: shapes that do not fit, alpha outside 0..1, a negative temporal_unit.

    Example:
      >>> x, overlap = jnp.eye(2)[:, None], jnp.array([[0, 1], [0, 1]])  # series of one step
      >>> print(f"{ts2vec(x, x, overlap, overlap):.4f}")  # half of log(e + 2) - 1: one step has no temporal part
      0.2757

    Reference: Yue et al. 2022, "TS2Vec", arXiv 2106.10466, equations 1 to 3 and algorithm 1; their code's halves and
    order of pooling. Where several rows have one id, the mean over the positives, as in `sup_con`.
    """
    n, steps = _check(za, zb, overlap_a, overlap_b, alpha, temporal_unit)
    ids = masking.row_ids(ids, n)
    valid = masking.valid_rows(ids, n)
    same = (ids[:, None] == ids[None, :]) & valid[:, None] & valid[None, :]
    length = jnp.where(valid, jnp.clip(jnp.asarray(overlap_a)[:, 1], 0, steps), 0)
    time = jnp.arange(steps, dtype=length.dtype)
    a, b = (_overlap(z, where, length, time) for z, where in ((za, overlap_a), (zb, overlap_b)))
    total = jnp.zeros((n,), a.dtype)
    levels = jnp.zeros((n,), a.dtype)
    for level in range(steps.bit_length()):
        if level:
            a, b, length = _halved(a), _halved(b), length // 2
        inside = time[None, : a.shape[1]] < length[:, None]
        part = alpha * _instance(a, b, inside, same)
        if level >= temporal_unit and a.shape[1] > 1:
            part = part + (1 - alpha) * _temporal(a, b, inside)
        total = total + part
        levels = levels + (length > 0)
    return masking.mean(total / jnp.maximum(levels, 1), valid, row_weights)


def _check(za: Array, zb: Array, overlap_a: Array, overlap_b: Array, alpha: Any, unit: Any) -> tuple[int, int]:
    if jnp.ndim(za) != 3 or 0 in jnp.shape(za):
        raise InputError("za", f"shape {jnp.shape(za)}", "[rows, steps, features], at least one of each")
    if jnp.shape(zb) != jnp.shape(za):
        raise InputError("zb", f"shape {jnp.shape(zb)}", f"shape {jnp.shape(za)}, that of za")
    n, steps, _ = jnp.shape(za)
    for name, overlap in (("overlap_a", overlap_a), ("overlap_b", overlap_b)):
        if jnp.shape(overlap) != (n, 2):
            raise InputError(name, f"shape {jnp.shape(overlap)}", f"shape {(n, 2)}, start and steps of each row")
        if not jnp.issubdtype(jnp.asarray(overlap).dtype, jnp.integer):
            raise InputError(name, jnp.asarray(overlap).dtype, "an integer type")
    if jnp.ndim(alpha) or not isinstance(alpha, jax.Array) and not 0 <= alpha <= 1:
        raise InputError("alpha", alpha, "a number from 0 to 1")
    if isinstance(unit, bool) or not isinstance(unit, int | np.integer) or unit < 0:
        raise InputError("temporal_unit", unit, "a whole number of at least 0")
    return n, steps


def _overlap(z: Array, where: Array, length: Array, time: Array) -> Array:
    """The steps start .. start + L of each row at the front of the buffer, zeros behind: [B, T, D]."""
    at = jnp.minimum(jnp.asarray(where)[:, :1] + time[None, :], len(time) - 1)
    taken = jnp.take_along_axis(masking.upcast(z), at[:, :, None], axis=1)
    return jnp.where((time[None, :] < length[:, None])[:, :, None], taken, 0)


def _halved(x: Array) -> Array:
    """max of steps 2t and 2t + 1; an odd last step is dropped: [B, T, D] -> [B, T // 2, D]."""
    even = x.shape[1] // 2 * 2
    return jnp.maximum(x[:, 0:even:2], x[:, 1:even:2])


def _log_sum(a: Array, b: Array, keys: Array) -> tuple[Array, Array]:
    """log of the denominators of `a` and of `b`, [G, N] each: all keys of the other side, and of the own but itself.

    Args:
      a, b: [G, N, D], compared within each of G groups.
      keys: bool [G, N], which ones count as keys.
    """

    def dots(x: Array, y: Array) -> Array:
        return jnp.einsum("gnd,gmd->gnm", x, y, precision="highest")

    rest = keys[:, None, :] & ~jnp.eye(a.shape[1], dtype=bool)[None]
    # The product of a with b serves both sides: as rows and as columns.
    cross = dots(a, b)
    of_a = jax.nn.logsumexp(jnp.where(keys[:, None, :], cross, NEVER), axis=2)
    of_b = jax.nn.logsumexp(jnp.where(keys[:, :, None], cross, NEVER), axis=1)
    own_a, own_b = (jax.nn.logsumexp(jnp.where(rest, dots(x, x), NEVER), axis=2) for x in (a, b))
    return jnp.logaddexp(of_a, own_a), jnp.logaddexp(of_b, own_b)


def _over_time(values: Array, inside: Array) -> Array:
    """Mean over the steps that are inside: [B, T] -> [B]; 0 without one."""
    count = jnp.sum(inside, axis=1, dtype=values.dtype)
    return jnp.sum(jnp.where(inside, values, 0), axis=1) / jnp.maximum(count, 1)


def _temporal(a: Array, b: Array, inside: Array) -> Array:
    """T_i of each row, [B]."""
    of_a, of_b = _log_sum(a, b, inside)
    return _over_time((of_a + of_b) / 2 - jnp.sum(a * b, axis=2), inside)


def _instance(a: Array, b: Array, inside: Array, same: Array) -> Array:
    """I_i of each row, [B]; `same` bool [B, B] says who is positive with whom."""
    x, y, keys = jnp.moveaxis(a, 1, 0), jnp.moveaxis(b, 1, 0), inside.T
    of_a, of_b = _log_sum(x, y, keys)
    # Mean of the positives' logits by linearity: the dot product with their mean.
    pairs = (same[None] & keys[:, None, :]).astype(x.dtype)
    own = pairs * (1 - jnp.eye(same.shape[0], dtype=x.dtype))[None]
    count = jnp.maximum(jnp.sum(pairs, axis=2) + jnp.sum(own, axis=2), 1)

    def positive(own_side: Array, other: Array) -> Array:
        sums = jnp.matmul(pairs, other, precision="highest") + jnp.matmul(own, own_side, precision="highest")
        return jnp.sum(own_side * sums, axis=2) / count

    return _over_time(((of_a - positive(x, y) + of_b - positive(y, x)) / 2).T, inside)
