"""Foreground of a picture from its tokens, and the quality of a pair: alike in front, different behind. Not a loss.

Legend: N pictures, T tokens of a square grid, row by row, D features.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.errors import InputError
from hcl_jax.losses import masking

Sign = Literal["centre", 1, -1]
# What is added to the range of the scores of a picture; scores that range over less than FLAT of the largest are equal.
EPSILON, FLAT = 1e-7, 1e-6


def direction(
    tokens: Float[Array, "n t d"], sign: Sign = "centre", *, ids: Integer[Array, " n"] | None = None
) -> Float[Array, " d"]:
    """The direction in which the tokens of a batch vary most, no gradient.

    e1 = leading eigenvector of sum_nt (x_nt - m) (x_nt - m)^T,   m the mean token

    Its sign is a convention: the pictures say which tokens lie on one line, not which end is the foreground.

    Args:
      tokens: [N, T, D]. The D x D matrix is factorised, in float32 or wider: cheap up to some hundred features.
      sign: "centre": the inner tokens of the grid score higher on average than those of its border. Where T is no
        square or the grid has no inner token (side 1 or 2): fewer tokens score above the mean than below it, for a
        foreground is the smaller part. 1 or -1: the entry of largest magnitude is positive or negative.
      ids: int [N]; -1 = ignored row, in no sum. Other values change nothing.

    Returns:
      [D], unit length. Where two directions vary alike, some vector of their plane.

    Raises:
      InputError: tokens with another rank, a sign of another name.

    Reference: Li et al. 2024, GenView, arXiv 2403.12003, section 3.2: the first principal component of the tokens.
    There it is fitted once, on 10,000 pictures, and its sign is chosen by hand.
    """
    n, t, d = _check_tokens("tokens", tokens)
    if sign not in ("centre", 1, -1):
        raise InputError("sign", repr(sign), "'centre', 1 or -1")
    valid = masking.valid_rows(ids, n)
    x = jax.lax.stop_gradient(masking.mask(tokens, valid))
    count = jnp.maximum(jnp.sum(valid, dtype=x.dtype) * t, 1)
    # The mean goes first: the difference of two large sums would cancel.
    centred = jnp.where(valid[:, None, None], x - jnp.sum(x, axis=(0, 1), keepdims=True) / count, 0)
    covariance = jnp.einsum("ntd,nte->de", centred, centred, precision="highest") / count
    e1 = jnp.linalg.eigh(covariance)[1][:, -1]
    e1 = e1 * _side(e1[jnp.argmax(jnp.abs(e1))])
    if sign != "centre":
        return e1 * sign
    return e1 * _foreground_side(_scores(centred, e1), valid)


def maps(tokens: Float[Array, "n t d"], e1: Float[Array, " d"]) -> tuple[Float[Array, "n t"], Float[Array, "n t"]]:
    """Where the foreground of each picture is, and where its background: two distributions over its tokens.

    s_t = x_t . e1 (not centred),   f_t = (s_t - min s) / (max s - min s + 1e-7)
    M_f = f / sum f,   M_b = (1 - f) / sum (1 - f)

    Args:
      tokens: [N, T, D].
      e1: [D], see `direction`.

    Returns:
      (M_f, M_b), [N, T] each, rows of sum 1. Both are uniform for a picture whose tokens all score alike.

    Raises:
      InputError: tokens with another rank, e1 of another length.

    Reference: Li et al. 2024, GenView, arXiv 2403.12003, section 3.3.
    """
    _check_tokens("tokens", tokens, e1)
    s = _scores(masking.upcast(tokens), e1)
    low, high = jnp.min(s, axis=1, keepdims=True), jnp.max(s, axis=1, keepdims=True)
    # Scores of equal tokens may differ in their last bit, and a map of rounding errors is no map.
    flat = high - low <= FLAT * jnp.max(jnp.abs(s), axis=1, keepdims=True)
    f = jnp.where(flat, 0.5, (s - low) / (high - low + EPSILON))
    return f / jnp.sum(f, axis=1, keepdims=True), (1 - f) / jnp.sum(1 - f, axis=1, keepdims=True)


def ratio(tokens: Float[Array, "n t d"], e1: Float[Array, " d"], threshold: float | Array) -> Float[Array, " n"]:
    """The share of each picture's tokens that are foreground, mean_t [x_t . e1 > threshold].

    Args:
      tokens: [N, T, D].
      e1: [D], see `direction`.
      threshold: in the units of the scores; GenView takes the one above which 40 % of all tokens lie.

    Returns:
      [N], 0 to 1.

    Raises:
      InputError: tokens with another rank, e1 of another length.

    Reference: Li et al. 2024, GenView, arXiv 2403.12003, section 3.2.
    """
    _check_tokens("tokens", tokens, e1)
    s = _scores(masking.upcast(tokens), e1)
    return jnp.mean(s > threshold, axis=1, dtype=s.dtype)


def pair_quality(
    tokens_1: Float[Array, "n t d"], tokens_2: Float[Array, "n t2 d"], e1: Float[Array, " d"] | None = None
) -> Float[Array, " n"]:
    """How good a pair of views is: the same foreground on different backgrounds.

    q = cos(z_f^1, z_f^2) - cos(z_b^1, z_b^2),   z_f = sum_t M_f,t x_t,   z_b = sum_t M_b,t x_t

    Args:
      tokens_1: of the first view, [N, T, D].
      tokens_2: of the second view, [N, T', D]; row i is the same example as row i of tokens_1.
      e1: [D]; None takes `direction` of the tokens of both views, which then have one T.

    Returns:
      [N], -2 to 2; a zero vector has cosine 0 with everything.

    Raises:
      InputError: tokens with another rank or width, another number of rows.

    Reference: Li et al. 2024, GenView, arXiv 2403.12003, section 3.3.
    """
    n, _, d = _check_tokens("tokens_1", tokens_1)
    m, _, width = _check_tokens("tokens_2", tokens_2)
    if (m, width) != (n, d):
        raise InputError("tokens_2", f"shape {jnp.shape(tokens_2)}", f"[{n}, tokens, {d}], as tokens_1 has them")
    e1 = pair_direction(tokens_1, tokens_2) if e1 is None else e1
    (front_1, back_1), (front_2, back_2) = (_means(tokens, e1) for tokens in (tokens_1, tokens_2))
    return jnp.sum(front_1 * front_2, axis=1) - jnp.sum(back_1 * back_2, axis=1)


def pair_direction(
    tokens_1: Float[Array, "n t d"],
    tokens_2: Float[Array, "n t d"],
    sign: Sign = "centre",
    *,
    ids: Integer[Array, " n"] | None = None,
) -> Float[Array, " d"]:
    """`direction` of the tokens of both views together; arguments as there.

    Raises:
      InputError: shapes that differ.
    """
    if jnp.shape(tokens_1) != jnp.shape(tokens_2):
        raise InputError("tokens_2", f"shape {jnp.shape(tokens_2)}", f"shape {jnp.shape(tokens_1)}, that of tokens_1")
    return direction(masking.interleave([tokens_1, tokens_2]), sign, ids=None if ids is None else jnp.repeat(ids, 2))


def _means(tokens: Array, e1: Array) -> list[Array]:
    """The unit vectors of z_f and z_b, [N, D] each."""
    x, valid = masking.upcast(tokens), jnp.ones(jnp.shape(tokens)[:1], bool)
    return [masking.unit(jnp.einsum("nt,ntd->nd", m, x, precision="highest"), valid) for m in maps(tokens, e1)]


def _check_tokens(name: str, tokens: Array, e1: Array | None = None) -> tuple[int, int, int]:
    if jnp.ndim(tokens) != 3:
        raise InputError(name, f"shape {jnp.shape(tokens)}", "three axes, [rows, tokens, features]")
    n, t, d = jnp.shape(tokens)
    if e1 is not None and jnp.shape(e1) != (d,):
        raise InputError("e1", f"shape {jnp.shape(e1)}", f"shape {(d,)}, one number a feature")
    return n, t, d


def _scores(x: Array, e1: Array) -> Array:
    return jnp.einsum("ntd,d->nt", x, e1, precision="highest")


def _side(x: Array) -> Array:
    return jnp.where(x < 0, -1, 1)


def _foreground_side(scores: Array, valid: Array) -> Array:
    """1 where high scores [N, T] are the foreground's, -1 where low ones are; the scores have mean 0."""
    t = scores.shape[1]
    side = math.isqrt(t)
    if side * side == t and side > 2:
        grid = scores.reshape(-1, side, side)
        inner = jnp.sum(grid[:, 1:-1, 1:-1])
        # Inner and border add up to 0, so the larger mean is that of the positive sum.
        return _side(inner)
    above, below = (jnp.sum(valid[:, None] & mask) for mask in (scores > 0, scores < 0))
    return jnp.where(above > below, -1, 1)
