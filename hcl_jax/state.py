"""Everything that changes between steps, as one pytree."""

import zlib
from typing import Any, NamedTuple

import jax

LAYOUT = 1  # of the state on disk; raise it when a field is added, moved or changes its meaning


class TrainState(NamedTuple):
    """One pytree that a step takes and gives back.

    Attributes:
      step: int32 [], steps done.
      params: {tower: {"encoder": ..., "heads": {...}}, "objectives": {...}}, all that is trained.
      target: {tower: {"params": ..., "batch_stats": ...}}, the moving-average copies.
      model_state: {tower: {"encoder": ..., "heads": {...}}}, running BatchNorm statistics.
      memory: {tower: {slot: {...}}}, queues and centres.
      opt_state: the optimizer's state, the weight average included.
      key: PRNG key of the run; every random number comes from (key, step, row).
      skipped: int32 [], non-finite steps in a row, up to now.
    """

    step: jax.Array
    params: Any
    target: Any
    model_state: Any
    memory: Any
    opt_state: Any
    key: jax.Array
    skipped: jax.Array


def named_key(key: jax.Array, name: str) -> jax.Array:
    """The key for a part of that name: adding a part leaves the other parts' numbers as they are."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
