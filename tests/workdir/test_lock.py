"""One run a folder: who is refused, what is taken over, and what a release leaves (R37; no clock is compared, R38)."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from hcl_jax.errors import InputError
from hcl_jax.workdir.lock import Lock

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOLDER = """
import sys, time
from hcl_jax.workdir.lock import Lock
with Lock(sys.argv[1]) as lock:
    print("held", lock.message, flush=True)
    time.sleep(60)
"""
HERE = socket.gethostname()
OTHER = {"pid": 7, "host": "another-host", "started": "2026-01-01T00:00:00+00:00", "beat": 3}


def held(folder) -> subprocess.Popen:
    """A process that has the lock of a folder."""
    child = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline().startswith("held")
    return child


def leave(folder, holder) -> None:
    (folder / "lock").write_text(holder if isinstance(holder, str) else json.dumps(holder))


@pytest.fixture
def no_flock(monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_second_run_is_refused_and_a_killed_one_is_taken_over(tmp_path):
    child = held(tmp_path)
    try:
        before = (tmp_path / "lock").read_bytes()
        since = json.loads(before)["started"][:16].replace("T", " ")
        with pytest.raises(InputError) as error, Lock(tmp_path):
            pass
        assert str(error.value) == (
            f"--workdir={tmp_path}: found in use by process {child.pid} on host {HERE} since {since} UTC; "
            "allowed: another folder, or wait until that run has ended"
        )
        assert (tmp_path / "lock").read_bytes() == before
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    with Lock(tmp_path) as lock:
        assert lock.message == f"took over the lock of process {child.pid} on host {HERE}, which is gone"
        content = json.loads((tmp_path / "lock").read_text())
        assert (content["pid"], content["host"]) == (os.getpid(), HERE)


def test_a_suspended_owner_keeps_its_folder_and_a_copy_of_it_is_free(tmp_path):
    """Ctrl-Z stops the heartbeat, not the kernel's lock; the copy of a lock file is locked by nobody."""
    child = held(tmp_path / "run")
    try:
        child.send_signal(signal.SIGSTOP)
        with pytest.raises(InputError, match=f"in use by process {child.pid}"), Lock(tmp_path / "run", heartbeat=0.01):
            pass
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        began = time.monotonic()
        with Lock(tmp_path / "copy") as lock:
            assert lock.message.endswith("which is gone") and time.monotonic() - began < 5
    finally:
        child.kill()
        child.communicate()


def test_a_run_of_the_version_before_is_refused_and_its_lock_taken_over(tmp_path):
    """That version held flock on the same file, with the same words in it."""
    leave(tmp_path, OTHER | {"host": HERE})
    with (tmp_path / "lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with (
            pytest.raises(InputError, match="in use by process 7 on host .* since 2026-01-01 00:00 UTC"),
            Lock(tmp_path),
        ):
            pass
    with Lock(tmp_path) as lock:
        assert lock.message == f"took over the lock of process 7 on host {HERE}, which is gone"


