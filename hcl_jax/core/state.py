"""Everything that changes between steps, as one pytree."""

import zlib
from typing import Any, NamedTuple

import jax

LAYOUT = 2  # of the state on disk; who adds, moves or changes a field raises it, and says in layouts.py what was before
REMEMBERED = 16  # skipped steps whose numbers are kept


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
      skipped_total: int32 [], of the whole run.
      skipped_steps: int32 [16], the numbers (0 for the first) of the last ones, newest first, -1 where there were
        fewer. Their rows follow from the seed and the number.
    """

    step: jax.Array
    params: Any
    target: Any
    model_state: Any
    memory: Any
    opt_state: Any
    key: jax.Array
    skipped: jax.Array
    skipped_total: jax.Array
    skipped_steps: jax.Array


def named_key(key: jax.Array, name: str) -> jax.Array:
    """The key for a part of that name: adding a part leaves the other parts' numbers as they are."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
