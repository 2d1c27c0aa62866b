"""Where the numbers of a step are written: metrics.jsonl, TensorBoard, W&B. Each has write, flush and close."""

import json
import math
import os
import pathlib
import time
from typing import Any, Protocol, TextIO

from hcl_jax.errors import InputError


class Writer(Protocol):
    """What a log writes to."""

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds numbers of a step."""

    def flush(self) -> None:
        """Puts what was written on the disk."""

    def close(self) -> None:
        """Flushes and ends."""


class JsonLines:
    """metrics.jsonl: a line a step. Non-finite numbers are written as strings, since JSON has none.

    Args:
      path: of a file with whole lines, or of none.
    """

    def __init__(self, path: pathlib.Path):
        path.touch()
        self._file: TextIO = path.open("r+", encoding="utf-8")
        self._last = _last_line(self._file)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds numbers to the line of `step`, which is the last one or new."""
        line = {"step": step, **{k: v if math.isfinite(v) else str(v) for k, v in metrics.items()}}
        place, last = self._last
        if last.get("step") == step:
            line = last | line
        else:
            place = self._file.seek(0, os.SEEK_END)
        text = json.dumps(line) + "\n"
        # The longer line over the old one: whatever stops it, one of them is whole.
        self._file.seek(place)
        self._file.write(text)
        self._file.truncate()
        self._file.flush()
        self._last = (place, line)

    def flush(self) -> None:
        """Waits until the lines are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoard:
    """A file of events. Written synchronously: the thread of tensorboardX dies silently on a full disk, and the next
    numbers then wait for it without end.

    Args:
      folder: where it goes.
      begin: the step from which older files of the folder do not count.
    """

    def __init__(self, folder: pathlib.Path, begin: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        folder.mkdir(parents=True, exist_ok=True)
        self._file, self._event, self._scalar = EventsWriter(str(folder / "events")), Event, scalar
        self._flushed = time.monotonic()
        for first in ({"file_version": "brain.Event:2"}, {"session_log": SessionLog(status=SessionLog.START)}):
            self._file.write_event(Event(step=begin, wall_time=time.time(), **first))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds an event for each number."""
        for name, value in metrics.items():
            summary = self._scalar(name, value)
            self._file.write_event(self._event(step=step, wall_time=time.time(), summary=summary))
        if time.monotonic() - self._flushed > 30:
            self.flush()

    def flush(self) -> None:
        """Writes the events that are buffered."""
        self._flushed = time.monotonic()
        self._file.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._file.close()


class WandB:
    """Weights & Biases; a resumed run goes on under the same id.

    Args:
      folder: for its local files.
      name: id of the run.
      config: shown beside it.
    """

    def __init__(self, folder: pathlib.Path, name: str, config: dict[str, Any]):
        try:
            import wandb
        except ImportError:
            raise InputError(
                "config.log.wandb", "true, but wandb is not installed", "pip install hcl_jax[wandb]"
            ) from None
        self._run = wandb.init(dir=str(folder), config=config, resume="allow", id=name)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Sends numbers."""
        self._run.log(metrics, step=step)

    def flush(self) -> None:
        """Nothing: its own process sends what it has."""

    def close(self) -> None:
        """Ends the run there."""
        self._run.finish()


def _last_line(file: TextIO) -> tuple[int, dict[str, Any]]:
    """Where the last line starts, and what it holds."""
    place, line = 0, ""
    file.seek(0)
    while True:
        at, text = file.tell(), file.readline()
        if not text:
            return place, json.loads(line) if line else {}
        place, line = at, text
