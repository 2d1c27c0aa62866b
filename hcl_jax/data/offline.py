"""Views of every example of a split as arrays on a disk, made once, for runs to read as `data.generated`."""

import contextlib
import functools
import json
import os
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from hcl_jax.data import bad_records
from hcl_jax.data import images as pictures
from hcl_jax.data.generated import ARRAYS, DTYPES, SEALED, SETTINGS, hashes_of, read_settings
from hcl_jax.data.pipeline import ordered
from hcl_jax.data.source import Source
from hcl_jax.disk import whole
from hcl_jax.errors import InputError, nearest
from hcl_jax.views import VIEWS, make_view
from hcl_jax.views.draws import Draws
from hcl_jax.views.lazy import tf
from hcl_jax.workdir import manifest
from hcl_jax.workdir.card import versions
from hcl_jax.workdir.lock import Lock

# Rows made at once. Part of the stream: draws go by (block, row in it), and arithmetic may round otherwise at another
# length, so that neither the size of a chunk nor a stop between two changes a byte.
BLOCK = 64
CHUNK = 1024  # examples in a file that is kept whole when the command is stopped
LAYOUT = 1
MAKERS = ("hcl_jax", "tensorflow", "tensorflow-cpu")  # packages whose version may change a view


def generate(
    source: Source,
    view: Mapping[str, Any],
    folder: str | os.PathLike,
    *,
    seed: int = 0,
    count: int = 1,
    chunk: int = CHUNK,
    views: Mapping[str, Callable[..., Any]] = VIEWS,
    say: Callable[[str], None] = print,
    where: str = "view",
) -> int:
    """Makes the views of every example that has the field.

        view(copy c, record r) = ops(record r; draws of (seed, salt/generated/c, r // 64, r mod 64))

    Args:
      source: the examples.
      view: {"kind", "field", "ops", "draws"} of the view, kind image or series; `missing` and `swapped` are not read.
      folder: new, empty, or of this command with the same settings.
      seed: of the draws.
      count: views of each example.
      chunk: examples in a file that a stop leaves whole, rounded up to whole blocks of 64.
      views: op name -> function.
      say: where a line of progress goes.
      where: the config field of the view, for messages.

    Returns:
      The number of examples that have views now.

    Raises:
      InputError: a field or kind that cannot be kept, pictures outside 0 to 1, a folder of other settings.
    """
    folder = pathlib.Path(folder)
    if view["field"] not in source.fields:
        allowed = f"fields of {source.name}: {nearest(view['field'], source.fields)}"
        raise InputError(f"{where}.field", repr(view["field"]), allowed)
    if view["kind"] not in DTYPES:
        raise InputError(f"{where}.kind", repr(view["kind"]), " or ".join(DTYPES))
    if view["kind"] == "image" and any(op["op"] == "normalise" for op in view["ops"]):
        raise InputError(f"{where}.ops", "normalise", "pictures from 0 to 1; the view that reads them normalises")
    if count < 1:
        raise InputError("--count", count, ">= 1")
    if not 0 <= seed < 2**32:
        raise InputError("--seed", seed, "0 to 2**32 - 1")
    chunk = -(-max(chunk, 1) // BLOCK) * BLOCK
    make = _maker(source, view, seed, count, views, where)
    _chunk(make, source, view, 0, BLOCK, where)  # a fault of the ops or the first records shows before a folder is made
    settings = _settings(source, view, seed, count)
    with _locked(folder, say):
        return _fill(folder, settings, make, source, view, chunk, say, where)


def _fill(
    folder: pathlib.Path, settings: dict[str, Any], make: Callable, source: Source, view: Mapping[str, Any], chunk: int,
    say: Callable[[str], None], where: str,
) -> int:  # fmt: skip
    """Makes what the folder lacks, of which this process is the only writer."""
    done = _open(folder, settings)
    if done is not None:
        say(f"generate: {folder} is finished, {done} of {source.num_examples} examples")
        return done
    starts = range(0, source.num_examples, chunk)
    parts = [folder / "parts" / f"{s:09d}-{min(s + chunk, source.num_examples):09d}.npz" for s in starts]
    kept = {p for p in parts if _whole(p)}
    if kept:
        say(f"generate: {len(kept)} of {len(parts)} chunks are there already")
    for start, part in zip(starts, parts, strict=True):
        if part not in kept:
            stop = min(start + chunk, source.num_examples)
            made = _chunk(make, source, view, start, stop, where)
            _write(part, functools.partial(_savez, made))
            say(f"generate: {stop} of {source.num_examples} examples")
    return _join(folder, parts)


@contextlib.contextmanager
def _locked(folder: pathlib.Path, say: Callable[[str], None]) -> Iterator[None]:
    """Holds the folder: two commands at once would take away each other's chunks."""
    where = f"--output={folder}"
    if folder.exists() and not folder.is_dir():
        raise InputError(where, "a file", "a folder, or a name for a new one")
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(Lock(folder))
        except InputError as error:
            raise InputError(where, error.found, error.allowed.replace("that run", "that command")) from None
        if lock.message:
            say(f"generate: {lock.message}")
        yield


def _settings(source: Source, view: Mapping[str, Any], seed: int, count: int) -> dict[str, Any]:
    """All that the bytes follow from, as it reads back from JSON."""
    made = {
        "layout": LAYOUT,
        "source": source.name,
        "fingerprint": source.fingerprint,
        "examples": int(source.num_examples),
        "kind": view["kind"],
        "field": view["field"],
        "ops": view["ops"],
        "draws": view["draws"],
        "seed": seed,
        "count": count,
        "versions": {k: v for k, v in versions().items() if k in MAKERS},
    }
    return json.loads(json.dumps(made))


def _open(folder: pathlib.Path, settings: dict[str, Any]) -> int | None:
    """Makes the folder, or sees that it is one of the same settings: its number of examples where it is finished."""
    where = f"--output={folder}"
    if any(path.name != "lock" for path in folder.iterdir()):
        found = read_settings(folder, where)
        for name in settings | found:
            if settings.get(name) != found.get(name):
                allowed = f"{settings.get(name)!r}; another --output for other settings"
                raise InputError(f"{folder / SETTINGS} {name}", repr(found.get(name)), allowed)
    try:
        begun = (folder / "parts").exists() and not manifest.exists(folder)  # a stop between the arrays and the digests
        (folder / "parts").mkdir(parents=True, exist_ok=True)
        for place in (folder, folder / "parts"):
            whole.clear(place)
        text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
        _write(folder / SETTINGS, lambda file: file.write(text.encode()))
        if not begun and all((folder / f"{name}.npy").is_file() for name in ARRAYS):
            shutil.rmtree(folder / "parts")
            if manifest.exists(folder) and (error := manifest.verify(folder, SEALED)):
                raise InputError(
                    where, error, f"a folder as it was written; without {manifest.MANIFEST} it is sealed anew"
                )
            if not manifest.exists(folder):  # of an earlier release, or views of a generator of one's own
                manifest.write(folder, {}, SEALED)
            return len(np.load(folder / "rows.npy", allow_pickle=False))
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(where, str(error), "a folder that this user may write") from None
    return None


def _write(path: pathlib.Path, write: Callable[[Any], Any]) -> None:
    """Writes a file whole or not at all."""
    try:
        with whole.replacing(path) as file:
            write(file)
    except OSError as error:
        raise InputError(str(path), str(error), "a folder that this user may write, with room") from None


def _savez(columns: Mapping[str, Any], file: Any) -> None:
    np.savez(file, **columns)


def _whole(path: pathlib.Path) -> bool:
    """Whether a chunk of an earlier run is there and can be read."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None and {f"{name}.npy" for name in ARRAYS} == set(file.namelist())
    except (OSError, zipfile.BadZipFile, EOFError):
        return False


def _maker(source: Source, view: Mapping[str, Any], seed: int, count: int, views: Any, where: str) -> Callable:
    """Block number -> (values of the field [64, ...], bool [64] of the rows that have it, views [64, count, ...])."""
    local = np.arange(BLOCK)

    @tf.autograph.experimental.do_not_convert  # it would turn an InputError into one of its own
    def make(block: Any) -> tuple[Any, Any, Any]:
        place = block * BLOCK + tf.constant(local, tf.int64)
        record = source.fetch(tf.minimum(place, source.num_examples - 1))
        shown = record[view["field"]]
        if view["kind"] == "image" and source.fields[view["field"]][1] == "string":
            shown = pictures.bounded(shown, source.max_pixels)
            if view["field"] in source.sides:
                shown = pictures.pixels(shown, source.sides[view["field"]], source.upright)
        there = place < source.num_examples
        if source.present is not None:
            there &= record[source.present][:, list(source.fields).index(view["field"])]
        made = []
        for copy in range(count):
            # A salt of its own: a generated view must not be the view that training draws itself.
            draws = Draws(seed, block, BLOCK, local, f"{view['draws']}/generated/{copy}")
            found = make_view(view, shown, draws, views=views, where=where, upright=source.upright)
            if draws.targets:
                text = f"ops that make {', '.join(sorted(draws.targets))} besides"
                raise InputError(f"{where}.ops", text, "ops that change the view and make no targets")
            made.append(found[view["kind"]])
        made = tf.stack(made, 1)
        if not made.shape.is_fully_defined():
            allowed = "ops that give one shape: a crop or a resize"
            raise InputError(f"{where}.ops", f"records of shape {made.shape[2:]}", allowed)
        return record[view["field"]], there, made

    # Traced here, so that a fault is found before a folder is made.
    return tf.function(make, input_signature=[tf.TensorSpec([], tf.int64)]).get_concrete_function()


def _chunk(make: Callable, source: Source, view: Mapping[str, Any], start: int, stop: int, where: str) -> dict:
    """The arrays of the examples start..stop-1."""
    hashes, rows, made = [], [], []
    for block, (values, there, images) in _blocks(make, start // BLOCK, -(-stop // BLOCK), source):
        hashes.append(hashes_of(values[there]))
        rows.append(block * BLOCK + np.flatnonzero(there))
        made.append(_stored(images[there], view["kind"], where))
    return {"views": np.concatenate(made), "rows": np.concatenate(rows), "hashes": np.concatenate(hashes)}


def _blocks(make: Callable, start: int, stop: int, source: Source) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    stream = ordered(make, start, stop).as_numpy_iterator()
    for block in range(start, stop):
        try:
            yield block, next(stream)
        except tf.errors.OpError as error:
            numbers = range(block * BLOCK, min((block + 1) * BLOCK, source.num_examples))
            encoded = {f: f.startswith("image") and dtype == "string" for f, (_, dtype) in source.fields.items()}
            bad = list(bad_records.faults_of(source, encoded, numbers).values())
            if not bad:
                some = f"{source.describe(numbers[0])} to {source.describe(numbers[-1])}"
                raise InputError(some, f"unreadable ones ({str(error).splitlines()[0]})", "whole records") from None
            others = ", ".join(fault.where for fault in bad[1:6]) + (", ..." if len(bad) > 6 else "")
            more = f", and {len(bad) - 1} more: {others}" if others else ""
            raise InputError(bad[0].where, f"{bad[0].found}{more}", f"{bad[0].allowed}, of each example") from None


def _stored(made: np.ndarray, kind: str, where: str) -> np.ndarray:
    """Pictures as uint8, series as they are."""
    if kind != "image":
        return made.astype(np.float32)
    # A little beyond is rounding, and what noise adds; far beyond is another scale. NaN fails both comparisons.
    if made.size and not (made.min() >= -1 and made.max() <= 2):
        found = f"pictures from {made.min():.3g} to {made.max():.3g}"
        raise InputError(f"{where}.ops", found, "ops that give 0 to 1")
    return np.rint(np.clip(made, 0.0, 1.0) * 255.0).astype(np.uint8)


def _join(folder: pathlib.Path, parts: list[pathlib.Path]) -> int:
    """Puts the chunks together, views.npy last but for the digests: where they are, the folder is finished."""
    rows, hashes = [], []
    for part in parts:
        with np.load(part, allow_pickle=False) as file:
            rows.append(file["rows"])
            hashes.append(file["hashes"])
    total = sum(map(len, rows))

    def views(file: Any) -> None:
        for i, part in enumerate(parts):
            with np.load(part, allow_pickle=False) as chunk:
                made = chunk["views"]
            if i == 0:
                shape = (total, *made.shape[1:])
                header = {"descr": np.lib.format.dtype_to_descr(made.dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(made.tobytes())

    _write(folder / "rows.npy", lambda file: np.save(file, np.concatenate(rows)))
    _write(folder / "hashes.npy", lambda file: np.save(file, np.concatenate(hashes)))
    _write(folder / "views.npy", views)
    try:
        manifest.write(folder, {}, SEALED)
    except OSError as error:
        raise InputError(str(folder), str(error), "a folder that this user may write, with room") from None
    shutil.rmtree(folder / "parts")
    return total
