"""Where numbers go: metrics.jsonl, TensorBoard, W&B by option, and the terminal."""

import json
import math
import os
import pathlib
import re
import sys
import tempfile
import time
from typing import Any, TextIO

from tqdm import tqdm

from hcl_jax.errors import InputError
from hcl_jax.workdir import files


class Log:
    """Writes metrics by step; each step stands once in metrics.jsonl, also after resumes.

    An object of gs:// cannot be appended to: there the files grow in a scratch folder on the disk, and `sync` copies
    them up.

    Args:
      workdir: the run's folder, on a disk or on gs://; None, of processes other than the first, writes nothing but
        the terminal.
      start: the step that the run resumes from; lines past it are dropped.
      steps: the run's last step, for the bar.
      config: the frozen config, for W&B.
      tensorboard, wandb: which writers.
      bar: a progress bar or plain lines; None asks whether standard error is a terminal.
      saves: steps between two checkpoints. A run that begins anew where as many have lines keeps these aside.
    """

    def __init__(
        self, workdir: files.Path | None, *, start: int, steps: int, config: dict[str, Any],
        tensorboard: bool = True, wandb: bool = False, bar: bool | None = None, saves: int = 0,
    ):  # fmt: skip
        self._file: TextIO | None = None
        self._writer = self._wandb = None
        self._steps, self._start, self._began = steps, start, time.monotonic()
        self.minutes_before = 0.0  # what the run took up to `start`, also where it was killed
        self.before: list[dict[str, Any]] = []  # the lines up to `start`
        self.notes: list[str] = []  # what is odd about them
        self._scratch: tempfile.TemporaryDirectory | None = None
        self._store = workdir
        if workdir is not None:
            here = self._here(workdir)
            path = here / "metrics.jsonl"
            lines = _lines_of(path)
            if saves and not start and lines >= saves:
                os.replace(path, path.with_suffix(".jsonl.old"))
                self.notes.append(f"{path} goes to step {lines}, but no checkpoint is there: begun anew, the old one "
                                  "is metrics.jsonl.old")  # fmt: skip
            self.before = _drop_after(path, start)
            path.touch()
            self._file = path.open("r+", encoding="utf-8")
            self._last = _last_line(self._file)
            self.minutes_before = float(self._last[1].get("minutes", 0.0))
            if tensorboard:
                self._writer = _Events(here / "tensorboard", start + 1)
            if wandb:
                try:
                    import wandb as client
                except ImportError:
                    raise InputError(
                        "config.log.wandb", "true, but wandb is not installed", "pip install hcl_jax[wandb]"
                    ) from None
                name = workdir.absolute().name if files.is_disk(workdir) else workdir.name
                self._wandb = client.init(dir=str(here), config=config, resume="allow", id=name)
        shown = sys.stderr.isatty() if bar is None else bar
        self._bar = tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True) if shown and workdir else None
        self._lines = not shown and workdir is not None

    def _here(self, workdir: files.Path) -> pathlib.Path:
        """The folder on a disk where the files grow, with the lines that the run has so far."""
        if files.is_disk(workdir):
            return pathlib.Path(workdir)
        self._scratch = tempfile.TemporaryDirectory(prefix="hcl_jax-")
        here = pathlib.Path(self._scratch.name)
        if (workdir / "metrics.jsonl").exists():
            (here / "metrics.jsonl").write_bytes((workdir / "metrics.jsonl").read_bytes())
        return here

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds numbers to the line of `step`, which is the last one or new; no finite number is written as text."""
        if self._file:
            line = {"step": step, **{k: v if math.isfinite(v) else str(v) for k, v in metrics.items()}}
            place, last = self._last
            if last.get("step") == step:
                line = last | line
            else:
                place = self._file.seek(0, os.SEEK_END)
            text = json.dumps(line) + "\n"
            # The longer line over the old one: whatever stops it, one of them is there.
            self._file.seek(place)
            self._file.write(text)
            self._file.truncate()
            self._file.flush()
            self._last = (place, line)
        if self._writer:
            self._writer.write(step, metrics)
        if self._wandb:
            self._wandb.log(metrics, step=step)

    def progress(self, step: int, loss: float, rate: float) -> None:
        """Moves the bar, or prints a plain line."""
        if self._bar is not None:
            self._bar.set_postfix({"loss": f"{loss:.4f}", "examples/s": f"{rate:.0f}"}, refresh=False)
            self._bar.update(step - self._bar.n)
        elif self._lines:
            passed = time.monotonic() - self._began
            left = passed / max(step - self._start, 1) * (self._steps - step)
            self._print(f"step {step}/{self._steps}  loss {loss:.4f}  {rate:.0f} examples/s  {_clock(left)} left")

    def say(self, text: str) -> None:
        """A message of its own line, above the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        elif self._lines:
            self._print(text)

    def _print(self, text: str) -> None:
        try:
            print(text, flush=True)
        except BrokenPipeError:  # whoever read has gone: the run matters more
            self._lines = False
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def sync(self) -> None:
        """Brings what was written to where the run lives, before the checkpoint of its last step: a resume drops none.

        On gs:// the whole files go up: a megabyte a checkpoint after 4,000 lines.
        """
        if self._file is not None:
            os.fsync(self._file.fileno())
        if self._scratch is not None and self._store is not None:
            if self._writer:
                self._writer.flush()
            files.copy_up(pathlib.Path(self._scratch.name), self._store)

    def abandon(self) -> None:
        """Leaves gs:// as it is from now on: another run writes there."""
        self._store = None

    def close(self) -> None:
        """Ends the bar and the writers."""
        if self._bar is not None:
            self._bar.close()
        for part in (self._file, self._writer):
            if part is not None:
                part.close()
        if self._wandb:
            self._wandb.finish()
        if self._scratch is not None:
            if self._store is not None:
                files.copy_up(pathlib.Path(self._scratch.name), self._store)
            self._scratch.cleanup()
            self._scratch = None


class _Events:
    """A file for TensorBoard. Written here and now: the thread of tensorboardX dies on a full disk, without a word,
    and the next numbers wait for it for ever.

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
        for told in ({"file_version": "brain.Event:2"}, {"session_log": SessionLog(status=SessionLog.START)}):
            self._file.write_event(Event(step=begin, wall_time=time.time(), **told))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            summary = self._scalar(name, value)
            self._file.write_event(self._event(step=step, wall_time=time.time(), summary=summary))
        if time.monotonic() - self._flushed > 30:
            self.flush()

    def flush(self) -> None:
        self._flushed = time.monotonic()
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _last_line(file: TextIO) -> tuple[int, dict[str, Any]]:
    """Where the last line starts, and what it holds."""
    place, line = 0, ""
    file.seek(0)
    while True:
        at, text = file.tell(), file.readline()
        if not text:
            return place, json.loads(line) if line else {}
        place, line = at, text


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _lines_of(path: pathlib.Path) -> int:
    """The last step that a file of lines tells of."""
    if not path.is_file():
        return 0
    steps = re.findall(r'^\{"step": (\d+),', path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return int(steps[-1]) if steps else 0


def _drop_after(path: pathlib.Path, step: int) -> list[dict[str, Any]]:
    """Keeps the whole lines up to `step`, which it gives; what a killed run wrote past its checkpoint comes again."""
    if not path.exists():
        return []
    kept, values = [], []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            value = json.loads(line)
            if value["step"] <= step:
                values.append({"step": int(value["step"])} | {k: float(v) for k, v in value.items() if k != "step"})
                kept.append(line)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # a line that the kill cut in two, or a hand made something else
    files.write(path, "".join(f"{line}\n" for line in kept))
    return values
