"""What numbers of rows alone say, before a run has trained: which results will be left out, or mean nothing."""

import inspect
from collections.abc import Iterator
from typing import Any

from hcl_jax.evaluators.entries import Entry
from hcl_jax.evaluators.knn import knn
from hcl_jax.evaluators.label_efficiency import few_labels
from hcl_jax.evaluators.retrieval import retrieval


def size_lines(
    entry: Entry, train: int, test: int, smallest: int | None, *, folds: int = 0, baselines: bool = True
) -> Iterator[str]:
    """A line for each number that an entry will leave out, or that no encoder can change.

    Args:
      entry: the evaluator.
      train, test: rows that it will have of each split.
      smallest: training rows of the smallest class; None where that is not known.
      folds: of cross-validation over the training rows, or 0.
      baselines: whether the raw input is read.
    """
    where = f"config.evaluate.evaluators.{entry.name}"
    if entry.features == ("raw",) and not baselines:
        yield f"{where}.features: no number, for it reads the raw input alone and config.evaluate.baselines is False"
    if entry.function is knn:
        k, bank = _argument(entry, "k"), train - (-(-train // folds) if folds else 0)
        if k > bank:
            yield f"{where}.k: {k}, of which {bank} are there: all training rows vote"
    elif entry.function is retrieval:
        void = [k for k in _argument(entry, "ks") if k >= test]
        if void:
            yield f"{where}.ks: recall_{', recall_'.join(map(str, void))} of {test} test rows is 1 for any encoder"
    elif entry.function is few_labels:
        if folds:
            yield f"{where}: no number, for config.evaluate.folds is {folds}"
        missing = [n for n in _argument(entry, "per_class") if smallest is not None and n > smallest]
        if missing and not folds:
            found = f"the smallest class has {smallest} training rows"
            yield f"{where}.per_class: labels_{', labels_'.join(map(str, missing))} left out, for {found}"


def _argument(entry: Entry, name: str) -> Any:
    """What an entry gives for an argument, or its default."""
    return entry.arguments.get(name, inspect.signature(entry.function).parameters[name].default)
