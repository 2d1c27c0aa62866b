"""Where the numbers of a step are written: metrics.jsonl, TensorBoard, W&B. Each has write, flush and close."""

import contextlib
import errno
import hashlib
import json
import math
import os
import pathlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, Protocol

import numpy as np

from hcl_jax.disk import whole
from hcl_jax.errors import InputError

FLUSH = 30.0  # seconds between two flushes of the events


class Writer(Protocol):
    """What a log writes to. One with a method `pictures`, `table` or `points`, as `TensorBoard` has them, gets these
    too."""

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
        self._path = path
        # Unbuffered: what a full disk did not take is kept as lines, not as bytes in a buffer.
        self._file: BinaryIO = path.open("r+b", buffering=0)
        self._last = _last_line(path)
        # Lines that are not on the disk, with their texts; the first may be a longer last one.
        self._kept: list[tuple[dict[str, Any], str]] = []

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds numbers to the line of `step`, which is the last one or new.

        Raises:
          InputError: the file has been removed.
          OSError: no room; the line is kept, and comes with the next one.
        """
        line = {"step": step, **{k: v if math.isfinite(v) else str(v) for k, v in metrics.items()}}
        newest = self._kept[-1][0] if self._kept else self._last[1]
        same = newest.get("step") == step
        line = newest | line if same else line
        entry = (line, json.dumps(line) + "\n")
        if same:
            self._kept[-1:] = [entry]
        else:
            self._kept.append(entry)
        self._put()

    def _put(self) -> None:
        """Writes the lines that are kept."""
        self._see()
        while self._kept:
            (line, text), (place, last) = self._kept[0], self._last
            old = json.dumps(last) + "\n" if last.get("step") == line["step"] else ""
            place = place if old else self._file.seek(0, os.SEEK_END)
            try:
                self._replace(place, text)
            except OSError:
                with contextlib.suppress(OSError):  # the old line has its room
                    self._replace(place, old)
                raise
            self._last = (place, line)
            del self._kept[0]

    def _replace(self, place: int, text: str) -> None:
        """Puts a text in place of the end of the file."""
        self._file.seek(place)
        rest = text.encode()
        while rest:
            rest = rest[self._file.write(rest) :]
        self._file.truncate()

    def _see(self) -> None:
        """Raises InputError where the file has been removed: all that is written would be lost without a word."""
        try:
            os.stat(self._path)
            gone = os.fstat(self._file.fileno()).st_nlink == 0  # another file has its name
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
                raise
            gone = True
        if gone:
            found = "no such file any more: it was removed while the run was writing"
            raise InputError(str(self._path), found, "a folder that stays as it is until the run has ended")

    def flush(self) -> None:
        """Waits until the lines are on the disk."""
        self._put()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file. Raises InputError where lines are lost, for want of room."""
        try:
            if self._kept:
                self._put()
        except OSError as error:
            found = f"no room for its last lines ({error.strerror}): {len(self._kept)} are lost"
            raise InputError(str(self._path), found, "room on the disk; --workdir goes on") from None
        finally:
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
        self._folder = folder
        self._file, self._event, self._scalar = EventsWriter(str(folder / "events")), Event, scalar
        self._open = lambda: EventsWriter(str(folder / "events"))
        self._failed: float | None = None  # when a full disk took no more
        self._flushed = time.monotonic()
        for first in ({"file_version": "brain.Event:2"}, {"session_log": SessionLog(status=SessionLog.START)}):
            self._file.write_event(Event(step=begin, wall_time=time.time(), **first))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds an event for each number. Raises OSError where there is no room: what is buffered is lost too."""
        if self._failed is not None:
            # What follows half an event cannot be read: a new file, whose name has the second in it.
            if time.monotonic() - self._failed < FLUSH:
                return
            self._file, self._failed = self._open(), None
        self._add(step, (self._scalar(name, value) for name, value in metrics.items()))
        if time.monotonic() - self._flushed > FLUSH:
            self.flush()

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Adds pictures, uint8 [H, W, 3], by name."""
        from tensorboardX.summary import image

        self._add(step, (image(name, pixels, dataformats="HWC") for name, pixels in pictures.items()))

    def table(self, step: int, name: str, text: str) -> None:
        """Adds a text of Markdown."""
        from tensorboardX.summary import text as of_text

        self._add(step, (of_text(name, text),))

    def points(self, step: int, points: Mapping[str, Any]) -> None:
        """Writes what the projector reads: a tensors.tsv and a metadata.tsv for each view, in place of those before.

        Args:
          step: of the weights.
          points: {view: (features [n, d], {column: n texts})}.
        """
        listed = []
        for view, (features, columns) in points.items():
            at = f"projector/{view}"
            (self._folder / at).mkdir(parents=True, exist_ok=True)
            rows = ["\t".join(f"{x:.5g}" for x in row) for row in features.tolist()]
            whole.write(self._folder / at / "tensors.tsv", "\n".join(rows) + "\n")
            # One column has no line of names: the projector would take it for a record.
            head = [list(columns)] if len(columns) > 1 else []
            about = [
                "\t".join(" ".join(text.split()) for text in row)
                for row in [*head, *zip(*columns.values(), strict=True)]
            ]
            text = "\n".join(about) + "\n"  # the name of a file may be no UTF-8
            whole.write(self._folder / at / "metadata.tsv", text.encode("utf-8", "replace"))
            listed.append(
                f'embeddings {{\n  tensor_name: "{view}, step {step}"\n  tensor_path: "{at}/tensors.tsv"\n'
                f'  metadata_path: "{at}/metadata.tsv"\n}}\n'
            )
        whole.write(self._folder / "projector_config.pbtxt", "".join(listed))

    def _add(self, step: int, summaries: Iterable[Any]) -> None:
        if self._failed is None:
            with self._noted():
                for summary in summaries:
                    self._file.write_event(self._event(step=step, wall_time=time.time(), summary=summary))

    def flush(self) -> None:
        """Writes the events that are buffered."""
        self._flushed = time.monotonic()
        if self._failed is None:
            with self._noted():
                self._file.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        if self._failed is None:
            self._file.close()

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._failed = time.monotonic()
            # Under the buffer, which would try again when it is collected; tensorboardX has no public way.
            with contextlib.suppress(OSError, AttributeError):
                self._file._py_recordio_writer._writer.raw.close()
            raise


