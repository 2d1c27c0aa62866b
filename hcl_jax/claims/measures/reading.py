"""What a measure reads: the features of one seed of each arm."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hcl_jax.errors import InputError, nearest
from hcl_jax.evaluators.linear import LinearProbe, linear_probe


class Split(NamedTuple):
    """One view of one split.

    Attributes:
      features: [N, D] float32.
      labels: int [N]; -1 = unknown.
      present: bool [N]: which rows have the view.
    """

    features: np.ndarray
    labels: np.ndarray
    present: np.ndarray


class Reading(NamedTuple):
    """An arm at one value.

    Attributes:
      value: of the varied field, or None.
      views: {view: {split: Split}}, of the trained encoder.
      untrained: the same before the first step, or None.
    """

    value: Any
    views: Mapping[str, Mapping[str, Split]]
    untrained: Mapping[str, Mapping[str, Split]] | None = None


Arms = Mapping[str, Sequence[Reading]]


def one(arms: Arms, name: str) -> Reading:
    """The only reading of an arm. Raises InputError for an unknown arm, or one that varies."""
    some = every(arms, name)
    if len(some) != 1:
        raise InputError("arguments", f"the arm {name!r} of {len(some)} values", "an arm that does not vary")
    return some[0]


def every(arms: Arms, name: str) -> Sequence[Reading]:
    """The readings of an arm, one a value. Raises InputError for an unknown arm."""
    if not isinstance(name, str) or name not in arms:
        raise InputError("arguments", f"the arm {name!r}", nearest(str(name), arms))
    return arms[name]


def split(views: Mapping[str, Mapping[str, Split]], view: str, name: str) -> Split:
    """The rows of a split that have the view. Raises InputError for an unknown view or split."""
    if not isinstance(view, str) or view not in views or name not in views[view]:
        raise InputError("arguments", f"the view {view!r} of {name}", nearest(str(view), views))
    rows = views[view][name]
    there = rows.present
    return Split(rows.features[there], rows.labels[there], there[there])


def probe(views: Mapping[str, Mapping[str, Split]], view: str, seed: int) -> LinearProbe:
    """The linear probe of a view: fitted on its training rows, its strength chosen on a fifth of them, read on test."""
    train, test = (split(views, view, s) for s in ("train", "test"))
    return linear_probe(train.features, train.labels, test.features, test.labels, seed=seed)


def top1(rows: Split) -> float:
    """Share of rows whose largest output is their label: features are logits."""
    known = rows.labels >= 0
    return float(np.mean(rows.features[known].argmax(1) == rows.labels[known]))
