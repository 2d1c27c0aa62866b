"""The output of many processes through one connection: a file each, and the first one on standard output."""

import os
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Callable
from typing import IO

from launch import cli, subprocesses


class Logs:
    """Splits `[NAME] text` lines into NAME.log.

    A new connection repeats the log from its beginning: lines that a file has already are dropped, also if another
    launcher wrote them.

    Args:
      folder: of the files; created if missing.
      form: matches the start of a line; its group 1 is the name.
      first: matches the name of the one that is printed.
    """

    BEGIN = "hcl_jax-follow"  # marks a new beginning inside a connection: gcloud reconnects by itself

    def __init__(self, folder: pathlib.Path, form: re.Pattern, first: re.Pattern):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._form, self._first = folder, form, first
        self._files: dict[str, IO[str]] = {}
        self._lines: dict[str, int] = {}  # that are in the file
        self._now: dict[str, int] = {}  # that this connection has given
        self._rest = b""

    def connect(self) -> None:
        """A new connection begins."""
        self._now, self._rest = {}, b""

    def take(self, data: bytes) -> None:
        """Files whole lines, and prints those of the first; the rest waits for more."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace")
            match = self._form.match(text)
            if match:
                self._add(match[1], text[match.end() :])

    def _add(self, name: str, text: str) -> None:
        if text == self.BEGIN:
            self._now[name] = 0
            return
        if name not in self._files:
            self._files[name] = file = (self._folder / f"{name}.log").open("a+", encoding="utf-8")
            file.seek(0)
            self._lines[name] = sum(1 for _ in file)
        self._now[name] = self._now.get(name, 0) + 1
        if self._now[name] <= self._lines[name]:
            return
        self._lines[name] = self._now[name]
        print(text, file=self._files[name], flush=True)
        if self._first.search(name):
            cli.put(text, sys.stdout)

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()


def stream(
    c: subprocesses.Commands,
    command: list[str],
    logs: Logs,
    errors: pathlib.Path,
    poll: float,
    over: Callable[[], bool],
) -> int | None:
    """Runs a command whose output is logs.

    Args:
      c: that runs it.
      command: its output goes to `logs`, its errors to the file `errors`.
      logs: of one connection after the other.
      errors: appended to.
      poll: seconds between two times that `over` is asked.
      over: whether nothing more is to come.

    Returns:
      Its status, or None when `over` has ended it.
    """
    logs.connect()
    with tempfile.TemporaryFile() as out, errors.open("ab") as file:
        child, read, looked = c.start(command, out, file), 0, time.monotonic()
        try:
            while child.poll() is None:
                read += _take(out, read, logs)
                c.sleep(0.2)
                if time.monotonic() - looked >= poll:
                    looked = time.monotonic()
                    if over():
                        return None
        finally:
            subprocesses.end(child)
            _take(out, read, logs)
        return child.returncode


def _take(file: IO[bytes], start: int, logs: Logs) -> int:
    """Gives what a file has from `start` on; pread leaves the place where the child writes."""
    before = start
    while part := os.pread(file.fileno(), 1 << 20, start):
        logs.take(part)
        start += len(part)
    return start - before
