"""Which record stands where: the order of every epoch, and fixed draws by record, as functions of the seed."""

import zlib
from typing import Any

import numpy as np

from hcl_jax.views.hashing import mix, uniform
from hcl_jax.views.lazy import tf

# The op's default of 4 rounds leaves the orders of two epochs correlated: by 0.75 at 50,000 records, by 1.0 at 65,536.
# With 16 rounds and hashed seeds no correlation is left, and a place costs 0.1 us (1.6 us at 1,437 records).
ROUNDS = 16


def records(position: Any, num_examples: int, seed: int) -> Any:
    """The record at each position of the endless stream.

        epoch e = p // N,  record = permutation_(seed, e)(p mod N)

    Args:
      position: int64 [n], t * B + r for row r of step t.
      num_examples: N.
      seed: of the run, 0 to 2**32 - 1.

    Returns:
      int64 [n], 0..N-1. Each epoch holds every record once.
    """
    epoch = tf.cast(position // num_examples, tf.uint64)
    low = mix(epoch ^ mix(tf.constant(seed, tf.uint64)))
    high = mix(low)
    words = [low, tf.bitwise.right_shift(low, tf.constant(32, tf.uint64)), high]
    seeds = tf.stack([tf.cast(w & tf.constant(0xFFFFFFFF, tf.uint64), tf.uint32) for w in words], 1)
    # Not tf.random.experimental.index_shuffle: it pads seeds [n, 2] along n, so takes one seed only, and hides rounds.
    return tf.raw_ops.RandomIndexShuffle(
        index=position % num_examples, seed=seeds, max_index=tf.constant(num_examples - 1, tf.int64), rounds=ROUNDS
    )


def lacks(index: Any, fraction: float, seed: int, view: str) -> Any:
    """Whether an example goes without a view: the same answer in every epoch and on every host.

        u(seed, view, index) < fraction,  u uniform in [0, 1) by hashing

    Args:
      index: int64 [n].
      fraction: 0..1.
      seed: of the run.
      view: its name.

    Returns:
      bool [n].
    """
    key = tf.constant(zlib.crc32(f"{seed}/missing/{view}".encode()), tf.uint64)
    return uniform(tf.cast(index, tf.uint64), mix(key)) < tf.constant(np.float64(fraction))
