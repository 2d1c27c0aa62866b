"""Commands on this machine that may fail, be retried, or be cut short by a signal; lists only, never a shell."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

from hcl_jax.errors import InputError
from launch import cli
from launch.cleanup import record_signals
from launch.restart import pause

TICK = 0.1
# Errors that a retry does not fix; gcloud and kubectl exit with 2 on flags they do not know.
FINAL = ("PERMISSION_DENIED", "UNAUTHENTICATED", "INVALID_ARGUMENT", "unrecognized arguments", "Forbidden",
         "is invalid:", "error validating", "unknown flag", "do not currently have an active account",
         "Reauthentication", "required property [project]", "Failed to find attribute [project]",
         "a run is under way here")  # fmt: skip
# Capacity may become free; a limit of the project does not change by itself. Requests a minute are another quota.
QUOTA = re.compile(r"Quota limit '\S+' has been exceeded")


class Interrupted(Exception):
    """Ctrl-C, SIGTERM or SIGHUP has ended the command under way; `number` is the signal."""

    def __init__(self, number: int):
        self.number = number
        super().__init__(signal.Signals(number).name)


class Failed(Exception):
    """A command failed for good."""


class Done(NamedTuple):
    """A command that has ended."""

    status: int
    out: str
    err: str


def reason(done: Done) -> str:
    """The line that says why a command failed: gcloud goes on with advice."""
    lines = done.err.strip().splitlines() or done.out.strip().splitlines() or ["nothing said"]
    final = (line for line in lines if any(text in line for text in FINAL))
    return next(final, next((line for line in lines if line.startswith("ERROR: ")), lines[-1]))


class Commands:
    """Runs commands, prints them, and records the signals that arrive meanwhile.

    Args:
      tries: of a command that `retried` runs.
      wait: seconds before the second try; then twice as long each time, 300 at most.
    """

    def __init__(self, tries: int = 5, wait: float = 5.0):
        self.tries, self.wait = tries, wait
        self.received: list[int] = []
        self.last = ""  # output of the last failed command
        self._limit = 1  # number of signals that ends the command under way
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Commands":
        self._stack.enter_context(record_signals(self.received))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def cleaning(self) -> None:
        """From here on only a further signal cuts commands short."""
        self._limit = len(self.received) + 1

    def check(self) -> None:
        """Raises Interrupted once a signal has arrived."""
        if len(self.received) >= self._limit:
            raise Interrupted(self.received[-1])

    def sleep(self, seconds: float) -> None:
        """Waits, unless a signal comes."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, TICK))
        self.check()

    def start(self, command: list[str], out: object, err: object) -> subprocess.Popen:
        """Starts a command in a group of its own: a terminal's Ctrl-C does not reach it."""
        cli.say(cli.shown(command))
        try:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, process_group=0)  # type: ignore[call-overload]
        except FileNotFoundError:
            raise InputError(command[0], "nothing on PATH", f"{command[0]}, installed and signed in") from None

    def once(self, command: list[str], stdin: pathlib.Path | None = None, quiet: bool = False) -> Done:
        """Runs a command to its end; `quiet` says nothing of it."""
        self.check()
        if not quiet:
            cli.say(cli.shown(command, stdin))
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, contextlib.ExitStack() as stack:
            file = stack.enter_context(stdin.open("rb")) if stdin else subprocess.DEVNULL
            try:
                child = subprocess.Popen(command, stdin=file, stdout=out, stderr=err, process_group=0)
            except FileNotFoundError:
                raise InputError(command[0], "nothing on PATH", f"{command[0]}, installed and signed in") from None
            try:
                while child.poll() is None:
                    self.check()
                    time.sleep(TICK)
            finally:
                end(child)
            texts = []
            for each in (out, err):
                each.seek(0)
                texts.append(each.read().decode(errors="replace"))
        return Done(child.returncode, *texts)

    def retried(self, command: list[str], *, tries: int | None = None, between: Callable[[], bool] | None = None,
                stdin: pathlib.Path | None = None) -> Done:  # fmt: skip
        """Runs a command until it succeeds.

        Args:
          command: that may be run again.
          tries: in place of self.tries.
          between: called after a failure; when it returns true, there is no retry.
          stdin: a file.

        Raises:
          Failed: it did not succeed, or never will.
        """
        most = self.tries if tries is None else tries
        for attempt in range(1, most + 1):
            done = self.once(command, stdin)
            if done.status == 0:
                return done
            last, self.last = reason(done), done.err + done.out
            if done.status == 2 or any(text in done.err for text in FINAL) or attempt == most:
                raise Failed(f"{' '.join(command[:5])} ...: status {done.status}: {last}")
            if between is not None and between():
                raise Failed(f"{' '.join(command[:5])} ...: status {done.status}: {last}")
            seconds = pause(self.wait, attempt)
            cli.say(f"status {done.status}: {last}; try {attempt + 1} of {most} in {seconds:g} seconds")
            self.sleep(seconds)
        raise AssertionError("no tries")


def end(child: subprocess.Popen) -> None:
    """Ends a command that may still run, with its own children: gcloud has ssh ones."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=5)
