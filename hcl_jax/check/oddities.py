"""What is odd about some records, counted by kind, with the first few by name."""

from collections.abc import Callable, Iterable

NAMED = 3


class Oddities:
    """Kinds of odd records of one split."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.first: dict[str, list[int]] = {}

    def note(self, kind: str, numbers: Iterable[int]) -> None:
        """Adds records of a kind, such as "with transparency"."""
        for number in numbers:
            self.counts[kind] = self.counts.get(kind, 0) + 1
            named = self.first.setdefault(kind, [])
            if len(named) < NAMED:
                named.append(int(number))

    def lines(self, describe: Callable[[int], str]) -> list[str]:
        """A line a kind: how many, what, and the names of the first."""
        found = []
        for kind, count in self.counts.items():
            names = ", ".join(describe(n) for n in self.first[kind])
            found.append(f"{count:,} {kind}: {names}" + (", ..." if count > NAMED else ""))
        return found


def span(values: Iterable[float]) -> str:
    """ "3" of equal numbers, "1 to 9, median 4" of others."""
    ordered = sorted(values)
    low, middle, high = ordered[0], ordered[len(ordered) // 2], ordered[-1]
    return f"{low:,g}" if low == high else f"{low:,g} to {high:,g}, median {middle:,g}"
