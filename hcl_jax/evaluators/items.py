"""Which rows of a view hold the same item: rows whose input is equal, bit by bit."""

import hashlib
from typing import Any

import jax
import numpy as np


def digests(view: Any) -> np.ndarray:
    """128 bits of each row's input: equal for equal rows, and for no others that anyone will meet.

    On the host and by row, so that each process hashes its own rows, and no picture has to come back from a device.
    It costs a millisecond for a picture of 224 x 224.

    Args:
      view: a pytree of arrays [n, ...].

    Returns:
      uint32 [n, 4].
    """
    leaves = [np.ascontiguousarray(x) for x in jax.tree.leaves(view)]
    made = []
    for row in range(len(leaves[0])):
        digest = hashlib.blake2b(digest_size=16)
        for leaf in leaves:
            digest.update(leaf[row].tobytes())
        made.append(digest.digest())
    return np.frombuffer(b"".join(made), "<u4").reshape(-1, 4).astype(np.uint32)


def numbered(found: np.ndarray) -> np.ndarray:
    """The number of each row's item, counted from 0.

    Args:
      found: [n, k], one line for each row.

    Returns:
      int64 [n].

    Example:
      >>> numbered(np.array([[5, 1], [2, 2], [5, 1]])).tolist()
      [1, 0, 1]
    """
    return np.unique(found, axis=0, return_inverse=True)[1].reshape(-1)
