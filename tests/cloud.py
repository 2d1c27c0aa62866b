"""A clone of the launchers in a folder of its own, and stand-ins on PATH for gcloud, kubectl, docker and the workers.

The stand-in gcloud keeps a machine's state in a file, has a home for each worker, and runs there what ssh is asked to
run: the real launch/worker.py, out of the real tarball. Only Python's environment, pip and hcl_jax.main are played.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from heard import HEARD

ROOT = pathlib.Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests/golden/launch"

GCLOUD = """#!{python} -S
import json, os, pathlib, shutil, signal, subprocess, sys
root, words = pathlib.Path({root!r}), sys.argv[1:]
with (root / "calls.jsonl").open("a") as file:
    file.write(json.dumps(words) + "\\n")
words = [w for w in words if w != "alpha"]
group, verb, name = words[2], words[3], words[4]
flags = dict(w[2:].partition("=")[::2] for w in words[5:] if w.startswith("--"))
for path in sorted((root / "faults").glob("*")):  # each is used once: [verb, part of the call, status, words]
    want, part, status, said = json.loads(path.read_text())
    if want == verb and part in " ".join(words):
        path.unlink()
        if status is not None:
            sys.exit(print(said, file=sys.stderr) or status)
queued = group == "queued-resources"
state = root / ("request" if queued else "state")
def worker(i, command):
    home = root / "homes" / str(i)
    home.mkdir(parents=True, exist_ok=True)
    own = {{"HOME": str(home), "HCL_JAX_WORKER": f"t1v-n-w-{{i}}"}}
    return subprocess.Popen(["sh", "-c", command], cwd=home, env={{**os.environ, **own}})
if verb == "describe":
    if not state.exists():
        sys.exit(print("ERROR: (gcloud) NOT_FOUND: no such resource", file=sys.stderr) or 1)
    now, _, later = state.read_text().partition(",")
    now, _, why = now.partition("\\t")
    print(now, (root / "label").read_text(), *([why] if queued else []), sep="\\t")
    if later:
        state.write_text(later)
elif verb == "create":
    if state.exists():
        sys.exit(print("ERROR: (gcloud) ALREADY_EXISTS", file=sys.stderr) or 1)
    (root / "state").write_text((root / "created").read_text())
    (root / "label").write_text(flags["labels"].removeprefix("launch="))
    if queued:
        state.write_text((root / "requested").read_text())
elif verb == "delete":
    if not state.exists():
        sys.exit(print("ERROR: (gcloud) NOT_FOUND: no such resource", file=sys.stderr) or 1)
    for path in (root / "pids").glob("*"):
        try:
            os.kill(int(path.name), signal.SIGKILL)
        except ProcessLookupError:
            pass
        path.unlink()
    shutil.rmtree(root / "homes", ignore_errors=True)
    state.unlink()
    if queued:
        (root / "state").unlink()
elif verb in ("ssh", "scp"):
    if not state.exists() or state.read_text() != "READY":
        sys.exit(print("ERROR: (gcloud) ssh: connection refused", file=sys.stderr) or 255)
    workers = range(int((root / "workers").read_text()))
    if verb == "scp":
        for i in workers:
            worker(i, "true").wait()
            shutil.copy(name, root / "homes" / str(i))
        sys.exit()
    children = [worker(i, flags["command"]) for i in workers]
    def drop(*_):
        for child in children:
            child.kill()
        os._exit(143)
    signal.signal(signal.SIGTERM, drop)
    sys.exit(max(abs(child.wait()) for child in children))
"""

# `python3.11` of a worker: its venv is a folder with the same script, which plays pip and hcl_jax.main.
PYTHON = """#!{python} -S
import json, os, pathlib, shutil, signal, sys, time
root, words = pathlib.Path({root!r}), sys.argv[1:]
if words[:2] == ["-m", "venv"]:
    os.makedirs(words[2] + "/bin")
    shutil.copy(sys.argv[0], words[2] + "/bin/python")
elif words[:2] == ["-m", "pip"]:
    with (root / "pip.jsonl").open("a") as file:
        file.write(json.dumps(words[2:]) + "\\n")
