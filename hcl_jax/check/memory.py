"""Whether the batches of a run fit into the memory of a machine, before one is made."""

import math
from typing import Any

import jax

from hcl_jax.data.pipeline import AHEAD
from hcl_jax.errors import InputError
from hcl_jax.parallel import sharding
from hcl_jax.run import Run
from hcl_jax.runtime import machine


def share_of(run: Run) -> float:
    """Of a global batch, what this process makes."""
    leading = run.config.train.seeds if run.single else run.config.data.batch_size
    return len(sharding.local_rows(run.batch_sharding, leading)) / leading


def check_memory(field: str, size: int, batch: Any, share: float) -> None:
    """Raises InputError for batches that do not fit into this machine, before one is made: the system would kill it.

    Args:
      field, size: what is too large, for the message.
      batch: shapes of a global batch.
      share: of its rows that this process makes.
    """
    one = share * sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(batch))
    need, there = one * (1 + AHEAD), machine.memory()  # in the step, and those that wait for it
    if need > there:
        found = f"{size} rows, {need / 2**30:.1f} GiB in each process with the {AHEAD} batches that wait"
        raise InputError(field, found, f"what fits into {there / 2**30:.1f} GiB of memory")
