"""The page: what the splits hold by their labels and a sample of their records, and what is odd in them."""

import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from hcl_jax.check import labels as classes
from hcl_jax.check import used
from hcl_jax.check.arrays import Graphs, Numbers, Series
from hcl_jax.check.copies import Copies
from hcl_jax.check.encoded import Encoded
from hcl_jax.check.oddities import Oddities
from hcl_jax.check.reading import chunks
from hcl_jax.check.texts import Texts
from hcl_jax.data.source import Source
from hcl_jax.errors import InputError
from hcl_jax.evaluators.entries import Entry

MOST, SECONDS = 2000, 2.0  # records of all splits that a look reads, and on the clock


class Page(NamedTuple):
    """What a look found.

    Attributes:
      facts: (what, text) of each line about the data as a whole.
      odd: lines that name what is odd.
      refusal: what a run must refuse, or None.
      bad: record number -> fault, of the training records among those looked at that a run would have to replace.
    """

    facts: tuple[tuple[str, str], ...]
    odd: tuple[str, ...]
    refusal: InputError | None = None
    bad: Mapping[int, InputError] = MappingProxyType({})

    def text(self) -> str:
        """The page as it is printed; lines about what is odd begin with an exclamation mark."""
        width = max(len(what) for what, _ in self.facts)
        return "\n".join([*(f"{what:<{width}}  {text}" for what, text in self.facts), *(f"! {o}" for o in self.odd)])


class _Split:
    """What was read of one split."""

    def __init__(self, name: str, source: Source):
        self.name, self.source = name, source
        self.read = 0
        self.fields: dict[str, Any] = {}
        self.copies: dict[str, Copies] = {}
        self.labels: dict[str, list[np.ndarray]] = {k: [] for k in source.labels}
        self.absent: dict[str, int] = {}
        self.faults: dict[int, InputError] = {}

    def take(self, numbers: np.ndarray, record: Mapping[str, Any]) -> None:
        source = self.source
        self.read += len(numbers)
        for label, values in self.labels.items():
            values.append(record[label])
        classes_of = next((record[k] for k, count in source.labels.items() if count), None)
        for i, field in enumerate(source.fields):
            values, here = record[field], np.ones(len(numbers), bool)
            if source.present:
                here = record[source.present][:, i].astype(bool)
                self.absent[field] = self.absent.get(field, 0) + int((~here).sum())
            if not here.any():
                continue
            if field not in self.fields:
                self.fields[field] = _kind(source, field, values)
                self.copies[field] = Copies()
            if isinstance(values, dict):
                self.fields[field].add(numbers[here], {k: v[here] for k, v in values.items()})
            else:
                self.fields[field].add(numbers[here], values[here])
                # Two files that are empty are no copies.
                here[here] = ~np.isin(numbers[here], list(getattr(self.fields[field], "bad", ())))
                self.copies[field].add(numbers[here], values[here], None if classes_of is None else classes_of[here])

    def known(self, label: str) -> tuple[np.ndarray, bool]:
        """The values of a label that are known, and whether of all records."""
        if label in self.source.known_labels:
            return self.source.known_labels[label], True
        values = self.labels[label]
        return np.concatenate(values) if values else np.zeros(0, int), self.read == self.source.num_examples


def _kind(source: Source, field: str, values: Any) -> Any:
    if isinstance(values, dict):
        return Graphs(source.describe, source.whole)
    if values.dtype == object:
        return Encoded(source) if field.startswith("image") else Texts(source.describe)
    # A view made by a generator is a picture or a series.
    if values.dtype.kind == "f" and values.ndim >= 3 and not field.startswith(("image", "generated")):
        return Series(source.describe)
    return Numbers(field, source.describe)


