"""Classes: how many records each has, and which have none."""

import numpy as np

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
    counts = np.bincount(values[values >= 0].ravel(), minlength=classes)
    order = np.argsort(-counts, kind="stable")[:SHOWN] if classes > SHOWN else np.arange(classes)
    shown = ", ".join(f"{names[i] if names else i}: {counts[i]:,}" for i in order)
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
    counts = np.bincount(values[values >= 0].ravel(), minlength=classes)

    def listed(which: np.ndarray) -> str:
        text = ", ".join(str(names[i] if names else i) for i in which[:3])
        return text + (", ..." if len(which) > 3 else "")

    lines, empty = [], np.flatnonzero(counts == 0)
    if complete and len(empty):
        lines.append(f"{split}: of {classes} classes {len(empty)} without a record: {listed(empty)}")
    rare = np.flatnonzero((counts > 0) & (counts < FEW))
    if complete and len(rare):
        lines.append(f"{split}: of {classes} classes {len(rare)} with a single record: {listed(rare)}")
    there = counts[counts > 0]
    if len(there) > 1 and there.max() > RATIO * there.min():
        lines.append(f"{split}: {there.max():,} records of the largest class, {there.min():,} of the smallest")
    unknown = int((values < 0).sum())
    if unknown:
        lines.append(f"{split}: {unknown:,} of {values.size:,} records are -1, unknown")
    return lines


def alike(names: tuple[str, ...]) -> list[str]:
    """A line where names of classes differ in case or spaces only."""
    seen: dict[str, list[str]] = {}
    for name in names:
        seen.setdefault("".join(name.split()).casefold(), []).append(name)
    same = [" and ".join(map(repr, found)) for found in seen.values() if len(found) > 1]
    return [f"classes whose names differ in case or spaces only: {', '.join(same)}"] if same else []
