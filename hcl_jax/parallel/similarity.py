"""Similarity engines: reductions over the rows of a query x key similarity matrix, by integer ids.

A loss that compares every row with every other one needs sums over rows of an N x N matrix, never the matrix itself. An
engine makes those sums; the losses call its methods and know neither tiles nor devices. Every engine is a frozen,
hashable value (static under jit) with these three methods, each returning arrays of one number a query row:

  softmax_rows  log-sum-exp, sum and number of the positive logits         (differentiable)
  sigmoid_rows  sum over keys of the logistic loss                         (differentiable)
  best_rows     largest positive and largest negative logit                (not differentiable)

Ids say who is positive with whom: query i and key j are positive when `query_ids[i] == key_ids[j]`; an id of -1 takes
the row out, as query and as key. With `same=True` query and key hold the same rows in the same order and a row is not
compared with itself. Temperature and scale belong to the caller: multiply the query by them, so that their gradients
need no code here. Two sets of keys (a batch and a queue) are two calls and one `jnp.logaddexp` of the two `lse`.

Legend: R query rows, K key rows, D features.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

IGNORED = -1  # the id of a row that is neither anchor nor key

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


@dataclasses.dataclass(frozen=True)
class Dense:
    """The engine that makes the whole R x K matrix: fastest while it fits.

    Memory: about 4 R K numbers with the gradient. With rows sharded over a data axis, R is the local number of rows:
    the compiler gathers the keys and keeps the rows where they are.
    """

    precision: str = "highest"

    def softmax_rows(
        self, query: Array, key: Array, *, query_ids: Array, key_ids: Array, same: bool = False, over: Over = "all"
    ) -> SoftmaxRows:
        """Log-sum-exp over the keys of each query row, with the sum and the number of its positive logits.

        s_ij = q_i . k_j,   lse_i = log sum_{j in over(i)} exp s_ij,   positive_sum_i = sum_{j: id_i = id_j} s_ij

        Args:
          query: [R, D], already divided by the temperature.
          key: [K, D], same dtype.
          query_ids: int [R]; -1 = ignored.
          key_ids: int [K]; -1 = ignored.
          same: query and key are the same rows in the same order; a row is not its own key.
          over: which keys enter `lse`: "all", "negatives" (other ids) or "positives" (same id).

        Returns:
          SoftmaxRows(lse, positive_sum, positive_count, key_count), [R] each; key_count is the number of keys in lse.
          A row without such keys has lse = finfo.min (finite, gradient zero) and key_count 0.
        """
        logits = self._logits(query, key)
        counted, positive = _masks(query_ids, key_ids, same)
        entering = {"all": counted, "negatives": counted & ~positive, "positives": positive}[over]
        lowest = jnp.finfo(logits.dtype).min
        highest = jax.lax.stop_gradient(jnp.max(jnp.where(entering, logits, lowest), axis=1, initial=lowest))
        # The mask comes before exp: a logit that does not count may be large enough to overflow.
        total = jnp.sum(jnp.exp(jnp.where(entering, logits - highest[:, None], lowest)), axis=1)
        some = jnp.any(entering, axis=1)
        return SoftmaxRows(
            lse=jnp.where(some, jnp.log(jnp.where(some, total, 1)) + highest, lowest),
            positive_sum=jnp.sum(jnp.where(positive, logits, 0), axis=1),
            positive_count=jnp.sum(positive, axis=1, dtype=logits.dtype),
            key_count=jnp.sum(entering, axis=1, dtype=logits.dtype),
        )

    def sigmoid_rows(self, query: Array, key: Array, *, bias: Array, query_ids: Array, key_ids: Array) -> Array:
        """Sum over keys of the logistic loss of each pair: is it a positive?

        r_i = sum_j -log sigmoid(y_ij (q_i . k_j + b)),   y_ij = +1 where id_i = id_j, else -1

        Args:
          query: [R, D], already multiplied by the scale.
          key: [K, D], same dtype.
          bias: scalar b.
          query_ids: int [R]; -1 = ignored.
          key_ids: int [K]; -1 = ignored.

        Returns:
          [R]; 0 for an ignored row.
        """
        logits = self._logits(query, key) + bias
        counted, positive = _masks(query_ids, key_ids, same=False)
        return jnp.sum(jnp.where(counted, jax.nn.softplus(jnp.where(positive, -logits, logits)), 0), axis=1)

    def best_rows(self, query: Array, key: Array, *, query_ids: Array, key_ids: Array, same: bool = False) -> BestRows:
        """Largest positive and largest negative logit of each query row, for accuracies; no gradient.

        Args:
          query, key, query_ids, key_ids, same: as in `softmax_rows`.

        Returns:
          BestRows(positive, negative), [R] each; finfo.min where a row has none.
        """
        logits = jax.lax.stop_gradient(self._logits(query, key))
        counted, positive = _masks(query_ids, key_ids, same)
        lowest = jnp.finfo(logits.dtype).min
        return BestRows(
            positive=jnp.max(jnp.where(positive, logits, lowest), axis=1, initial=lowest),
            negative=jnp.max(jnp.where(counted & ~positive, logits, lowest), axis=1, initial=lowest),
        )

    def _logits(self, query: Array, key: Array) -> Array:
        return jnp.matmul(query, key.T, precision=self.precision, preferred_element_type=query.dtype)


def _masks(query_ids: Array, key_ids: Array, same: bool) -> tuple[Array, Array]:
    counted = (query_ids != IGNORED)[:, None] & (key_ids != IGNORED)[None, :]
    if same:
        row = jnp.arange(query_ids.shape[0])
        counted &= row[:, None] != row[None, :]
    return counted, counted & (query_ids[:, None] == key_ids[None, :])


Engine = Dense  # what a loss takes; a union once there are others
DENSE = Dense()  # the default of every loss


def dense(precision: str = "highest") -> Dense:
    """The dense engine.

    Args:
      precision: of the similarity products, as jax takes it. "highest" is float32 on every device; "default" is
        bfloat16 products on TPU and TF32 on recent GPUs, faster, and wrong in the third digit of a logit.

    Returns:
      Dense, hashable and static under jit.
    """
    return Dense(precision=str(precision))
