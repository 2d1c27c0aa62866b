"""What metrics.jsonl says of a run so far. Standard library only: launch.restart reads it too."""

import json
import os
import pathlib
from typing import Any, NamedTuple

TAIL = 1 << 16  # bytes at the end of the file that are read first


class History(NamedTuple):
    """The run up to the step that it resumes from.

    Attributes:
      lines: {"step": int, name: float} of each line, in order.
      notes: what is odd about them, for the terminal.
    """

    lines: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def minutes(self) -> float:
        """What the run took, also where it was killed."""
        return self.lines[-1].get("minutes", 0.0) if self.lines else 0.0

    def evaluations(self, metric: str, step: int) -> dict[str, Any]:
        """{"scores": [(step, value of a metric), ...], "evaluated": whether the last line has one of `step`}."""
        scores = [(line["step"], float(line[metric])) for line in self.lines if metric in line]
        last = self.lines[-1] if self.lines else {}
        evaluated = last.get("step") == step and any(name.startswith(("eval/", "sample/")) for name in last)
        return {"scores": scores, "evaluated": evaluated}

    @property
    def last_step(self) -> int:
        """The step of the last line; 0 if there is none."""
        return self.lines[-1]["step"] if self.lines else 0


def last_step(path: pathlib.Path) -> int:
    """The highest step of the whole lines at the end of a metrics.jsonl; 0 if there is none."""
    try:
        with path.open("rb") as file:
            size, tail = file.seek(0, os.SEEK_END), TAIL
            while True:
                file.seek(max(0, size - tail))
                steps = [step for line in file.read(tail).splitlines() if (step := _step(line)) is not None]
                if steps or tail >= size:
                    return max(steps, default=0)
                tail *= 4  # a line of a hundred seeds
    except OSError:
        return 0


def _step(line: bytes) -> int | None:
    """None for a line that was cut by a kill, or by the start of the tail."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def read(path: pathlib.Path, step: int) -> tuple[list[str], list[dict[str, Any]]]:
    """(text, numbers) of the whole lines up to `step`; what a killed run wrote past its checkpoint will come again."""
    if not path.exists():
        return [], []
    texts, lines = [], []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            if line["step"] <= step:
                lines.append({"step": int(line["step"])} | {k: float(v) for k, v in line.items() if k != "step"})
                texts.append(text)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            continue  # cut in two by a kill, or edited by hand
    return texts, lines
