"""Tables of text, .csv and .tsv: their columns, and of each record the line of the file where an editor finds it."""

import contextlib
import csv
import logging
import os
import sys
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from hcl_jax.data.casts import finite_floats, whole_numbers
from hcl_jax.data.limits import check_bytes
from hcl_jax.data.source import Arrays, folder_of, split_file
from hcl_jax.disk.reading import readable
from hcl_jax.errors import InputError, nearest

ENDINGS = (".csv", ".tsv")
# What programs write for a missing value (those that pandas reads as one).
MISSING = frozenset(["", *"nan NaN -nan -NaN NA <NA> N/A n/a #N/A #NA NULL null None".split()])
LOG = logging.getLogger("hcl_jax")


class Table(NamedTuple):
    """The records of a file.

    Fields:
      path: of the file.
      columns: name -> cells, in the file's order.
      lines: [N], where each record begins; the first line of the file, mostly the names of the columns, is 1.
    """

    path: str
    columns: dict[str, list[str]]
    lines: Sequence[int]

    def at(self, record: int) -> str:
        """Where a record is, for messages."""
        return f"{self.path} line {self.lines[record]}"


def text_table(data: Any, split: str) -> Arrays:
    """`<data.dir>/<split>.csv` (or .tsv): the text columns `data.text` and the label columns `data.labels`.

    Columns are names of the first line, or numbers from 0 for a file without one; several are separated by commas.
    A label column of whole numbers is classes, one of other numbers is values, one of words is classes in sorted order
    of both splits; words that only a third split has come behind them.
    """
    folder = folder_of(data, "<split>.csv")
    texts, labels = columns_of(data.text), (data.labels,) if isinstance(data.labels, str) else tuple(data.labels)
    fields = {"text": texts, "labels": labels}
    here = table(split_file(folder, split, ENDINGS), data.max_array_bytes, fields)
    kept = {}
    for label in labels:
        words, both = set(here.columns[label]), set()
        for other in dict.fromkeys((data.train_split, data.test_split)):
            path = next((p for p in (os.path.join(folder, other + e) for e in ENDINGS) if os.path.isfile(p)), None)
            if other == split:
                both |= words
            elif path:
                both |= set(table(path, data.max_array_bytes, {"labels": (label,)}, say=False).columns[label])
        kept[label] = text_labels(label, here.columns[label], both, words - both, here.at)
    return Arrays(
        fields={k: np.array(here.columns[k], object) for k in texts},
        labels={k: v[0] for k, v in kept.items()},
        classes={k: v[1] for k, v in kept.items()},
        licence="",
        citation="",
        class_names={k: v[2] for k, v in kept.items() if v[2]},
    )


def columns_of(text: str) -> tuple[str, ...]:
    """ "a, b" -> ("a", "b")."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def table_path(data: Any, split: str) -> str:
    """`<data.dir>/<split>.csv` or .tsv, or `data.dir` itself, which is the training split."""
    given = os.path.expanduser(data.dir)
    if not os.path.isfile(given):
        return split_file(folder_of(data, "<split>.csv, or a .csv or .tsv itself"), split, ENDINGS)
    if not given.endswith(ENDINGS):
        raise InputError("config.data.dir", data.dir, "a .csv or .tsv, or a folder with <split>.csv")
    if split != data.train_split:
        allowed = f"{data.train_split!r}, for data.dir is one table; data.held_out=0.2 holds a share of it out"
        raise InputError("config.data.test_split", repr(split), allowed)
    return given


def table(path: str, max_bytes: int, asked: dict[str, tuple[str, ...]] | None = None, say: bool = True) -> Table:
    """The columns of a file. What is passed over, or looks like a slip, is counted in a line if `say`.

    Args:
      path: a .csv, or a .tsv, which has no quotation.
      max_bytes: of the file.
      asked: field of `config.data` -> the columns that it names; None is all columns.
      say: whether lines are logged.

    Raises:
      InputError: no such column, with the field that names it; a line with more or fewer cells than the first.
    """
    allowed = 'UTF-8 text with one record a line; of a .csv, a quoted text as "it says ""so"""'
    with readable(path, allowed), open(path, encoding="utf-8-sig", newline="") as file:
        check_bytes(path, os.path.getsize(path), max_bytes)
        # A .tsv has no quotation (GLUE's files): read as a .csv, one lone mark takes all lines to the next mark.
        reader = (
            csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            if path.endswith(".tsv")
            else csv.reader(file, strict=True)
        )
        limit = csv.field_size_limit(sys.maxsize)  # of a cell; data.max_array_bytes bounds the file
        rows, lines, begins = [], [], 1
        try:
            for row in reader:
                rows.append(row)
                lines.append(begins)
                begins = reader.line_num + 1
        except csv.Error as error:
            raise InputError(f"{path} line {reader.line_num}", f"an unreadable file ({error})", allowed) from None
        finally:
            csv.field_size_limit(limit)
    blank = sum(not row for row in rows)
    rows, lines = [r for r in rows if r], [n for n, r in zip(lines, rows, strict=True) if r]
    if say and blank:
        LOG.warning("%s: %d blank lines passed over", path, blank)
    if not rows:
        raise InputError(path, "an empty file", "at least one line")
    fields = {column: field for field, columns in (asked or {}).items() for column in columns}
    headless = bool(fields) and all(c.isdigit() for c in fields) and not set(fields) <= set(rows[0])
    header = [str(i) for i in range(len(rows[0]))] if headless else rows.pop(0)
    lines = lines[len(lines) - len(rows) :]
    if not rows:
        raise InputError(path, "no record", "at least one below the names of the columns")
    broken = sum(any("\n" in cell or "\r" in cell for cell in row) for row in rows)
    if say and broken:
        LOG.warning("%s: %d of %d records hold a line end inside quotation marks", path, broken, len(rows))
    for number, row in zip(lines, rows, strict=True):
        if len(row) != len(header):
            raise InputError(f"{path} line {number}", f"{len(row)} columns", f"{len(header)}")
    wanted = tuple(dict.fromkeys(header)) if asked is None else tuple(fields)
    for column in wanted:
        check_column(path, header, column, fields.get(column, ""))
        if header.count(column) > 1:
            raise InputError(path, f"{header.count(column)} columns {column!r}", "one")
    return Table(path, {c: [row[header.index(c)] for row in rows] for c in wanted}, lines)


