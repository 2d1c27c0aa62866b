"""Pictures in folders: `<data.dir>/<split>/<class>/*.jpg`, the ImageFolder layout."""

import os
from typing import Any

import numpy as np

from hcl_jax.data import images
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
from hcl_jax.errors import InputError
from hcl_jax.views.lazy import tf

ENDINGS = (".jpg", ".jpeg", ".png")
CHANNELS = 3
LAYOUT = "<split>/<class>/*.jpg, .jpeg or .png"
MEMORY_LIMIT = 16 << 30  # bytes that `data.in_memory` may take


def folder(data: Any, split: str) -> Source:
    """Pictures by class folder: image and label.

    Classes are the sorted class folders of the training split. Records go round the classes (first file of each class,
    second of each, ...), so that the first n have all classes.

    Args:
      data: `config.data`; in_memory=True decodes all pictures at once when they have one size (uint8 [N, H, W, 3]),
        else keeps their bytes; False reads files as they are needed.
      split: a folder of `data.dir`.

    Returns:
      A Source whose image is an array [H, W, 3], or encoded bytes where sizes differ or in_memory=False.

    Raises:
      InputError: a folder missing or empty, a class that the training split lacks, a file that is no picture.
    """
    root = folder_of(data, LAYOUT)
    splits = _folders(root)
    if not splits:
        raise InputError("config.data.dir", f"no folder in {data.dir}", LAYOUT)
    if split not in splits:
        raise unknown_split(split, splits, data.dir)
    classes = tuple(_folders(os.path.join(root, data.train_split if data.train_split in splits else split)))
    files = _listed(root, split, classes)
    files = files[: taken(data, split, len(files))]
    paths = [os.path.join(root, p) for p, _, _ in files]
    label = np.array([c for _, c, _ in files], np.int32)
    size = sum(s for _, _, s in files)
    # Of the files in both modes: data.in_memory and data.dir may change when a run goes on.
    fingerprint = fingerprint_files([(p, s) for p, _, s in files])
    names = {"label": classes}
    if data.in_memory:
        if size > MEMORY_LIMIT:
            raise InputError(
                "config.data.in_memory",
                f"True for {size / 2**30:.0f} GiB of files",
                f"False above {MEMORY_LIMIT >> 30} GiB",
            )
        picture = _in_memory(paths)
        if picture is not None:
            arrays = Arrays({"image": picture}, {"label": label}, {"label": len(classes)}, "", "", {}, names, paths)
            return from_arrays("folder", arrays, data, split)._replace(fingerprint=fingerprint)
    labels = chosen_labels(data, {"label": None})
    column = np.array([_read(p) for p in paths] if data.in_memory else paths, object)
    columns = gather({"image": column, "label": label})

    def fetch(index: Any) -> dict[str, Any]:
        record = columns(index)
        if not data.in_memory:
            record["image"] = tf.map_fn(tf.io.read_file, record["image"])
        return record

    return Source(
        name="folder",
        num_examples=len(files),
        fetch=fetch,
        fields={"image": ((), "string")},
        labels={k: class_count(data, len(classes)) for k in labels},
        present=None,
        fingerprint=fingerprint,
        licence="",
        citation="",
        describe=paths.__getitem__,
        class_names=names,
    )


def _folders(root: str) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _listed(root: str, split: str, classes: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """[(path relative to root, class number, bytes)] in record order."""
    there = _folders(os.path.join(root, split))
    if not there:
        raise InputError("config.data.dir", f"no class folder in {os.path.join(root, split)}", LAYOUT)
    listed = []
    for name in there:
        if name not in classes:
            raise InputError(
                os.path.join(root, split, name), "a class that the training split lacks", ", ".join(classes[:8])
            )
        with os.scandir(os.path.join(root, split, name)) as entries:
            found = sorted((e.name, e.stat().st_size) for e in entries if e.name.lower().endswith(ENDINGS))
        number = classes.index(name)
        listed += [(rank, number, f"{split}/{name}/{file}", size) for rank, (file, size) in enumerate(found)]
    if not listed:
        raise InputError("config.data.dir", f"no picture in {os.path.join(root, split)}", LAYOUT)
    return [(path, number, size) for _, number, path, size in sorted(listed)]


def _in_memory(paths: list[str]) -> np.ndarray | None:
    """uint8 [N, H, W, 3], or None when sizes differ or the array would pass the limit."""
    if not images.is_picture(paths[0]):
        raise images.undecodable(paths[0])
    shape = images.decode(tf.constant(_read(paths[0])), CHANNELS).shape
    if len(paths) * int(np.prod(shape)) > MEMORY_LIMIT:
        return None
    return images.decoded(paths, channels=CHANNELS, describe=paths.__getitem__)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
