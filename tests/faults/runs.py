"""Runs of the command line that a test starts, watches, kills and compares."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

from heard import HEARD

from benchmarks.digest import digest as saved_digest
from hcl_jax.workdir import manifest
from launch.local import environments, free_port

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLAGS = (
    "--config=simclr:digits",
    "--config.data.num_examples=96",
    "--config.data.batch_size=16",
    "--config.mesh.data=8",
    "--config.towers.image.encoder.widths=(8,16)",
    "--config.towers.image.heads.z.hidden=16",
    "--config.log.every=1",
    "--config.log.tensorboard=false",
    "--config.optimizer.warmup_epochs=0",
    "--config.evaluate.per_class=()",
    "--config.evaluate.linear=false",
    "--config.evaluate.baselines=false",
)
QUIET = ("--config.evaluate.views={}",)  # nothing is evaluated
# Arrangements, with a length that leaves time to be killed: Gloo's steps take a hundred times as long.
ONE, ONE_FLAGS = {"processes": 1, "devices": 8}, (*QUIET, "--config.train.steps=400", "--config.checkpoint.every=20")
TWO, TWO_FLAGS = {"processes": 2, "devices": 4}, (*QUIET, "--config.train.steps=40", "--config.checkpoint.every=5")
TIMES = ("examples_per_second", "input_wait_fraction", "minutes")  # the numbers of a step that depend on the machine
PATIENCE = 300.0  # seconds; nothing here takes so long unless it is stuck

_started: list[subprocess.Popen] = []


class Started:
    """Processes of one run; what each says is in its file."""

    def __init__(self, folder: pathlib.Path, processes: list[subprocess.Popen], outputs: list[pathlib.Path]):
        self.folder, self.processes, self.outputs = folder, processes, outputs

    def said(self, i: int = 0) -> str:
        return self.outputs[i].read_text(errors="replace")

    def step(self) -> int:
        """The last step of which the first process has spoken."""
        return max((int(n) for n in re.findall(r"^step (\d+)/", self.said(), re.MULTILINE)), default=0)

    def signal(self, number: int, *which: int) -> None:
        """Sends a signal to the processes `which`, to all of them if there is none."""
        for i in which or range(len(self.processes)):
            self.processes[i].send_signal(number)

    def wait_for(self, there, seconds: float = PATIENCE) -> float:
        """Waits until `there()` is true; the seconds it took. Fails when a process ends before."""
        began = time.monotonic()
        while not there():
            assert not any(p.poll() is not None for p in self.processes), self.everything()
            assert time.monotonic() - began < seconds, f"waited {seconds} s; {self.everything()}"
            time.sleep(0.002)
        return time.monotonic() - began

    def wait_for_step(self, step: int) -> float:
        return self.wait_for(lambda: self.step() >= step)

    def end(self, seconds: float = PATIENCE) -> list[int]:
        """The statuses, when all have ended."""
        until = time.monotonic() + seconds
        for p in self.processes:
            try:
                p.wait(max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"not ended after {seconds} s; {self.everything()}") from None
        return [p.returncode for p in self.processes]

    def kill(self, *which: int) -> None:
        """kill -9 to the processes `which`, to all of them if there is none; waits for these."""
        self.signal(signal.SIGKILL, *which)
        for i in which or range(len(self.processes)):
            self.processes[i].wait()

    def everything(self) -> str:
        states = [p.poll() for p in self.processes]
        return f"statuses {states}\n" + "\n".join(f"process {i}: {self.said(i)[-4000:]}" for i in range(len(states)))


def start(folder, *flags, processes=1, devices=8, cache=None, before="", own=None, command=None) -> Started:
    """Starts the processes of a run in `folder`.

    Args:
      folder: the workdir.
      flags: beside FLAGS; later ones win.
      processes, devices: so many, with so many virtual devices each.
      cache: a folder of compiled programs, which halves the time of a start; None compiles.
      before: Python that each process runs before main().
      own: {process: {"flags": ..., "environment": ..., "cwd": ..., "before": ...}} of single processes.
      command: what stands before the interpreter, a launcher; the processes are its affair then.
    """
    left_out = ("XLA_FLAGS", "PYTEST_CURRENT_TEST", "JAX_COMPILATION_CACHE_DIR")
    environment = {k: v for k, v in os.environ.items() if k not in left_out}
    environment |= {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
    if cache is not None:
        every = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
        environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache), **every}
    if command is not None:
        variables = [{}]
    elif processes == 1:
        variables = [{"JAX_NUM_CPU_DEVICES": str(devices)}]
    else:
        variables = environments(processes, free_port(), devices)
    outputs, children = [], []
    for i, mine in enumerate(variables):
        apart = (own or {}).get(i, {})
        code = apart.get("before", before)
        call = [*HEARD, *(command or []), sys.executable]
        call += ["-c", f"{code}\nimport sys; from hcl_jax.main import main; sys.exit(main())"] if code else MAIN
        call += [*FLAGS, *flags, *apart.get("flags", ()), f"--workdir={folder}"]
        n = sum(1 for _ in pathlib.Path(folder).parent.glob(f"{pathlib.Path(folder).name}.said.*"))
        output = pathlib.Path(f"{folder}.said.{n}")
        with output.open("wb") as file:
            child = subprocess.Popen(
                call,
                cwd=apart.get("cwd", ROOT),
                env=environment | mine | apart.get("environment", {}),
                stdout=file,
                stderr=file,
            )
        outputs.append(output)
        children.append(child)
        _started.append(child)
    return Started(pathlib.Path(folder), children, outputs)


MAIN = ["-m", "hcl_jax.main"]


def finish(folder, *flags, **how) -> Started:
    """A run to its end, which must be a good one."""
    run = start(folder, *flags, **how)
    assert set(run.end()) == {0}, run.everything()
    return run


def kill_left() -> None:
    """Ends what a test that failed has left running."""
    while _started:
        child = _started.pop()
        if child.poll() is None:
            child.kill()
            child.wait()


def lines(folder) -> list[dict]:
    """metrics.jsonl without the numbers that depend on the machine."""
    read = [json.loads(line) for line in (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read]


def saved(folder) -> list[int]:
    """The steps in checkpoints/ with a true seal. The newest must be; an older one a kill may have half removed."""
    steps = sorted(int(p.name) for p in (pathlib.Path(folder) / "checkpoints").glob("*") if p.name.isdecimal())
    whole = [s for s in steps if manifest.verify(pathlib.Path(folder) / "checkpoints" / str(s)) is None]
    assert whole[-1:] == steps[-1:], f"step {steps[-1]} stands there and is not whole"
    return whole


def unfinished(folder) -> list[str]:
    """What else stands in checkpoints/."""
    return sorted(p.name for p in (pathlib.Path(folder) / "checkpoints").glob("*") if not p.name.isdecimal())


def digest(folder, step=None) -> tuple[int, str]:
    """A saved step, the last by default, which must be whole, and its digest."""
    return saved_digest(folder, saved(folder)[-1] if step is None else step)


def same(folder, whole) -> None:
    """The last state to the last bit, every line of metrics.jsonl, and nothing left over."""
    assert digest(folder) == digest(whole)
    assert lines(folder) == lines(whole)
    assert unfinished(folder) == []


def evaluated(folder) -> list[int]:
    """The steps whose lines have numbers of an evaluation."""
    return [line["step"] for line in lines(folder) if any(k.startswith("eval/") for k in line)]
