"""What the folder of a run says of it: config, lines of metrics.jsonl, card; also while the run still trains."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hcl_jax import workdir
from hcl_jax.disk.reading import is_file, readable
from hcl_jax.errors import InputError
from hcl_jax.workdir import files, history

EVER = 1 << 62  # a step that no run reaches


class Logged(NamedTuple):
    """A run as its folder has it.

    Attributes:
      folder: as it was named.
      name: short, and unlike those of the other runs.
      config: the frozen config, completed.
      lines: {"step": int, metric: float} of each line.
      card: what card.json holds; None before the run has ended once.
    """

    folder: str
    name: str
    config: Any
    lines: tuple[dict[str, Any], ...]
    card: dict[str, Any] | None

    @property
    def step(self) -> int:
        """The step of the last line."""
        return self.lines[-1]["step"]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that the run trained."""
        return tuple(self.config.seed + i for i in range(self.config.train.seeds))

    @property
    def finished(self) -> bool:
        """Whether the card is of the last step; a run that was made longer has an older one."""
        return self.card is not None and self.card["steps"] >= self.step

    @property
    def state(self) -> str:
        """In words, how far the run is."""
        if self.finished:
            return f"finished, {self.step:,} steps"
        of = f" of {self.config.train.steps:,}" if self.config.train.steps else ""
        return f"not finished: step {self.step:,}{of}, shown as far as it is"

    @property
    def results(self) -> dict[str, float]:
        """The numbers of the card; of a run that has not finished, the newest of each evaluator so far."""
        if self.finished and self.card is not None:
            return self.card["results"]
        return {k: v for line in self.lines for k, v in line.items() if re.match(r"(seed\d+/)?eval/", k)}


def read(folders: Sequence[str | os.PathLike]) -> list[Logged]:
    """Reads the folders of runs; takes no lock, and changes nothing.

    Args:
      folders: one or more, each once.

    Raises:
      InputError: no run there, no line of metrics.jsonl yet, the same folder twice, a damaged card.
    """
    paths = [os.fspath(f) for f in folders]
    twice = [p for i, p in enumerate(paths) if os.path.abspath(p) in map(os.path.abspath, paths[:i])]
    if twice:
        raise InputError("RUN", f"{twice[0]} twice", "each run once")
    return [_read(path, name) for path, name in zip(paths, names(paths), strict=True)]


def names(paths: Sequence[str]) -> list[str]:
    """The last parts of paths, as many as it takes to tell them apart.

    Example:
      >>> names(["runs/a/demo", "runs/b/demo"])
      ['a/demo', 'b/demo']
    """
    parts = [os.path.abspath(p).strip("/").split("/") for p in paths]
    for count in range(1, max(map(len, parts)) + 1):
        short = ["/".join(p[-count:]) for p in parts]
        if len(set(short)) == len(short):
            return short
    return list(paths)


def _read(folder: str, name: str) -> Logged:
    config = workdir.config_of(folder)
    path = files.path(folder)
    metrics, wrote = path / "metrics.jsonl", "the folder of a run that has logged a step"
    if not is_file(metrics, metrics, wrote):
        raise InputError(folder, "no metrics.jsonl", wrote)
    with readable(metrics, wrote):
        _, lines = history.read(metrics, EVER)
    if not lines:
        raise InputError(str(metrics), "no line", "lines of a run that has logged a step")
    return Logged(folder, name, config, tuple(lines), _card(path / "card.json"))


def _card(path: Any) -> dict[str, Any] | None:
    wrote = "the card.json that a run wrote"
    if not is_file(path, path, wrote):
        return None
    card = files.read_json(path, "results", "steps")
    if card is None or not isinstance(card["results"], Mapping) or not isinstance(card["steps"], int):
        raise InputError(str(path), "no card", wrote)
    return card
