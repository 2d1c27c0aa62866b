"""Nearest rows of a bank, by the engine of tiles: the [queries, bank] matrix never exists."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from hcl_jax.similarity import streamed


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows divided by their length, x / |x|, of any length that is a number; a row of zeros stays zero. x: [n, d]."""
    largest = np.abs(x).max(axis=1, keepdims=True, initial=0)
    # Squares of such numbers leave those of float32.
    odd = ((largest > 0) & (largest < 1e-5)) | (largest > 1e15)
    x = x / np.where(odd, largest, np.ones_like(largest))
    square = np.einsum("nd,nd->n", x, x)
    return x / np.sqrt(np.where(square > 0, square, np.ones_like(square)))[:, None]


@partial(jax.jit, static_argnames="k")
def _nearest(queries: jax.Array, bank: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    ids = [jnp.zeros(len(x), jnp.int32) for x in (queries, bank)]
    return streamed().nearest(queries, bank, k=k, query_ids=ids[0], key_ids=ids[1])


def nearest_rows(
    queries: np.ndarray, bank: np.ndarray, k: int, offset: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k bank rows with the highest score q . b + offset_b, best first.

    Time O(n m d) in products of tiles; memory O(n k) and a few tiles. Equal scores: the lower bank row first.

    Args:
      queries: [n, d] float32.
      bank: [m, d] float32, m >= k.
      k: how many.
      offset: [m] float32 added to the score of each bank row; None = 0. Minus half the squared length turns the
        product into the order of Euclidean distance.

    Returns:
      (scores [n, k] float32, bank rows [n, k] int32).
    """
    if offset is not None:
        queries = np.concatenate([queries, np.ones((len(queries), 1), queries.dtype)], axis=1)
        bank = np.concatenate([bank, offset[:, None].astype(bank.dtype)], axis=1)
    scores, rows = jax.device_get(_nearest(*jax.device_put((queries, bank)), k=k))
    return scores, rows
