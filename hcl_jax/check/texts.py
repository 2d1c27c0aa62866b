"""Texts: lengths, and those that are empty, damaged or there more than once."""

import collections
from collections.abc import Callable

import numpy as np

from hcl_jax.check.oddities import Oddities, span
from hcl_jax.data.source import as_text

SHOWN = 40  # characters of a text on the page


class Texts:
    """A text a record.

    Args:
      describe: record number -> its name.
    """

    def __init__(self, describe: Callable[[int], str]):
        self.describe, self.odd = describe, Oddities()
        self.lengths: list[int] = []
        self.counts: collections.Counter[bytes] = collections.Counter()

    def add(self, numbers: np.ndarray, values: np.ndarray) -> None:
        """Looks at some records."""
        for number, value in zip(numbers.tolist(), values.ravel(), strict=True):
            text = as_text(value)
            self.lengths.append(len(text))
            if not text.strip():
                self.odd.note("without a letter", [number])
            else:
                self.counts[value] += 1
            if "\ufffd" in text:
                self.odd.note("not in UTF-8", [number])
            if any(ord(c) < 32 and c not in "\t\n\r" for c in text):
                self.odd.note("with a control character", [number])

    def summary(self) -> str:
        """Lengths."""
        return f"{span(self.lengths)} characters"

    def oddities(self) -> list[str]:
        """Lines of what is odd."""
        lines = self.odd.lines(self.describe)
        again = {text: n for text, n in self.counts.items() if n > 1}
        if again:
            most = max(again, key=again.__getitem__)
            text = as_text(most)
            short = text if len(text) <= SHOWN else text[:SHOWN] + "..."
            count = sum(again.values())
            lines.append(f"{count:,} with a text that occurs more than once: {short!r} {again[most]:,} times")
        return lines
