"""The run, top to bottom: config -> mesh -> data -> model -> state -> steps -> evaluation -> card."""

import contextlib
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from hcl_jax import card, data, validate, workdir
from hcl_jax import config as configs
from hcl_jax.checkpoint import Checkpoints
from hcl_jax.encoders import ENCODERS, HEADS
from hcl_jax.errors import InputError
from hcl_jax.evaluation import Evaluation
from hcl_jax.evaluation import check as evaluation_check
from hcl_jax.init_from import init_from
from hcl_jax.log import Log
from hcl_jax.losses import LOSSES, MEASURES
from hcl_jax.parallel import mesh as meshes
from hcl_jax.parallel import sharding
from hcl_jax.run import Parts, Run, build, epoch_examples, global_batches, noise_of, steps_of
from hcl_jax.seeds import by_seed, note
from hcl_jax.state import TrainState
from hcl_jax.views import VIEWS


def train_and_evaluate(
    config: Any,
    workdir_path: str | pathlib.Path,
    *,
    encoders: Mapping = ENCODERS,
    heads: Mapping = HEADS,
    losses: Mapping = LOSSES,
    measures: Mapping = MEASURES,
    views: Mapping = VIEWS,
    sources: Mapping = data.SOURCES,
    try_steps: int | None = None,
    profile: bool = False,
    bar: bool | None = None,
) -> TrainState:
    """Trains a recipe in a workdir, or goes on with the run there, evaluates it and writes its card.

    Args:
      config: what a recipe's get_config gives.
      workdir_path: the run's folder.
      encoders, heads, losses, measures, views, sources: tables of parts; `{**ENCODERS, "mine": Mine}` adds one.
      try_steps: this many steps on random input of the right shape, no evaluation.
      profile: write a trace of ten steps.
      bar: show a progress bar; None asks the terminal.

    Returns:
      The state after the last step.

    Raises:
      InputError: bad input; nothing has been written.
    """
    began = time.monotonic()
    parts = Parts(encoders, heads, losses, measures, views, sources)
    config = configs.complete(config)
    validate.check(config, encoders=encoders, heads=heads, losses=losses, views=views)
    if try_steps is not None:
        config = _shortened(config, try_steps)
    changed = workdir.check(workdir_path, config)
    if try_steps is not None:
        source, test = data.random_like(config.data, config.views, sources=sources), None
    else:
        source = data.open_source(config.data, config.data.train_split, sources)
        evaluated = config.evaluate.views or config.evaluate.objectives
        test = data.open_source(config.data, config.data.test_split, sources) if evaluated else None
    mesh = meshes.make_mesh(config.mesh)
    run = build(config, parts, source, mesh)
    _check_length(run, source, changed)
    if test is not None:
        evaluation_check(run, source, test)
    # Shapes that do not fit, or weights that cannot be read, show here, before a file is written.
    lowered = run.step().lower(run.abstract, run.abstract_batch)
    fresh = not workdir.has_checkpoint(workdir_path)
    # Processes that try a recipe may have a scratch folder each, where no checkpoint can be shared.
    apart = try_steps is not None and jax.process_count() > 1
    checkpoints = Checkpoints(workdir_path, keep=config.checkpoint.keep, meta=run.meta(source), read_only=apart)
    if fresh:
        state = init_from(config.init_from, run.init(), config.train.seeds)
    else:
        state = checkpoints.restore(run.abstract, run.shardings)
    start = 0 if fresh else checkpoints.latest() or 0
    if start > run.steps:
        raise InputError("config.train.steps", run.steps, f"at least {start}, the steps that {workdir_path} has done")

    first = jax.process_index() == 0
    folder = workdir.freeze(workdir_path, config) if first else pathlib.Path(workdir_path)
    log = Log(
        folder if first else None,
        start=start,
        steps=run.steps,
        config=config.to_dict(),
        tensorboard=config.log.tensorboard,
        wandb=config.log.wandb,
        bar=bar,
    )
    evaluation = None
    if test is not None:
        evaluation = Evaluation(run, source, test, say=log.say)
    with contextlib.ExitStack() as stack:
        stack.callback(log.close)
        stack.callback(checkpoints.close)
        if fresh:
            log.say(sharding.table(run.one.abstract.params, run.one.shardings.params))
        _note_noise(run, source, log, folder if fresh and first else None)
        records = epoch_examples(config, source)
        if config.data.batch_size > records and config.data.order == "shuffled":
            log.say(f"batch {config.data.batch_size}: of {records} records some stand in it more than once")
        if not fresh:
            log.say(f"{folder}: resumed at step {start} of {run.steps}")
        for field, (old, new) in changed.items():
            log.say(f"config.{field}: {old!r} -> {new!r}")
        k = config.train.accumulate
        if k > 1:
            log.say(f"accumulate {k}: {k} losses of {config.data.batch_size // k} rows each; negatives do not add up")
        if config.train.cache > 1:
            each = config.data.batch_size // k // config.train.cache
            log.say(f"cache {config.train.cache}: the encoders take {each} rows at a time, the loss all")
        if start < run.steps:
            compiled = lowered.compile()
            trace = folder / "profile" if profile and first else None
            batches = global_batches(run, source, start, run.steps)
            state = loop(run, batches, compiled, state, start, log, checkpoints, evaluation, trace, began)
        if evaluation is not None:
            results = evaluation.full(state)
            log.write(run.steps, results)
            if first:
                minutes = log.minutes_before + (time.monotonic() - began) / 60
                card.write(folder, config, sources={"train": source, "test": test}, mesh=mesh, steps=run.steps,
                           params=run.one.abstract.params, minutes=minutes, results=results)  # fmt: skip
                log.say(card.table(results) + note(run.seeds))
    return state


