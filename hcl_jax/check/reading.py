"""Some records of a source, drawn by a seed and read a chunk at a time, within a time; or all of them."""

import random
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from hcl_jax.data.bad_records import faults_of
from hcl_jax.data.source import Source
from hcl_jax.errors import InputError
from hcl_jax.views.lazy import tf

CHUNK_BYTES, SMALLEST, LARGEST = 32 << 20, 16, 1024  # of a chunk: bytes, and records


class Chunk(NamedTuple):
    """Records that were read: their numbers, int [n], and what `source.fetch` gives for those that could be."""

    numbers: np.ndarray
    record: dict[str, Any]
    faults: dict[int, InputError]


def drawn(count: int, most: int, seed: int) -> np.ndarray:
    """int64 [min(count, most)]: numbers below `count`, each once, in a random order."""
    if most >= count:
        return np.arange(count)
    return np.array(random.Random(seed).sample(range(count), most), np.int64)


def chunks(source: Source, most: int, seconds: float, seed: int) -> Iterator[Chunk]:
    """Reads up to `most` records, at least one chunk, and none more once `seconds` have passed.

    Args:
      source: whose records are read.
      most: how many at most.
      seconds: on the clock.
      seed: of the draw.
    """
    # In a graph, as batches read; outside of one a reader that fails leaves warnings of TensorFlow behind.
    fetch = tf.function(source.fetch).get_concrete_function(tf.TensorSpec([None], tf.int64))

    def read(wanted: np.ndarray) -> dict[str, Any]:
        return tf.nest.map_structure(lambda t: t.numpy(), fetch(tf.constant(wanted, tf.int64)))

    if source.whole:  # its records are one thing
        yield Chunk(np.arange(source.num_examples), read(np.arange(source.num_examples)), {})
        return
    numbers, began, done, size = drawn(source.num_examples, most, seed), time.monotonic(), 0, SMALLEST
    while done < len(numbers) and (not done or time.monotonic() - began < seconds):
        chunk = np.sort(numbers[done : done + size])
        done += len(chunk)
        faults: dict[int, InputError] = {}
        try:
            record = read(chunk)
        except Exception:  # whatever a reader raises: the records one by one say which
            faults = faults_of(source, {}, chunk.tolist())
            chunk = np.array([n for n in chunk if int(n) not in faults], np.int64)
            record = read(chunk) if len(chunk) else {}
        yield Chunk(chunk, record, faults)
        each = sum(_bytes(v) for v in record.values()) / max(len(chunk), 1)
        size = int(np.clip(CHUNK_BYTES / max(each, 1), SMALLEST, LARGEST))


def _bytes(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return sum(map(len, value.ravel())) if value.dtype == object else value.nbytes