elif words[:2] == ["-m", "hcl_jax.main"]:
    me = pathlib.Path(os.environ["HOME"]).name
    (root / "pids" / str(os.getpid())).touch()
    count = root / f"starts_{{me}}"
    n = int(count.read_text()) if count.exists() else 0
    count.write_text(str(n + 1))
    plays = json.loads((root / "plays").read_text())
    play = plays[min(n, len(plays) - 1)]
    seen = {{k: os.environ.get(k) for k in ("HCL_JAX_COMMIT", "HCL_JAX_STOPPED", "JAX_PLATFORMS")}}
    (root / f"seen_{{me}}_{{n}}").write_text(json.dumps([words[2:], os.getcwd(), seen]))
    def save(*_):
        (root / f"saved_{{me}}").touch()
        print("saved", flush=True)
        os._exit(75)
    signal.signal(signal.SIGTERM, save)
    print(f"start {{n}} of worker {{me}}", flush=True)
    if play == "preempt":
        (root / "state").write_text("PREEMPTED")
    if play in ("preempt", "wait"):
        (root / f"running_{{me}}").touch()
        time.sleep(60)
    if play == "slow":
        time.sleep(4)
    print(f"end {{n}} of worker {{me}}", flush=True)
    if play == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(play if isinstance(play, int) else 0)
