"""Similarity engines: reductions over the rows of a query x key similarity matrix, by integer ids.

A loss that compares every row with every other one needs sums over rows of an N x N matrix, never the matrix itself. An
engine makes those sums; the losses call its methods and know neither tiles nor devices. Every engine is a frozen,
hashable value (static under jit) with these methods; `Dense` has their equations:

  softmax_rows  log-sum-exp, sum and number of the positive logits of each query row    (differentiable)
  softmax_both  the same of the rows and of the columns of one matrix                   (differentiable)
  sigmoid_rows  sum over keys of the logistic loss                                      (differentiable)
  best_rows     largest positive and largest negative logit                             (not differentiable)
  nearest       the k keys with the largest logits                                      (not differentiable)

Ids say who is positive with whom: query i and key j are positive when `query_ids[i] == key_ids[j]`; an id of -1 takes
the row out, as query and as key. Without keys the query rows are compared with each other, none with itself.
Temperature and scale belong to the caller: multiply the query by them (rows compared with each other: by their square
root), so that their gradients need no code here. Two sets of keys (a batch and a queue) are two calls and one
`jnp.logaddexp` of the two `lse`.

Legend: R query rows, K key rows, D features.
"""

from hcl_jax.parallel.dense import Dense
from hcl_jax.parallel.tiles import IGNORED, BestRows, Nearest, Over, SoftmaxRows

__all__ = ["DENSE", "IGNORED", "BestRows", "Dense", "Engine", "Nearest", "Over", "SoftmaxRows", "dense"]

Engine = Dense  # what a loss takes; a union once there are others
DENSE = Dense()  # the default of every loss


def dense(precision: str = "highest") -> Dense:
    """The dense engine.

    Args:
      precision: of the similarity products, as jax takes it. "highest" is float32 on every device; "default" is
        bfloat16 products on TPU and TF32 on recent GPUs, faster, and wrong in the third digit of a logit; "bfloat16"
        is that on every device, with float32 sums.

    Returns:
      Dense, hashable and static under jit.
    """
    return Dense(precision=str(precision))
