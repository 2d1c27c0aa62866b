"""The status of a group, who is told to end and when, and where the coordinator listens (R36)."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from heard import HEARD

from launch.local import environments, group_status

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What process i does: argument i + 2. Each says that it runs by the file DIR/ready_<i>.
STUB = """
import os, pathlib, signal, sys, time
me, folder = int(os.environ["JAX_PROCESS_ID"]), pathlib.Path(sys.argv[1])
def save(seconds):
    time.sleep(seconds); (folder / f"saved_{me}").touch(); os._exit(0)
action, _, value = sys.argv[2 + me].partition("=")
if action == "save":
    for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, lambda *_: save(float(value)))
if action == "deaf":
    for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, signal.SIG_IGN)
(folder / f"ready_{me}").touch()
while not all((folder / f"ready_{i}").exists() for i in range(len(sys.argv) - 2)): time.sleep(0.02)
if action == "signal": os.kill(os.getpid(), int(value))
if action == "exit": os._exit(int(value))
if action == "late": time.sleep(0.5); os.kill(os.getpid(), int(value))
time.sleep(60)
"""


def start(folder, *actions, flags=(), **more) -> subprocess.Popen:
    command = [*HEARD, sys.executable, "-m", "launch.local", f"--processes={len(actions)}", *flags, "--"]
    command += [sys.executable, "-c", STUB, str(folder), *actions]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, **more)


def ended(launcher) -> int:
    _, said = launcher.communicate(timeout=60)  # to the end: no child holds standard error any more
    launcher.said = said
    return launcher.returncode


def wait_for(*paths) -> None:
    until = time.monotonic() + 60
    while not all(p.exists() for p in paths):
        assert time.monotonic() < until, paths
        time.sleep(0.02)


def test_the_status_of_a_group():
    assert group_status([0, 0]) == 0 and group_status([]) == 0 and group_status([None, 0]) == 0
    assert group_status([1, 2]) == 2 and group_status([0, None, 2]) == 2
    assert group_status([1, -9]) == 137 and group_status([1, 0, 139]) == 139
    assert group_status([2, -6]) == 2  # what was refused is refused again
    assert group_status([-6, 1, -9]) == 137  # an abort too may be the consequence
    assert group_status([1, 130]) == 1 and group_status([-2, 0]) == 130 and group_status([1, 255]) == 1


@pytest.mark.parametrize(
    ("actions", "status"),
    [
        (("exit=0", "exit=0"), 0),
        (("exit=1", "late=9"), 137),  # the error is seen first and is not the cause
        (("signal=6", "exit=1"), 134),
        (("exit=3", "save=0"), 3),
    ],
)
def test_a_group_ends_with_its_cause(tmp_path, actions, status):
    assert ended(start(tmp_path, *actions)) == status
    assert (tmp_path / "saved_1").exists() == ("save=0" in actions)  # the others are told to end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_is_passed_on_and_there_is_time_to_save(tmp_path, number):
    launcher = start(tmp_path, "save=0.1", "save=1.0")
    wait_for(tmp_path / "ready_0", tmp_path / "ready_1")
    launcher.send_signal(number)
    assert ended(launcher) == 0
    assert (tmp_path / "saved_0").exists() and (tmp_path / "saved_1").exists()


def test_after_the_grace_what_is_left_is_killed(tmp_path):
    launcher = start(tmp_path, "save=0", "deaf", flags=["--grace=0.5"])
    wait_for(tmp_path / "ready_0", tmp_path / "ready_1")
    launcher.terminate()
    assert ended(launcher) == 143 and "killed what had not ended after signal 15" in launcher.said
    assert (tmp_path / "saved_0").exists()


def test_ctrl_c_waits_for_the_processes(tmp_path):
    launcher = start(tmp_path, "save=0.1", "save=1.0", start_new_session=True)
    wait_for(tmp_path / "ready_0", tmp_path / "ready_1")
    os.killpg(launcher.pid, signal.SIGINT)  # as a terminal does
    assert ended(launcher) == 0
    assert (tmp_path / "saved_0").exists() and (tmp_path / "saved_1").exists()


def test_a_second_ctrl_c_kills(tmp_path):
    launcher = start(tmp_path, "deaf", "deaf", start_new_session=True)
    wait_for(tmp_path / "ready_0", tmp_path / "ready_1")
    os.killpg(launcher.pid, signal.SIGINT)
    time.sleep(0.5)
    assert launcher.poll() is None
    os.killpg(launcher.pid, signal.SIGINT)
    assert ended(launcher) == 130


def test_sigterm_after_ctrl_c_is_passed_on(tmp_path):
    launcher = start(tmp_path, "save=0")
    wait_for(tmp_path / "ready_0")
    launcher.send_signal(signal.SIGINT)  # to the launcher alone: its child hears nothing
    time.sleep(0.3)
    launcher.terminate()
    assert ended(launcher) == 0 and (tmp_path / "saved_0").exists()


def test_devices_are_variables_of_each_process(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert "JAX_NUM_CPU_DEVICES" not in environments(2, 1)[0] and "JAX_PLATFORMS" not in environments(2, 1)[0]
    first, second = environments(2, 1, 4)
    assert first.pop("JAX_PROCESS_ID") == "0" and second.pop("JAX_PROCESS_ID") == "1" and first == second
    assert (first["JAX_NUM_CPU_DEVICES"], first["JAX_PLATFORMS"]) == ("4", "cpu")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert environments(1, 1, 4)[0]["JAX_PLATFORMS"] == "cuda"


def test_the_dry_run_prints_the_command_of_each_process(tmp_path):
    """And those commands, run by a shell, find each other."""
    code = "import os, sys; print(os.environ['JAX_PROCESS_ID'], os.environ['JAX_NUM_PROCESSES'], sys.argv[1:])"
    command = [sys.executable, "-m", "launch.local", "--dry-run", f"--logs={tmp_path}", "--"]
    done = subprocess.run([*command, sys.executable, "-c", code, "a b"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and list(tmp_path.iterdir()) == []
    lines = "\n".join(line.removeprefix("$ ") for line in done.stdout.splitlines())
    ran = subprocess.run(["sh"], input=lines, capture_output=True, text=True)
    assert ran.stdout == "0 2 ['a b']\n" and (tmp_path / "process_1.log").read_text() == "1 2 ['a b']\n"
    done = subprocess.run([*command, "--config=simclr:digits"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.count("-m hcl_jax.main --config=simclr:digits") == 2  # arguments alone are those of hcl_jax.main


@pytest.mark.parametrize("flags", [["--processes=0"], ["--devices=0"], ["--grace=-1"], ["--grace=nan"]])
def test_a_bad_flag_is_refused(flags):
    command = [sys.executable, "-m", "launch.local", *flags, "--", sys.executable, "-c", ""]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "--grace >= 0 are needed" in done.stderr


JOINED = """
import json, os, pathlib, sys, time
from hcl_jax.runtime import distributed
distributed.prepare()
distributed.join(100)
import jax
folder, me = pathlib.Path(sys.argv[1]), jax.process_index()
inodes = set()
for fd in pathlib.Path("/proc/self/fd").iterdir():
    try:
        name = os.readlink(fd)
    except OSError:
        continue
    if name.startswith("socket:["): inodes.add(name[8:-1])
