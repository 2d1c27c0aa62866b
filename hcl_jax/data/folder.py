"""Pictures in folders: `<data.dir>/<split>/<class>/*.jpg`, the ImageFolder layout, or anywhere in `data.dir`."""

import collections
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from hcl_jax.data import images
from hcl_jax.data.content import of_files
from hcl_jax.data.shrunk import all_shrunk, each_shrunk
from hcl_jax.data.source import (
    Arrays,
    Source,
    chosen_labels,
    class_count,
    fingerprint_files,
    folder_of,
    from_arrays,
    gather,
    taken,
    unknown_split,
)
from hcl_jax.disk.reading import readable
from hcl_jax.errors import InputError
from hcl_jax.views import headers
from hcl_jax.views.lazy import tf

# Not .bmp: TensorFlow decodes one with a palette to other colours, without an error.
ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".webp")
LAYOUT = "<split>/<class>/*.jpg, .jpeg, .png, .gif or .webp"
ANYWHERE = "data.train_split='' data.held_out=0.2 for pictures in folders of any kind"
SPLITS = frozenset(["train", "training", "val", "valid", "validation", "dev", "test", "testing"])  # no names of classes
LOG = logging.getLogger("hcl_jax")
MEMORY_LIMIT = 16 << 30  # bytes that `data.in_memory` may take


def folder(data: Any, split: str) -> Source:
    """Pictures by class folder: image and label; with `data.train_split` "" all pictures in `data.dir`, at any depth.

    Classes are the sorted class folders of the training split; pictures in folders below one are of that class. Records
    go round the classes (first file of each class, second of each, ...), so that the first n have all classes. A line
    of the log counts what is passed over: other types of files, and files outside of a class. Where no split is read
    the classes are the folders of `data.dir`, if all pictures are in one of two or more; else there is no label.

    To a view, pictures of one size without transparency are pixels; of several sizes, or with transparency, its ops
    decode them. That follows from the files' headers alone and not from data.in_memory.

    Args:
      data: `config.data`; in_memory=True decodes pictures of one size at once (uint8 [N, H, W, 3]) and keeps the bytes
        of others; False reads files as they are needed.
      split: a folder of `data.dir`, or "" where that is `data.train_split`.

    Returns:
      A Source whose image is an array [H, W, 3], or encoded bytes where sizes differ, pictures are transparent, or
      in_memory=False.

    Raises:
      InputError: a folder missing or empty, a class that the training split lacks, a file that is no picture.
    """
    root = folder_of(data, LAYOUT if data.train_split else f"pictures at any depth: {', '.join(ENDINGS)}")
    files, classes = _of_split(root, data, split) if data.train_split else _anywhere(root, data, split)
    if not classes and data.labels in (("label",), "label"):  # the default; any other name is refused below
        data = type(data)({**data, "labels": ()})
    there = {"label": len(classes)} if classes else {}
    files = files[: taken(data, split, len(files))]
    paths, relative = [os.path.join(root, p) for p, _, _ in files], [shown(p) for p, _, _ in files]
    label = np.array([c for _, c, _ in files], np.int32)
    size = sum(s for _, _, s in files)
    # Of the files in both modes: data.in_memory and data.dir may change when a run goes on.
    how = ("upright" if data.upright else "") + (f", shrunk to {data.shrink}" if data.shrink else "")
    fingerprint = fingerprint_files([(p, s) for p, _, s in files], how)
    names = {"label": tuple(map(shown, classes))} if classes else {}
    if data.in_memory and size > MEMORY_LIMIT:
        said = f"True for {size / 2**30:.0f} GiB of files"
        raise InputError("config.data.in_memory", said, f"False above {MEMORY_LIMIT >> 30} GiB")
    found = _one_size(paths, data)
    found = None if found and data.shrink and min(found.sides) > data.shrink else found
    if data.in_memory and found and len(paths) * int(np.prod(found.sides)) * images.CHANNELS <= MEMORY_LIMIT:
        if found.faults:
            raise found.faults[0]
        names_of = list(map(shown, paths))
        picture = images.decoded(paths, channels=images.CHANNELS, describe=names_of.__getitem__, turns=found.turns)
        if picture is None:
            raise InputError(data.dir, "pictures of other sizes than their headers say", "whole files")
        arrays = Arrays({"image": picture}, dict.fromkeys(there, label), there, "", "", {}, names, names_of)
        return from_arrays("folder", arrays, data, split)._replace(fingerprint=fingerprint, paths=relative)
    labels = chosen_labels(data, there)
    return Source(
        name="folder",
        num_examples=len(files),
        fetch=fetch_of(paths, dict.fromkeys(there, label), data),
        fields={"image": ((), "string")},
        labels={k: class_count(data, len(classes)) for k in labels},
        present=None,
        fingerprint=fingerprint,
        licence="",
        citation="",
        describe=lambda number: shown(paths[number]),
        class_names=names,
        known_labels={k: label for k in labels},
        content=lambda seed: {"files": of_files([(p, s) for p, (_, _, s) in zip(paths, files, strict=True)], seed)},
        upright=data.upright,
        max_pixels=data.max_pixels,
        sides={"image": found.sides} if found else {},
        paths=relative,
    )


