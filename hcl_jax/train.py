"""The run, top to bottom: config -> mesh -> data -> model -> state -> steps -> evaluation -> card."""

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcl_jax import config as configs
from hcl_jax import data, workdir
from hcl_jax.core.state import TrainState
from hcl_jax.encoders import ENCODERS, HEADS
from hcl_jax.errors import InputError
from hcl_jax.evaluation import Evaluation
from hcl_jax.evaluators import EVALUATORS
from hcl_jax.losses import COUNTS, LOSSES, MEASURES
from hcl_jax.parallel import sharding
from hcl_jax.prepare import check_length, plain_inputs, prepare
from hcl_jax.run import Parts, Run, epoch_examples, global_batches, noise_of
from hcl_jax.runtime import processes
from hcl_jax.runtime.guards import Guards
from hcl_jax.runtime.preemption import Interruption, Stop, peers_needed
from hcl_jax.runtime.watchdog import Watchdog
from hcl_jax.views import VIEWS
from hcl_jax.workdir import card, files
from hcl_jax.workdir.checkpoint import Checkpoints
from hcl_jax.workdir.init_from import init_from
from hcl_jax.workdir.lease import Lease
from hcl_jax.workdir.lock import Lock
from hcl_jax.workdir.meter import Meter
from hcl_jax.workdir.metrics import Log
from hcl_jax.workdir.seed_stats import note