"""


# The JobSet is a file with its final state and its restarts; `plays` says how each start of its pods ends.
KUBECTL = """#!{python} -S
import json, os, pathlib, signal, sys, time
root, words = pathlib.Path({root!r}), [w for w in sys.argv[1:] if not w.startswith(("--context", "--namespace"))]
with (root / "calls.jsonl").open("a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *words]) + "\\n")
there, (verb, kind) = root / "jobset", words[:2]
for path in sorted((root / "faults").glob("*")):
    want, part, status, said = json.loads(path.read_text())
    if want == verb:
        path.unlink()
        sys.exit(print(said, file=sys.stderr) or status)
state, restarts = there.read_text().split("/") if there.exists() else ("", "0")
pods = [f"hcl-jax-slice-0-{{i}}-{{restarts}}" for i in range(int((root / "workers").read_text()))]
if verb in ("create", "workload") and "delete" not in words:
    there.write_text("/0")
    (root / "uid").write_text(f"uid-{{time.time_ns()}}")
elif verb in ("delete", "workload"):
    there.unlink()
elif not there.exists():
    sys.exit(print("Error from server (NotFound): jobsets not found", file=sys.stderr) or 1)
elif verb == "patch":
    (root / "suspended").write_text(words[-1])
elif kind == "jobset":
    print(f"{{state}}/{{restarts}}/{{(root / 'uid').read_text()}}", end="")
elif kind == "pods":
    slow = root / "pending"
    phases = ["Pending" if slow.exists() else "Running"] * len(pods)
    slow.unlink(missing_ok=True)
    print("\\n".join(f"{{pod}} {{phase}}" for pod, phase in zip(pods, phases)))
elif verb == "logs":
    plays = json.loads((root / "plays").read_text())
    play = plays[min(int(restarts), len(plays) - 1)]
    for pod in reversed(pods):
        print(f"[pod/{{pod}}/hcl-jax] start {{restarts}}", flush=True)
    if play == "wait":
        (root / "running_0").touch()
        time.sleep(60)
    if play == "cut" and not (root / "was_cut").exists():
        sys.exit((root / "was_cut").touch())
    for pod in pods:
        print(f"[pod/{{pod}}/hcl-jax] end {{restarts}}", flush=True)
    ends = {{"kill": f"/{{int(restarts) + 1}}", "fail": f"Failed/{{restarts}}"}}
    there.write_text(ends.get(play, f"Completed/{{restarts}}"))
"""

DOCKER = """#!{python} -S
import json, pathlib, sys
root = pathlib.Path({root!r})
with (root / "calls.jsonl").open("a") as file:
    file.write(json.dumps(["docker", *sys.argv[1:]]) + "\\n")
if sys.argv[1] == "build":
    (root / "context").write_bytes(sys.stdin.buffer.read())
"""


class Cloud:
    """The folder of a test: a clone to launch from, the stand-ins, and what they were asked."""

    def __init__(self, folder: pathlib.Path, workers: int = 2):
        self.root, self.clone = folder, folder / "clone"
        self.launchers: list[subprocess.Popen] = []
        for name in ("bin", "faults", "pids", "homes"):
            (folder / name).mkdir()
        (folder / "workers").write_text(str(workers))
        (folder / "created").write_text("READY")
        for name in ("label", "uid"):
            (folder / name).write_text("of-somebody-else")
        (folder / "requested").write_text("WAITING_FOR_RESOURCES,ACTIVE")
        self.play("done")
        for name in ("launch", "hcl_jax", "configs"):
            (self.clone / name).mkdir(parents=True)
        for path in (ROOT / "launch").iterdir():
            if path.is_file():
                shutil.copy(path, self.clone / "launch")
        # All that the launchers may import of the package.
        for name in ("__init__", "errors", "compat/__init__", "compat/modules", "disk/__init__", "disk/whole",
                     "plan/__init__", "plan/slices",
                     "workdir/__init__", "workdir/files", "workdir/history"):  # fmt: skip
            file = self.clone / "hcl_jax" / f"{name}.py"
            file.parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / "hcl_jax" / f"{name}.py", file)
        shutil.copy(ROOT / "configs/simclr.py", self.clone / "configs")
        for name in ("constraints.txt", "setup.py", ".gitignore"):
            shutil.copy(ROOT / name, self.clone)
        self.git("init", "--quiet")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=all")
        self.commit = self.git("rev-parse", "HEAD")
        stand_ins = {"gcloud": GCLOUD, "python3.11": PYTHON, "kubectl": KUBECTL, "xpk": KUBECTL, "docker": DOCKER}
        for name, text in stand_ins.items():
            self.script(name, text.format(python=sys.executable, root=str(folder)))
        self.script("python3", f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
        self.environment = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}

    def script(self, name: str, text: str) -> None:
        """A command on PATH."""
        path = self.root / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def git(self, *words: str) -> str:
        """git in the clone."""
        settings = ("user.name=n", "user.email=e@x", "commit.gpgsign=false", "core.hooksPath=/dev/null")
        command = ["git", *(word for setting in settings for word in ("-c", setting)), *words]
        return subprocess.run(command, cwd=self.clone, check=True, capture_output=True, text=True).stdout.strip()

    def play(self, *plays: str | int) -> None:
        """What the run does at its first, second, ... start: "done", "wait", "preempt", "slow", "kill", or a status."""
        (self.root / "plays").write_text(json.dumps(plays))

    def fault(self, verb: str, status: int, said: str = "", part: str = "") -> None:
        """The next call of this verb that has `part` in it fails."""
        path = self.root / "faults" / f"{time.monotonic_ns()}"
        path.write_text(json.dumps([verb, part, status, said]))

    def start(self, where: str, *words: str) -> subprocess.Popen:
        """`python -m launch.WHERE` in the clone."""
        return self.start_under(HEARD, where, *words)

    def start_under(self, before: list[str], where: str, *words: str, **files) -> subprocess.Popen:
        """It, with a command before it: nohup."""
        files = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **files}
        command = [*before, sys.executable, "-m", f"launch.{where}", *words]
        self.launchers.append(subprocess.Popen(command, cwd=self.clone, env=self.environment, text=True, **files))
        return self.launchers[-1]

    def run(self, where: str, *words: str) -> subprocess.CompletedProcess:
        """It, to its end."""
        child = self.start(where, *words)
        out, err = child.communicate(timeout=60)
        return subprocess.CompletedProcess(words, child.returncode, out, err)

    def calls(self) -> list[list[str]]:
        """What gcloud was asked, in order."""
        path = self.root / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def verbs(self) -> list[str]:
        """The calls in a word each, `ssh` as what it runs, one after the other without repeats of describe."""
        found: list[str] = []
        for words in self.calls():
            words = [w for w in words if w != "alpha"]
            verb = words[3]
            text = next((w.partition("=")[2] for w in words if w.startswith("--command=")), "")
            match = re.search(r"worker\.py (\w+)", text)
            verb = (match[1] if match else text) if verb == "ssh" else verb
            if verb != "describe" or found[-1:] != ["describe"]:
                found.append(verb)
        return found

    def wait_for(self, *names: str) -> None:
        """Until files are there."""
        until = time.monotonic() + 60
        while not all((self.root / name).exists() for name in names):
            assert time.monotonic() < until, names
            time.sleep(0.05)

    def wait_for_call(self, verb: str) -> None:
        """Until gcloud is asked for it."""
        until = time.monotonic() + 60
        while verb not in self.verbs():
            assert time.monotonic() < until, verb
            time.sleep(0.05)

    def cut(self, launcher: subprocess.Popen) -> None:
        """Ends gcloud, as when the network is away."""
        children = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        assert children
        for pid in children:
            os.kill(int(pid), signal.SIGTERM)

    def close(self) -> None:
        """Ends what still runs, of a test that failed too."""
        for launcher in self.launchers:
            if launcher.poll() is None:
                launcher.kill()
                launcher.communicate()
        for path in (self.root / "pids").glob("*"):
            try:
                os.kill(int(path.name), signal.SIGKILL)
            except ProcessLookupError:
                continue

    def plain(self, text: str) -> str:
        """A text without what differs from run to run."""
        text = text.replace(self.commit[:12] + ".", "COMMIT12.").replace(self.commit, "COMMIT")
        return text.replace(self.commit[:12], "COMMIT12").replace(str(self.clone), "CLONE")


def same_as_golden(name: str, text: str) -> None:
    """Compares with tests/golden/launch/NAME.txt; HCL_JAX_GOLDEN=write writes it."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("HCL_JAX_GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()
