"""Some rows of features with what is known of their records, for a map that someone else draws."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hcl_jax.evaluators.groups import Features

MOST, NUMBERS = 2_000, 1 << 20  # rows, and numbers in them: as text a number takes some ten bytes


class Points(NamedTuple):
    """Rows of features [n, d], and {column: n texts} on their records."""

    features: np.ndarray
    columns: dict[str, list[str]]


def points(
    found: Features,
    outputs: Mapping[str, str],
    describe: Callable[[int], str],
    class_names: Mapping[str, Sequence[str]],
    labelled: bool = False,
) -> dict[str, Points]:
    """At most 2,000 rows of each view, drawn with a fixed seed.

    Args:
      found: of one split.
      outputs: {view: its output}.
      describe: the name of a record by its number.
      class_names: of the labels that have some.
      labelled: take rows with a label alone, where there are any.

    Returns:
      {view: its points}, without views that have no rows or whose output is no vector.
    """
    made = {}
    for view, output in outputs.items():
        features = found.outputs.get(view, {}).get(output)
        if features is None or features.ndim != 2:
            continue
        there = np.asarray(found.present[view], bool)
        labels = {k: v for k, v in found.labels.items() if v.ndim == 1}
        if labelled and labels:
            marked = there & np.any([v >= 0 for v in labels.values()], axis=0)
            there = marked if marked.any() else there
        at = np.flatnonzero(there)
        if not len(at):
            continue
        most = min(MOST, max(1, NUMBERS // features.shape[1]))
        if len(at) > most:
            at = np.sort(np.random.default_rng(0).permutation(at)[:most])
        columns = {k: [_named(x, class_names.get(k, ())) for x in v[at].tolist()] for k, v in labels.items()}
        names = [describe(int(i)) for i in found.rows[at]]
        made[view] = Points(np.asarray(features[at], np.float32), {"record": names, **columns})
    return made


def _named(value: float, names: Sequence[str]) -> str:
    """A label as text: the name of a class, "" for an unknown one, else the number."""
    if isinstance(value, int):
        return "" if value < 0 else names[value] if value < len(names) else str(value)
    return f"{value:.6g}"
