"""A run as a SLURM job: writes its sbatch script, and submits it with --submit.

  python -m launch.slurm --nodes=2 --tasks=4 --gpus=4 --cpus=8 --time=24:00:00 --submit -- \\
      --config=simclr:imagenet --workdir=/shared/runs/simclr
  python -m launch.slurm --dry-run --tasks=2 -- --config=simclr:digits --workdir=DIR        prints it, and does nothing

srun starts --tasks processes on each node; jax finds SLURM in them (hcl_jax/runtime/distributed.py). The folder
is one that all nodes share, as are this Python and its packages.

--grace seconds before the time limit, up to a minute sooner, SLURM sends SIGTERM to the processes. The run saves, ends
with a status of its own, and the job puts itself back in the queue, where it goes on from what it saved; so it does
after a preemption. What launch.restart mends (a process that was killed) is started again on the same nodes.

  scancel --signal=TERM JOB     saves and queues again; with `scancel JOB` after it, saves and ends
  scancel JOB                   ends; KillWait of slurm.conf, 30 seconds if it is not set, is the time to save
  scontrol requeue JOB          queues again; also a job that has ended. The time to save is the same
"""

import argparse
import os
import pathlib
import re
import shlex
import subprocess
import sys

from hcl_jax.disk import whole
from hcl_jax.errors import InputError
from launch import cli

# "Acceptable time formats" of sbatch(1), but for its 0 and UNLIMITED: no limit.
TIMES = (r"(?P<m>\d+)(:(?P<s>\d+))?", r"(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)",
         r"(?P<d>\d+)-(?P<h>\d+)(:(?P<m>\d+)(:(?P<s>\d+))?)?")  # fmt: skip
SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
SCRIPT = """\
#!/bin/bash
{options}

export {variables}
{setup}{restart} \\
  srun --cpus-per-task={cpus} \\
  {run}
status=$?
# {stopped}: told to end before its last step, and saved (the time limit, a preemption, scancel --signal=TERM).
if [ "$status" = {stopped} ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {requeues} ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


def seconds_of(time: str) -> int:
    """Seconds of a time limit as sbatch reads it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises:
      InputError: not such a time, or zero.
    """
    match = next((m for form in TIMES if (m := re.fullmatch(form, time, re.ASCII))), None)
    seconds = sum(int(n) * SECONDS[unit] for unit, n in match.groupdict().items() if n) if match else 0
    if not seconds:
        raise InputError("--time", repr(time), "minutes, H:M:S, D-H or D-H:M:S, more than nothing")
    return seconds


def script(known: argparse.Namespace, run: list[str]) -> str:
    """The text of the sbatch script.

    Args:
      known: the flags.
      run: arguments of hcl_jax.main.
    """
    options = {
        "job-name": known.name,
        "nodes": known.nodes,
        "ntasks-per-node": known.tasks,
        "cpus-per-task": known.cpus,
        "gpus-per-node": known.gpus,
        "time": known.time,
        "partition": known.partition,
        "account": known.account,
        "signal": f"TERM@{known.grace}",
        "output": str(pathlib.Path(_folder(run), f"{known.name}-%j.log")),
    }
    lines = [f"--{name}={value}" for name, value in options.items() if value is not None]
    lines += ["--open-mode=append", "--requeue", *known.sbatch]
    # A process that is alone on its node has all GPUs of it; jax gives one to each otherwise.
    visible = known.gpus if known.tasks == 1 else None
    return SCRIPT.format(
        options="\n".join(f"#SBATCH {shlex.quote(line)}" for line in lines),
        variables=" ".join(f"{k}={v}" for k, v in _variables(known.devices, visible).items()),
        setup="".join(f"{line}\n" for line in known.setup),
        restart=shlex.join([known.python, "-m", "launch.restart", f"--most={known.most}", "--"]),
        cpus=known.cpus,
        run=shlex.join([known.python, "-m", "hcl_jax.main", *run]),
        stopped=cli.STOPPED,
        requeues=known.requeues,
    )


def _variables(devices: int | None, gpus: int | None) -> dict[str, str]:
    variables = {"PYTHONUNBUFFERED": "1", "HCL_JAX_STOPPED": str(cli.STOPPED)}
    if gpus:
        variables["JAX_LOCAL_DEVICE_IDS"] = ",".join(map(str, range(gpus)))
    if devices:
        variables |= {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    return variables


def _folder(run: list[str]) -> str:
    """Where script and log go: the run's folder, when it is on a disk."""
    workdir = cli.value_of("--workdir", run)
    return "." if workdir is None or "://" in workdir else os.path.expanduser(workdir)


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags, and the run's arguments after --.

    Raises:
      InputError: a flag that SLURM would refuse, or wait with.
    """
    parser = cli.Parser(
        "python -m launch.slurm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="python -m launch.slurm [flags] [--dry-run] [--submit] -- ARGUMENTS OF hcl_jax.main", allow_abbrev=False,
    )  # fmt: skip
    add = parser.add_argument
    add("--nodes", type=int, default=1, metavar="N")
    add("--tasks", type=int, default=1, metavar="N", help="processes on each node (1)")
    add("--cpus", type=int, default=1, metavar="N", help="cores of each process (1)")
    add(
        "--gpus", type=int, metavar="N", help="of each node: one for each process, or all for the one process of a node"
    )
    add("--devices", type=int, metavar="N", help="virtual CPU devices of each process, to try a launch")
    add("--time", metavar="TIME", help="limit of one stay, as sbatch reads it (default: that of the partition)")
    add("--partition", metavar="NAME")
    add("--account", metavar="NAME")
    add("--name", default="hcl-jax", metavar="NAME", help="of the job (hcl-jax)")
    add("--grace", type=int, default=120, metavar="SECONDS", help="to save before the time limit (120)")
    add("--requeues", type=int, default=100, metavar="N", help="times that the job queues again (100)")
    add("--most", type=int, default=5, metavar="N", help="restarts on the same nodes without progress (5)")
    add("--sbatch", action="append", default=[], metavar="OPTION", help="a further line, as --sbatch=--mem=64G")
    add("--setup", action="append", default=[], metavar="LINE", help="of the script before the run: module load cuda")
    add("--python", default=sys.executable, metavar="PATH", help="on the nodes (default: this one)")
    add("--script", type=pathlib.Path, metavar="FILE", help="(default: NAME.sbatch in the run's folder)")
    add("--submit", action="store_true", help="hand the script to sbatch")
    add("--dry-run", action="store_true", help="print every command and file, exactly, and run nothing")
    known, run = cli.split(parser, arguments)
    cli.needs_workdir(run, known.nodes)
    for flag, least in {"nodes": 1, "tasks": 1, "cpus": 1, "gpus": 1, "devices": 1, "grace": 1, "requeues": 0,
                        "most": 0}.items():  # fmt: skip
        value = getattr(known, flag)
        if value is not None and value < least:
            raise InputError(f"--{flag}", value, f"{least} or more")
    for flag in ("partition", "account", "name"):
        if not re.fullmatch(r"[\w.,-]+", getattr(known, flag) or "none"):
            raise InputError(f"--{flag}", repr(getattr(known, flag)), "letters, digits and . _ -")
    if known.gpus and known.tasks not in (1, known.gpus):
        raise InputError("--tasks", f"{known.tasks} for {known.gpus} GPUs of a node", f"1 or {known.gpus}")
    if known.grace > 65535 or (known.time is not None and seconds_of(known.time) <= known.grace):
        raise InputError("--grace", f"{known.grace} seconds", "less than --time, and at most 65535")
    if any("\n" in line or not line.startswith("-") for line in known.sbatch):
        raise InputError("--sbatch", repr(known.sbatch), "an option of sbatch each, as --sbatch=--mem=64G")
    if re.search(r"[\n%\\]", _folder(run)):  # sbatch puts its own words for these into a file's name
        raise InputError("--workdir", repr(_folder(run)), "a name without line breaks, % and \\")
    return known, run


def submit(command: list[str]) -> int:
    """Runs sbatch, which says the number of the job; returns its status."""
    try:
        return subprocess.run(command).returncode
    except FileNotFoundError:
        raise InputError("sbatch", "nothing on PATH", "a machine that submits to SLURM") from None


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    try:
        known, run = parse(sys.argv[1:] if arguments is None else arguments)
        text = script(known, run)
        path = known.script or pathlib.Path(_folder(run), f"{known.name}.sbatch")
        command = ["sbatch", str(path)]
        if known.dry_run:
            print(f"{path}:\n{text}\n{cli.shown(command)}")
            return 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole.write(path, text)
        except OSError as error:
            raise InputError(str(path), error.strerror, "a file that this user may write") from None
        if known.submit:
            return submit(command)
        print(f"{path}: written; {shlex.join(command)} submits it")
        return 0
    except InputError as error:
        print(f"launch.slurm: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
