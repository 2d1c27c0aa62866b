"""Several processes on this machine, joined through a coordinator on the loopback address.

  python -m launch.local --processes=2 -- python -m hcl_jax.main --config=simclr:digits --workdir=DIR

Each process gets JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, and hcl_jax.main joins them. The
first process speaks; what the others say goes to DIR/process_<i>.log with --logs=DIR, else to standard error. When one
fails the others are stopped, and its status is returned.
"""

import argparse
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from typing import IO


def free_port() -> int:
    """A port on the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environments(processes: int, port: int) -> list[dict[str, str]]:
    """The variables of each process, beside those of this one."""
    address = f"127.0.0.1:{port}"
    return [
        {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes), "JAX_PROCESS_ID": str(i)}
        for i in range(processes)
    ]


def run(command: list[str], processes: int, logs: pathlib.Path | None = None) -> int:
    """Starts `command` once a process and waits; returns 0, or the first status that is not 0."""
    files: list[IO[bytes]] = []
    children = []
    try:
        for i, variables in enumerate(environments(processes, free_port())):
            output = None
            if i and logs is not None:
                logs.mkdir(parents=True, exist_ok=True)
                output = (logs / f"process_{i}.log").open("wb")
                files.append(output)
            stream = output if output is not None else (None if i == 0 else sys.stderr)
            children.append(subprocess.Popen(command, env=os.environ | variables, stdout=stream, stderr=output))
        while True:
            statuses = [child.poll() for child in children]
            failed = [s for s in statuses if s]
            if failed or all(s == 0 for s in statuses):
                return failed[0] if failed else 0
            time.sleep(0.1)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        _stop(children)
        for file in files:
            file.close()


def _stop(children: list[subprocess.Popen]) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()
    for child in children:
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m launch.local", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2, metavar="N")
    parser.add_argument("--logs", type=pathlib.Path, metavar="DIR", help="where processes past the first write")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command that each process runs")
    known = parser.parse_args(arguments)
    command = known.command[1:] if known.command[:1] == ["--"] else known.command
    if not command or known.processes < 1:
        parser.error("a command after --, and --processes >= 1, are needed")
    # The children must not outlive a launcher that is told to end.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        return run(command, known.processes, known.logs)
    except FileNotFoundError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
