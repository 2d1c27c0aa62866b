"""Runs a command, and runs it again when a fault outside of it has ended it.

  python -m launch.restart --most=5 --wait=10 -- python -m hcl_jax.main --config=simclr:digits --workdir=DIR

Again after 134, 137, 139 and 142 (aborted, killed, crashed, ended by the watchdog's alarm); not after 0, a Python error
(1), bad input (2), Ctrl-C (130), SIGTERM (143) or any other status, which is returned. It waits --wait seconds, then
twice as long each time, 300 at most.

After --most restarts in a row without progress it gives up. Progress is a later step in metrics.jsonl or checkpoints/
of the folder that --workdir (of this command, else of COMMAND) names; without a folder, ten minutes of life.

SIGTERM goes on to the command; Ctrl-C, SIGQUIT and SIGHUP to the command and its children; no restart follows. What a
command leaves running when it dies is killed before the next start, for it would hold the folder.
"""

import argparse
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

from hcl_jax.workdir.history import last_step

AGAIN = {
    134: "aborted: a peer was lost, or the watchdog ended it",
    137: "killed: by a person, or for want of memory",
    139: "crashed",
    142: "ended by the watchdog's alarm",
}
CAP = 300.0  # seconds
LIVED = 600.0  # seconds that count as progress where no folder tells


def latest_step(workdir: pathlib.Path) -> int:
    """The last step in a run's folder; -1 if there is none."""
    try:
        names = os.listdir(workdir / "checkpoints")
    except OSError:
        names = []
    return max([last_step(workdir / "metrics.jsonl") or -1, *(int(name) for name in names if name.isdecimal())])


def pause(wait: float, restarts: int) -> float:
    """Seconds before the n-th restart in a row: min(wait 2^(n-1), 300)."""
    return min(wait * 2.0 ** min(restarts - 1, 60), CAP)


def workdir_of(command: list[str]) -> pathlib.Path | None:
    """What a command's --workdir names, as `--workdir=DIR` or `--workdir DIR`."""
    for argument, following in zip(command, [*command[1:], ""], strict=True):
        found = re.fullmatch(r"--workdir=(.+)", argument)
        name = found[1] if found else following if argument == "--workdir" else ""
        if name:
            return pathlib.Path(name).expanduser()
    return None


class _Child:
    """The command while it runs; signals to this process go on to it."""

    def __init__(self, command: list[str]):
        self.command = command
        self.asked = 0  # the signal that ends the restarting
        self._process: subprocess.Popen | None = None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves SIGHUP
                signal.signal(number, self._pass_on)

    def run(self) -> int:
        """Its status, 128 + the signal where one ended it."""
        # In a group of its own: a Ctrl-C of the terminal reaches this process alone, and goes on once.
        self._process = subprocess.Popen(self.command, process_group=0)
        if self.asked:  # while it was started
            self._send(self.asked)
        status = self._process.wait()
        status = 128 - status if status < 0 else status
        if status in AGAIN and not self.asked:
            self._to_group(signal.SIGKILL)
        self._process = None
        return status

    def _pass_on(self, number: int, _: object) -> None:
        self.asked = number
        self._send(number)

    def _send(self, number: int) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        if number == signal.SIGTERM:
            process.send_signal(number)  # launch.local passes it on itself
        else:
            self._to_group(number)

    def _to_group(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)


def run(command: list[str], most: int, wait: float, workdir: pathlib.Path | None, lived: float = LIVED) -> int:
    """Runs `command` until it ends for good; returns its status."""
    child = _Child(command)
    restarts = 0
    while True:
        began, step = time.monotonic(), latest_step(workdir) if workdir else -1
        status = child.run()
        if child.asked or status not in AGAIN:
            return status
        reason = f"status {status} ({AGAIN[status]})"
        progress = latest_step(workdir) > step if workdir else time.monotonic() - began > lived
        restarts = 1 if progress else restarts + 1
        if restarts > most:
            _say(f"gives up: {reason} after {most} restarts in a row without progress")
            return status
        seconds = pause(wait, restarts)
        _say(f"{reason}; restart {restarts} of at most {most} without progress, in {seconds:g} seconds")
        until = time.monotonic() + seconds
        while not child.asked and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))  # a handler does not cut a sleep short
        if child.asked:
            return 128 + child.asked


def _say(text: str) -> None:
    print(f"launch.restart: {text}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m launch.restart", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--most", type=int, default=5, metavar="N", help="restarts in a row without progress (5)")
    parser.add_argument("--wait", type=float, default=10.0, metavar="SECONDS", help="before the first restart (10)")
    parser.add_argument("--workdir", type=pathlib.Path, metavar="DIR", help="the run's folder, where progress is read")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    known = parser.parse_args(arguments)
    command = known.command[1:] if known.command[:1] == ["--"] else known.command
    if not command or known.most < 0 or not known.wait >= 0:
        parser.error("a command after --, --most >= 0 and --wait >= 0 are needed")
    try:
        return run(command, known.most, known.wait, known.workdir or workdir_of(command))
    except (FileNotFoundError, PermissionError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