def look(
    splits: Mapping[str, Source],
    *,
    seed: int = 0,
    most: int = MOST,
    seconds: float = SECONDS,
    listed: Iterable[Entry] = (),
    folds: int = 0,
    max_bad_records: int = 0,
    fields: frozenset[str] = frozenset(),
    vocabularies: Mapping[str, tuple[int, str]] = MappingProxyType({}),
) -> Page:
    """Reads a seeded sample of the records of all splits.

    Args:
      splits: "train", and "test" where there is one -> source.
      seed: of the sample.
      most: records to read of all splits; they share it.
      seconds: on the clock, after which no more are read.
      listed: evaluators that will read these data.
      folds: `evaluate.folds`.
      max_bad_records: `data.max_bad_records`.
      fields: those that views read; only they make a record a bad one.
      vocabularies: field of token ids -> (V, the config's field of it); ids below V have a vector.

    Returns:
      A Page; it refuses more bad records in the training split than a run replaces, and a token id without a vector.
    """
    began = time.monotonic()
    seen = [_read(name, source, most // len(splits), seconds / len(splits), seed) for name, source in splits.items()]
    facts: list[tuple[str, str]] = []
    odd: list[str] = []
    for split in seen:
        source = split.source
        facts.append((split.name, f"{source.num_examples:,} records of {source.name}, {split.read:,} looked at"))
        for label, count in source.labels.items():
            values, complete = split.known(label)
            names = source.class_names.get(label, ())
            if values.size:
                part = "" if complete else " (of those looked at)"
                facts.append((f"  {label}", classes.summary(values, count, names) + part))
                odd += [] if source.whole else classes.oddities(f"{split.name} {label}", values, count, names, complete)
        for field, found in split.fields.items():
            lacking = f"; {split.absent[field]:,} records lack it" if split.absent.get(field) else ""
            facts.append((f"  {field}", found.summary() + lacking))
            odd += [f"{split.name} {field}: {line}" for line in found.oddities()]
            odd += split.copies[field].within(split.name, field, source.describe)
        unread = Oddities()
        unread.note("cannot be read", split.faults)
        odd = [f"{split.name}: {line}" for line in unread.lines(source.describe)] + odd
    for names in seen[0].source.class_names.values():
        odd += classes.alike(names)
    if len(seen) > 1:
        for label, count in seen[0].source.labels.items():
            (first, whole), (other, _) = seen[0].known(label), seen[1].known(label)
            if count and whole and not seen[0].source.whole:
                odd = classes.unseen(label, first, other, seen[0].source.class_names.get(label, ())) + odd
        both = (seen[0].source.describe, seen[1].source.describe)
        for field in seen[0].copies.keys() & seen[1].copies.keys():
            odd = seen[0].copies[field].between(seen[1].copies[field], field, both) + odd
        made = used.lines(listed, _complete_labels(seen), {s.name: s.source.num_examples for s in seen}, folds)
        facts += [("" if i else "evaluators", line) for i, line in enumerate(made)]
    facts.append(("took", f"{time.monotonic() - began:.1f} s"))
    bad = _bad(seen[0], fields)
    refusal = _too_many(seen[0], bad, max_bad_records) or _without_vector(seen, vocabularies)
    return Page(tuple(facts), tuple(odd), refusal, bad)


def _read(name: str, source: Source, most: int, seconds: float, seed: int) -> _Split:
    split = _Split(name, source)
    for chunk in chunks(source, most, seconds, seed):
        split.faults |= chunk.faults
        if len(chunk.numbers):
            split.take(chunk.numbers, chunk.record)
    return split


def _bad(train: _Split, fields: frozenset[str]) -> dict[int, InputError]:
    """The records that cannot be read, or whose pictures, of those that views read, cannot be used."""
    bad = dict(train.faults)
    for field in fields & train.fields.keys():
        if isinstance(train.fields[field], Encoded):
            bad |= train.fields[field].bad
    return bad


def _too_many(train: _Split, bad: Mapping[int, InputError], most: int) -> InputError | None:
    """The refusal of more bad records than a run replaces: it would end once it has met them."""
    if len(bad) <= most:
        return None
    fault = next(iter(bad.values()))
    found = f"{fault.found}, and {len(bad) - 1} more bad records of {train.read + len(train.faults)} looked at"
    allowed = f"{fault.allowed}; at most {most} bad ones, config.data.max_bad_records"
    return InputError(fault.where, found, allowed)


def _without_vector(seen: Iterable[_Split], vocabularies: Mapping[str, tuple[int, str]]) -> InputError | None:
    """The refusal of a token id that is not below its vocabulary: the encoder gives nan for it."""
    for split in seen:
        for field in vocabularies.keys() & split.fields.keys():
            (size, where), most = vocabularies[field], split.fields[field].high
            if most >= size:
                return InputError(where, f"{size}, and {split.name} {field} holds {most}", f"at least {most + 1}")
    return None


def _complete_labels(seen: Iterable[_Split]) -> dict[str, dict[str, np.ndarray]]:
    """label -> {split: values}, of the labels that are known for every record of a split."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for split in seen:
        for label in split.labels:
            values, complete = split.known(label)
            if complete:
                found.setdefault(label, {})[split.name] = values
    return found
