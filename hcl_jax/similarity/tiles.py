"""A tile of a similarity matrix: its logits, who counts in it, and who is positive with whom.

What every engine shares, and what the losses get back from each of them.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

IGNORED = -1  # the id of a row that is neither query nor key

PRECISIONS = ("highest", "high", "default", "bfloat16")

Over = Literal["all", "negatives", "positives"]


class SoftmaxRows(NamedTuple):
    """Softmax sums of each query row; see `Dense.softmax_rows`. Every field has shape [R] and the logits' dtype."""

    lse: Array
    positive_sum: Array
    positive_count: Array
    key_count: Array


class BestRows(NamedTuple):
    """Largest logit of each query row among its positives and its negatives, [R] each; lowest finite number if none."""

    positive: Array
    negative: Array


class Nearest(NamedTuple):
    """The k keys with the largest logits of each query row, best first: their logits and their rows, [R, k] each."""

    logits: Array
    rows: Array


def product(x: Array, y: Array, precision: str) -> Array:
    """x @ y in x's dtype. "bfloat16" rounds both factors and adds up in float32; else a precision as jax takes it."""
    if precision == "bfloat16":
        narrow = jnp.matmul(x.astype(jnp.bfloat16), y.astype(jnp.bfloat16), preferred_element_type=jnp.float32)
        return narrow.astype(x.dtype)
    return jnp.matmul(x, y, precision=precision, preferred_element_type=x.dtype)


def masks(query_ids: Array, key_ids: Array, apart: Array | bool) -> tuple[Array, Array]:
    """Which pairs count and which of those are positives, bool [R, K] each. apart: query and key are two rows."""
    counted = (query_ids != IGNORED)[:, None] & (key_ids != IGNORED)[None, :] & apart
    return counted, counted & (query_ids[:, None] == key_ids[None, :])


def entering(counted: Array, positive: Array, over: Over) -> Array:
    """The pairs that enter the log-sum-exp."""
    return {"all": counted, "negatives": counted & ~positive, "positives": positive}[over]


def not_the_diagonal(rows: int) -> Array:
    """bool [rows, rows]: a row is not compared with itself."""
    row = jnp.arange(rows)
    return row[:, None] != row[None, :]


def lowest(dtype: jax.typing.DTypeLike) -> float:
    """The lowest finite number of a dtype: the log-sum-exp and the maximum over nothing."""
    return float(jnp.finfo(dtype).min)
