"""A kNN on a sample of the records while a run trains: when, on which rows, and what it reads."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from hcl_jax.evaluators.entries import Entry

POINTS = 10  # over a run, with its first and its last step
BANK, QUERIES = 2048, 512  # records, at most
SHARE = 16  # of this many trained rows one may be encoded here; a trained one also has a gradient


class Sampled(NamedTuple):
    """What is evaluated on a sample, and when.

    Attributes:
      steps: after which steps, in order; () is never.
      bank, queries: records of the training and of the test split.
    """

    steps: tuple[int, ...] = ()
    bank: int = 0
    queries: int = 0


def sampled(steps: int, rows: int, train: int, test: int, batch: int) -> Sampled:
    """About ten points over a run that encode at most a sixteenth of its trained rows; a function of numbers, not
    of time, so that a run that is resumed or repeated has the same ones.

    Args:
      steps: of the run.
      rows: of a training batch.
      train, test: records of the two splits.
      batch: rows that are encoded at once; the last batch of a split is filled up.

    Example:
      >>> sampled(336, 256, 1437, 360, 256)
      Sampled(steps=(0, 37, 74, 112, 149, 186, 224, 261, 298, 336), bank=256, queries=256)
    """
    batches = steps * rows // SHARE // batch  # of all points
    points = min(POINTS, batches // 2, steps + 1)
    if points < 2:
        return Sampled()
    each = batches // points
    queries = min(QUERIES, test, max(1, each // 5) * batch)
    bank = min(BANK, train, (each - -(-queries // batch)) * batch)
    return Sampled(tuple(i * steps // (points - 1) for i in range(points)), bank, queries)


def sample_of(known: np.ndarray | None, records: int, count: int, seed: int, after: int = 0) -> np.ndarray:
    """Rows of a split, ascending; int64 [count] or fewer.

    Args:
      known: int [records], -1 is unknown and left out; None where no label is known yet.
      records: of the split.
      count: rows to draw.
      seed: of the run.
      after: rows of the same seed that are not drawn again.
    """
    there = np.arange(records) if known is None else np.flatnonzero(np.asarray(known) >= 0)
    return np.sort(np.random.default_rng(seed).permutation(there)[after : after + count]).astype(np.int64)


def read_by(listed: Iterable[Entry]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """(label, (view, output) of each view) that the evaluators of one view and a label read of the run's own data; of
    several labels the first. ("", ()) where there is none."""
    reads = [e for e in listed if e.reads.labels and e.reads.views == 1 and not e.data]
    found = {view: (view, output) for e in reads if e.labels == reads[0].labels for ((view, output),) in e.views}
    return (reads[0].labels, tuple(found.values())) if found else ("", ())