class WandB:
    """Weights & Biases; a resumed run goes on under the same id.

    Args:
      folder: for its local files.
      workdir: the run's folder as a whole path: runs in folders of one name are two runs.
      config: shown beside it.
      names: `project`, `name` and `group` there, "" for its own choice.
    """

    def __init__(self, folder: pathlib.Path, workdir: str, config: dict[str, Any], names: Mapping[str, str]):
        try:
            import wandb
        except ImportError:
            raise InputError(
                "config.log.wandb", "true, but wandb is not installed", "pip install -e '.[wandb]'"
            ) from None
        last = workdir.rstrip("/").rpartition("/")[2]
        given = {"name": last, **{k: v for k, v in names.items() if v}}
        self._run = wandb.init(dir=str(folder), config=config, resume="allow", id=_wandb_id(folder, workdir), **given)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Sends numbers."""
        self._run.log(metrics, step=step)

    def flush(self) -> None:
        """Nothing: its own process sends what it has."""

    def close(self) -> None:
        """Ends the run there."""
        self._run.finish()


def _wandb_id(folder: pathlib.Path, workdir: str) -> str:
    """The id that a run has, wherever its folder lies by now; of a new run, one that no other folder has."""
    begun = [re.fullmatch(r"(?:offline-)?run-\d{8}_\d{6}-(.+)", f.name) for f in sorted(folder.glob("wandb/*run-*"))]
    ids = [found[1] for found in begun if found]
    last = workdir.rstrip("/").rpartition("/")[2]
    return ids[-1] if ids else f"{last}-{hashlib.sha256(workdir.encode()).hexdigest()[:8]}"


def _last_line(path: pathlib.Path) -> tuple[int, dict[str, Any]]:
    """Where the last line starts, and what it holds."""
    lines = path.read_bytes().splitlines(keepends=True)
    return (sum(map(len, lines[:-1])), json.loads(lines[-1])) if lines else (0, {})
