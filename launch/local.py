"""Several processes on this machine, joined through a coordinator on the loopback address.

  python -m launch.local --processes=2 -- --config=simclr:digits --workdir=DIR
  python -m launch.local --processes=2 -- python mine.py ...         any command, not only hcl_jax.main
  python -m launch.local --processes=2 --devices=4 -- ...            2 x 4 virtual CPU devices
  python -m launch.local --dry-run -- ...                            prints the command of each process, runs nothing
  python -m launch.restart --workdir=DIR -- python -m launch.local --processes=2 -- ...

Each process gets JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, and hcl_jax.main joins them; with
--devices=N also JAX_NUM_CPU_DEVICES, and JAX_PLATFORMS=cpu unless it is set. The first process speaks; what the others
say goes to DIR/process_<i>.log with --logs=DIR, else to standard error.

The status is 0 when all processes end with 0. When one fails the others are given a few seconds to end too, then they
are stopped. Where a signal ended one, 128 + the signal is the status of the group: the errors of its peers follow from
it, as does an abort (134) from the death of another.

SIGTERM goes on to all processes, which have --grace seconds to save and end before they are killed; so does SIGHUP, as
SIGTERM. Ctrl-C reaches them from the terminal, and they have as long; a second one kills them.
"""

import argparse
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import IO

from launch.cleanup import record_signals

GRACE = 120.0  # seconds to save after SIGTERM or Ctrl-C
SETTLE = 3.0  # seconds in which the peers of a failed process may fail too
PATIENCE = 10.0  # seconds for the peers to end when asked to; a collective may block them
POLL = 0.1


def free_port() -> int:
    """A free port on the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environments(processes: int, port: int, devices: int | None = None) -> list[dict[str, str]]:
    """The variables of each process, beside those of this one; `devices` virtual CPU devices each."""
    shared = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(processes)}
    if devices is not None:
        # It wins over --xla_force_host_platform_device_count in XLA_FLAGS, and leaves those flags to the process.
        shared["JAX_NUM_CPU_DEVICES"] = str(devices)
        shared["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
    return [{**shared, "JAX_PROCESS_ID": str(i)} for i in range(processes)]


def group_status(statuses: Iterable[int | None]) -> int:
    """The status of a group as a shell reports it: 0, or that of the process whose failure is the cause, by its kind.

    A signal goes before an abort, which the loss of a peer brings about too, and an abort before a Python error.

    Args:
      statuses: of its processes: negative for a signal, as in subprocess; None for one that still runs.
    """
    failed = [128 - s if s < 0 else s for s in statuses if s]
    return max(failed, key=_rank, default=0)


def _rank(status: int) -> int:
    if status == 2:
        return 3  # one process was refused, and its peers died of its absence: to start again would not help
    ended_by_signal = 128 < status <= 192 and status != 128 + signal.SIGINT  # Python itself exits with 130
    return ended_by_signal + (ended_by_signal and status != 128 + signal.SIGABRT)


def run(
    command: list[str],
    processes: int,
    logs: pathlib.Path | None = None,
    devices: int | None = None,
    grace: float = GRACE,
) -> int:
    """Starts `command` once a process and waits; returns the status of the group."""
    asked: list[int] = []  # the signals that asked the group to end
    with record_signals(asked):
        return _run(command, environments(processes, free_port(), devices), logs, grace, asked)


def _run(
    command: list[str], variables: list[dict[str, str]], logs: pathlib.Path | None, grace: float, asked: list[int]
) -> int:
    files: list[IO[bytes]] = []
    children: list[subprocess.Popen] = []
    try:
        for i, own in enumerate(variables):
            output = None
            if i and logs is not None:
                logs.mkdir(parents=True, exist_ok=True)
                output = (logs / f"process_{i}.log").open("wb")
                files.append(output)
            stream = output if output is not None else (None if i == 0 else sys.stderr)
            children.append(subprocess.Popen(command, env=os.environ | own, stdout=stream, stderr=output))
        return _wait(children, asked, grace)
    finally:
        _kill(children)
        for file in files:
            file.close()


def _wait(children: list[subprocess.Popen], asked: list[int], grace: float) -> int:
    while not asked:
        statuses = [child.poll() for child in children]
        if any(statuses):
            return _fail(children, asked)
        if all(s == 0 for s in statuses):
            return 0
        time.sleep(POLL)
    until, passed_on = time.monotonic() + grace, False
    while _running(children) and time.monotonic() < until and asked.count(signal.SIGINT) < 2:
        if {signal.SIGTERM, signal.SIGHUP} & set(asked) and not passed_on:
            _tell(children)
            passed_on = True
        time.sleep(POLL)
    if _kill(children):
        print(f"launch.local: killed what had not ended after signal {asked[0]}", file=sys.stderr)
        return 128 + asked[0]
    return group_status(child.poll() for child in children)


def _fail(children: list[subprocess.Popen], asked: list[int]) -> int:
    """The status of a group of which a process has failed; stops the others."""
    _await(children, SETTLE, asked)
    status = group_status(child.poll() for child in children)
    _tell(children)
    _await(children, PATIENCE, asked)
    return status


def _await(children: list[subprocess.Popen], seconds: float, asked: list[int]) -> None:
    until = time.monotonic() + seconds
    while _running(children) and time.monotonic() < until and asked.count(signal.SIGINT) < 2:
        time.sleep(POLL)


def _running(children: list[subprocess.Popen]) -> list[subprocess.Popen]:
    return [child for child in children if child.poll() is None]


def _tell(children: list[subprocess.Popen]) -> None:
    for child in _running(children):
        child.terminate()


def _kill(children: list[subprocess.Popen]) -> bool:
    """Ends what still runs; whether there was any."""
    running = _running(children)
    for child in running:
        child.kill()
        child.wait()
    return bool(running)


def shown(command: list[str], processes: int, logs: pathlib.Path | None, devices: int | None) -> str:
    """The command of each process as one would type it; the port is another one each time."""
    lines = []
    for i, variables in enumerate(environments(processes, free_port(), devices)):
        words = [*(f"{name}={value}" for name, value in variables.items()), *map(shlex.quote, command)]
        to = "" if not i else f" >{shlex.quote(str(logs / f'process_{i}.log'))} 2>&1" if logs else " >&2"
        lines.append(f"$ {' '.join(words)}{to} &")
    return "\n".join([*lines, "$ wait"])


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m launch.local", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2, metavar="N")
    parser.add_argument("--devices", type=int, metavar="N", help="virtual CPU devices of each process")
    parser.add_argument("--logs", type=pathlib.Path, metavar="DIR", help="where processes past the first write")
    parser.add_argument("--grace", type=float, default=GRACE, metavar="SECONDS", help="time to save (default 120)")
    parser.add_argument("--dry-run", action="store_true", help="print the command of each process, and run nothing")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and arguments of hcl_jax.main, or a command")
    known = parser.parse_args(arguments)
    command = known.command[1:] if known.command[:1] == ["--"] else known.command
    if not command or known.processes < 1 or not known.grace >= 0 or (known.devices is not None and known.devices < 1):
        parser.error("a command after --, --processes >= 1, --devices >= 1 and --grace >= 0 are needed")
    if command[0].startswith("--"):
        command = [sys.executable, "-m", "hcl_jax.main", *command]
    if known.dry_run:
        print(shown(command, known.processes, known.logs, known.devices))
        return 0
    try:
        return run(command, known.processes, known.logs, known.devices, known.grace)
    except (FileNotFoundError, PermissionError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
