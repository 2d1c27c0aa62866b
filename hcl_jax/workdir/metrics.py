"""The log of a run: numbers by step to the writers, lines and a progress bar to the terminal."""

import contextlib
import functools
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from hcl_jax.disk.reading import readable
from hcl_jax.errors import NO_ROOM
from hcl_jax.workdir import files, history
from hcl_jax.workdir.history import History
from hcl_jax.workdir.terminal import Terminal
from hcl_jax.workdir.trackers import Guarded, Opening, failure, tensorboard
from hcl_jax.workdir.writers import JsonLines, Writer


class Log:
    """Writes metrics by step; each step has one line in metrics.jsonl, also after resumes.

    An object of gs:// cannot be appended to: there the files grow in a scratch folder on the disk, and `sync` copies
    them up.

    Args:
      workdir: the run's folder, on a disk or on gs://; None, of processes other than the first, writes nothing.
      start: the step that the run resumes from; lines past it are dropped.
      steps: the run's last step, for the bar.
      config: the frozen config, for the trackers.
      trackers: by name, functions as those of TRACKERS.
      terminal: where lines and progress go.
      saves: steps between two checkpoints. A run that begins anew where as many have lines keeps these aside.
      every: steps between two lines; says so when lines up to `start` are missing.
      on_error: what a full disk does: "stop", or "go_on": lines of metrics.jsonl are kept until there is room.

    Attributes:
      history: the run up to `start`.
    """

    def __init__(
        self, workdir: files.Path | None, *, start: int, steps: int, config: dict[str, Any],
        terminal: Terminal, trackers: Mapping[str, Callable] = MappingProxyType({"tensorboard": tensorboard}),
        saves: int = 0, every: int = 0, on_error: str = "stop",
    ):  # fmt: skip
        self._on_error, self._full = on_error, False
        self._terminal = terminal
        self._scratch: tempfile.TemporaryDirectory | None = None
        self._store = workdir
        self._writers: tuple[Writer, ...] = ()
        self.history = History()
        if workdir is not None:
            here = self._here(workdir)
            self.history = _resume(here / "metrics.jsonl", start, saves, every)
            whole = str(workdir.absolute()) if files.is_disk(workdir) else str(workdir)
            opening = Opening(here, whole, config, start)
            self._writers = (
                JsonLines(here / "metrics.jsonl"),
                # Errors of TensorBoard's files are those of the disk, which the log itself knows.
                *(
                    f(opening) if name == "tensorboard" else Guarded(name, functools.partial(f, opening), terminal.say)
                    for name, f in trackers.items()
                ),
            )
        terminal.begin(start, steps)
        for line in self.history.notes:
            terminal.say(line)

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
        with self._room():
            for writer in self._writers:
                with self._noted():
                    writer.write(step, metrics)

    def shows(self, what: str) -> bool:
        """Whether a writer takes `pictures`, a `table` or `points`."""
        return any(callable(getattr(writer, what, None)) for writer in self._writers)

    def show(self, what: str, *given: Any) -> None:
        """Hands `pictures`, a `table` or `points` to the writers that take them; what one cannot take is a line."""
        with self._room():
            for writer in self._writers:
                if callable(take := getattr(writer, what, None)):
                    with self._noted():
                        try:
                            take(*given)
                        except Exception as error:  # of TensorBoard: `Guarded` says what others raise
                            if isinstance(error, OSError) and error.errno in NO_ROOM:
                                raise
                            self._terminal.say(failure("tensorboard", error, f"it has not taken its {what}"))

    def while_silent(self, text: str) -> contextlib.AbstractContextManager[None]:
        """Terminal.while_silent."""
        return self._terminal.while_silent(text)

    def progress(self, step: int, loss: float, rate: float, also: Mapping[str, str] = MappingProxyType({})) -> None:
        """Terminal.progress."""
        self._terminal.progress(step, loss, rate, also)

    def at(self, text: str) -> None:
        """Terminal.at."""
        self._terminal.at(text)

    def say(self, text: str) -> None:
        """A message of its own line, above the bar."""
        self._terminal.say(text)

    def sync(self) -> None:
        """Brings what was written to where the run lives, before the checkpoint of its last step: a resume drops none.

        On gs:// the whole files go up: a megabyte a checkpoint after 4,000 lines.
        """
        with self._room():
            for writer in self._writers:
                with self._noted():
                    writer.flush()
        if self._scratch is not None and self._store is not None:
            files.copy_up(pathlib.Path(self._scratch.name), self._store)

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """Says when a disk has become full, and when it takes lines again."""
        before, self._full = self._full, False
        yield
        if before and not self._full:
            self._terminal.say("metrics.jsonl: there is room again, and no line is missing")
        if self._full and not before:
            kept = "lines are kept until there is room, and TensorBoard's events are left out"
            self._terminal.say(f"metrics.jsonl: no room; {kept}; the run goes on")

    def _closed(self, writer: Writer) -> None:
        with self._noted():
            writer.close()

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._on_error == "stop" or error.errno not in NO_ROOM:
                raise
            self._full = True

    def abandon(self) -> None:
        """Leaves gs:// as it is from now on: another run writes there."""
        self._store = None

    def close(self) -> None:
        """Ends the bar and the writers."""
        self._terminal.close()
        with contextlib.ExitStack() as stack:
            for writer in reversed(self._writers):  # each is closed, whatever another says
                stack.callback(self._closed, writer)
        if self._scratch is not None:
            if self._store is not None:
                files.copy_up(pathlib.Path(self._scratch.name), self._store)
            self._scratch.cleanup()
            self._scratch = None


def _resume(path: pathlib.Path, start: int, saves: int, every: int) -> History:
    """Leaves the whole lines up to `start` in the file, and gives them."""
    notes: tuple[str, ...] = ()
    last = history.last_step(path)
    if saves and not start and last >= saves:
        os.replace(path, path.with_suffix(".jsonl.old"))
        begun = "but no checkpoint is there: begun anew, the old one is metrics.jsonl.old"
        notes = (f"{path} goes to step {last}, {begun}",)
    with readable(path, "the metrics.jsonl that a run wrote"):
        texts, lines = history.read(path, start)
    if path.exists():
        files.write(path, "".join(f"{text}\n" for text in texts))
    last = lines[-1]["step"] if lines else 0
    if every and start - last >= every:
        notes = (*notes, f"{path}: the lines up to step {start} are gone")
    return History(tuple(lines), notes)