def fetch_of(paths: list[str], columns: Mapping[str, np.ndarray], data: Any) -> Callable[[Any], dict[str, Any]]:
    """`fetch` of the bytes of files as the field image, beside other columns; data.in_memory=True reads them now."""
    in_memory, how = data.in_memory, (data.shrink, data.upright, data.max_pixels)
    # Names are bytes: of a file that came from elsewhere they may be no UTF-8.
    image = [_read(p) for p in paths] if in_memory else [os.fsencode(p) for p in paths]
    image = all_shrunk(image, *how) if in_memory and data.shrink else image
    rows = gather({"image": np.array(image, object), **columns})

    def fetch(index: Any) -> dict[str, Any]:
        record = rows(index)
        if not in_memory:
            record["image"] = tf.map_fn(tf.io.read_file, record["image"])
            record["image"] = each_shrunk(record["image"], *how) if data.shrink else record["image"]
        return record

    return fetch


class OneSize(NamedTuple):
    """What the headers of pictures say that are all of one size.

    Fields:
      sides: (height, width) as they are turned.
      turns: the EXIF orientation that each is to be turned by.
      faults: of those that have no header, or too many pixels.
    """

    sides: tuple[int, int]
    turns: list[int]
    faults: list[InputError]


def _one_size(paths: list[str], data: Any) -> OneSize | None:
    """None where sizes differ or pictures may be transparent.

    Headers are read up to the first picture of another size: all of them, where that takes no more than decoding does.
    A bad record says nothing of the others.
    """
    sides, turns, faults = None, [], []
    upright, max_pixels = data.upright, data.max_pixels  # a config's fields are slow to read, a million times
    for path in paths:
        turns.append(1)
        try:
            with open(path, "rb") as file:
                found = headers.header(file)
        except OSError as error:
            faults.append(_unreadable(path, error))
            continue
        fault = images.fault_of_header(shown(path), found, max_pixels)
        if found is None or fault is not None:
            faults += [fault] if fault is not None else []
            continue
        turns[-1] = found.turn if upright else 1
        swapped = turns[-1] >= 5
        here = (found.width, found.height) if swapped else (found.height, found.width)
        if found.see_through or here != (sides or here):
            return None
        sides = here
    return OneSize(sides, turns, faults) if sides else None


def _of_split(root: str, data: Any, split: str) -> tuple[list[tuple[str, int, int]], tuple[str, ...]]:
    """What `_listed` gives of one split, and the classes of the training split."""
    splits = _folders(root)
    if not splits:
        raise InputError("config.data.dir", f"no folder in {data.dir}", f"{LAYOUT}; or {ANYWHERE}")
    if split not in splits:
        error = unknown_split(split, splits, data.dir)
        raise InputError(error.where, error.found, f"{error.allowed}; or {ANYWHERE}")
    classes = tuple(_folders(os.path.join(root, data.train_split if data.train_split in splits else split)))
    return _listed(root, split, classes), classes


def _anywhere(root: str, data: Any, split: str) -> tuple[list[tuple[str, int, int]], tuple[str, ...]]:
    """[(path relative to root, class number, bytes)] of all pictures at any depth in record order, and the classes."""
    if split:
        raise InputError("config.data.held_out", data.held_out, "a share above 0: data.train_split '' reads no splits")
    others: collections.Counter[str] = collections.Counter()
    found = sorted(_pictures(root, "", others, set(), anywhere=True))
    if not found:
        kinds = f": {_kinds(others)}" if others else ""
        raise InputError("config.data.dir", f"no picture in {shown(data.dir)}{kinds}", ", ".join(ENDINGS))
    by_folder: dict[str, list[tuple[str, int]]] = {}
    for path, size in found:
        folder, slash, _ = path.partition("/")
        by_folder.setdefault(folder if slash else "", []).append((path, size))
    classes, why = tuple(sorted(by_folder)), ""
    if SPLITS >= set(classes):
        if any(_folders(os.path.join(root, name)) for name in classes):
            first = "train" if "train" in classes else classes[0]
            allowed = f"{first!r}, with data.held_out=0 to read the split data.test_split: these are splits"
            raise InputError("config.data.train_split", f"'' for a folder of {', '.join(classes)}", allowed)
        why = f"the folders {', '.join(classes)} are splits"
    elif "" in classes:
        why = (
            f"{_files(len(by_folder['']))} of {len(found):,} are in no folder"
            if classes[1:]
            else "there are no folders"
        )
    elif len(classes) == 1:
        why = f"all pictures are in {shown(classes[0])}"
    empty = [shown(name) for name in _folders(root) if name not in by_folder]
    for line in _passed_over(others, 0, empty) + _names([path for path, _ in found], depth=sys.maxsize):
        LOG.warning("%s: %s", shown(data.dir), line)
    if why:
        LOG.warning("%s: no classes, for %s", shown(data.dir), why)
        return [(path, 0, size) for path, size in found], ()
    listed = [(rank, number, *file) for number, name in enumerate(classes) for rank, file in enumerate(by_folder[name])]
    return [(path, number, size) for _, number, path, size in sorted(listed)], classes


