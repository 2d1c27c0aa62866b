"""What runs on each worker of a TPU VM: installs the commit, and keeps a run going when the connection is lost.

  python3 hcl_jax/COMMIT/launch/worker.py install PYTHON EXTRAS
  python3 hcl_jax/COMMIT/launch/worker.py start RUN ARGUMENTS OF hcl_jax.main
  python3 hcl_jax/COMMIT/launch/worker.py follow | wait RUN SECONDS | stop RUN SECONDS

gcloud runs a command again when ssh loses its connection, so each of these may be repeated: a run that was started is
not started twice. It lives in a session of its own under ~/hcl_jax/runs/RUN: `log`, `pid` of the one that watches it,
and at last `status`. Standard library and Python 3.8 only: the images have no newer one, and the run has its own.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

TREE = pathlib.Path(__file__).resolve().parents[1]  # ~/hcl_jax/COMMIT
RUNS = TREE.parent / "runs"
LOCK = "/tmp/libtpu_lockfile"  # left by a process that was killed; libtpu then takes the TPU for busy
LOST = 137  # the status of a run whose watcher is gone: a machine that started again, or want of memory


def install(python: str, extras: str) -> int:
    """Makes an environment in the tree with the releases of constraints.txt; nothing when that was done."""
    stamp, wanted = TREE / ".installed", f"{python} {extras}\n"
    if stamp.exists() and stamp.read_text() == wanted:
        return 0
    shutil.rmtree(str(TREE / "venv"), ignore_errors=True)
    named = f"python{python}"
    has_venv = [named, "-c", "import ensurepip, venv"]
    if shutil.which(named) and subprocess.call(has_venv, stderr=subprocess.DEVNULL) == 0:
        subprocess.check_call([named, "-m", "venv", str(TREE / "venv")])
    else:  # Ubuntu 22.04 has 3.10, which JAX no longer takes: uv brings another
        tool = [sys.executable, "-m", "pip", "install", "--user", "--quiet", "uv"]
        subprocess.check_call(tool, env=dict(os.environ, PIP_BREAK_SYSTEM_PACKAGES="1"))
        subprocess.check_call([sys.executable, "-m", "uv", "venv", "--seed", "--python", python, str(TREE / "venv")])
    pip = [str(TREE / "venv/bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.check_call(pip + ["--constraint", "constraints.txt", "--editable", f".[{extras}]"], cwd=str(TREE))
    write(stamp, wanted)
    return 0


def start(run: str, arguments: list[str]) -> int:
    """Starts the run in a session of its own; nothing when it was started before."""
    folder = RUNS / run
    others = [other.name for other in RUNS.glob("*") if other.name != run and state(other)[0] == "running"]
    if others:
        print(f"a run is under way here: {others[0]}; stop it first: worker.py stop {others[0]} 300", file=sys.stderr)
        return 3
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return 0
    if os.path.exists(LOCK):
        try:
            os.remove(LOCK)
        except OSError:  # of another user
            subprocess.call(["sudo", "-n", "rm", "-f", LOCK])
    with (folder / "log").open("ab") as log:
        watcher = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__).resolve()), "watch", run] + arguments,
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    write(folder / "pid", str(watcher.pid))
    return 0


def watch(run: str, arguments: list[str]) -> int:
    """Runs hcl_jax.main, passes SIGTERM on, and writes down the status."""
    child: subprocess.Popen | None = None
    asked: list[int] = []

    def pass_on(number: int, _: object) -> None:
        asked.append(number)
        if child is not None and child.poll() is None:
            child.terminate()

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Without a platform JAX goes on with the CPU when it cannot have the TPU. 75: hcl_jax/runtime/preemption.py.
    environment = dict(os.environ, HCL_JAX_COMMIT=TREE.name, HCL_JAX_STOPPED="75", JAX_PLATFORMS="tpu,cpu")
    environment["PYTHONUNBUFFERED"] = "1"
    command = [str(TREE / "venv/bin/python"), "-m", "hcl_jax.main"] + arguments
    child = subprocess.Popen(command, cwd=str(TREE), env=environment)
    if asked:  # while it was started
        child.terminate()
    status = child.wait()
    write(RUNS / run / "status", str(128 - status if status < 0 else status))
    return 0


def state(folder: pathlib.Path) -> tuple[str, int]:
    """("running" | "ended" | "absent", status)."""
    if (folder / "status").exists():
        return "ended", int((folder / "status").read_text())
    try:
        pid = int((folder / "pid").read_text())
    except (OSError, ValueError):
        # Between mkdir and pid there is an instant; a folder without pid for longer was cut short.
        young = folder.exists() and time.time() - folder.stat().st_mtime < 10
        return ("running", 0) if young else ("ended", LOST) if folder.exists() else ("absent", 0)
    if alive(pid):
        return "running", 0
    if (folder / "status").exists():  # written since
        return "ended", int((folder / "status").read_text())
    return "ended", LOST


def alive(pid: int) -> bool:
    """Whether a watcher has this number: another process may have it after a machine has started again."""
    try:
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"worker.py\0watch" in command


def follow(run: str) -> int:
    """Prints the log from its beginning until the run has ended, each line behind the name of this worker.

    In pieces of whole lines with a breath between: all workers write to one place at the other end, and what sshd
    takes at once stays together there.
    """
    folder, name = RUNS / run, host().encode()
    while state(folder)[0] == "running" and not (folder / "log").exists():
        time.sleep(0.2)
    if not (folder / "log").exists():
        print(f"no such run here: {run}")
        return 1
    tell(b"[%s] hcl_jax-follow\n" % name)  # launch/logs.py
    with (folder / "log").open("rb") as log:
        rest, ended = b"", False
        while True:
            data = log.read(4096)
            if data:
                *lines, rest = (rest + data).split(b"\n")
                tell(b"".join(b"[%s] %s\n" % (name, line) for line in lines))
            elif ended:
                tell(b"[%s] %s\n" % (name, rest) if rest else b"")
                return 0
            else:
                ended = state(folder)[0] != "running"  # then read once more
                time.sleep(0 if ended else 0.5)


def tell(data: bytes) -> None:
    """Writes at once."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    time.sleep(0.01)


