"""What it costs that nothing is lost: saves, seals, checks, guards, memory, and the time from a kill to the next step.

  python benchmarks/reliability.py                      every part, each in a process of its own
  python benchmarks/reliability.py --part=restart --rounds=5

Parts: `save` (a small state, simclr:digits), `large` (ResNet-50 with LARS momentum, a target and a weight average),
`guards`, `memory`, `restart`. Medians over rounds, with the smallest and the largest. "% of the steps" is the time over
that of checkpoint.every = 1000 steps, of the measured step of simclr:digits, or of a step of one second for the large
state. What goes on behind the steps (writing, sealing) is counted as if they waited for it.
"""

import argparse
import json
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from turns import MIB, resident

from hcl_jax.workdir.history import last_step

ROOT = pathlib.Path(__file__).resolve().parent.parent
INTERVAL = 1000  # checkpoint.every
RECIPE = "simclr:digits"


def row(name: str, values: list[float], unit: str, more: str = "") -> None:
    """One line of the table."""
    middle = f"{statistics.median(values):10.4g} {unit:5}"
    print(f"  {name:44}{middle} {min(values):9.4g} to {max(values):<9.4g} {more}".rstrip(), flush=True)


def machine() -> str:
    """Processor, cores, memory, releases."""
    model = platform.processor() or platform.machine()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        model = next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (OSError, StopIteration, ValueError):
        memory = ""
    import importlib.metadata as releases

    names = ", ".join(f"{n} {releases.version(n)}" for n in ("jax", "flax", "orbax-checkpoint", "tensorstore"))
    return f"{model}, {os.cpu_count()} cores{memory}; Python {platform.python_version()}, {names}"


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, what it gives)."""
    began = time.perf_counter()
    out = call()
    return time.perf_counter() - began, out


def small(devices: int) -> tuple[Any, Any, Any]:
    """(run, source, a batch) of the small recipe."""
    from hcl_jax import config as configs
    from hcl_jax import data
    from hcl_jax.parallel import mesh as meshes
    from hcl_jax.run import Parts, build, global_batches

    recipe = configs.load(RECIPE)
    recipe.mesh.data = devices
    config = configs.complete(recipe)
    source = data.open_source(config.data, config.data.train_split)
    run = build(config, Parts(), source, meshes.make_mesh(config.mesh))
    return run, source, next(global_batches(run, source, 0, 1))


def large(devices: int) -> tuple[Any, Any]:
    """(run, source) whose state is that of ResNet-50 four times."""
    from hcl_jax import config as configs
    from hcl_jax import data
    from hcl_jax.parallel import mesh as meshes
    from hcl_jax.run import Parts, build

    recipe = configs.load("simclr:imagenet")
    recipe.data.batch_size, recipe.train.steps, recipe.mesh.data = 2 * devices, 10, devices
    recipe.data.shape, recipe.optimizer.average = (64, 64, 3), 0.999
    recipe.views = {v: {"kind": "image", "field": "image", "ops": ({"op": "flip"},)} for v in "ab"}
    recipe.towers.image.target = {"momentum": 0.99, "heads": ("z",)}
    config = configs.complete(recipe)
    source = data.random_like(config.data, config.views)
    return build(config, Parts(), source, meshes.make_mesh(config.mesh)), source


def step_seconds(run: Any, batch: Any, steps: int = 30, rounds: int = 3) -> float:
    """Seconds of the compiled step, the median of some rounds."""
    import jax

    compiled, found = run.step().lower(run.abstract, run.abstract_batch).compile(), []
    for _ in range(rounds + 1):
        state = run.init()
        jax.block_until_ready(state)

        def some(state: Any = state) -> None:
            for _ in range(steps):
                state, _ = compiled(state, batch)
            jax.block_until_ready(state)

        found.append(timed(some)[0] / steps)
    return statistics.median(found[1:])


def trained(run: Any) -> Any:
    """A state without the zeros of a new one, which would compress to nothing."""
    import jax
    import jax.numpy as jnp

    def fill(x: Any, i: int) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return x + jax.random.normal(jax.random.key(i), x.shape, x.dtype)

    def every(state: Any) -> Any:
        leaves, tree = jax.tree.flatten(state)
        return jax.tree.unflatten(tree, [fill(x, i) for i, x in enumerate(leaves)])

    return jax.jit(every, out_shardings=run.shardings)(run.init())


def saves(run: Any, source: Any, rounds: int, step: float) -> None:
    """What a save, its seal, its check and a restore take."""
    import jax

    from hcl_jax.parallel import replicas
    from hcl_jax.workdir import manifest
    from hcl_jax.workdir.checkpoint import Checkpoints

    state = jax.block_until_ready(trained(run))
    seen: dict[str, list[float]] = {k: [] for k in ("block", "write", "seal", "verify", "restore", "check")}
    copies = run.mesh.size
    record = {"config": run.config.to_dict()}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder, keep=2, meta=run.meta(source), record=record)
        replicas.differing(state)  # compiled here
        for i in range(1, rounds + 2):
            seen["check"].append(timed(lambda: replicas.differing(state))[0])
            seen["block"].append(timed(lambda i=i: checkpoints.save(i, state))[0])
            seen["write"].append(timed(checkpoints.wait)[0])
            place = pathlib.Path(folder) / "checkpoints" / str(i)
            seen["seal"].append(timed(lambda place=place, i=i: manifest.write(place, {"step": i}))[0])
            seconds, fault = timed(lambda place=place: manifest.verify(place))
            assert fault is None, fault
            seen["verify"].append(seconds)
            reader = Checkpoints(folder, keep=2, meta=run.meta(source), read_only=True)
            seconds, restored = timed(lambda r=reader: jax.block_until_ready(r.restore(run.abstract, run.shardings)))
            seen["restore"].append(seconds)
            reader.close()
            del restored
        files = [p for p in place.rglob("*") if p.is_file()]
        size = sum(p.stat().st_size for p in files)
        state_bytes = sum(
            x.nbytes for x in jax.tree.leaves(state) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        )
        meta = sum(p.stat().st_size for p in files if "meta" in p.relative_to(place).parts)
        seal = (place / manifest.MANIFEST).stat().st_size
        checkpoints.close()
    print(f"  state {state_bytes / 1e6:.1f} MB in {len(jax.tree.leaves(state))} arrays; on disk {size / 1e6:.1f} MB "
          f"in {len(files)} files")  # fmt: skip
    print(f"  of that no arrays: {meta:,} bytes (the config, what a resume must agree with), seal {seal:,} bytes")

    def share(values: list[float]) -> str:
        return f"{100 * statistics.median(values) / (INTERVAL * step):8.4f} % of the steps"

    rate = {k: f"{size / 1e6 / statistics.median(seen[k][1:]):6.0f} MB/s" for k in ("seal", "verify", "restore")}
    for key, name in (
        ("block", "a save: the steps wait"),
        ("write", "a save: written and sealed behind the steps"),
        ("seal", "of that the seal (sha256, fsync)"),
        ("verify", "a check of all bytes"),
        ("restore", "a restore, checked"),
        ("check", f"check_replicas, {copies} devices"),
    ):
        values = [1e3 * x for x in seen[key][1:]]
        row(name, values, "ms", f"{share(seen[key][1:])}{', ' + rate[key] if key in rate else ''}")


def part_save(known: argparse.Namespace) -> None:
    """The small state."""
    run, source, batch = small(known.devices)
    step = step_seconds(run, batch)
    print(f"{RECIPE}, {known.devices} devices, a step of {1e3 * step:.1f} ms")
    saves(run, source, known.rounds, step)


def part_large(known: argparse.Namespace) -> None:
    """The large state."""
    run, source = large(known.devices)
    print(f"ResNet-50, LARS momentum, target, weight average; {known.devices} devices, a step of 1 s")
    saves(run, source, known.rounds, 1.0)


def part_guards(known: argparse.Namespace) -> None:
    """What each step pays."""
    from hcl_jax.runtime.preemption import Interruption
    from hcl_jax.runtime.watchdog import Watchdog

    run, _, batch = small(1)
    step, calls = step_seconds(run, batch), 10_000
    stopping = Interruption()
    assert stopping._has_service, "the service that hears SIGTERM is not there"

    def many(call: Callable[[], Any]) -> list[float]:
        def every() -> None:
            for _ in range(calls):
                call()

        return [1e6 * timed(every)[0] / calls for _ in range(known.rounds)]

    print(f"each step, beside {1e3 * step:.1f} ms of {RECIPE}")
    with Watchdog(300.0) as watch:
        for name, values in {"a beat of the watchdog": many(watch.beat), "told to end?": many(stopping.due)}.items():
            row(name, values, "us", f"{statistics.median(values) / 1e4 / step:8.4f} % of a step")


def command(folder: pathlib.Path, **fields: Any) -> list[str]:
    """Flags of a run without evaluation."""
    flags = {"evaluate.views": "{}", "log.every": 1, "log.tensorboard": "false", "optimizer.warmup_epochs": 0, **fields}
    return [f"--config={RECIPE}", *(f"--config.{k}={v}" for k, v in flags.items()), f"--workdir={folder}"]


def part_memory(known: argparse.Namespace) -> None:
    """Memory after 100 and after 1,100 steps, of a run with eleven saves."""
    found = []
    for _ in range(known.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            folder = pathlib.Path(scratch) / "w"
            fields = {"train.steps": 1101, "checkpoint.every": 100, "data.batch_size": 32, "mesh.data": 1}
            run = subprocess.Popen([sys.executable, "-m", "hcl_jax.main", *command(folder, **fields)],
                                   cwd=ROOT, stdout=subprocess.DEVNULL)  # fmt: skip
            seen: list[tuple[int, int]] = []
            while run.poll() is None:
                bytes_now, step = resident(process=str(run.pid)), last_step(folder / "metrics.jsonl")
                if bytes_now and step:
                    seen.append((step, bytes_now))
                time.sleep(0.05)
            assert run.returncode == 0
        early = statistics.median(b for s, b in seen if 100 <= s < 200)
        late = statistics.median(b for s, b in seen if 1000 <= s < 1100)
        found.append((early, late))
    print(f"{RECIPE}, batch 32, 11 saves: resident memory, steps 100 to 200 against 1,000 to 1,100")
    row("early", [a / MIB for a, _ in found], "MiB")
    row("late", [b / MIB for _, b in found], "MiB")
    row("growth", [100 * (b / a - 1) for a, b in found], "%")


def part_restart(known: argparse.Namespace) -> None:
    """From a kill -9 to the next line of metrics.jsonl that is new."""
    parts: dict[str, list[float]] = {}
    for i in range(known.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            folder = pathlib.Path(scratch) / "w"
            fields = {"train.steps": 2000, "checkpoint.every": 10, "data.batch_size": 64, "mesh.data": 1}
            flags = command(folder, **fields)
            run = subprocess.Popen([sys.executable, "-m", "hcl_jax.main", *flags], cwd=ROOT, stdout=subprocess.DEVNULL)
            while last_step(folder / "metrics.jsonl") < 15 + 3 * i:
                assert run.poll() is None
                time.sleep(0.01)
            run.send_signal(signal.SIGKILL)
            run.wait()
            before, killed = last_step(folder / "metrics.jsonl"), time.time()
            call = [
                sys.executable,
                __file__,
                "--part=resumed",
                f"--killed={killed}",
                f"--before={before}",
                "--",
                *flags,
            ]
            out = subprocess.run(call, cwd=ROOT, check=True, capture_output=True, text=True).stdout
            line = next(x for x in out.splitlines() if x.startswith("{"))
            for name, value in json.loads(line).items():
                parts.setdefault(name, []).append(value)
    print(f"{RECIPE}, batch 64: from kill -9 to the next line of metrics.jsonl that is new")
    for name, values in parts.items():
        row(name, values, "steps" if name == "steps made again" else "s")


def part_resumed(known: argparse.Namespace) -> None:
    """A run that goes on until its first new step, with the seconds of its parts."""
    began = known.killed
    import jax

    from hcl_jax import main, prepare, train
    from hcl_jax.workdir.checkpoint import Checkpoints
    from hcl_jax.workdir.metrics import Log

    seconds = {"Python and imports": time.time() - began}

    def watched(owner: Any, name: str, what: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            took, out = timed(lambda: real(*args, **kwargs))
            seconds[what] = seconds.get(what, 0.0) + took
            return out

        setattr(owner, name, call)

    watched(prepare.data, "open_source", "open the data")
    watched(prepare, "build", "shapes")
    watched(Checkpoints, "newest", "check the checkpoint")
    watched(Checkpoints, "restore", "restore")
    watched(jax.stages.Lowered, "compile", "compile")
    write, batches = Log.write, train.global_batches

    def first_batch(*args: Any) -> Any:
        stream = batches(*args)
        took, batch = timed(lambda: next(stream))
        seconds["first batch"] = took
        yield batch
        yield from stream

    def written(self: Any, step: int, metrics: Any) -> None:
        write(self, step, metrics)
        if step > known.before:
            whole = time.time() - began
            rest = whole - sum(seconds.values())
            again = {"steps made again": step - 1 - self.before[-1]["step"]}
            print(json.dumps({**seconds, "the rest, steps made again": rest, "in all": whole, **again}), flush=True)
            os._exit(0)

    Log.write, train.global_batches = written, first_batch  # type: ignore[method-assign]
    sys.exit(main.main(known.flags[1:]))


PARTS = {"save": part_save, "large": part_large, "guards": part_guards, "memory": part_memory, "restart": part_restart}


def main() -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=[*PARTS, "resumed"], help="only this one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--devices", type=int, default=2, help="virtual CPU devices of `save` and `large`")
    parser.add_argument("--killed", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--before", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    known = parser.parse_args()
    if known.part is None:
        print(machine(), flush=True)
        for part in PARTS:
            call = [
                sys.executable,
                __file__,
                f"--part={part}",
                f"--rounds={known.rounds}",
                f"--devices={known.devices}",
            ]
            print(flush=True)
            if subprocess.run(call, cwd=ROOT).returncode:
                return 1
        return 0
    if known.part in ("memory", "restart"):  # their runs are processes of their own
        PARTS[known.part](known)
        return 0
    from hcl_jax.runtime import distributed

    if known.part == "resumed":
        part_resumed(known)
    if known.part in ("save", "large"):
        os.environ["JAX_NUM_CPU_DEVICES"] = str(known.devices)
    distributed.prepare()
    distributed.join()
    PARTS[known.part](known)
    return 0


if __name__ == "__main__":
    sys.exit(main())
