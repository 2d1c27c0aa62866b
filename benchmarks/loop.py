"""What the training loop costs over the bare jitted step, and what the live pipeline gives.

  python benchmarks/loop.py [--config=simclr:fashion_mnist] [--steps=30] [--rounds=5]

Three arms in one process, round by round: the compiled step on one batch in memory; the loop on that batch (with its
metrics, log and guards, without bar and saves); the loop on the live pipeline. Medians over rounds, ratio of medians.
"""

import argparse
import itertools
import pathlib
import statistics
import sys
import tempfile
import time

from hcl_jax import config as configs
from hcl_jax.runtime import distributed


class NoCheckpoints:
    """Saves nothing: a save is not part of a step."""

    scores: dict = {}

    def save(self, step, state):
        """Nothing."""

    def poll(self):
        """Nothing."""


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="simclr:digits")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    known = parser.parse_args()
    distributed.prepare()
    distributed.join()  # with it comes the question of each step: told to end?
    import jax

    from hcl_jax import data, train
    from hcl_jax.parallel import mesh as meshes
    from hcl_jax.run import Parts, build, global_batches
    from hcl_jax.runtime.preemption import Interruption
    from hcl_jax.runtime.watchdog import Watchdog
    from hcl_jax.workdir.meter import Meter
    from hcl_jax.workdir.metrics import Log
    from hcl_jax.workdir.terminal import Terminal

    recipe = configs.load(known.config)
    recipe.train.steps = known.steps
    config = configs.complete(recipe)
    source = data.open_source(config.data, config.data.train_split)
    run = build(config, Parts(), source, meshes.make_mesh(config.mesh))
    compiled = run.step().lower(run.abstract, run.abstract_batch).compile()
    constant = next(global_batches(run, source, 0, 1))

    def bare():
        state = run.init()
        jax.block_until_ready(state)
        began = time.perf_counter()
        for _ in range(known.steps):
            state, _ = compiled(state, constant)
        jax.block_until_ready(state)
        return time.perf_counter() - began

    def looped(batches):
        state = run.init()
        jax.block_until_ready(state)
        with tempfile.TemporaryDirectory() as folder, Watchdog(config.limits.watchdog) as watch:
            log = Log(
                pathlib.Path(folder), start=0, steps=known.steps, config={}, terminal=Terminal(bar=False, quiet=True)
            )
            meter = Meter(log, seeds=run.seeds, rows=config.data.batch_size, max_skipped=10, spike=10.0, collapse=0.05)
            session = train.Session(run, 0, log, meter, NoCheckpoints(), Interruption(), watch)
            next_batches = iter(batches)
            first = next(next_batches)  # the pipeline's own start-up is not a step
            began = time.perf_counter()
            rest = itertools.chain([first], next_batches)
            state = train.loop(session, compiled, rest, state)
            jax.block_until_ready(state)
            seconds = time.perf_counter() - began
            log.close()
        return seconds

    arms = {
        "bare step, constant batch": bare,
        "loop, constant batch": lambda: looped(itertools.repeat(constant)),
        "loop, live pipeline": lambda: looped(global_batches(run, source, 0, known.steps)),
    }
    seconds = {name: [] for name in arms}
    for arm in arms.values():
        arm()
    for _ in range(known.rounds):
        for name, arm in arms.items():
            seconds[name].append(arm() / known.steps)
    base = statistics.median(seconds["bare step, constant batch"])
    print(f"{known.config}, batch {config.data.batch_size}, {known.steps} steps, {known.rounds} rounds")
    print(f"{'':28}{'ms a step':>10}{'min':>9}{'max':>9}{'ratio':>8}{'examples/s':>12}")
    for name, values in seconds.items():
        middle = statistics.median(values)
        row = f"{name:28}{middle * 1e3:10.1f}{min(values) * 1e3:9.1f}{max(values) * 1e3:9.1f}"
        print(f"{row}{middle / base:8.3f}{config.data.batch_size / middle:12.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
