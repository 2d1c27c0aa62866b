"""A long run that is killed at random every few minutes and started again: is it the same as an undisturbed run?

  python benchmarks/soak.py --workdir=runs/soak                                   an hour of Fashion-MNIST, twice
  python benchmarks/soak.py --workdir=DIR --minutes=4 --every=40 --config.data.batch_size=128
  python benchmarks/soak.py --workdir=DIR --config=simclr:cifar10 --config.data.name=folder --config.data.dir=CIFAR
  python benchmarks/soak.py --workdir=DIR --processes=2 --devices=4 ...           one process of them is killed

First a short run says how many steps --minutes hold (--steps says it outright). Then that many steps in DIR/quiet, and
the same in DIR/killed under launch.restart, with a kill -9 every --every seconds on average, one in four a SIGTERM
instead, at times from --seed. Last every line of both metrics.jsonl and a digest of both last states are compared:
status 0 where all are equal to the last bit.

The same command goes on where it was stopped; what happened stands in DIR/events.jsonl.
"""

import argparse
import json
import os
import pathlib
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from typing import Any, NamedTuple

from digest import digest

from hcl_jax.workdir.history import last_step

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIELDS = (  # before the command line's own, which win
    "--config.log.every=1",
    "--config.log.tensorboard=false",
    "--config.evaluate.views={}",
    "--config.checkpoint.every=50",
    "--config.checkpoint.keep=2",
)
TIMES = ("examples_per_second", "input_wait_fraction", "minutes")  # of a line, the machine's
PROBE = 30  # steps
POLL = 0.05
KILLS = ("SIGKILL", "SIGTERM")
TERMS = 0.25  # share of SIGTERMs
STARTS = 0.25  # of the kills that fall before a new step, those that are made
BEGAN = time.monotonic()
started: list[subprocess.Popen] = []


def say(text: str) -> None:
    """A plain line with the minutes since the start."""
    print(f"[{(time.monotonic() - BEGAN) / 60:6.1f} min] {text}", flush=True)


def lines(folder: pathlib.Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the machine has to do with."""
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read]


def descendants(pid: int) -> list[int]:
    """Processes below a process, by /proc."""
    try:
        children = [int(n) for n in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return [p for child in children for p in (child, *descendants(child))]


def training(pid: int) -> list[int]:
    """Those of the processes below one that train."""
    found = []
    for process in descendants(pid):
        try:
            words = pathlib.Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words[1:3] == [b"-m", b"hcl_jax.main"]:
            found.append(process)
    return found


class Soak(NamedTuple):
    """What is run, and where."""

    folder: pathlib.Path
    flags: tuple[str, ...]
    processes: int
    devices: int

    def command(self, name: str, *more: str) -> list[str]:
        """The command of a run in `name`."""
        call = [sys.executable, "-m", "hcl_jax.main", *FIELDS, *self.flags, *more, f"--workdir={self.folder / name}"]
        if self.processes == 1:
            return call
        launch = [f"--processes={self.processes}", f"--devices={self.devices}"]
        return [sys.executable, "-m", "launch.local", *launch, "--", *call]

    def environment(self) -> dict[str, str]:
        """Of a run: the same number of devices however it is started."""
        alone = {"JAX_NUM_CPU_DEVICES": str(self.devices)} if self.processes == 1 and self.devices > 1 else {}
        return os.environ | {"PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "3"} | alone

    def start(self, name: str, command: list[str]) -> subprocess.Popen:
        """A process whose words go to DIR/NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            started.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=self.environment()))
        return started[-1]

    def events(self) -> list[dict[str, Any]]:
        """What has happened so far."""
        path = self.folder / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def note(self, **event: Any) -> None:
        """Adds an event."""
        with (self.folder / "events.jsonl").open("a") as file:
            file.write(json.dumps(event) + "\n")