def check_column(path: str, columns: Iterable[str], column: str, field: str) -> None:
    """Raises InputError where a table has not the column that the field `field` of `config.data` names.

    field = "" is of a column whose name is fixed.
    """
    columns = list(columns)
    if column not in columns:
        found, allowed = f"no column {column!r}", f"columns {nearest(column, columns)}"
        raise InputError(path, found, f"{allowed}; config.data.{field} names it" if field else allowed)


def check_named(read: Table, column: str) -> None:
    """Raises InputError with the first cell that names nothing."""
    blank = next((row for row, cell in enumerate(read.columns[column]) if not cell.strip()), None)
    if blank is not None:
        raise InputError(f"{read.at(blank)}: {column}", "nothing", "a name in each line")


def label_columns(data: Any, columns: Container[str]) -> tuple[tuple[str, ...], Any]:
    """The columns with labels, and `data` that asks for them: the default of `data.labels` may be absent."""
    labels = (data.labels,) if isinstance(data.labels, str) else tuple(data.labels)
    if labels == ("label",) and "label" not in columns:
        return (), type(data)({**data, "labels": ()})
    return labels, data


def finite_cells(read: Table, column: str, allowed: str, missing: Container[str] = ()) -> np.ndarray:
    """Numbers float64 [n], nan for a cell in `missing`. Raises InputError with the first that is no finite one."""
    cells = read.columns[column]
    made = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        if cell.strip() in missing:
            continue
        with contextlib.suppress(ValueError):
            made[row] = float(cell)
        if not np.isfinite(made[row]):
            raise InputError(f"{read.at(row)}: {column}", repr(cell), allowed)
    return made


def text_labels(
    column: str, values: list[str], both: set[str], more: set[str], at: Callable[[int], str]
) -> tuple[np.ndarray, int, tuple[str, ...]]:
    """(values, number of classes, their names) of a column, given the words of the two splits of a run and more, those
    that occur in this split alone. `at` says where a value is, for messages.

    A blank cell, or one of the words that programs write for a missing value, is -1, unknown, and no class.
    """
    words = both | more
    known = {w: w.strip() for w in words if w.strip() not in MISSING}
    gaps = len(known) < len(words)
    numbers = _numbers(known.values())

    def where(row: int) -> str:
        return f"{at(row)}: {column}"

    # Where a column has a gap, programs write its whole numbers as 0.0 and 1.0.
    whole = numbers is not None and all(
        n.is_integer() and (gaps or w.lstrip("+-").isdigit()) for w, n in zip(known.values(), numbers, strict=True)
    )
    if numbers is not None and not whole:
        if gaps:
            row = next((i for i, v in enumerate(values) if v not in known), 0)
            raise InputError(where(row), "no value", "a number in each record, for they are no classes")
        return finite_floats(where, np.array([float(v) for v in values])), 0, ()
    names: tuple[str, ...] = ()
    if whole:
        number = {w: int(float(k)) if gaps else int(k) for w, k in known.items()}
        count = max(number.values(), default=-1) + 1
    else:
        first = {known[w] for w in both if w in known}
        names = (*sorted(first), *sorted(set(known.values()) - first))
        number, count = {w: names.index(k) for w, k in known.items()}, len(names)
    count = max(count, 1)  # of a column of gaps alone too: 0 would say that it holds values
    return whole_numbers(where, np.array([number.get(v, -1) for v in values], object)), count, names


def _numbers(words: Iterable[str]) -> list[float] | None:
    """The words as numbers; None where one is none."""
    try:
        found = list(words)
        if any("_" in w for w in found):  # which Python takes for a separator of digits
            return None
        return [float(w) for w in found]
    except ValueError:
        return None
