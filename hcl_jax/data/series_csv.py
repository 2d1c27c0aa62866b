"""Time series by a long table: a line for each moment, with the series that it is of, its time, and the channels."""

import functools
import logging
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from hcl_jax.data.limits import check_bytes
from hcl_jax.data.series import moments
from hcl_jax.data.source import Arrays, Source, from_arrays
from hcl_jax.data.tables import (
    ENDINGS,
    MISSING,
    Table,
    check_column,
    check_named,
    finite_cells,
    label_columns,
    table,
    table_path,
    text_labels,
)
from hcl_jax.errors import InputError

LOG = logging.getLogger("hcl_jax")


class Long(NamedTuple):
    """A table by series.

    Fields:
      ids: [N], in the order of their first lines.
      values: N arrays [T, C], each by its time; nan where a cell is blank.
      channels: [C], the names of the columns.
      words: label -> [N], the cell of each series.
      first: [N], the record of the table with which each begins.
    """

    ids: tuple[str, ...]
    values: list[np.ndarray]
    channels: tuple[str, ...]
    words: dict[str, list[str]]
    first: np.ndarray


def series_csv(data: Any, split: str) -> Source:
    """series float32 [N, T, C] of `<data.dir>/<split>.csv` or .tsv, or of the table `data.dir`.

    A line has the series' name in the column `data.record` and its time in `data.time` (numbers, or dates as ISO 8601
    has them), which gives the order and nothing else. A label has one value in all lines of a series; the default of
    `data.labels` may be absent. Every other column is a channel; a blank cell is missing, nan, as is what fills shorter
    series up to the longest of all splits. With `data.standardise` each channel has mean 0 and deviation 1 over the
    training split.

    Raises:
      InputError: a column that is not there, a value that is not a number, two lines of a time, two values of a label.
    """
    path = table_path(data, split)
    known = {split: path} if os.path.isfile(os.path.expanduser(data.dir)) else _both(data, split, path)
    tables = {name: table(file, data.max_array_bytes) for name, file in known.items()}
    asked = data.labels
    labels, data = label_columns(data, tables[split].columns)
    if asked and not labels:
        LOG.warning("%s: no classes, for there is no column 'label'", path)
    made = {name: _long(read, data, labels) for name, read in tables.items()}
    here = made[split]
    for name, other in made.items():
        if other.channels != here.channels:
            found = f"channels {', '.join(other.channels)}"
            raise InputError(known[name], found, f"{', '.join(here.channels)}, as in {path}")
    longest = max(len(v) for other in made.values() for v in other.values)
    check_bytes(path, 4 * len(here.values) * longest * len(here.channels), data.max_array_bytes)
    values, by = here.values, {}
    if data.standardise and data.train_split in made:
        mean, deviation = by["series"] = moments([v.T for v in made[data.train_split].values])
        values = [(v - mean) / deviation for v in values]
    padded = np.full((len(values), longest, len(here.channels)), np.nan, np.float32)
    for row, value in zip(padded, values, strict=True):
        row[: len(value)] = value
    kept = {}
    for label, words in here.words.items():
        every = {w for other in made.values() for w in other.words[label]}
        kept[label] = text_labels(label, words, every, set(), lambda i: tables[split].at(here.first[i]))
    arrays = Arrays(
        fields={"series": padded},
        labels={k: v[0] for k, v in kept.items()},
        classes={k: v[1] for k, v in kept.items()},
        licence="",
        citation="",
        class_names={k: v[2] for k, v in kept.items() if v[2]},
        names=[f"{data.record} {name}" for name in here.ids],
        moments=by,
    )
    return from_arrays("series_csv", arrays, data, split)


def _both(data: Any, split: str, path: str) -> Mapping[str, str]:
    """The tables of this split, and of the training and test splits as far as they are there."""
    found = {split: path}
    for other in (data.train_split, data.test_split):
        paths = (os.path.join(os.path.dirname(path), other + ending) for ending in ENDINGS)
        there = next((p for p in paths if os.path.isfile(p)), None)
        if there is not None:
            found.setdefault(other, there)
    return found


def _long(read: Table, data: Any, labels: tuple[str, ...]) -> Long:
    path, columns, _ = read
    for field, names in {"record": (data.record,), "time": (data.time,), "labels": labels}.items():
        for name in names:
            check_column(path, columns, name, field)
    channels = tuple(name for name in columns if name not in (data.record, data.time, *labels))
    if not channels:
        raise InputError(path, "no column beside those of names, times and labels", "one channel or more")
    allowed = "a finite number, or blank where missing"
    values = np.stack([finite_cells(read, name, allowed, MISSING) for name in channels], 1)
    times = _times(path, data.time, columns[data.time])
    check_named(read, data.record)
    ids = tuple(dict.fromkeys(columns[data.record]))
    number = {name: i for i, name in enumerate(ids)}
    owner = np.array([number[name] for name in columns[data.record]])
    order = np.lexsort((times, owner))
    twice = np.flatnonzero((np.diff(owner[order]) == 0) & (np.diff(times[order]) == np.zeros(1, np.diff(times).dtype)))
    if len(twice):
        a, b = sorted(int(i) for i in order[twice[0] : twice[0] + 2])
        at = f"{data.record} {columns[data.record][a]} {data.time} {columns[data.time][a]}"
        raise InputError(f"{path} lines {read.lines[a]} and {read.lines[b]}", at, "one line for each time of a series")
    ends = np.cumsum(np.bincount(owner))
    made, first = np.split(values[order], ends[:-1]), np.unique(owner, return_index=True)[1]
    empty = next((i for i, value in enumerate(made) if np.isnan(value).all()), None)
    if empty is not None:
        raise InputError(
            read.at(first[empty]), f"no value in {data.record} {ids[empty]}", "at least one in each series"
        )
    words: dict[str, list[str]] = {}
    for label in labels:
        cells: list[str | None] = [None] * len(ids)
        for row, (i, cell) in enumerate(zip(owner, columns[label], strict=True)):
            if cells[i] not in (None, cell):
                found = f"{label} {cell} for {data.record} {ids[i]}, which is {cells[i]} before"
                raise InputError(read.at(row), found, "one value for a series")
            cells[i] = cell
        words[label] = [str(c) for c in cells]
    return Long(ids, made, channels, words, first)


def _times(path: str, name: str, cells: list[str]) -> np.ndarray:
    """Numbers or moments, which sort."""
    for read in (functools.partial(np.array, dtype=np.float64), functools.partial(np.array, dtype="datetime64[us]")):
        try:
            made = read(cells)
        except ValueError:
            continue
        if not (np.isnan(made) if made.dtype.kind == "f" else np.isnat(made)).any():
            return made
    raise InputError(
        f"{path}: {name}", "cells that are no times", "numbers, or dates such as 2024-02-29T12:00:00, in each"
    )
