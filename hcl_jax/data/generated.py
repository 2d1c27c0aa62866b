"""Views made offline (`python -m hcl_jax.generate`), beside the examples that they were made from."""

import hashlib
import json
import logging
import os
import pathlib
from typing import Any

import numpy as np

from hcl_jax.data.content import content_of, of_files
from hcl_jax.data.npz import npy_size
from hcl_jax.data.source import SAMPLED_ROWS, Source, fingerprint_arrays
from hcl_jax.disk.reading import readable
from hcl_jax.errors import InputError, nearest
from hcl_jax.views.lazy import tf
from hcl_jax.workdir import manifest

SETTINGS = "settings.json"
SETTINGS_TYPES = {"kind": str, "field": str, "fingerprint": str, "count": int, "source": str}
ARRAYS = ("views", "rows", "hashes")  # one .npy each
DTYPES = {"image": "uint8", "series": "float32"}
RANKS = {"image": 5, "series": 4}  # with the axes of examples and copies
SEALED = (SETTINGS, *(f"{name}.npy" for name in ARRAYS))
LOG = logging.getLogger("hcl_jax")
AGAIN = "the folder that python -m hcl_jax.generate wrote for this source"


def hashes_of(values: np.ndarray) -> np.ndarray:
    """sha256 of each example's bytes.

    Args:
      values: [n, ...] numbers, or [n] of bytes (encoded pictures).

    Returns:
      uint8 [n, 32].
    """
    made = [hashlib.sha256(v if isinstance(v, bytes) else np.ascontiguousarray(v).tobytes()).digest() for v in values]
    return np.frombuffer(b"".join(made), np.uint8).reshape(-1, 32)


def read_settings(folder: str | os.PathLike, where: str = "config.data.generated") -> dict[str, Any]:
    """What the views of a folder were made with. Raises InputError when it does not say."""
    path = pathlib.Path(folder) / SETTINGS
    if not path.is_file():
        raise InputError(where, f"no {SETTINGS} in {folder}", AGAIN)
    with readable(path, AGAIN, "no JSON"):
        settings = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(settings, dict) or any(name not in settings for name in (*SETTINGS_TYPES, "seed", "ops")):
        raise InputError(str(path), "other fields", AGAIN)
    for name, kind in SETTINGS_TYPES.items():
        if type(settings[name]) is not kind:
            raise InputError(f"{path}: {name}", type(settings[name]).__name__, f"{kind.__name__}: {AGAIN}")
    return settings


def with_generated(source: Source, folder: str | os.PathLike) -> Source:
    """The same source with the fields generated, generated_1, ...: the copies of the views that a folder holds.

    The files are read from where they lie, a batch at a time. An example that has no generated view has these fields
    marked as absent.

    Args:
      source: the plain source that the views were made from, before anything else is laid over it.
      folder: what `python -m hcl_jax.generate` wrote.

    Returns:
      A Source with another fingerprint.

    Raises:
      InputError: no finished folder, views of another source, of examples that are not there or have changed, or
        damaged files.
    """
    folder = os.path.expanduser(folder)
    settings = read_settings(folder)
    _check_digests(folder)
    views, rows, hashes = _arrays(folder, settings)
    if settings["fingerprint"] != source.fingerprint:
        found = f"{folder}, made from {settings['source']} {settings['fingerprint'][:12]}"
        raise InputError("config.data.generated", found, f"views of {source.name} {source.fingerprint[:12]}; {AGAIN}")
    if settings["field"] not in source.fields:
        found = f"{folder}, made from the field {settings['field']!r}"
        raise InputError("config.data.generated", found, f"fields {nearest(settings['field'], source.fields)}")
    _check_rows(folder, source, settings["field"], rows, hashes)

    names = ["generated" if c == 0 else f"generated_{c}" for c in range(views.shape[1])]
    for name in names:
        if name in source.fields or name in source.labels:
            raise InputError("config.data.generated", f"a source with {name!r} of its own", "a source without")
    place = np.full(source.num_examples, -1, np.int64)
    place[rows] = np.arange(len(rows))
    whole = len(rows) == source.num_examples
    mark = source.present if whole else source.present or "present_with_generated"

    def read(index: np.ndarray) -> np.ndarray:
        at = place[index]
        made = np.asarray(views[np.maximum(at, 0)])
        made[at < 0] = 0
        return made

    def fetch(index: Any) -> dict[str, Any]:
        index = tf.convert_to_tensor(index, tf.int64)
        record = source.fetch(index)
        # Not tensors: the views may be larger than memory.
        made = tf.numpy_function(read, [index], tf.as_dtype(views.dtype), stateful=False)
        made.set_shape([index.shape[0], *views.shape[1:]])
        record = record | {name: made[:, c] for c, name in enumerate(names)}
        if mark is not None:
            count = tf.shape(index)[0]
            there = tf.ones([count, len(source.fields)], tf.bool) if source.present is None else record[source.present]
            has = tf.gather(tf.constant(place >= 0), index)
            record[mark] = tf.concat([there, tf.repeat(has[:, None], len(names), 1)], 1)
        return record

    kept = dict.fromkeys(names, (tuple(views.shape[2:]), views.dtype.name))
    sample = fingerprint_arrays({"views": views, "rows": rows, "hashes": hashes})
    return source._replace(
        fetch=fetch,
        fields={**source.fields, **kept},
        present=mark,
        fingerprint=hashlib.sha256(f"{source.fingerprint} {sample}".encode()).hexdigest(),
        known_present={**source.known_present, **({} if whole else dict.fromkeys(names, place >= 0))},
        content=lambda seed: content_of(source, seed) | {"data.generated": _content(folder, seed)},
    )