def train_and_evaluate(
    config: Any,
    workdir_path: str | pathlib.Path,
    *,
    encoders: Mapping = ENCODERS,
    heads: Mapping = HEADS,
    losses: Mapping = LOSSES,
    measures: Mapping = MEASURES,
    counts: Mapping = COUNTS,
    views: Mapping = VIEWS,
    sources: Mapping = data.SOURCES,
    evaluators: Mapping = EVALUATORS,
    try_steps: int | None = None,
    profile: bool = False,
    bar: bool | None = None,
) -> TrainState:
    """Trains a recipe in a workdir, or goes on with the run there, evaluates it and writes its card.

    Args:
      config: what a recipe's get_config gives.
      workdir_path: the run's folder.
      encoders, heads, losses, measures, counts, views, sources, evaluators: tables of parts;
        `{**ENCODERS, "mine": Mine}` adds one.
      try_steps: this many steps on random input of the right shape, no evaluation.
      profile: write a trace of ten steps.
      bar: show a progress bar; None asks the terminal.

    Returns:
      The state after the last step.

    Raises:
      InputError: bad input; nothing has been written.
    """
    began = time.monotonic()
    parts = Parts(encoders, heads, losses, measures, counts, views, sources, evaluators)
    config = configs.complete(config)
    seconds = config.limits.barrier
    processes.assert_equal("the run", {**card.code(), **configs.texts(config)}, seconds)
    work = functools.partial(prepare, config, workdir_path, parts, try_steps)
    config, run, source, test, changed, lowered = processes.run_on_all("config and data", work, seconds)
    # Processes that try a recipe may have a scratch folder each, where no checkpoint can be shared.
    apart = try_steps is not None and processes.count() > 1
    first = processes.index() == 0
    early: list[str] = []  # lines from before there is a log
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(_lock(workdir_path, seconds, early)) if not apart else None
        checkpoints = _checkpoints(run, source, workdir_path, read_only=apart, say=early.append)
        stack.callback(checkpoints.close)
        start = checkpoints.newest() or 0
        if start:
            _check_recorded(checkpoints, start, run, source, early)
            state = checkpoints.restore(run.abstract, run.shardings, start)
        else:
            state = init_from(config.init_from, run.init(), config.train.seeds)

        folder = workdir.freeze(workdir_path, config) if first else files.path(workdir_path)
        log = Log(
            folder if first else None,
            start=start,
            steps=run.steps,
            config=config.to_dict(),
            tensorboard=config.log.tensorboard,
            wandb=config.log.wandb,
            bar=bar,
            saves=config.checkpoint.every,
        )
        stack.callback(log.close)
        checkpoints.say = log.say
        for line in early + list(log.history.notes):
            log.say(line)
        if first and start - log.history.last_step >= config.log.every:
            log.say(f"{folder}/metrics.jsonl: the lines up to step {start} are gone")
        watch = stack.enter_context(Watchdog(config.limits.watchdog))
        guards = Guards(Interruption(), watch, config.limits.phase, lock)
        evaluation = None
        if test is not None:
            evaluation = Evaluation(run, source, test, say=log.say, tick=guards.stopping.check)
        if start:
            log.say(f"{folder}: resumed at step {start} of {run.steps}")
        else:
            log.say(sharding.table(run.one.abstract.params, run.one.shardings.params))
        _note_noise(run, source, log, folder if first and not start else None)
        _note_batches(run, source, log)
        for field, (old, new) in changed.items():
            log.say(f"config.{field}: {old!r} -> {new!r}")
        if start < run.steps:
            compiled = lowered.compile()
            trace = folder / "profile" if profile and first and files.is_disk(folder) else None
            if profile and first and trace is None:
                log.say("--profile: no trace, which needs a workdir on a disk")
            bad = data.BadRecords(config.data.max_bad_records)
            batches = global_batches(run, source, start, run.steps, bad)
            state = loop(run, batches, compiled, state, start, log, checkpoints, evaluation, trace, began, guards, bad)
            with watch.allow(guards.phase):
                checkpoints.finish(int(jnp.max(state.step)))
        if evaluation is not None and not guards.stopping.reached:
            with contextlib.suppress(Stop), watch.allow(guards.phase):
                results = evaluation.full(state)
                log.write(run.steps, results)
                if first:
                    minutes = log.history.minutes + (time.monotonic() - began) / 60
                    card.write(folder, config, sources={"train": source, "test": test}, mesh=run.mesh, steps=run.steps,
                               params=run.one.abstract.params, minutes=minutes, results=results)  # fmt: skip
                    log.say(card.table(results) + note(run.seeds))
        if guards.stopping.reached:
            done = checkpoints.latest() or 0
            log.say(f"stopped at step {done} of {run.steps}, which is saved; --workdir={workdir_path} goes on")
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
    trace: files.Path | None = None,
    began: float | None = None,
    guards: Guards | None = None,
    bad: data.BadRecords | None = None,
) -> TrainState:
    """Steps start..run.steps-1 over `batches`, with their numbers, saves and evaluations; ends early, saved, when the
    run is told to stop."""
    config = run.config
    guards = guards or Guards(Interruption(), Watchdog(0.0))
    meter = Meter(log, run, start, began, bad)
    metric = config.checkpoint.best_metric
    earlier, evaluated = _history(log, config, start)
    checkpoints.scores |= earlier

    def evaluate(done: int) -> None:
        assert evaluation is not None
        paused = time.monotonic()
        with guards.watch.allow(guards.phase):
            values = evaluation.online(state, done)
        log.write(done, values)
        if metric in values:
            checkpoints.scores[done] = values[metric]
        meter.paused(time.monotonic() - paused)

    def save(done: int) -> None:
        meter.fetch()
        try:
            guards.hold()
        except InputError:
            log.abandon()
            raise
        log.sync()  # the line of a step is there before its checkpoint: a resume drops none
        with guards.watch.allow(guards.phase):
            checkpoints.save(done, state)

    done, saved, ahead = start, start, None
    with contextlib.suppress(Stop):
        # A run that was killed between a save and its evaluation.
        if evaluation is not None and evaluation.is_due(start, run.steps) and not evaluated:
            evaluate(start)
        for step in range(start, run.steps):
            guards.stopping.check()
            asked = time.monotonic()
            batch = next(batches)
            meter.waited(time.monotonic() - asked)
            if trace and step == start + 5:
                jax.profiler.start_trace(str(trace))
            with peers_needed(done > start):
                state, metrics = compiled(state, batch)
                # One step runs while one waits: enough to keep the device busy, and a step that is stuck is seen.
                jax.block_until_ready(ahead)
            done, last, ahead = step + 1, step + 1 == run.steps, metrics["loss"]
            guards.watch.beat(done)
            meter.fetch()
            if trace and done == min(start + 15, run.steps) and done > start + 5:
                jax.block_until_ready(state.params)
                jax.profiler.stop_trace()
            if done % config.log.every == 0 or last or done == start + 1:
                # Copied, for the next step takes the state away.
                meter.take(done, metrics, jnp.copy(state.skipped_steps))
                checkpoints.poll()
            # What is saved late is owed: nothing is saved while steps are skipped.
            if last or (done // config.checkpoint.every > saved // config.checkpoint.every and not _skips(metrics)):
                save(done)
                saved = done
            if evaluation is not None and evaluation.is_due(done, run.steps):
                meter.fetch()
                evaluate(done)
    if guards.stopping.reached and done:
        save(done)
    return state


def _history(log: Log, config: Any, start: int) -> tuple[dict[int, float], bool]:
    """What metrics.jsonl, which the first process has, says of a run that goes on: the steps' scores, and whether step
    `start` has been evaluated."""

    def read() -> Any:
        metric = config.checkpoint.best_metric
        scores = [[line["step"], float(line[metric])] for line in log.history.lines if metric in line]
        last = log.history.lines[-1] if log.history.lines else {}
        return scores, last.get("step") == start and any(k.startswith("eval/") for k in last)

    scores, evaluated = processes.broadcast_from_first("metrics.jsonl", read, config.limits.barrier)
    return {int(step): score for step, score in scores}, evaluated


def _skips(metrics: Mapping[str, Any]) -> bool:
    return bool(np.max(jax.device_get(metrics["skipped"])))


@contextlib.contextmanager
def _lock(workdir_path: str | pathlib.Path, seconds: float, said: list[str]) -> Iterator[Lock | Lease | None]:
    """The workdir's lock, held by the first process for all of them."""
    with contextlib.ExitStack() as stack:
        held: list[Lock | Lease] = []

        def take() -> str:
            lock: Lock | Lease = Lock(workdir_path) if files.is_disk(workdir_path) else Lease(workdir_path)
            stack.enter_context(lock)
            held.append(lock)
            return held[0].message

        message = processes.broadcast_from_first("the lock of the workdir", take, seconds)
        said += [message] if message else []
        yield held[0] if held else None


def _checkpoints(
    run: Run, source: data.Source, workdir_path: str | pathlib.Path, *, read_only: bool, say: Callable[[str], None]
) -> Checkpoints:
    spec = run.config.checkpoint
    return Checkpoints(
        workdir_path,
        keep=spec.keep,
        keep_best=spec.keep_best,
        best_mode=spec.best_mode,
        keep_every=spec.keep_every,
        meta=run.meta(source),
        record={"config": run.config.to_dict(), "code": card.code()},
        read_only=read_only,
        on_error=spec.on_error,
        check_replicas=spec.check_replicas,
        seconds=run.config.limits.barrier,
        say=say,
    )


def _check_recorded(checkpoints: Checkpoints, start: int, run: Run, source: data.Source, said: list[str]) -> None:
    """The run's config must be that of its checkpoint, whatever config.json has become since."""
    recorded = checkpoints.recorded(start)
    if "config" in recorded:
        frozen = configs.complete(configs.with_younger(recorded["config"]))
        plain = functools.partial(plain_inputs, run.parts.losses)
        changed = workdir.allowed(plain(frozen), plain(run.config), f"checkpoint {start}")
        check_length(run, source, changed)
    now = card.code()
    for name, old in recorded.get("code", {}).items():
        if now.get(name) != old:
            said.append(f"{name}: {old} -> {now.get(name)}; equal to the last bit is promised for the same ones only")


def _note_batches(run: Run, source: data.Source, log: Log) -> None:
    """Says what the batches of this config are, where it is not what one would think."""
    config = run.config
    records = epoch_examples(config, source)
    if config.data.batch_size > records and config.data.order == "shuffled":
        log.say(f"batch {config.data.batch_size}: of {records} records some stand in it more than once")
    k = config.train.accumulate
    if k > 1:
        log.say(f"accumulate {k}: {k} losses of {config.data.batch_size // k} rows each; negatives do not add up")
    if config.train.cache > 1:
        each = config.data.batch_size // k // config.train.cache
        log.say(f"cache {config.train.cache}: the encoders take {each} rows at a time, the loss all")


def _note_noise(run: Run, source: data.Source, log: Log, folder: files.Path | None) -> None:
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
