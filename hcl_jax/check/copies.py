"""Records that are there more than once, within a split and between splits, by a hash of what views read."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from hcl_jax.check.oddities import NAMED

Name = Callable[[int], str]


class Copies:
    """Hashes of a field over the records of a split."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.hashes: list[int] = []
        self.label: list[Any] = []

    def add(self, numbers: np.ndarray, values: np.ndarray, label: np.ndarray | None) -> None:
        """Takes some records; `label` are their classes."""
        self.numbers += numbers.tolist()
        rows = values if values.dtype == object else np.ascontiguousarray(values).reshape(len(values), -1)
        self.hashes += [
            int.from_bytes(hashlib.blake2b(v if isinstance(v, bytes) else v.tobytes(), digest_size=8).digest())
            for v in rows
        ]
        self.label += [None] * len(numbers) if label is None else label.reshape(len(label), -1)[:, 0].tolist()

    def within(self, split: str, field: str, describe: Name) -> list[str]:
        """Lines on records of this split that equal another one."""
        first: dict[int, int] = {}
        again: list[tuple[int, int]] = []  # of the same class
        other: list[tuple[int, int]] = []
        for i, key in enumerate(self.hashes):
            at = first.setdefault(key, i)
            if at != i:
                (again if self.label[at] == self.label[i] else other).append((at, i))
        kinds = ((again, "equal to an earlier one"), (other, "equal to one of another class"))
        return [
            f"{split} {field}: {len(pairs):,} {words}: "
            + _shown([(describe(self.numbers[i]), describe(self.numbers[at])) for at, i in pairs[: NAMED + 1]])
            for pairs, words in kinds
            if pairs
        ]

    def between(self, other: "Copies", field: str, names: tuple[Name, Name]) -> list[str]:
        """A line on records of `other`, the test split, that this one, the training split, has too.

        Args:
          other: of the test split.
          field: its name.
          names: describe of this split, and of the other.
        """
        here = dict(zip(self.hashes, self.numbers, strict=True))
        both = [(n, here[key]) for n, key in zip(other.numbers, other.hashes, strict=True) if key in here]
        if not both:
            return []
        shown = _shown([(names[1](n), names[0](m)) for n, m in both[: NAMED + 1]])
        return [f"test {field}: {len(both):,} of {len(other.numbers):,} in the training split too: {shown}"]


def _shown(pairs: list[tuple[str, str]]) -> str:
    return ", ".join(map(" = ".join, pairs[:NAMED])) + (", ..." if len(pairs) > NAMED else "")