def _folders(root: str) -> list[str]:
    return sorted(e.name for e in _entries(root) if e.is_dir() and not e.name.startswith("."))


def _entries(root: str) -> list[os.DirEntry]:
    with readable(shown(root), "a folder that can be read", "an unreadable folder"), os.scandir(root) as entries:
        return list(entries)


def _listed(root: str, split: str, classes: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """[(path relative to root, class number, bytes)] in record order."""
    there = _folders(os.path.join(root, split))
    if not there:
        raise InputError("config.data.dir", f"no class folder in {os.path.join(root, split)}", LAYOUT)
    listed, empty = [], []
    outside = sum(not e.is_dir() for e in _entries(os.path.join(root, split)))
    others: collections.Counter[str] = collections.Counter()
    for name in there:
        if name not in classes:
            where, known = shown(os.path.join(root, split, name)), ", ".join(map(shown, classes[:8]))
            raise InputError(where, "a class that the training split lacks", known)
        found = sorted(_pictures(os.path.join(root, split, name), "", others, set()))
        number = classes.index(name)
        listed += [(rank, number, f"{split}/{name}/{file}", size) for rank, (file, size) in enumerate(found)]
        empty += [] if found else [shown(name)]
    for line in _passed_over(others, outside, empty) + _names([path for _, _, path, _ in sorted(listed)]):
        LOG.warning("%s: %s", shown(os.path.join(root, split)), line)
    if not listed:
        raise InputError("config.data.dir", f"no picture in {os.path.join(root, split)}", LAYOUT)
    return [(path, number, size) for _, number, path, size in sorted(listed)]


def _passed_over(others: collections.Counter[str], outside: int, empty: list[str]) -> list[str]:
    """Lines that count what is no record."""
    lines = []
    if others:
        lines.append(f"{_files(others.total())} of other types passed over: {_kinds(others)}")
    if outside:
        lines.append(f"{_files(outside)} outside of the class folders passed over")
    if empty:
        folders = "1 class folder" if len(empty) == 1 else f"{len(empty)} class folders"
        lines.append(f"{folders} without a picture: {', '.join(empty[:8])}")
    return lines


def _kinds(others: collections.Counter[str]) -> str:
    return ", ".join(f"{ending} {count}" for ending, count in sorted(others.items()))


def _names(paths: list[str], depth: int = 2) -> list[str]:
    """Lines that count what is read, and not as everyone would expect; `depth` folders are above a picture."""
    deep = [p for p in paths if p.count("/") > depth]
    odd = [p for p in paths if shown(p) != p]
    lines = [f"{_files(len(deep))} in folders below a class: {shown(deep[0])}"] if deep else []
    return lines + ([f"{_files(len(odd))} whose name is not UTF-8: {shown(odd[0])}"] if odd else [])


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def pictures_below(root: str, others: collections.Counter[str]) -> list[str]:
    """Paths of the pictures in a folder at any depth, relative to it; `others` counts the endings of all else."""
    return [path for path, _ in _pictures(root, "", others, set())]


def _pictures(
    folder: str, below: str, others: collections.Counter[str], above: set[tuple[int, int]], anywhere: bool = False
) -> Iterator[tuple[str, int]]:
    """(path below the class folder, bytes) of each picture, at any depth; a link to nothing is one that cannot be read.

    Args:
      folder: to be listed; `below` is its path below the class folder, with a slash, or "".
      others: counts the endings of all else.
      above: the folders that this one is in, for links that go round.
      anywhere: folders whose name begins with a dot are not looked into, and a .bmp without a palette is a picture.
    """
    with readable(shown(folder), "a folder that can be read", "an unreadable folder"):
        status = os.stat(folder)
    inside = above | {(status.st_dev, status.st_ino)}
    if len(inside) == len(above):
        return
    for entry in _entries(folder):
        if entry.is_dir():
            if not (anywhere and entry.name.startswith(".")):
                yield from _pictures(entry.path, f"{below}{entry.name}/", others, inside, anywhere)
        elif _is_one(entry, anywhere) and not entry.name.startswith("."):
            try:
                yield below + entry.name, entry.stat().st_size
            except OSError:
                yield below + entry.name, 0
        else:
            ending = "hidden" if entry.name.startswith(".") else os.path.splitext(entry.name)[1].lower()
            others[ending or "without an ending"] += 1


def _is_one(entry: os.DirEntry, bmp: bool) -> bool:
    """Whether a file's name says that it is a picture; of a BMP, if `bmp`, whether it is one without a palette."""
    name = entry.name.lower()
    if not (bmp and name.endswith(".bmp")):
        return name.endswith(ENDINGS)
    try:
        with open(entry.path, "rb") as file:
            return headers.header(file) is not None
    except OSError:
        return True  # a bad record, as any other file that cannot be read


def shown(path: str) -> str:
    """A path as text that every terminal and file takes: bytes that are no UTF-8 are shown as U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: OSError) -> InputError:
    return InputError(shown(path), f"an unreadable file ({error.strerror})", "a picture that can be read")
