"""launch.mpi: its line, what it refuses, signals; and Open MPI where it is installed."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tiny_run as tiny
from heard import HEARD

from launch.mpi import main

RUN = ["--", "--config=simclr:digits", "--workdir=runs/a b"]
ENDS = "python -m hcl_jax.main --config=simclr:digits '--workdir=runs/a b'\n"
HERE = "$ mpirun -np 2 --host localhost:2 --bind-to none --mca oob_tcp_if_include lo "
no_mpi = pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun; on Debian: apt-get install openmpi-bin")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--port=8000"], HERE + "-x PATH -x XLA_FLAGS -x JAX_COORDINATOR_ADDRESS=127.0.0.1:8000 "),
        (
            ["--port=8000", "--devices=4"],
            HERE + "-x PATH -x XLA_FLAGS -x JAX_COORDINATOR_ADDRESS=127.0.0.1:8000 -x JAX_NUM_CPU_DEVICES=4 "
            "-x JAX_PLATFORMS=cpu ",
        ),
        (
            ["--hosts=a:4,b.net:2"],
            "$ mpirun -np 6 --host a:4,b.net:2 --bind-to none -x PATH -x XLA_FLAGS -x JAX_COORDINATOR_ADDRESS=a:8476 ",
        ),
    ],
)
def test_the_line(monkeypatch, capsys, flags, line):
    monkeypatch.setattr(os, "environ", {"PATH": "/bin", "HOME": "/", "XLA_FLAGS": "", "WANDB_API_KEY": "secret"})
    assert main([*flags, "--python=python", "--dry-run", *RUN]) == 0
    assert capsys.readouterr().out == line + ENDS


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "the arguments of hcl_jax.main are needed after --"),
        (["--processes=0", *RUN], "--processes: found 0; allowed: 1 or more"),
        (["--processes=3", "--hosts=a:2", *RUN], "--processes: found 3; allowed: 2, as --hosts has them"),
        (["--hosts=a,b", *RUN], "--hosts: found 'a,b'; allowed"),
        (["--port=0", *RUN], "--port: found 0; allowed: 1 to 65535"),
        (["--devices=0", *RUN], "--devices: found 0; allowed: 1 or more"),
        (["--", "--config=simclr:digits"], "--workdir: found nothing; allowed"),
        (
            ["--hosts=a:1,b:1", "--", "--workdir=/tmp/run"],
            "--workdir: found /tmp/run, a folder of each machine; allowed",
        ),
        (["--", "python", "--workdir=run"], "after --: found 'python'; allowed: arguments of hcl_jax.main alone"),
        (RUN, "mpirun: found nothing on PATH; allowed"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, flags, said):
    monkeypatch.setenv("PATH", str(tmp_path))
    try:
        status = main(flags)
    except SystemExit as end:
        status = end.code
    text = capsys.readouterr().err
    assert status == 2 and text.count("\n") == 1 and text.startswith("launch.mpi: ") and said in text


# Takes the place of mpirun: saves after SIGUSR1, or does not hear it.
STUB = """#!{python}
import os, pathlib, signal, sys, time
folder = pathlib.Path({folder!r})
def save(*_): (folder / "saved").touch(); os._exit(0)
signal.signal(signal.SIGUSR1, save if {hears} else signal.SIG_IGN)
(folder / "ready").touch()
time.sleep(60)
"""


def start(folder, hears, *flags):
    (folder / "mpirun").write_text(STUB.format(python=sys.executable, folder=str(folder), hears=hears))
    (folder / "mpirun").chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    command = [*HEARD, sys.executable, "-m", "launch.mpi", *flags, *RUN]
    launcher = subprocess.Popen(
        command, cwd=tiny.ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    tiny.wait_for(lambda: (folder / "ready").exists())
    return launcher


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_passed_on_and_there_is_time_to_save(tmp_path, number):
    launcher = start(tmp_path, True)
    os.killpg(launcher.pid, number)  # as a terminal does; mpirun is in another group
    assert launcher.communicate(timeout=60)[1] == "" and launcher.returncode == 0
    assert (tmp_path / "saved").exists()


def test_after_the_grace_mpirun_is_told_to_kill(tmp_path):
    launcher = start(tmp_path, False, "--grace=1")
    launcher.terminate()
    assert "killed what had not ended after signal 15" in launcher.communicate(timeout=60)[1]
    assert launcher.returncode == 143


@pytest.mark.slow
def test_a_second_ctrl_c_kills(tmp_path):
    launcher = start(tmp_path, False)
    launcher.send_signal(signal.SIGINT)
    time.sleep(1)
    assert launcher.poll() is None
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(60) == 130
    launcher.stderr.close()


def environment():
    root = os.geteuid() == 0  # mpirun asks whether that is meant
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if root else {}
    return tiny.environment() | allowed


JOINED = """
from hcl_jax.runtime import distributed
distributed.prepare()
distributed.join(100)
import jax
print(f"process {jax.process_index()} {jax.process_count()} {jax.device_count()}", flush=True)
from jax.experimental import multihost_utils
multihost_utils.sync_global_devices("done")
"""


@no_mpi
@pytest.mark.slow
def test_processes_of_a_bare_mpirun_find_each_other():
    """By jax's own detection of Open MPI, without this launcher."""
    command = ["mpirun", "-np", "2", "--host", "localhost:2", "--bind-to", "none", sys.executable, "-c", JOINED]
    done = subprocess.run(command, cwd=tiny.ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    # mpirun may put the lines of two processes into one.
    assert sorted(re.findall(r"process \d+ \d+ \d", done.stdout)) == ["process 0 2 2", "process 1 2 2"]


@no_mpi
@pytest.mark.faults
def test_two_processes_stop_go_on_and_end_with_the_state_of_two_local_ones(tmp_path):
    workdir, log = tmp_path / "run", tmp_path / "log"
    command = [sys.executable, "-m", "launch.mpi", "--", *tiny.FLAGS, f"--workdir={workdir}"]
    with log.open("ab") as output:
        launcher = subprocess.Popen(command, cwd=tiny.ROOT, env=environment(), stdout=output, stderr=output)
        tiny.wait_for(lambda: "step 2/" in log.read_text(), text=log.read_text)
        launcher.terminate()
        assert launcher.wait(300) == 0, log.read_text()
        stopped = re.findall(r"stopped at step (\d+) of", log.read_text())
        assert subprocess.run(command, cwd=tiny.ROOT, env=environment(), stdout=output, stderr=output).returncode == 0
    resumed = re.findall(r"resumed at step (\d+) of", log.read_text())
    assert stopped == resumed and len(stopped) == 1 and int(stopped[0]) < tiny.STEPS
    assert tiny.digest(workdir) == tiny.local(tmp_path / "local")