def host() -> str:
    """The name of this worker; that of the first ends with -w-0."""
    return os.environ.get("HCL_JAX_WORKER") or socket.gethostname()


def wait(run: str, seconds: float, end: bool = False) -> int:
    """Waits for the end of the run and says in one line how it stands; with `end`, ends it."""
    folder, until = RUNS / run, time.time() + seconds
    if end and state(folder)[0] == "running":
        kill(folder, signal.SIGTERM)
    while state(folder)[0] == "running" and time.time() < until:
        time.sleep(0.2)
    if end and state(folder)[0] == "running":
        kill(folder, signal.SIGKILL)
        write(folder / "status", str(LOST))
    stands, status = state(folder)
    print(f"hcl_jax-run {host()} {run} {stands} {status}", flush=True)
    return 0


def kill(folder: pathlib.Path, number: int) -> None:
    """SIGTERM to the watcher, which passes it on; SIGKILL to all of its session."""
    try:
        pid = int((folder / "pid").read_text())
        os.kill(pid, number) if number == signal.SIGTERM else os.killpg(pid, number)
    except (OSError, ValueError):
        pass


def write(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    # Not hcl_jax.disk.whole: the Python of the image may be 3.8, and has none of the package's requirements.
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")  # two may write at once
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(str(part), str(path))


def main(arguments: list[str]) -> int:
    """Runs one of the commands of the header."""
    name, rest = arguments[0], arguments[1:]
    if name in ("start", "watch", "follow", "wait", "stop") and not re.match(r"[\w-]+$", rest[0]):
        raise SystemExit(f"worker.py: {rest[0]!r} is no run")
    if name == "install":
        return install(*rest)
    if name == "start":
        return start(rest[0], rest[1:])
    if name == "watch":
        return watch(rest[0], rest[1:])
    if name == "follow":
        return follow(rest[0])
    if name in ("wait", "stop"):
        return wait(rest[0], float(rest[1]), end=name == "stop")
    raise SystemExit(f"worker.py: {name!r} is no command")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
