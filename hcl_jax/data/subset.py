"""Some records of a source as a source of its own."""

from typing import Any

import numpy as np

from hcl_jax.data.source import Source, gather
from hcl_jax.errors import InputError


class Rows:
    """`fetch` of the source that holds some records of another, int64 [n]."""

    def __init__(self, whole: Source, rows: np.ndarray):
        self.whole, self._numbers = whole, gather({"record": rows})

    def __call__(self, index: Any) -> dict[str, Any]:
        return self.whole.fetch(self._numbers(index)["record"])


def subset(source: Source, rows: np.ndarray) -> Source:
    """The records `rows` of a source, in that order; record i is what rows[i] was.

    Args:
      source: N records that do not refer to each other.
      rows: int [n], 0..N-1, n >= 1.

    Raises:
      InputError: no row, one that is not there, or the nodes of one graph.
    """
    rows = np.asarray(rows, np.int64)
    if source.whole:
        raise InputError(source.name, f"{len(rows)} of records that refer to each other", "all of them")
    if rows.ndim != 1 or not len(rows) or rows.min() < 0 or rows.max() >= source.num_examples:
        raise InputError(source.name, f"rows {rows}", f"one or more of 0 to {source.num_examples - 1}")
    return source._replace(
        num_examples=len(rows),
        fetch=Rows(source, rows),
        fingerprint=f"{source.fingerprint}, {len(rows)} records",
        describe=lambda i: source.describe(int(rows[i])),
        mix=None,
        known_labels={k: np.asarray(v)[rows] for k, v in source.known_labels.items()},
        known_present={k: np.asarray(v)[rows] for k, v in source.known_present.items()},
        content=None,
        groups=None,
        paths=None if source.paths is None else [source.paths[i] for i in rows],
    )
