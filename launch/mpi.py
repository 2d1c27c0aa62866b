"""Processes started by mpirun of Open MPI, on this machine or on several.

  python -m launch.mpi --processes=2 -- --config=simclr:digits --workdir=DIR
  python -m launch.mpi --hosts=a:4,b:4 -- --config=simclr:imagenet --workdir=/shared/runs/simclr
  python -m launch.restart -- python -m launch.mpi --processes=2 -- --config=simclr:digits --workdir=DIR

mpirun starts the processes and says who is who; the numbers that they exchange go through jax (gloo on CPUs, NCCL on
GPUs), not through MPI. On one machine all of it stays on the loopback address. On several the first host named
is where the first process runs and listens, at --port; the folder, this Python and its packages are shared.
Each process of a host takes one of its GPUs.

SIGTERM, SIGHUP and Ctrl-C to this command reach all processes, which have --grace seconds to save and end before they
are killed; a second Ctrl-C kills them. mpirun alone would give them one second.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

from hcl_jax.errors import InputError
from launch import cli, local
from launch.cleanup import record_signals

# What goes with the processes to other hosts, where it is set here; the values are not shown.
CARRIED = re.compile(r"PATH|LD_LIBRARY_PATH|PYTHONPATH|(JAX|XLA|NCCL|HCL_JAX)_\w+")


def command(known: argparse.Namespace, rest: list[str], environment: Mapping[str, str]) -> list[str]:
    """The line of mpirun.

    Args:
      known: the flags.
      rest: arguments of hcl_jax.main.
      environment: what is set here.
    """
    here = known.hosts is None
    hosts = known.hosts or f"localhost:{known.processes}"
    first = "127.0.0.1" if here else hosts.partition(",")[0].partition(":")[0]
    given = {"JAX_COORDINATOR_ADDRESS": f"{first}:{known.port}"}
    if known.devices:
        given |= {"JAX_NUM_CPU_DEVICES": str(known.devices), "JAX_PLATFORMS": environment.get("JAX_PLATFORMS", "cpu")}
    line = ["mpirun", "-np", str(known.processes), "--host", hosts, "--bind-to", "none"]
    if here:
        line += ["--mca", "oob_tcp_if_include", "lo"]
    for name in sorted(n for n in environment if CARRIED.fullmatch(n) and n not in given):
        line += ["-x", name]
    for name, value in given.items():
        line += ["-x", f"{name}={value}"]
    return [*line, known.python, "-m", "hcl_jax.main", *rest]


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags, and the run's arguments after --.

    Raises:
      InputError: not a number, or not a list of hosts.
    """
    parser = cli.Parser(
        "python -m launch.mpi", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="python -m launch.mpi [flags] [--dry-run] -- ARGUMENTS OF hcl_jax.main", allow_abbrev=False,
    )  # fmt: skip
    add = parser.add_argument
    add("--processes", type=int, metavar="N", help="in all (2, or what the hosts take)")
    add("--hosts", metavar="HOST:N,...", help="where, and how many processes on each (default: all on this machine)")
    add("--devices", type=int, metavar="N", help="virtual CPU devices of each process, to try a launch")
    add("--port", type=int, metavar="N", help="where the first process listens (8476; on one machine a free one)")
    add("--grace", type=int, default=120, metavar="SECONDS", help="to save after SIGTERM (120)")
    add("--python", default=sys.executable, metavar="PATH", help="on all hosts (default: this one)")
    add("--dry-run", action="store_true", help="print the command, exactly, and run nothing")
    known, rest = cli.split(parser, arguments)
    form = r"[\w.-]+:[1-9]\d*"
    if known.hosts is not None and not re.fullmatch(rf"{form}(,{form})*", known.hosts, re.ASCII):
        raise InputError("--hosts", repr(known.hosts), "HOST:PROCESSES, with commas between, as a:4,b:4")
    slots = sum(int(host.rpartition(":")[2]) for host in known.hosts.split(",")) if known.hosts else None
    cli.needs_workdir(rest, known.hosts.count(",") + 1 if known.hosts else 1)
    known.processes = (slots or 2) if known.processes is None else known.processes
    if known.processes < 1 or (slots and known.processes != slots):
        raise InputError("--processes", known.processes, f"{slots}, as --hosts has them" if slots else "1 or more")
    if known.port is None:
        known.port = 8476 if known.hosts else local.free_port()
    for flag, least, most in (("devices", 1, None), ("grace", 1, None), ("port", 1, 65535)):
        value = getattr(known, flag)
        if value is not None and (value < least or (most and value > most)):
            raise InputError(f"--{flag}", value, f"{least} to {most}" if most else f"{least} or more")
    return known, rest


def run(line: list[str], grace: float) -> int:
    """Runs mpirun and passes signals on; returns its status, that of the process which failed first."""
    asked: list[int] = []
    with record_signals(asked):
        # In a group of its own: a Ctrl-C of the terminal would have mpirun kill the processes.
        return _wait(subprocess.Popen(line, process_group=0), asked, grace)


def _wait(child: subprocess.Popen, asked: list[int], grace: float) -> int:
    try:
        while not asked and child.poll() is None:
            time.sleep(local.POLL)
        until = time.monotonic() + grace
        if asked and child.poll() is None:
            child.send_signal(signal.SIGUSR1)  # which mpirun passes on, and hcl_jax takes for SIGTERM
        while child.poll() is None and time.monotonic() < until and asked.count(signal.SIGINT) < 2:
            time.sleep(local.POLL)
        if child.poll() is None:
            child.terminate()
            child.wait()
            print(f"launch.mpi: killed what had not ended after signal {asked[0]}", file=sys.stderr)
            return 128 + asked[0]
        return local.group_status([child.returncode])
    finally:
        if child.poll() is None:
            child.terminate()


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    try:
        known, rest = parse(sys.argv[1:] if arguments is None else arguments)
        line = command(known, rest, os.environ)
        if known.dry_run:
            print(cli.shown(line))
            return 0
        return run(line, known.grace)
    except FileNotFoundError:
        error: Exception = InputError("mpirun", "nothing on PATH", "Open MPI; on Debian: apt-get install openmpi-bin")
    except InputError as refusal:
        error = refusal
    print(f"launch.mpi: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
