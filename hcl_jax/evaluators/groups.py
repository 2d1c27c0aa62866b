"""Evaluators that read the same rows, together: what features they want, and their numbers from them."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from hcl_jax.errors import InputError
from hcl_jax.evaluators.entries import Entry
from hcl_jax.evaluators.paired import side_by_side
from hcl_jax.evaluators.result import Splits


class Features(NamedTuple):
    """What the towers make of one split: every example once, in order.

    Attributes:
      outputs: {view: {output: [N, D]}}.
      raw: {view: [N, F]}, the input itself, flat; empty when it was not asked for.
      labels: {name: [N]}.
      present: {view: bool [N]}.
      rows: int [N], the records' numbers.
      items: {view: int [N]}, equal where the rows' inputs are; of the views that are compared by items.
    """

    outputs: dict[str, dict[str, np.ndarray]]
    raw: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    present: dict[str, np.ndarray]
    rows: np.ndarray
    items: Mapping[str, np.ndarray] = {}


class Group(NamedTuple):
    """Entries that read the same rows.

    Attributes:
      source: the data of an entry; "" for those of the run.
      call: (view, output) for each feature.
      labels: which label; "" for none.
      splits: what is read: the test split alone where nothing is fitted, the training split alone with folds.
      entries: the entries.
    """

    source: str
    call: tuple[tuple[str, str], ...]
    labels: str
    splits: tuple[str, ...]
    entries: list[Entry]


def groups_of(listed: Iterable[Entry], folds: int) -> list[Group]:
    """The entries that read features, by the rows that they read."""
    found: dict[tuple[str, Any, str], Group] = {}
    for entry in (e for e in listed if not e.reads.batches):
        splits = (("train",) if folds else ("train", "test")) if entry.labels else ("test",)
        for call in entry.views:
            key = (entry.source, call, entry.labels)
            found.setdefault(key, Group(*key, splits, [])).entries.append(entry)
    return list(found.values())


def wanted(groups: Iterable[Group], views: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    """{(source, split): the views that are read of it, in the order of `views`}."""
    found: dict[tuple[str, str], set[str]] = {}
    for group in groups:
        for split in group.splits:
            found.setdefault((group.source, split), set()).update(view for view, _ in group.call)
    return {key: [v for v in views if v in some] for key, some in found.items()}


def numbers(
    group: Group,
    made: Mapping[str, Mapping[tuple[str, str], Features]],
    folds: int,
    say: Callable[[str], None],
    keep: Callable[[str, Mapping[str, np.ndarray]], None] | None = None,
    at: Callable[[str], None] = lambda what: None,
) -> dict[str, float]:
    """The numbers of a group.

    Args:
      group: entries, and what they read.
      made: {"" or "untrained": {(source, split): Features}}; with raw features in the first, they are read too.
      folds: of cross-validation, or 0.
      say: where a line of progress goes.
      keep: given what was fitted to the run's own data, by its name "view.output.label".
      at: told what is next.

    Returns:
      {"image/knn_accuracy": number}, after the views' names.
    """
    views = tuple(view for view, _ in group.call)
    first = {s: made[""][group.source, s] for s in group.splits}
    there = {s: functools.reduce(np.logical_and, (f.present[v] for v in views)) for s, f in first.items()}

    def splits(pick: Callable[[Features], np.ndarray], of: Mapping[tuple[str, str], Features]) -> Splits:
        arrays = {s: pick(of[group.source, s])[there[s]] for s in group.splits}
        return Splits(arrays.get("train"), arrays.get("test"))

    def output(view: str, name: str, of: Mapping[tuple[str, str], Features]) -> Splits:
        return splits(lambda features: features.outputs[view][name], of)

    def raw(view: str) -> Splits:
        return splits(lambda features: features.raw[view], made[""])

    sets = {name: tuple(output(*pair, of) for pair in group.call) for name, of in made.items()}
    if all(v in f.raw for v in views for f in first.values()):
        sets["raw"] = tuple(map(raw, views))
    title = "-".join(views)
    labels = splits(lambda f: f.labels[group.labels], made[""]) if group.labels else None
    if labels:
        say(f"evaluation: {title}, {', '.join(n or 'trained' for n in sets)}")

    def failed(entry: Entry, error: Exception) -> None:
        text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        say(f"evaluation: no number of {entry.name} of {title}: {text}")

    items = None
    if "test" in first and all(v in first["test"].items for v in views):
        items = tuple(first["test"].items[v][there["test"]] for v in views)
    own = None if keep is None or group.source else functools.partial(keep, ".".join((*group.call[0], group.labels)))
    rows = "" if labels is None else f" ({sum(len(x) for x in labels if x is not None):,} rows)"
    found = side_by_side(
        group.entries, sets, labels, folds=folds, names=views, items=items, failed=failed, keep=own,
        at=lambda what: at(f"{title}: {what}{rows}"),
    )  # fmt: skip
    return {f"{title}/{k}": v for k, v in found.items()}