def loop(
    run: Run,
    batches: Iterator[Any],
    compiled: Any,
    state: TrainState,
    start: int,
    log: Log,
    checkpoints: Checkpoints,
    evaluation: Evaluation | None = None,
    trace: pathlib.Path | None = None,
    began: float | None = None,
) -> TrainState:
    """Steps start..run.steps-1 over `batches`, with their numbers, saves and evaluations."""
    config = run.config
    meter = _Meter(log, run, start, began)
    for step in range(start, run.steps):
        asked = time.monotonic()
        batch = next(batches)
        meter.waited += time.monotonic() - asked
        if trace and step == start + 5:
            jax.profiler.start_trace(str(trace))
        state, metrics = compiled(state, batch)
        done, last = step + 1, step + 1 == run.steps
        meter.fetch()
        if trace and done == min(start + 15, run.steps) and done > start + 5:
            jax.block_until_ready(state.params)
            jax.profiler.stop_trace()
        if done % config.log.every == 0 or last or done == start + 1:
            meter.pending = (done, metrics)
        if evaluation is not None and config.evaluate.every and done % config.evaluate.every == 0 and not last:
            meter.fetch()
            paused = time.monotonic()
            log.write(done, evaluation.online(state))
            meter.since += time.monotonic() - paused
        if done % config.checkpoint.every == 0 or last:
            meter.fetch()  # the line of a step is on disk before its checkpoint: a resume drops none
            checkpoints.save(done, state)
    return state


class _Meter:
    """Numbers of a step on their way to the log, fetched while the device is busy with the next step: nothing waits."""

    def __init__(self, log: Log, run: Run, start: int, began: float | None):
        self.log, self.run, self.logged = log, run, start
        self.pending: tuple[int, Any] | None = None
        self.since, self.waited = time.monotonic(), 0.0
        self.began = self.since if began is None else began

    def fetch(self) -> None:
        """Writes the pending numbers, with the rates since the last ones."""
        if self.pending is None:
            return
        step, metrics = self.pending
        values = by_seed(jax.device_get(metrics), self.run.seeds)
        now = time.monotonic()
        seconds = max(now - self.since, 1e-9)
        rows = self.run.config.data.batch_size * len(self.run.seeds)
        values["examples_per_second"] = (step - self.logged) * rows / seconds
        values["input_wait_fraction"] = min(self.waited / seconds, 1.0)
        values["minutes"] = self.log.minutes_before + (now - self.began) / 60
        self.pending, self.since, self.waited, self.logged = None, now, 0.0, step
        self.log.write(step, values)
        self.log.progress(step, values["loss"], values["examples_per_second"])
        # A short run of nothing but such steps has not trained either.
        if values["skipped"] >= min(self.run.config.train.max_skipped, self.run.steps):
            raise FloatingPointError(
                f"{values['skipped']:.0f} non-finite steps in a row up to step {step}; the state is the last finite "
                "one (usual causes: a learning rate too high, token ids past the vocabulary)"
            )


def _note_noise(run: Run, source: data.Source, log: Log, folder: pathlib.Path | None) -> None:
    """Says what is wrong with the examples of each seed, and keeps in a folder which ones they are."""
    kept: dict[str, Any] = {}
    for seed in run.seeds:
        noise = noise_of(run.config, source, seed)
        kept |= data.noise_arrays(noise, seed)
        line = data.noise_line(noise, source.num_examples, seed)
        if line:
            log.say(line)
    if kept and folder is not None:
        workdir.write_arrays(folder / "noise.npz", kept)


def _check_length(run: Run, source: data.Source, changed: Mapping[str, tuple[Any, Any]]) -> None:
    """A run that goes on may grow, never shrink, also where steps and epochs change places."""
    steps, epochs = (changed.get(f"train.{f}", (run.config.train[f],))[0] for f in ("steps", "epochs"))
    old = steps_of(steps, epochs, epoch_examples(run.config, source), run.config.data.batch_size)
    if run.steps < old:
        raise InputError("config.train.steps", run.steps, f"at least {old}, as the frozen config has it")


def _shortened(config: Any, steps: int) -> Any:
    """The same run, `steps` long, on random input."""
    if steps < 1:
        raise InputError("--steps", steps, ">= 1")
    plain = config.to_dict()
    plain["train"]["steps"] = steps
    plain["log"]["every"] = 1
    return configs.complete(configs.ConfigDict(plain))
