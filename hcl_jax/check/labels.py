"""Classes: how many records each has, and which have none."""

import itertools

import numpy as np

from hcl_jax.check.oddities import NAMED

FEW, SHOWN, RATIO = 2, 12, 20  # records of a rare class; classes on the page; largest to smallest class


def summary(values: np.ndarray, classes: int, names: tuple[str, ...]) -> str:
    """Counts by class, or the range of values.

    Args:
      values: [n, ...] of a split.
      classes: C, 0 for values.
      names: of the classes, or ().
    """
    if not classes:
        return f"values {values.min():g} to {values.max():g}"
    counts = _counts(values)
    most = sorted(counts, key=lambda c: -counts[c])[:SHOWN] if classes > SHOWN else range(classes)
    shown = ", ".join(f"{names[i] if names else i}: {counts.get(i, 0):,}" for i in most)
    unknown = int((values < 0).sum())
    rest = f", ... of {classes} classes" if classes > SHOWN else ""
    return f"{shown}{rest}" + (f"; -1, unknown: {unknown:,}" if unknown else "")


def oddities(split: str, values: np.ndarray, classes: int, names: tuple[str, ...], complete: bool) -> list[str]:
    """Lines of what is odd about the classes of a split.

    Args:
      split: its name.
      values, classes, names: as in `summary`.
      complete: the values are those of all records.
    """
    if not classes:
        return []
    counts = _counts(values)
    lines, empty = [], classes - len(counts)
    if complete and empty:
        # Not all of them are made: a label may hold ids.
        first = list(itertools.islice((c for c in range(classes) if c not in counts), NAMED))
        lines.append(f"{split}: of {classes:,} classes {empty:,} without a record: {_listed(first, names, empty)}")
    rare = [c for c, n in counts.items() if n < FEW]
    if complete and rare:
        lines.append(f"{split}: of {classes:,} classes {len(rare):,} with a single record: {_listed(rare, names)}")
    if len(counts) > 1 and max(counts.values()) > RATIO * min(counts.values()):
        most, least = max(counts.values()), min(counts.values())
        lines.append(f"{split}: {most:,} records of the largest class, {least:,} of the smallest")
    unknown = int((values < 0).sum())
    if unknown:
        lines.append(f"{split}: {unknown:,} of {values.size:,} records are -1, unknown")
    return lines


def unseen(label: str, train: np.ndarray, test: np.ndarray, names: tuple[str, ...]) -> list[str]:
    """A line where the test split has classes that no training record has: none of their rows can be right."""
    extra = sorted(_counts(test).keys() - _counts(train).keys())
    rows = int(np.isin(test, extra).sum())
    found = f"{rows:,} records of {len(extra):,} classes that no training record has: {_listed(extra, names)}"
    return [f"test {label}: {found}"] if extra else []


def _counts(values: np.ndarray) -> dict[int, int]:
    classes, counts = np.unique(values[values >= 0], return_counts=True)
    return dict(zip(classes.tolist(), counts.tolist(), strict=True))


def _listed(classes: list[int], names: tuple[str, ...], count: int = 0) -> str:
    text = ", ".join(str(names[c] if names else c) for c in classes[:NAMED])
    return text + (", ..." if max(count, len(classes)) > NAMED else "")


def alike(names: tuple[str, ...]) -> list[str]:
    """A line where names of classes differ in case or spaces only."""
    seen: dict[str, list[str]] = {}
    for name in names:
        seen.setdefault("".join(name.split()).casefold(), []).append(name)
    same = [" and ".join(map(repr, found)) for found in seen.values() if len(found) > 1]
    return [f"classes whose names differ in case or spaces only: {', '.join(same)}"] if same else []