def test_no_two_own_a_folder_at_once(tmp_path):
    """Also while a file is removed by the one that ends and opened by those that come."""
    inside, most, owned = [], [], []

    def compete():
        until = time.monotonic() + 60
        while len(owned) < 60 and time.monotonic() < until:
            with contextlib.suppress(InputError), Lock(tmp_path):
                inside.append(1)
                most.append(len(inside))
                owned.append(1)
                inside.pop()

    threads = [threading.Thread(target=compete) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(owned) >= 60 and max(most) == 1


def test_a_lock_comes_and_goes_with_its_run(tmp_path):
    folder = tmp_path / "a" / "b"
    with Lock(folder) as lock:
        assert lock.message == "" and os.listdir(folder) == ["lock"]
        with pytest.raises(InputError, match=f"process {os.getpid()} on host"), Lock(folder):
            pass
    assert os.listdir(tmp_path) == []  # the folders that it made were left empty
    with Lock(folder):
        (folder / "config.json").touch()
    assert os.listdir(folder) == ["config.json"]
    with pytest.raises(RuntimeError), Lock(folder):
        raise RuntimeError
    with Lock(folder) as again:
        assert again.message == ""


@pytest.mark.parametrize("text", ["{", "[1]", '{"pid": 1}', "\0\xff", "null"])
def test_a_damaged_lock_is_stale(tmp_path, text):
    leave(tmp_path, text)
    with Lock(tmp_path) as lock:
        assert lock.message == "took over a damaged lock"


def test_an_empty_lock_is_nobodys(tmp_path):
    leave(tmp_path, "")
    with Lock(tmp_path) as lock:
        assert lock.message == ""


def test_a_holder_on_another_host_that_does_not_move_is_taken_over(tmp_path, caplog):
    leave(tmp_path, OTHER)
    with caplog.at_level(logging.INFO, "hcl_jax.workdir.lock"), Lock(tmp_path, heartbeat=0.1) as lock:
        assert lock.message == "took over the lock of process 7 on host another-host, which is gone"
    assert "process 7 on host another-host may be alive; watching" in caplog.text


def moving(folder, change):
    """Calls `change` on the lock file until it says False, as a holder on another host does."""

    def move():
        count = 0
        while not ended.wait(0.05) and change(folder / "lock", count := count + 1) is not False:
            pass

    ended = threading.Event()
    thread = threading.Thread(target=move)
    thread.start()
    return ended, thread


@pytest.mark.parametrize("flock", [True, False])
def test_a_holder_on_another_host_that_moves_is_left_alone(tmp_path, request, flock):
    if not flock:
        request.getfixturevalue("no_flock")
    leave(tmp_path, OTHER)
    ended, thread = moving(tmp_path, lambda path, count: path.write_text(json.dumps(OTHER | {"beat": count})))
    with pytest.raises(InputError, match="in use by"), Lock(tmp_path, heartbeat=1.0, lease=20):
        pass
    ended.set()
    thread.join()
    assert json.loads((tmp_path / "lock").read_text())["pid"] == 7


def test_a_holder_on_another_host_that_ends_leaves_the_folder_free(tmp_path):
    leave(tmp_path, OTHER)
    ended, thread = moving(tmp_path, lambda path, count: path.unlink() or False)
    with Lock(tmp_path, heartbeat=1.0, lease=20) as lock:
        assert lock.message == ""
    thread.join()


def test_without_flock_the_counter_decides(tmp_path, no_flock):
    with Lock(tmp_path, heartbeat=0.05):
        with pytest.raises(InputError, match=f"process {os.getpid()} on host"), Lock(tmp_path, heartbeat=1.0, lease=20):
            pass
    assert not (tmp_path / "lock").exists()
    leave(tmp_path, OTHER | {"host": HERE})  # nor can the kernel say whether a process of this machine has it
    with Lock(tmp_path, heartbeat=0.1) as lock:
        assert "which is gone" in lock.message


def test_the_counter_grows(tmp_path):
    with Lock(tmp_path, heartbeat=0.02):
        counts = set()
        until = time.monotonic() + 60
        while len(counts) < 3 and time.monotonic() < until:
            counts.add(json.loads((tmp_path / "lock").read_text())["beat"])
    assert len(counts) == 3


def test_one_whose_folder_was_taken_says_so_and_leaves_the_file(tmp_path, capfd):
    with Lock(tmp_path, heartbeat=0.05) as lock:
        assert lock.lost == ""
        leave(tmp_path, OTHER)
        lock._thread.join(60)
        assert lock.lost == "process 7 on host another-host"
    assert json.loads((tmp_path / "lock").read_text()) == OTHER
    assert "now belongs to process 7 on host another-host" in capfd.readouterr().err


def test_a_clock_that_goes_backwards_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)
    leave(tmp_path, OTHER | {"host": HERE, "started": "2999-01-01T00:00:00+00:00"})
    with Lock(tmp_path) as lock:
        assert lock.message.endswith("which is gone")


def test_a_file_removed_while_it_is_locked_is_no_lock(tmp_path, monkeypatch):
    """Between its opening and its flock another run may have ended and removed it."""
    leave(tmp_path, OTHER | {"host": HERE})
    flock, calls = fcntl.flock, []

    def late(file, operation):
        if not calls:
            (tmp_path / "lock").unlink()
        calls.append(file)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with Lock(tmp_path) as lock:
        assert len(calls) == 2 and lock.message == ""
        with pytest.raises(InputError, match="in use"), Lock(tmp_path):
            pass


def test_a_folder_that_cannot_be_had_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "w"):
        with pytest.raises(InputError, match="a folder that this user may write") as error, Lock(folder):
            pass
        assert error.value.where == f"--workdir={folder}" and "\n" not in str(error.value)
