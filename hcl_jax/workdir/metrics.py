"""The log of a run: numbers by step to the writers, lines and a progress bar to the terminal."""

import os
import pathlib
import sys
import tempfile
import time
from typing import Any

from tqdm import tqdm

from hcl_jax.workdir import files, history
from hcl_jax.workdir.history import History
from hcl_jax.workdir.writers import JsonLines, TensorBoard, WandB, Writer


class Log:
    """Writes metrics by step; each step has one line in metrics.jsonl, also after resumes.

    An object of gs:// cannot be appended to: there the files grow in a scratch folder on the disk, and `sync` copies
    them up.

    Args:
      workdir: the run's folder, on a disk or on gs://; None, of processes other than the first, writes nothing.
      start: the step that the run resumes from; lines past it are dropped.
      steps: the run's last step, for the bar.
      config: the frozen config, for W&B.
      tensorboard, wandb: which writers.
      bar: a progress bar or plain lines; None asks whether standard error is a terminal.
      saves: steps between two checkpoints. A run that begins anew where as many have lines keeps these aside.

    Attributes:
      history: the run up to `start`.
    """

    def __init__(
        self, workdir: files.Path | None, *, start: int, steps: int, config: dict[str, Any],
        tensorboard: bool = True, wandb: bool = False, bar: bool | None = None, saves: int = 0,
    ):  # fmt: skip
        self._steps, self._start, self._began = steps, start, time.monotonic()
        self._scratch: tempfile.TemporaryDirectory | None = None
        self._store = workdir
        self._writers: tuple[Writer, ...] = ()
        self.history = History()
        if workdir is not None:
            here = self._here(workdir)
            self.history = _resume(here / "metrics.jsonl", start, saves)
            name = workdir.absolute().name if files.is_disk(workdir) else workdir.name
            self._writers = (
                JsonLines(here / "metrics.jsonl"),
                *([TensorBoard(here / "tensorboard", start + 1)] if tensorboard else []),
                *([WandB(here, name, config)] if wandb else []),
            )
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
        """Adds numbers to those of `step`, which is the last one written or a later one."""
        for writer in self._writers:
            writer.write(step, metrics)

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
        except BrokenPipeError:  # the reader has gone: the run matters more
            self._lines = False
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def sync(self) -> None:
        """Brings what was written to where the run lives, before the checkpoint of its last step: a resume drops none.

        On gs:// the whole files go up: a megabyte a checkpoint after 4,000 lines.
        """
        for writer in self._writers:
            writer.flush()
        if self._scratch is not None and self._store is not None:
            files.copy_up(pathlib.Path(self._scratch.name), self._store)

    def abandon(self) -> None:
        """Leaves gs:// as it is from now on: another run writes there."""
        self._store = None

    def close(self) -> None:
        """Ends the bar and the writers."""
        if self._bar is not None:
            self._bar.close()
        for writer in self._writers:
            writer.close()
        if self._scratch is not None:
            if self._store is not None:
                files.copy_up(pathlib.Path(self._scratch.name), self._store)
            self._scratch.cleanup()
            self._scratch = None


def _resume(path: pathlib.Path, start: int, saves: int) -> History:
    """Leaves the whole lines up to `start` in the file, and gives them."""
    notes: tuple[str, ...] = ()
    last = history.last_step(path)
    if saves and not start and last >= saves:
        os.replace(path, path.with_suffix(".jsonl.old"))
        begun = "but no checkpoint is there: begun anew, the old one is metrics.jsonl.old"
        notes = (f"{path} goes to step {last}, {begun}",)
    texts, lines = history.read(path, start)
    if path.exists():
        files.write(path, "".join(f"{text}\n" for text in texts))
    return History(tuple(lines), notes)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
