"""SLURM on this machine alone, in a temporary folder: munged, slurmctld and slurmd, without root's folders or services.

  apt-get install slurmctld slurmd slurm-client munge            Debian 12: SLURM 22.05
  python tests/slurm_here.py -- COMMAND                   COMMAND with SLURM_CONF set, then all is ended
  python tests/slurm_here.py -- bash                      to look around: sinfo, sbatch, squeue

One node, called localhost, with two CPUs, whatever the machine has. The daemons listen on the loopback address, run as
the user who starts them, and take that user's jobs.
"""

import contextlib
import getpass
import os
import pathlib
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

PACKAGES = "slurmctld slurmd slurm-client munge"
TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue")
CONF = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=120
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=low Nodes=localhost Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=localhost MaxTime=INFINITE State=UP PriorityTier=2
"""


def missing() -> str:
    """The tools that are not installed, "" for none."""
    return ", ".join(tool for tool in TOOLS if _which(tool) is None)


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


@contextlib.contextmanager
def running() -> Iterator[dict[str, str]]:
    """SLURM while the block runs; gives the variables that its commands need.

    Raises:
      RuntimeError: a daemon ended, or the node was not ready after a minute; with the ends of the logs.
    """
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        folder = pathlib.Path(name)
        variables = {"SLURM_CONF": str(folder / "slurm.conf")}
        _write(folder)
        with contextlib.ExitStack() as stack:
            daemons = []
            for command in _commands(folder):
                log = stack.enter_context((folder / f"{pathlib.Path(command[0]).name}.out").open("wb"))
                daemon = subprocess.Popen(command, env=os.environ | variables, stdout=log, stderr=log)
                stack.callback(_end, daemon)
                daemons.append(daemon)
                if len(daemons) == 1:
                    _wait_for(lambda: (folder / "munge.socket").exists(), daemons, folder)
            _wait_for(lambda: _is_idle(variables), daemons, folder)
            try:
                yield variables
            finally:
                _said(["scancel", "--full", "--signal=KILL", f"--user={getpass.getuser()}"], variables)
                _said(["scancel", f"--user={getpass.getuser()}"], variables)
                _wait_for(lambda: not _said(["squeue", "--noheader"], variables), [], folder)


def _write(folder: pathlib.Path) -> None:
    for made in ("state", "spool"):
        (folder / made).mkdir()
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(128))
    ctld, slurmd = _free_ports(2)
    host = socket.gethostname().partition(".")[0]
    text = CONF.format(folder=folder, host=host, user=getpass.getuser(), ctld=ctld, slurmd=slurmd)
    (folder / "slurm.conf").write_text(text)


def _commands(folder: pathlib.Path) -> list[list[str]]:
    def program(name: str) -> str:
        return _which(name) or name

    munge = [
        f"--{what}={folder}/munge.{what.partition('-')[0]}"
        for what in ("key-file", "socket", "log-file", "pid-file", "seed-file")
    ]
    return [
        [program("munged"), "--foreground", "--force", *munge],
        [program("slurmctld"), "-D", "-i"],
        [program("slurmd"), "-D", "-N", "localhost"],
    ]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _is_idle(variables: dict[str, str]) -> bool:
    return _said(["sinfo", "--noheader", "--partition=low", "--format=%t"], variables) == "idle"


def _said(command: list[str], variables: dict[str, str]) -> str:
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    return done.stdout.strip()


def _wait_for(ready, daemons: list[subprocess.Popen], folder: pathlib.Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > until or any(daemon.poll() is not None for daemon in daemons):
            logs = [*folder.glob("*.log"), *folder.glob("*.out")]
            raise RuntimeError("\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-3000:]}" for log in logs))
        time.sleep(0.1)


def _end(daemon: subprocess.Popen) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def main(arguments: list[str]) -> int:
    """Runs a command beside SLURM; returns its status."""
    command = arguments[1:] if arguments[:1] == ["--"] else arguments
    if not command or missing():
        found = f"no {missing()}" if missing() else "no command"
        print(
            f"slurm_here: found {found}; allowed: {', '.join(TOOLS)} on PATH, and a command after --", file=sys.stderr
        )
        return 2
    with running() as variables:
        return subprocess.run(command, env=os.environ | variables).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