def _check_digests(folder: str) -> None:
    """Raises InputError for a file of the folder that is not as it was written. Reads all of it: a second a GiB."""
    if not all(os.path.isfile(os.path.join(folder, name)) for name in SEALED):
        return  # which one lacks is said where it is read
    if not manifest.exists(folder):
        LOG.warning("%s: views without digests, as earlier releases made them: a changed byte is not seen", folder)
        return
    error = manifest.verify(folder, SEALED)
    if error is not None:
        raise InputError(folder, error, f"{AGAIN}; without {manifest.MANIFEST}, where a change is meant")


def _content(folder: str, seed: int) -> str:
    """A digest of every byte; of folders without a manifest as content.of_files."""
    if manifest.exists(folder):
        return hashlib.sha256((pathlib.Path(folder) / manifest.MANIFEST).read_bytes()).hexdigest()
    paths = [os.path.join(folder, name) for name in SEALED]
    return of_files([(path, os.path.getsize(path)) for path in paths], seed)


def _arrays(folder: str, settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """views, rows and hashes, the first as a map of its file."""
    made = {}
    for name in ARRAYS:
        path = os.path.join(folder, f"{name}.npy")
        if not os.path.isfile(path):
            found = f"no {name}.npy in {folder}"
            raise InputError("config.data.generated", found, "a finished folder: the same command of generate goes on")
        with readable(path, AGAIN, "a damaged file"):
            with open(path, "rb") as file:
                try:
                    npy_size(file, os.path.getsize(path), path, AGAIN)
                except InputError as error:
                    raise InputError(path, f"a damaged file ({error.found})", AGAIN) from None
            made[name] = np.load(path, mmap_mode="r" if name == "views" else None, allow_pickle=False)
    views, rows, hashes = (made[name] for name in ARRAYS)
    kind, count, n = settings["kind"], settings["count"], rows.size
    good = (
        kind in DTYPES
        and rows.ndim == 1
        and rows.dtype.kind == "i"
        and (hashes.shape, hashes.dtype.name) == ((n, 32), "uint8")
        and (views.ndim, views.dtype.name, views.shape[:2]) == (RANKS[kind], DTYPES[kind], (n, count))
    )
    if not good or not n:
        shapes = ", ".join(f"{k} {v.dtype.name}{list(v.shape)}" for k, v in made.items())
        raise InputError(folder, shapes, f"views of {kind} [N, {count}, ...], rows [N] and hashes [N, 32]; {AGAIN}")
    return views, rows, hashes


def _check_rows(folder: str, source: Source, field: str, rows: np.ndarray, hashes: np.ndarray) -> None:
    """Raises InputError for a view whose example is not there, or is another one: a sample is read."""
    path = os.path.join(folder, "rows.npy")
    if rows.min() < 0 or rows.max() >= source.num_examples:
        bad = rows[(rows < 0) | (rows >= source.num_examples)][0]
        found = f"a view of record {bad}, which is not there"
        raise InputError(path, found, f"records 0 to {source.num_examples - 1} of {source.name}")
    if (np.diff(rows) <= 0).any():
        raise InputError(path, "records that do not rise", AGAIN)
    some = np.unique(np.linspace(0, len(rows) - 1, SAMPLED_ROWS).astype(int))
    values = source.fetch(tf.constant(rows[some], tf.int64))[field].numpy()
    other = (hashes_of(values) != hashes[some]).any(1)
    if other.any():
        name = source.describe(int(rows[some[np.argmax(other)]]))
        raise InputError(folder, f"a view of {name} of {source.name} as it was before", f"unchanged examples; {AGAIN}")
