"""launch.slurm: its script, what it refuses, and real jobs where SLURM is installed (tests/slurm_here.py)."""

import os
import re
import subprocess
import sys

import pytest
import slurm_here
import tiny_run as tiny

from launch.slurm import main, seconds_of

RUN = ["--", "--config=simclr:digits", "--workdir=runs/a b", "--config.evaluate.views={}"]
GOLDEN = r"""runs/a b/digits.sbatch:
#!/bin/bash
#SBATCH --job-name=digits
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=4
#SBATCH --time=1-12
#SBATCH --partition=long
#SBATCH --account=group
#SBATCH --signal=TERM@300
#SBATCH '--output=runs/a b/digits-%j.log'
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --mem=64G

export PYTHONUNBUFFERED=1 HCL_JAX_STOPPED=75
module load cuda
python -m launch.restart --most=5 -- \
  srun --cpus-per-task=8 \
  python -m hcl_jax.main --config=simclr:digits '--workdir=runs/a b' '--config.evaluate.views={}'
status=$?
# 75: told to end before its last step, and saved (the time limit, a preemption, scancel --signal=TERM).
if [ "$status" = 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

$ sbatch 'runs/a b/digits.sbatch'
"""


def test_the_script(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--nodes=2", "--tasks=4", "--gpus=4", "--cpus=8", "--time=1-12", "--partition=long", "--account=group"]
    flags += ["--name=digits", "--grace=300", "--sbatch=--mem=64G", "--setup=module load cuda", "--python=python"]
    assert main([*flags, "--dry-run", *RUN]) == 0
    assert capsys.readouterr().out == GOLDEN
    assert list(tmp_path.iterdir()) == []  # nothing is written
    assert main([*flags, *RUN]) == 0
    assert capsys.readouterr().out.endswith("written; sbatch 'runs/a b/digits.sbatch' submits it\n")
    text = (tmp_path / "runs/a b/digits.sbatch").read_text()
    assert text == GOLDEN.partition(":\n")[2].rpartition("\n\n$")[0] + "\n"
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


def test_the_script_of_one_process_a_node(capsys):
    assert main(["--gpus=8", "--dry-run", "--", "--config=simclr:digits", "--workdir=gs://bucket/run"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("hcl-jax.sbatch:\n") and "#SBATCH --output=hcl-jax-%j.log\n" in text
    assert "JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7\n" in text and "--time" not in text
    assert main(["--devices=4", "--dry-run", *RUN]) == 0
    assert "JAX_NUM_CPU_DEVICES=4 JAX_PLATFORMS=cpu\n" in capsys.readouterr().out


def test_time_limits():
    forms = {"90": 5400, "90:30": 5430, "1:30:00": 5400, "2-0": 172800, "1-2:03": 93780, "1-2:03:04": 93784}
    assert {form: seconds_of(form) for form in forms} == forms


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "the arguments of hcl_jax.main are needed after --"),
        (["--"], "the arguments of hcl_jax.main are needed after --"),
        (["--tasks=0", *RUN], "--tasks: found 0; allowed: 1 or more"),
        (["--tasks=two", *RUN], "argument --tasks: invalid int value: 'two'"),
        (["--time=soon", *RUN], "--time: found 'soon'; allowed: minutes"),
        (["--time=0", *RUN], "--time: found '0'; allowed"),
        (["--time=1:2:3:4", *RUN], "--time: found '1:2:3:4'; allowed"),
        (["--time=2", *RUN], "--grace: found 120 seconds; allowed: less than --time"),
        (["--gpus=4", "--tasks=2", *RUN], "--tasks: found 2 for 4 GPUs of a node; allowed: 1 or 4"),
        (["--partition=a b", *RUN], "--partition: found 'a b'; allowed"),
        (["--sbatch=mem=4G", *RUN], "--sbatch: found ['mem=4G']; allowed"),
        (["--", "--config=simclr:digits"], "--workdir: found nothing; allowed"),
        (["--", "--workdir=runs/%j"], "--workdir: found 'runs/%j'; allowed"),
        (["--nodes=2", "--", "--workdir=/dev/shm/run"], "--workdir: found /dev/shm/run, a folder of each machine; all"),
        (["--", "--workdir=run", "--submit"], "after --: found '--submit'; allowed: arguments of hcl_jax.main alone"),
        (["--what", *RUN], "unrecognized arguments: --what"),
        (["--submit", "--script={}/s", *RUN], "sbatch: found nothing on PATH; allowed"),
        (["--script={}", *RUN], "Is a directory; allowed: a file that this user may write"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, flags, said):
    monkeypatch.setenv("PATH", str(tmp_path))
    try:
        status = main([flag.format(tmp_path) if flag.startswith("--script") else flag for flag in flags])
    except SystemExit as end:
        status = end.code
    text = capsys.readouterr().err
    assert status == 2 and text.count("\n") == 1 and text.startswith("launch.slurm: ") and said in text


@pytest.mark.parametrize(("status", "count", "queued"), [(0, 0, 0), (75, 0, 1), (75, 1, 1), (75, 2, 0), (1, 0, 0)])
def test_who_is_queued_again(tmp_path, status, count, queued):
    """The script, run by bash with stand-ins for what it calls."""
    for name, line in {"srun": f"exit {status}", "scontrol": f'echo "$@" >> {tmp_path}/queued'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    assert main(["--requeues=2", f"--script={tmp_path}/job", *RUN]) == 0
    set_by_slurm = {"SLURM_JOB_ID": "7", **({"SLURM_RESTART_COUNT": str(count)} if count else {})}
    environment = tiny.environment() | {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | set_by_slurm
    assert subprocess.run(["bash", tmp_path / "job"], env=environment, timeout=60).returncode == status
    said = (tmp_path / "queued").read_text() if (tmp_path / "queued").exists() else ""
    assert said == "requeue 7\n" * queued


class Job:
    """A tiny run of two tasks, submitted by the launcher."""

    def __init__(self, variables, workdir):
        self.environment, self.workdir = tiny.environment() | variables, workdir
        command = [sys.executable, "-m", "launch.slurm", "--tasks=2", "--submit", "--", *tiny.FLAGS]
        done = subprocess.run(
            [*command, f"--workdir={workdir}"], cwd=tiny.ROOT, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        self.number = re.fullmatch(r"Submitted batch job (\d+)\n", done.stdout)[1]

    def call(self, *command) -> str:
        done = subprocess.run([*command, self.number], env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def field(self, name) -> str:
        return re.search(rf"\b{name}=(\S+)", self.call("scontrol", "show", "job"))[1]

    def log(self) -> str:
        path = self.workdir / f"hcl-jax-{self.number}.log"
        return path.read_text() if path.exists() else ""

    def wait_for_line(self, line) -> None:
        tiny.wait_for(lambda: re.search(line, self.log()), text=self.log)

    def wait_for_end(self) -> str:
        tiny.wait_for(lambda: self.field("JobState") in ("COMPLETED", "FAILED", "CANCELLED"), text=self.log)
        return self.field("JobState")

    def begin_now(self) -> None:
        """SLURM holds a job back after a requeue."""
        tiny.wait_for(lambda: self.field("JobState") == "PENDING", text=self.log)
        subprocess.run(["scontrol", "update", f"JobId={self.number}", "StartTime=now"], env=self.environment)


@pytest.fixture(scope="module")
def variables():
    if slurm_here.missing():
        pytest.skip(f"not installed: {slurm_here.missing()}; on Debian: apt-get install {slurm_here.PACKAGES}")
    with slurm_here.running() as found:
        yield found


@pytest.fixture(scope="module")
def expected(tmp_path_factory, variables):
    """The state that two processes of launch.local end with."""
    return tiny.local(tmp_path_factory.mktemp("local") / "run")


@pytest.mark.faults
def test_two_tasks_train_to_the_state_of_two_local_processes(tmp_path, variables, expected):
    job = Job(variables, tmp_path / "run")
    assert job.wait_for_end() == "COMPLETED", job.log()
    assert tiny.digest(tmp_path / "run") == expected
    assert "restart" not in job.log() and job.field("Restarts") == "0"


@pytest.mark.faults
def test_a_job_that_is_told_to_end_or_is_queued_again_goes_on(tmp_path, variables, expected):
    """scancel --signal=TERM does what SLURM does near the time limit; scontrol requeue what it does in a preemption."""
    job = Job(variables, tmp_path / "run")
    job.wait_for_line("step 2/")
    job.call("scancel", "--signal=TERM")
    job.wait_for_line(r"stopped at step \d+ of")
    job.begin_now()
    job.wait_for_line(r"resumed at step \d+ of (.*\n)*step \d+/")
    job.call("scontrol", "requeue")
    job.begin_now()
    assert job.wait_for_end() == "COMPLETED", job.log()
    stopped, resumed = (re.findall(rf"{word} at step (\d+) of", job.log()) for word in ("stopped", "resumed"))
    assert stopped == resumed and len(stopped) == 2 and 1 < int(stopped[0]) < int(stopped[1]) < tiny.STEPS
    assert job.field("Restarts") == "2" and tiny.digest(tmp_path / "run") == expected


@pytest.mark.faults
def test_a_job_that_is_cancelled_saves_and_is_not_queued_again(tmp_path, variables):
    job = Job(variables, tmp_path / "run")
    job.wait_for_line("step 2/")
    job.call("scancel")
    assert job.wait_for_end() == "CANCELLED"
    tiny.wait_for(lambda: not job.call("squeue", "--noheader", "--jobs"), text=job.log)
    done = int(re.search(r"stopped at step (\d+) of", job.log())[1])
    assert 1 < done < tiny.STEPS and len(tiny.digest(tmp_path / "run", done)) == 64