def steps_of(soak: Soak, minutes: float) -> int:
    """How many steps fit into a number of minutes, by the last of a short run."""
    soak.start("probe", soak.command("probe", f"--config.train.steps={PROBE}")).wait()
    read = [json.loads(line) for line in (soak.folder / "probe" / "metrics.jsonl").read_text().splitlines()]
    took = 60 * (read[-1]["minutes"] - read[PROBE // 3]["minutes"]) / (PROBE - 1 - PROBE // 3)
    say(f"a step takes {1e3 * took:.0f} ms")
    return max(round(60 * minutes / took), 100)


def ended(folder: pathlib.Path, steps: int) -> bool:
    """Whether a run's last step is logged and saved."""
    return last_step(folder / "metrics.jsonl") == steps and (folder / "checkpoints" / str(steps)).is_dir()


def quiet(soak: Soak, steps: int) -> None:
    """The undisturbed run, or what is left of it."""
    if ended(soak.folder / "quiet", steps):
        return
    say(f"quiet run, {steps} steps")
    status = soak.start("quiet", soak.command("quiet", f"--config.train.steps={steps}")).wait()
    if status:
        raise SystemExit(f"the quiet run ended with status {status}: {soak.folder / 'quiet.log'}")


def killed(soak: Soak, steps: int, every: float, seed: int) -> None:
    """The same run with kills, until its last step is saved."""
    folder, log = soak.folder / "killed", soak.folder / "killed.log"
    command = [sys.executable, "-m", "launch.restart", "--most=20", "--wait=1", f"--workdir={folder}", "--"]
    command += soak.command("killed", f"--config.train.steps={steps}")
    say(f"the same run, killed every {every:g} seconds on average")
    run = soak.start("killed", command)
    waiting: dict[str, Any] | None = None  # the kill whose next new step is still to come
    kills = sum(e["what"] in KILLS for e in soak.events())
    while True:
        # Of each kill its own generator: a soak that was stopped goes on with the next one.
        chance = random.Random(f"{seed}/{kills}")
        at = time.monotonic() + every * chance.uniform(0.5, 1.5)
        number = signal.SIGTERM if chance.random() < TERMS else signal.SIGKILL
        while time.monotonic() < at:
            if run.poll() is not None:
                if run.returncode not in (0, 143):  # 143: told to end before it could hear
                    raise SystemExit(f"the killed run ended with status {run.returncode}: {log}")
                if ended(folder, steps):
                    say(f"step {steps}: the run has ended")
                    return
                run = soak.start("killed", command)  # anew after a SIGTERM, which ends launch.restart too
            waiting = waiting and still_waiting(soak, waiting)
            time.sleep(POLL)
        # A start is killed now and then; a run that is killed in each of its starts would never end.
        if (waiting and chance.random() >= STARTS) or last_step(folder / "metrics.jsonl") == steps:
            kills += 1
            continue
        now = {"when": time.monotonic(), "log": log.stat().st_size}
        if kill(run, chance, number):
            step = last_step(folder / "metrics.jsonl")
            soak.note(what=number.name, step=step)
            say(f"{number.name} after step {step} of {steps}")
            kills, waiting = kills + 1, {**(waiting or now), "step": max(step, waiting["step"] if waiting else 0)}


def kill(run: subprocess.Popen, chance: random.Random, number: signal.Signals) -> bool:
    """Signals one of the processes that train and waits until all of them have ended; False if there is none."""
    which = training(run.pid)
    if not which:
        return False
    os.kill(chance.choice(which), number)
    while set(which) & set(training(run.pid)):  # a SIGTERM lets it take a step more, and save
        time.sleep(POLL)
    return True


def still_waiting(soak: Soak, waiting: dict[str, Any]) -> dict[str, Any] | None:
    """The same until there is a new step, of which it takes note."""
    step = last_step(soak.folder / "killed" / "metrics.jsonl")
    if step <= waiting["step"]:
        return waiting
    resumed = re.findall(rb"resumed at step (\d+) of", (soak.folder / "killed.log").read_bytes()[waiting["log"] :])
    at = int(resumed[-1]) if resumed else 0
    seconds = time.monotonic() - waiting["when"]
    soak.note(what="new step", seconds=seconds, step=waiting["step"], resumed=at)
    say(f"step {step} is new, {seconds:.1f} s after the kill; {waiting['step'] - at} steps made again")
    return None


def verdict(soak: Soak, steps: int) -> int:
    """Compares and tells; 0 when all is equal."""
    a, b = (lines(soak.folder / name) for name in ("quiet", "killed"))
    wrong = [x["step"] for x, y in zip(a, b, strict=False) if x != y]
    once = [line["step"] for line in b] == list(range(1, steps + 1)) == [line["step"] for line in a]
    digests = [digest(soak.folder / name) for name in ("quiet", "killed")]
    events = soak.events()
    kills, terms = (sum(e["what"] == name for e in events) for name in KILLS)
    new = [e for e in events if e["what"] == "new step"]
    again = (soak.folder / "killed.log").read_bytes().count(b"resumed at step")
    print(f"{steps} steps; {kills} SIGKILL, {terms} SIGTERM, {again} starts that went on")
    if new:
        lost, seconds = [e["step"] - e["resumed"] for e in new], [e["seconds"] for e in new]
        print(f"steps made again after a kill: median {statistics.median(lost):g}, most {max(lost)}")
        print(f"seconds from a kill to the next new step: median {statistics.median(seconds):.1f}, "
              f"least {min(seconds):.1f}, most {max(seconds):.1f}")  # fmt: skip
    print(f"metrics.jsonl: each step once and in order: {'yes' if once else 'NO'}; lines that differ: {len(wrong)}"
          + (f", the first at step {wrong[0]}" if wrong else ""))  # fmt: skip
    for name, (step, said) in zip(("quiet", "killed"), digests, strict=True):
        print(f"{name}: step {step}, sha256 of the state {said}")
    equal = once and not wrong and digests[0] == digests[1]
    print("equal to the last bit" if equal else "NOT EQUAL")
    return 0 if equal else 1


def main() -> int:
    """Runs what is left, and compares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--config", default="simclr:fashion_mnist")
    parser.add_argument("--minutes", type=float, default=60.0, help="of each of the two runs, about (60)")
    parser.add_argument("--steps", type=int, default=0, help="in place of --minutes")
    parser.add_argument("--every", type=float, default=180.0, help="seconds between two kills, on average (180)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--devices", type=int, default=1, help="virtual CPU devices of each process")
    known, rest = parser.parse_known_args()
    if any(not flag.startswith("--config.") for flag in rest):
        parser.error(f"unknown: {' '.join(rest)}")
    known.workdir.mkdir(parents=True, exist_ok=True)
    soak = Soak(known.workdir.absolute(), (f"--config={known.config}", *rest), known.processes, known.devices)
    plan = soak.folder / "steps.json"
    if not plan.exists():
        plan.write_text(json.dumps(known.steps or steps_of(soak, known.minutes)))
    steps = json.loads(plan.read_text())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        quiet(soak, steps)
        killed(soak, steps, known.every, known.seed)
    finally:
        for run in started:  # what still runs would hold the folder
            run.terminate()
            run.wait()
    return verdict(soak, steps)


if __name__ == "__main__":
    sys.exit(main())
