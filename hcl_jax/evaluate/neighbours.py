"""Nearest rows of a bank, in chunks: the [queries, bank] matrix never exists."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

# 1024 x 8192 similarities are 32 MiB; larger chunks were no faster on two cores.
QUERY_CHUNK = 1024
BANK_CHUNK = 8192


def in_chunks(x: np.ndarray, size: int, fill: float | int = 0) -> np.ndarray:
    """Rows in chunks of one size: [n, ...] -> [ceil(n / size), size, ...], the last one filled up with `fill`."""
    count = -(-len(x) // size)
    padded = np.full((count * size, *x.shape[1:]), fill, x.dtype)
    padded[: len(x)] = x
    return padded.reshape(count, size, *x.shape[1:])


def unit_rows(x: np.ndarray, eps: float = 1e-12) -> np.ndarray:
    """Rows divided by their length, x / sqrt(max(sum x^2, eps)); a row of zeros stays zero. x: [n, d] float32."""
    return x / np.sqrt(np.maximum(np.einsum("nd,nd->n", x, x), np.float32(eps)))[:, None]


@partial(jax.jit, static_argnames="k")
def _nearest(queries: jax.Array, bank: jax.Array, offset: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """queries [Q, q, d], bank [B, b, d], offset [B, b] -> scores and bank rows, both [Q, q, k]."""
    size = bank.shape[1]
    starts = jnp.arange(bank.shape[0], dtype=jnp.int32) * size

    def against_bank(query: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(best, chunk):
            scores, rows = best
            keys, add, start = chunk
            new = jnp.matmul(query, keys.T, precision="highest") + add[None, :]
            at = jnp.broadcast_to((start + jnp.arange(size, dtype=jnp.int32))[None, :], new.shape)
            # What was found before stands in front: top_k is stable, so equal scores keep the lower bank row.
            scores, order = jax.lax.top_k(jnp.concatenate([scores, new], axis=1), k)
            return (scores, jnp.take_along_axis(jnp.concatenate([rows, at], axis=1), order, axis=1)), None

        none = jnp.full((query.shape[0], k), -jnp.inf, query.dtype), jnp.zeros((query.shape[0], k), jnp.int32)
        return jax.lax.scan(step, none, (bank, offset, starts))[0]

    return jax.lax.map(against_bank, queries)


def nearest_rows(
    queries: np.ndarray, bank: np.ndarray, k: int, offset: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k bank rows with the highest score q . b + offset_b, best first.

    Time O(n m d) in products of chunks; memory O(chunk^2 + n k). Equal scores: the lower bank row first.

    Args:
      queries: [n, d] float32.
      bank: [m, d] float32, m >= k.
      k: how many.
      offset: [m] float32 added to the score of each bank row; None = 0. Minus half the squared length turns the
        product into the order of Euclidean distance.

    Returns:
      (scores [n, k] float32, bank rows [n, k] int32).
    """
    offset = np.zeros(len(bank), np.float32) if offset is None else offset
    size = min(BANK_CHUNK, len(bank))
    arrays = in_chunks(queries, min(QUERY_CHUNK, len(queries))), in_chunks(bank, size), in_chunks(offset, size, -np.inf)
    scores, rows = jax.device_get(_nearest(*jax.device_put(arrays), k=k))
    return scores.reshape(-1, k)[: len(queries)], rows.reshape(-1, k)[: len(queries)]