listens = []
for table in ("tcp", "tcp6"):
    for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
        parts = line.split()
        if parts[3] == "0A" and parts[9] in inodes:
            address, port = parts[1].split(":")
            listens.append([table, address, int(port, 16)])
said = {"coordinator": os.environ["JAX_COORDINATOR_ADDRESS"], "listens": listens,
        "devices": [jax.process_count(), jax.local_device_count(), jax.device_count()]}
(folder / f"{me}.json").write_text(json.dumps(said))
from jax.experimental import multihost_utils
multihost_utils.sync_global_devices("done")
"""


@pytest.mark.slow(one=True)
@pytest.mark.skipif(not pathlib.Path("/proc/net/tcp").exists(), reason="needs Linux's list of sockets")
def test_the_coordinator_listens_on_the_loopback_address_only(tmp_path):
    """R36, and --devices: 2 processes x 3 devices."""
    command = [sys.executable, "-m", "launch.local", "--processes=2", "--devices=3", "--"]
    command += [sys.executable, "-c", JOINED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{i}.json").read_text()) for i in (0, 1))
    assert first["devices"] == second["devices"] == [2, 3, 6]
    host, _, port = first["coordinator"].partition(":")
    assert host == "127.0.0.1"
    # Addresses stand in the byte order of the machine; a loopback address in tcp6 would be mapped: ::ffff:127.0.0.1.
    loopback = int.from_bytes(bytes([127, 0, 0, 1]), sys.byteorder)
    at = [(table, address) for table, address, number in first["listens"] if number == int(port)]
    assert at and all(address[-8:] == f"{loopback:08X}" for _, address in at), first["listens"]
    assert all(number != int(port) for _, _, number in second["listens"])
