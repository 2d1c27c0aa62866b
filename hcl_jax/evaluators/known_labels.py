"""What labels and masks alone say, before a run has trained: whether each evaluator will have rows and classes."""

import functools
from collections.abc import Iterable, Mapping

import numpy as np

from hcl_jax.errors import InputError
from hcl_jax.evaluators.entries import Entry
from hcl_jax.evaluators.folds import fold_of
from hcl_jax.evaluators.result import NOTHING


def check_known_labels(
    listed: Iterable[Entry],
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    folds: int,
    field: Mapping[str, str],
    present: Mapping[str, Mapping[str, np.ndarray]] = NOTHING,
) -> None:
    """Refuses evaluators that the labels leave without rows, or with one class.

    Args:
      listed: the entries that read these data.
      train, test: label -> int [n], of the labels that the source knows without reading records.
      folds: of cross-validation over the training rows; 0 = tested on the test rows.
      field: label -> the field that asks for it, for messages.
      present: "training" and "test" -> view -> bool [n], of the views that are known to be absent from some rows.

    Raises:
      InputError: what an evaluator would say after the training.
    """
    for entry, call in [(e, call) for e in listed for call in e.views]:
        views = tuple(view for view, _ in call)
        if not entry.labels:
            _check_present(entry, views, present.get("test", NOTHING))
            continue
        if entry.labels not in train:
            continue
        where, name = field[entry.labels], repr(entry.labels)
        splits = {"training": train[entry.labels]}
        if not folds and entry.labels in test:
            splits["test"] = test[entry.labels]
        for split, values in splits.items():
            there = _together(views, present.get(split, NOTHING))
            splits[split] = values = values if there is None else np.where(there, values, -1)
            if not (values >= 0).any():
                lacking = "" if there is None else f" or without {' and '.join(views)}"
                found = f"{name}, -1{lacking} in all {len(values)} {split} rows"
                raise InputError(where, found, "'', or a label with classes")
        known = splits["training"][splits["training"] >= 0]
        if entry.reads.labels and known.min() == known.max():
            unknown = len(train[entry.labels]) - len(known)
            found = f"{name}, only class {known[0]} in {len(known)} training rows"
            hint = f" ({unknown} rows are -1, unknown: write the classes -1 and 1 as 0 and 1)" if unknown else ""
            raise InputError(where, found, f"'', or a label with two classes{hint}")
        if entry.reads.labels and folds:
            try:
                fold_of(known, folds)
            except InputError as error:
                raise InputError("config.evaluate.folds", f"{folds}: {error.found}", error.allowed) from None


def _check_present(entry: Entry, views: Iterable[str], present: Mapping[str, np.ndarray]) -> None:
    there = _together(views, present)
    if there is not None and not there.any():
        where = f"config.evaluate.evaluators.{entry.name}.views"
        raise InputError(where, f"no test row of {len(there)} with {' and '.join(views)}", "views that some row has")


def _together(views: Iterable[str], present: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Which rows have all of the views; None where that is not known to be any less than all."""
    masks = [present[view] for view in views if view in present]
    return functools.reduce(np.logical_and, masks) if masks else None
