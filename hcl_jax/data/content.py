"""Digests of what records hold, by which several processes see that they read the same bytes.

A fingerprint says which records a run has, and is kept with its checkpoints; of files it reads names and sizes alone,
so that it costs nothing. Several processes look closer, once, before the first step: at everything up to 256 MiB of
files, and of more at a sample that the run's seed draws. Arrays in memory are read whole: about a second a GiB.
"""

import concurrent.futures
import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hcl_jax.views.lazy import tf

WHOLE_BYTES, WHOLE_FILES = 2**28, 50_000  # files up to this are read whole
SAMPLED_FILES, PIECE = 512, 1 << 16  # of more: that many of them, three pieces of that many bytes each
SAMPLED_RECORDS, WHOLE_RECORDS = 256, 2**26  # of a source that cannot say more: records, bytes up to which all are read
CHUNK = 1 << 26  # bytes fetched at once
THREADS = 16  # a share answers each read after milliseconds


def content_of(source: Any, seed: int) -> dict[str, str]:
    """What a source holds: {what: digest}, equal where processes may train together.

    Args:
      source: a Source; one without `content` is read by a sample of its records, whole where that is below 64 MiB.
      seed: draws the samples; that of the run.
    """
    found = {"records": _sampled(source, seed)} if source.content is None else source.content(seed)
    return {"fingerprint": source.fingerprint, **found}


def of_columns(fetch: Callable[[Any], dict[str, Any]], size: int, names: Mapping[str, int]) -> str:
    """sha256 over every value of some columns in memory, in the order of the records.

    Args:
      fetch: of the source.
      size: N.
      names: field, or `field/part` -> bytes of a record.
    """
    digest = hashlib.sha256()
    rows = max(1, CHUNK // max(1, sum(names.values())))
    for start in range(0, size, rows):
        record = _flat(fetch(tf.range(start, min(start + rows, size), dtype=tf.int64)))
        for name in sorted(names):
            _update(digest, record[name])
    return digest.hexdigest()


def of_files(files: Sequence[tuple[str, int]], seed: int) -> str:
    """sha256 over what files hold: whole up to 256 MiB; of more, 512 files, the first and last 64 KiB and some between.

    Args:
      files: (path, bytes), in record order.
      seed: draws files and places.

    Returns:
      Hexadecimal digest. A file that cannot be read counts as such: whether it may be replaced is said elsewhere.
    """
    drawn = random.Random(f"{seed} content")
    whole = sum(size for _, size in files) <= WHOLE_BYTES and len(files) <= WHOLE_FILES
    some = range(len(files)) if whole else sorted(drawn.sample(range(len(files)), min(SAMPLED_FILES, len(files))))
    asked = [(*files[i], drawn.random()) for i in some]

    def one(file: tuple[str, int, float]) -> bytes:
        path, size, place = file
        try:
            with open(path, "rb") as opened:
                if whole or size <= 3 * PIECE:
                    return hashlib.file_digest(opened, "sha256").digest()
                digest = hashlib.sha256()
                for start in (0, int(place * (size - PIECE)), size - PIECE):
                    opened.seek(start)
                    digest.update(opened.read(PIECE))
                return digest.digest()
        except OSError:
            return b"unreadable"

    digest = hashlib.sha256()
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for i, made in zip(some, pool.map(one, asked, chunksize=64), strict=True):
            digest.update(f"{i} ".encode() + made)
    return digest.hexdigest()


def of_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 over every value of arrays, with their names, dtypes and shapes."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        _update(digest, array)
    return digest.hexdigest()


def _sampled(source: Any, seed: int) -> str:
    """Of a source that knows its records by `fetch` alone."""
    n = source.num_examples
    rows = sorted(random.Random(f"{seed} content").sample(range(n), min(SAMPLED_RECORDS, n)))
    digest, size = _of_records(source, rows)
    if size * n <= WHOLE_RECORDS * len(rows) and len(rows) < n:
        starts = range(0, n, SAMPLED_RECORDS)
        parts = (_of_records(source, range(s, min(s + SAMPLED_RECORDS, n)))[0] for s in starts)
        digest = hashlib.sha256(" ".join(parts).encode()).hexdigest()
    return digest


def _of_records(source: Any, rows: Iterable[int]) -> tuple[str, int]:
    """(sha256, bytes) of some records; records that cannot be read count as such."""
    digest, size = hashlib.sha256(), 0
    try:
        record = _flat(source.fetch(tf.constant(list(rows), tf.int64)))
    except Exception as error:  # a reader's own kind: whether they may be replaced is said elsewhere
        return f"unreadable: {type(error).__name__}", 0
    for name in sorted(record):
        size += _update(digest, record[name])
    return digest.hexdigest(), size


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        flat |= {f"{name}/{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {name: value}
    return flat


def _update(digest: Any, value: Any) -> int:
    """Adds the values of an array or tensor, numbers or texts; how many bytes they are."""
    array = value.to_tensor() if hasattr(value, "to_tensor") else value  # of several lengths
    array = np.asarray(array)
    if array.dtype.kind in "OUS":
        texts = [v if isinstance(v, bytes) else str(v).encode("utf-8", "surrogatepass") for v in array.ravel()]
        data: Any = b"".join(b"%d:%s" % (len(text), text) for text in texts)
    else:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    digest.update(data)
    return len(data)
