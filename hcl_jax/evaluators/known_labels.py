"""What labels alone say, before a run has trained: whether each evaluator will have rows and classes."""

from collections.abc import Iterable, Mapping

import numpy as np

from hcl_jax.errors import InputError
from hcl_jax.evaluators.entries import Entry
from hcl_jax.evaluators.folds import fold_of


def check_known_labels(
    listed: Iterable[Entry],
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    folds: int,
    field: Mapping[str, str],
) -> None:
    """Refuses evaluators that the labels leave without rows, or with one class.

    Args:
      listed: the entries that read these data.
      train, test: label -> int [n], of the labels that the source knows without reading records.
      folds: of cross-validation over the training rows; 0 = tested on the test rows.
      field: label -> the field that asks for it, for messages.

    Raises:
      InputError: what an evaluator would say after the training.
    """
    for entry in listed:
        if not entry.labels or entry.labels not in train:
            continue
        where, name = field[entry.labels], repr(entry.labels)
        splits = {"training": train[entry.labels]}
        if not folds and entry.labels in test:
            splits["test"] = test[entry.labels]
        for split, values in splits.items():
            if not (values >= 0).any():
                raise InputError(where, f"{name}, -1 in all {len(values)} {split} rows", "'', or a label with classes")
        known = train[entry.labels][train[entry.labels] >= 0]
        if entry.reads.labels and known.min() == known.max():
            found = f"{name}, only class {known[0]} in {len(known)} training rows"
            raise InputError(where, found, "'', or a label with two classes")
        if entry.reads.labels and folds:
            try:
                fold_of(known, folds)
            except InputError as error:
                raise InputError("config.evaluate.folds", f"{folds}: {error.found}", error.allowed) from None
