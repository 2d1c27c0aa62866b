"""Which ends are followed by a restart, how often and how soon, and what becomes of signals (R8, its wrapper)."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from heard import HEARD

from launch.restart import latest_step, pause, workdir_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Each start appends a line to DIR/starts; what the n-th does is the n-th action, the last one for ever.
STUB = """
import json, os, pathlib, signal, sys, time
folder, *actions = sys.argv[1:]
folder = pathlib.Path(folder.removeprefix("--workdir="))
with (folder / "starts").open("a") as file: file.write(f"{os.getpid()}\\n")
n = len((folder / "starts").read_text().splitlines())
for action in actions[min(n, len(actions)) - 1].split(","):
    if action.startswith("step"):
        with (folder / "metrics.jsonl").open("a") as file: file.write(json.dumps({"step": int(action[4:])}) + "\\n")
    elif action.startswith("signal"):
        os.kill(os.getpid(), int(action[6:]))
    elif action == "save":
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0)); (folder / "ready").touch(); time.sleep(60)
    elif action == "wait":
        (folder / "ready").touch(); time.sleep(60)
    elif action == "orphan":
        if not os.fork(): time.sleep(600)
    else:
        os._exit(int(action))
"""


def start(folder, *actions, most=2, wait=0.01, flags=("{w}",), before=()):
    """The wrapper around the stub; {w} says where the stub takes its folder from."""
    own = [f"--workdir={folder}"] if "--workdir" in flags else []
    name = f"--workdir={folder}" if "{w}" in flags else str(folder)
    command = [*HEARD, *before, sys.executable, "-m", "launch.restart", f"--most={most}", f"--wait={wait}", *own, "--"]
    command += [sys.executable, "-c", STUB, name, *actions]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def ended(folder, *actions, **more) -> tuple[int, int, list[str]]:
    """Status, number of starts, lines of the wrapper."""
    wrapper = start(folder, *actions, **more)
    _, said = wrapper.communicate(timeout=60)
    return wrapper.returncode, starts(folder), [x for x in said.splitlines() if x.startswith("launch.restart: ")]


def starts(folder) -> int:
    return len((folder / "starts").read_text().splitlines())


def wait_for(path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.02)


@pytest.mark.parametrize("action", ["signal6", "signal9", "signal11", "signal14", "134", "137", "139", "142"])
def test_a_fault_from_outside_is_followed_by_a_restart(tmp_path, action):
    status, count, said = ended(tmp_path, action, "0")
    number = int(action.removeprefix("signal"))
    assert (status, count, len(said)) == (0, 2, 1)
    assert f"status {number if number > 128 else 128 + number} (" in said[0] and "restart 1 of at most 2" in said[0]


@pytest.mark.parametrize("action", ["0", "1", "2", "130", "143", "signal15", "signal2", "3"])
def test_any_other_end_is_final(tmp_path, action):
    number = int(action.removeprefix("signal"))
    status = 128 + number if action.startswith("signal") else number
    assert ended(tmp_path, action, "0") == (status, 1, [])


def test_it_gives_up_after_so_many_in_a_row(tmp_path):
    status, count, said = ended(tmp_path, "signal9")
    assert (status, count) == (137, 3)
    assert ["restart 1" in said[0], "restart 2" in said[1], "gives up: status 137" in said[2]] == [True] * 3
    assert ended(tmp_path, "signal9", most=0)[:2] == (137, 4)


@pytest.mark.parametrize("flags", [("{w}",), ("--workdir",)])
def test_a_later_step_starts_the_count_anew(tmp_path, flags):
    faults = ["step1,signal9", "signal9", "step2,signal6", "signal9", "step3,137"]
    assert ended(tmp_path, *faults, "0", flags=flags)[:2] == (0, 6)


def test_the_same_step_again_is_no_progress(tmp_path):
    # A fault that comes back at step 5, after a start at the checkpoint of step 3.
    status, count, _ = ended(tmp_path, "step3,step4,step5,signal9", "step4,signal9", "step4,step5,signal9")
    assert (status, count) == (137, 3)  # the first start made progress, the two restarts after it none


def test_without_a_folder_a_short_life_is_no_progress(tmp_path):
    assert ended(tmp_path, "step1,signal9", "step2,signal9", "step3,signal9", "0", flags=())[:2] == (137, 3)


def test_sigterm_goes_on_and_ends_the_restarting(tmp_path):
    wrapper = start(tmp_path, "save")
    wait_for(tmp_path / "ready")
    wrapper.terminate()
    assert wrapper.wait(60) == 0 and starts(tmp_path) == 1
    wrapper.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_ends_the_command_is_its_status(tmp_path, number):
    wrapper = start(tmp_path, "wait")
    wait_for(tmp_path / "ready")
    wrapper.send_signal(number)
    # Python turns SIGINT into a KeyboardInterrupt, and then ends itself with that signal.
    assert wrapper.wait(60) == 128 + number and starts(tmp_path) == 1
    wrapper.stderr.close()


def test_a_command_that_dies_while_it_is_told_to_end_is_not_started_again(tmp_path):
    wrapper = start(tmp_path, "wait")
    wait_for(tmp_path / "ready")
    wrapper.send_signal(signal.SIGQUIT)  # as SIGKILL and SIGABRT would, at the end of a grace
    assert wrapper.wait(60) == 128 + signal.SIGQUIT and starts(tmp_path) == 1
    wrapper.stderr.close()


def test_a_signal_before_the_next_start_ends_it(tmp_path):
    wrapper = start(tmp_path, "signal9", wait=60)
    assert "in 60 seconds" in wrapper.stderr.readline()
    wrapper.terminate()
    assert wrapper.wait(60) == 143 and starts(tmp_path) == 1
    wrapper.stderr.close()


def test_an_ignored_hangup_stays_ignored(tmp_path):
    wrapper = start(tmp_path, "save", before=["nohup"])
    wait_for(tmp_path / "ready")
    wrapper.send_signal(signal.SIGHUP)
    wrapper.terminate()
    assert wrapper.wait(60) == 0 and starts(tmp_path) == 1
    wrapper.stderr.close()


def test_what_a_dead_command_left_running_is_killed(tmp_path):
    """The orphan holds standard error open: reading that to its end would take ten minutes, and one is the limit."""
    assert ended(tmp_path, "orphan,signal9", "0")[:2] == (0, 2)


def test_a_command_that_does_not_exist_is_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "launch.restart", "--", "no-such-command"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "no-such-command" in done.stderr and "Traceback" not in done.stderr


def test_the_pause_doubles_up_to_a_cap():
    assert [pause(10.0, n) for n in range(1, 8)] == [10, 20, 40, 80, 160, 300, 300]
    assert pause(10.0, 5000) == 300 and pause(0.0, 3) == 0 and pause(1000.0, 1) == 300


def test_the_latest_step_of_a_folder(tmp_path):
    assert latest_step(tmp_path / "missing") == -1
    (tmp_path / "metrics.jsonl").write_text("\n".join([json.dumps({"step": 4}), "[]", '{"loss": 1}', '{"step": 9']))
    assert latest_step(tmp_path) == 4
    for name in ("6", "12.orbax-checkpoint-tmp", "quarantine"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert latest_step(tmp_path) == 6
    line = json.dumps({"step": 1, "loss": 0.123}) + "\n"
    (tmp_path / "metrics.jsonl").write_text(line * 10_000 + json.dumps({"step": 70}) + "\n")
    assert latest_step(tmp_path) == 70


def test_the_folder_of_a_command():
    assert workdir_of(["python", "--workdir=a b", "--x"]) == pathlib.Path("a b")
    assert workdir_of(["python", "--workdir", "w"]) == pathlib.Path("w")
    assert workdir_of(["python", "--workdir"]) is None and workdir_of(["--workdirs=x"]) is None
    assert workdir_of(["--workdir=~/w"]) == pathlib.Path(os.path.expanduser("~/w"))


def test_a_group_is_started_again_as_a_whole(tmp_path):
    """A stub in launch.local whose second process is killed twice; the other has a Python error then."""
    text = """
import os, pathlib, signal, sys, time
me, folder = os.environ["JAX_PROCESS_ID"], pathlib.Path(sys.argv[1])
with (folder / f"starts_{me}").open("a") as file: file.write("x")
if len((folder / f"starts_{me}").read_text()) > 2: sys.exit(0)
if me == "1": os.kill(os.getpid(), signal.SIGKILL)
time.sleep(0.3)
sys.exit("Gloo: the connection was closed")
"""
    command = [sys.executable, "-m", "launch.restart", "--wait=0.01", "--", sys.executable, "-m", "launch.local", "--"]
    command += [sys.executable, "-c", text, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"status 137 \(killed", done.stderr)) == 2
    assert [(tmp_path / f"starts_{i}").read_text() for i in (0, 1)] == ["xxx"] * 2
