"""Pictures and what is said of them, by a table of paths and texts: `filepath,title`, as open_clip reads it."""

import os
from typing import Any

import numpy as np

from hcl_jax.data.content import of_files
from hcl_jax.data.folder import fetch_of, shown
from hcl_jax.data.source import Source, chosen_labels, fingerprint_arrays, fingerprint_files, taken
from hcl_jax.data.tables import columns_of, table, table_path
from hcl_jax.errors import InputError


def pairs_csv(data: Any, split: str) -> Source:
    """`<data.dir>/<split>.csv` or .tsv, or `data.dir` itself: image, the file in the column `data.picture`, and text.

    Paths are relative to the folder of the table, or absolute. Rows that name one picture are held out together.

    Args:
      data: `config.data`; `picture` and `text` are the names of the two columns; in_memory=True keeps the files' bytes.
      split: name of the table. A table that is `data.dir` itself is the training split.

    Returns:
      A Source whose image is encoded bytes.

    Raises:
      InputError: no such table or column, or more files that are not there than `data.max_bad_records`.
    """
    path = table_path(data, split)
    words = columns_of(data.text)
    if len(words) != 1:
        raise InputError("config.data.text", repr(data.text), "one column, that of the texts")
    chosen_labels(data, {})
    columns = table(path, data.max_array_bytes, {"picture": (data.picture,), "text": words}).columns
    size = taken(data, split, len(columns[data.picture]))
    named, texts = columns[data.picture][:size], np.array(columns[words[0]][:size], object)
    root = os.path.dirname(path)
    paths = [os.path.join(root, name) for name in named]
    sizes = _sizes(path, paths, data.max_bad_records)
    first: dict[str, int] = {}
    for number, name in enumerate(named):
        first.setdefault(name, number)
    text_print = fingerprint_arrays({"text": texts})
    return Source(
        name="pairs_csv",
        num_examples=size,
        fetch=fetch_of(paths, {"text": texts}, data),
        fields={"image": ((), "string"), "text": ((), "string")},
        labels={},
        present=None,
        fingerprint=fingerprint_files(
            list(zip(named, sizes, strict=True)),
            f"{text_print}{' upright' if data.upright else ''}{f' shrunk to {data.shrink}' if data.shrink else ''}",
        ),
        licence="",
        citation="",
        describe=lambda number: f"record {number} ({shown(named[number])})",
        content=lambda seed: {"files": of_files(list(zip(paths, sizes, strict=True)), seed), "texts": text_print},
        upright=data.upright,
        max_pixels=data.max_pixels,
        shrink=data.shrink,
        paths=named,
        groups=np.array([first[name] for name in named]) if len(first) < size else None,
    )


def _sizes(table_path: str, paths: list[str], most_bad: int) -> list[int]:
    """Bytes of each file, 0 where there is none: a bad record when it is read."""
    sizes, lost = [], []
    for path in paths:
        try:
            sizes.append(os.stat(path).st_size)
        except (OSError, ValueError):
            sizes.append(0)
            lost.append(path)
    if len(lost) > most_bad:
        found = f"{len(lost):,} of {len(paths):,} files that are not there, the first {shown(lost[0])}"
        raise InputError(table_path, found, "paths below the folder of the table, or absolute ones")
    return sizes
