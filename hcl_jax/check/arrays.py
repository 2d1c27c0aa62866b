"""Numbers: pictures as pixels, series, token ids, feature vectors, graphs."""

from collections.abc import Callable
from typing import Any

import numpy as np

from hcl_jax.check.oddities import Oddities, span

APART = 100.0  # deviations of channels that differ by more


class Numbers:
    """An array a record: pixels [n, H, W, C], features [n, D], tokens [n, L] or whatever else.

    Args:
      field: its name; it decides what is odd.
      describe: record number -> its name.
    """

    def __init__(self, field: str, describe: Callable[[int], str]):
        self.field, self.describe, self.odd = field, describe, Oddities()
        self.low, self.high = np.inf, -np.inf
        self.shape: tuple[int, ...] = ()
        self.same: Any = None  # where all records have one value
        self.first: Any = None
        self.lengths: list[int] = []

    def add(self, numbers: np.ndarray, values: np.ndarray) -> None:
        """Looks at some records."""
        flat = values.reshape(len(values), -1)
        self.shape = values.shape[1:]
        self.low, self.high = min(self.low, flat.min()), max(self.high, flat.max())
        if self.field.startswith("tokens"):
            length = (flat != 0).sum(axis=1)
            self.lengths += length.tolist()
            self.odd.note("of padding alone", numbers[length == 0])
            return
        self.odd.note("of one value", numbers[(flat == flat[:, :1]).all(axis=1)])
        if self.field.startswith("features"):
            self.first = flat[0] if self.first is None else self.first
            same = (flat == self.first).all(axis=0)
            self.same = same if self.same is None else self.same & same

    def summary(self) -> str:
        """Shape and range."""
        shape = " x ".join(map(str, self.shape)) or "one number"
        text = f"{shape}, {self.low:g} to {self.high:g}"
        return f"{text}; lengths {span(self.lengths)}" if self.lengths else text

    def oddities(self) -> list[str]:
        """Lines of what is odd."""
        lines = self.odd.lines(self.describe)
        if self.same is not None and self.same.any():
            lines.append(f"{int(self.same.sum()):,} of {len(self.same):,} columns have one value in all records")
        return lines


class Series:
    """Series [n, T, C], where nan is a missing value.

    Args:
      describe: record number -> its name.
    """

    def __init__(self, describe: Callable[[int], str]):
        self.describe, self.odd = describe, Oddities()
        self.lengths: list[int] = []
        self.missing, self.steps = 0, 0  # values
        self.sums: Any = 0.0  # [3, C]: of ones, values and squares
        self.about: Any = None
        self.low: Any = np.inf  # [C]
        self.high: Any = -np.inf

    def add(self, numbers: np.ndarray, values: np.ndarray) -> None:
        """Looks at some records."""
        values = values.astype(np.float64).reshape(*values.shape[:2], -1)
        there = ~np.isnan(values)
        known = np.asarray(there.any(axis=2))
        length = values.shape[1] - np.argmax(known[:, ::-1], axis=1)
        self.lengths += length.tolist()
        inside = np.arange(values.shape[1]) < length[:, None]
        self.missing += int((~there & inside[..., None]).sum())
        self.steps += int(inside.sum()) * values.shape[2]
        self.odd.note("with a channel that has no value", numbers[~np.all(np.any(there, axis=1), axis=1)])
        low = np.where(there, values, np.inf).min(axis=1)
        high = np.where(there, values, -np.inf).max(axis=1)
        self.low, self.high = np.minimum(self.low, low.min(axis=0)), np.maximum(self.high, high.max(axis=0))
        self.odd.note("with all channels constant", numbers[(low >= high).all(axis=1)])
        if self.about is None:  # sums about a value that is there: squares of a large mean would hide what varies
            self.about = np.where(there.any((0, 1)), np.nan_to_num(np.nanmax(values, (0, 1), initial=-np.inf)), 0.0)
        filled = np.where(there, values - self.about, 0.0)
        self.sums = self.sums + np.stack([there.sum((0, 1)), filled.sum((0, 1)), (filled**2).sum((0, 1))])

    def summary(self) -> str:
        """Lengths, channels, range and missing values."""
        text = f"{span(self.lengths)} steps, {len(self.low)} channels, {self.low.min():g} to {self.high.max():g}"
        return f"{text}; {self.missing / self.steps:.1%} of the values are missing" if self.missing else text

    def oddities(self) -> list[str]:
        """Lines of what is odd."""
        lines = self.odd.lines(self.describe)
        count, total, squares = self.sums
        mean = total / np.maximum(count, 1)
        deviation = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0.0))
        constant = self.low == self.high  # of a channel without a value low is above high
        if constant.any():
            dead = ", ".join(map(str, np.flatnonzero(constant)[:8]))
            lines.append(f"{int(constant.sum())} of {len(constant)} channels have one value: {dead}")
        alive = deviation[self.low < self.high]
        if len(alive) and alive.max() > APART * alive.min():
            lines.append(f"channels deviate by {alive.min():.2g} to {alive.max():.2g}; data.standardise makes it 1")
        return lines


class Graphs:
    """A graph a record, or the nodes of one.

    Args:
      describe: record number -> its name.
      whole: records are the nodes of one graph.
    """

    def __init__(self, describe: Callable[[int], str], whole: bool):
        self.describe, self.whole, self.odd = describe, whole, Oddities()
        self.nodes: list[int] = []
        self.edges: list[int] = []

    def add(self, numbers: np.ndarray, values: dict[str, np.ndarray]) -> None:
        """Looks at some records: {nodes, edges, node_mask, edge_mask} as the source gives them."""
        pairs, mask = values["edges"].astype(np.int64), values["edge_mask"]
        if self.whole:
            pairs, mask = pairs.reshape(1, -1, 2), mask.reshape(1, -1)
            count = np.array([len(numbers)])
        else:
            count = values["node_mask"].sum(axis=1)
        self.nodes += count.tolist()
        self.edges += mask.sum(axis=1).tolist()
        graph, at = np.nonzero(mask)
        source, destination = pairs[graph, at].T
        most = int(pairs.max(initial=0)) + 1
        forth = (graph * most + source) * most + destination
        back = (graph * most + destination) * most + source
        single = ~np.isin(forth, back)
        if self.whole:
            lonely = np.setdiff1d(np.arange(len(numbers)), destination)
            self.odd.note("without an edge", lonely)
            self.odd.note("with an edge in one direction only", np.unique(source[single]))
            return
        self.odd.note("without an edge", numbers[mask.sum(axis=1) == 0])
        self.odd.note("with an edge in one direction only", numbers[np.unique(graph[single])])

    def summary(self) -> str:
        """Nodes and edges."""
        each = "" if self.whole else " a graph"
        edges = f"; {span(self.edges)} edges{each}, both directions counted" if self.edges else ""
        return f"{span(self.nodes)} nodes{each}{edges}"

    def oddities(self) -> list[str]:
        """Lines of what is odd."""
        return self.odd.lines(self.describe)
