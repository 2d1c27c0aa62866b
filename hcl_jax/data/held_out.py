"""A share of the records held out for evaluation, for data that come without a test part."""

import json
import os
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from hcl_jax.data import order
from hcl_jax.data.source import Source, gather, listed
from hcl_jax.data.subset import Rows, subset
from hcl_jax.errors import InputError
from hcl_jax.views.lazy import tf

FIELD = "config.data.held_out"
CHUNK = 2**22  # records that are hashed at once: 100 MB, whatever the number of records


class Hidden:
    """`fetch` of a source, the classes of some records -1, bool [N]."""

    def __init__(self, whole: Source, hidden: np.ndarray):
        self.whole, self._hidden = whole, gather({"hidden": hidden})

    def __call__(self, index: Any) -> dict[str, Any]:
        record, hidden = self.whole.fetch(index), self._hidden(index)["hidden"]
        kinds = [k for k, classes in self.whole.labels.items() if classes]
        return record | {k: tf.where(hidden, tf.cast(-1, record[k].dtype), record[k]) for k in kinds}


# What is read is kept for the other part while the first is in use: pictures are decoded, and oddities said, once.
_READ: weakref.WeakValueDictionary[Any, Rows | Hidden] = weakref.WeakValueDictionary()


def with_held_out(data: Any, split: str, read: Callable[[Any, str], Source]) -> Source:
    """One split of a source, of whose training records `data.held_out` are the test split instead.

        record i is held out  <=>  u(data.held_out_seed, i) < data.held_out,  u uniform in [0, 1) by hashing

    Of one graph both parts have all nodes, and each the classes of its own alone: elsewhere they are -1, unknown. Of
    records that are one thing (Source.groups) the first decides.

    Args:
      data: `config.data`, of any source but a mixture, whose parts hold out each its own share.
      split: `data.train_split` gives the records that are left, `data.test_split` those held out; others are unchanged.
      read: function of (data, split).

    Returns:
      A Source with the records in their order, numbered anew.

    Raises:
      InputError: splits of one name, or a share that is nothing or everything.
    """
    if not data.held_out or split not in (data.train_split, data.test_split):
        return read(data, split)
    if data.train_split == data.test_split:
        allowed = "another name than data.train_split has: it names what is held out"
        raise InputError("config.data.test_split", repr(split), allowed)
    is_test = split == data.test_split
    key = (read, json.dumps(data.to_dict(), sort_keys=True, default=repr))
    before = _READ.get(key) if is_test else None
    whole = before.whole if before is not None else read(data, data.train_split)
    held = held_out(whole.num_examples, data.held_out, data.held_out_seed)
    held = held if whole.groups is None else held[whole.groups]
    if held.all() or not held.any():
        found = f"{data.held_out}, which is {'all' if held.all() else 'none'} of {whole.num_examples} records"
        raise InputError(FIELD, found, "a share, or a data.held_out_seed, that leaves a record on both sides")
    made = _nodes(whole, held != is_test) if whole.whole else subset(whole, np.flatnonzero(held == is_test))
    if not is_test and isinstance(made.fetch, Rows | Hidden):
        _READ[key] = made.fetch
    part = "what is held out" if is_test else "without what is held out"
    return made._replace(
        fingerprint=f"{whole.fingerprint}, {part}: {data.held_out} by seed {data.held_out_seed}",
        content=whole.content,
    )


def unread_test(data: Any) -> list[str]:
    """A line where the data's folder has a test split too, a file or a folder, which `data.held_out` leaves unread."""
    folder = os.path.expanduser(data.dir)
    if not data.held_out or not data.train_split or not os.path.isdir(folder):
        return []
    names = listed(folder)
    kinds = [name.removeprefix(data.train_split) for name in names if os.path.splitext(name)[0] == data.train_split]
    there = [data.test_split + kind for kind in kinds if data.test_split + kind in names]
    why = f"for {FIELD} is {data.held_out:g}; --{FIELD}=0 reads it"
    return [f"{name} is there and not read, {why}" for name in there]


def _nodes(whole: Source, hidden: np.ndarray) -> Source:
    kinds = {k: v for k, v in whole.known_labels.items() if whole.labels[k]}
    known = {k: np.where(hidden, -1, v) for k, v in kinds.items()}
    return whole._replace(fetch=Hidden(whole, hidden), known_labels={**whole.known_labels, **known})


def held_out(num_examples: int, share: float, seed: int) -> np.ndarray:
    """Which of N records are held out: bool [N]. A record's answer depends on its number alone."""
    parts = (np.arange(i, min(i + CHUNK, num_examples)) for i in range(0, num_examples, CHUNK))
    return np.concatenate([order.lacks(part, share, seed, "held_out").numpy() for part in parts])
