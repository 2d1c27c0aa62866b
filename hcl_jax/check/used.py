"""What each evaluator will use, from the labels."""

from collections.abc import Iterable, Mapping

import numpy as np

from hcl_jax.evaluators.entries import Entry


def lines(
    listed: Iterable[Entry], labels: Mapping[str, Mapping[str, np.ndarray]], sizes: Mapping[str, int], folds: int
) -> list[str]:
    """A line an evaluator: its rows of both splits and its classes.

    Args:
      listed: the entries that read these data.
      labels: label -> {split: [n]}, of those that are known for all records.
      sizes: split -> records.
      folds: of cross-validation over the training rows; 0 = tested on the test rows.
    """
    made = []
    for entry in listed:
        rows, text = dict(sizes), ""
        if entry.reads.batches:
            made.append(f"{entry.name}: the losses of {sizes['test']:,} test rows")
            continue
        if entry.labels:
            known = labels.get(entry.labels, {})
            if known.keys() < sizes.keys():
                text = f", {entry.labels} where it is not -1"
            else:
                rows = {split: int((values >= 0).sum()) for split, values in known.items()}
                classes = len(np.unique(known["train"][known["train"] >= 0]))
                text = f", {classes} classes of {entry.labels}" if entry.reads.labels else ""
        if folds and entry.reads.labels:
            made.append(f"{entry.name}: {rows['train']:,} training rows in {folds} folds{text}")
        else:
            made.append(f"{entry.name}: {rows['train']:,} training and {rows['test']:,} test rows{text}")
    return made
