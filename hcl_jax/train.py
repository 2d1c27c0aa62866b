"""The run, top to bottom, under four headings: prepare, restore, train, evaluate."""

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcl_jax import config as configs
from hcl_jax import data, workdir
from hcl_jax.config.as_found import left_out
from hcl_jax.core.state import TrainState
from hcl_jax.encoders import ENCODERS, HEADS
from hcl_jax.errors import InputError
from hcl_jax.evaluation import Evaluation
from hcl_jax.evaluators import EVALUATORS
from hcl_jax.losses import COUNTS, LOSSES, MEASURES
from hcl_jax.parallel import sharding
from hcl_jax.prepare import Prepared, check_recorded, introduction, last_words, prepare
from hcl_jax.run import Parts, Run, epoch_examples, first_rows, global_batches
from hcl_jax.runtime import machine, processes
from hcl_jax.runtime.preemption import Interruption, Stop, peers_needed
from hcl_jax.runtime.watchdog import Watchdog
from hcl_jax.views import VIEWS
from hcl_jax.views.drawn import ROWS, grid
from hcl_jax.workdir import card, files
from hcl_jax.workdir.checkpoint import Checkpoints
from hcl_jax.workdir.hold import hold
from hcl_jax.workdir.init_from import content_of, init_from
from hcl_jax.workdir.lease import Lease
from hcl_jax.workdir.lock import Lock
from hcl_jax.workdir.meter import Meter
from hcl_jax.workdir.metrics import Log
from hcl_jax.workdir.seed_stats import note
from hcl_jax.workdir.terminal import Terminal
from hcl_jax.workdir.trace import trace_ten_steps
from hcl_jax.workdir.trackers import TRACKERS, chosen

Hook = Callable[[int, TrainState], None]


class Session(NamedTuple):
    """An open run: what stands around its steps on the host and never enters jitted code.

    Attributes:
      run: the static parts.
      start: the step that it goes on from.
      log, meter, checkpoints: where its numbers and states go.
      stopping: whether the run has been told to end.
      watch: ends a process that is stuck.
      evaluation: None where nothing is evaluated.
      evaluated: whether step `start` has been evaluated.
      lock: holds the workdir; None in processes that write nothing there.
      hooks: called as hook(steps done, state) after each step.
    """

    run: Run
    start: int
    log: Log
    meter: Meter
    checkpoints: Checkpoints
    stopping: Interruption
    watch: Watchdog
    evaluation: Evaluation | None = None
    evaluated: bool = False
    lock: Lock | Lease | None = None
    hooks: tuple[Hook, ...] = ()

    def long_phase(self) -> contextlib.AbstractContextManager[None]:
        """For a save or an evaluation: the watchdog allows `limits.phase` seconds."""
        return self.watch.allow(self.run.config.limits.phase)


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
    trackers: Mapping = TRACKERS,
    try_steps: int | None = None,
    profile: bool = False,
    bar: bool | None = None,
) -> TrainState:
    """Trains a recipe in a workdir, or goes on with the run there, evaluates it and writes its card.

    Args:
      config: what a recipe's get_config gives.
      workdir_path: the run's folder.
      encoders, heads, losses, measures, counts, views, sources, evaluators, trackers: tables of parts;
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
    parts = Parts(encoders, heads, losses, measures, counts, views, sources, evaluators, trackers)

    # Prepare: everything that can be refused, before a file is written.
    config = configs.complete(config)
    processes.assert_equal("the run", {**card.code(), **configs.texts(config)}, config.limits.barrier)
    work = functools.partial(prepare, config, workdir_path, parts, try_steps)
    prepared = processes.run_on_all("config and data", work, config.limits.barrier)

    processes.assert_equal("the data", prepared.content, config.limits.barrier)

    taken = False  # whether a step has been, in this process or in one before it
    # Around the stack too: what it closes waits for peers.
    with peers_needed(lambda: taken), contextlib.ExitStack() as stack:
        # Restore. Processes that try a recipe may have a scratch folder each, where no checkpoint can be shared.
        shared = try_steps is None or processes.count() == 1
        session, state = restore(prepared, workdir_path, stack, began, shared=shared, profile=profile, bar=bar)

        # Train.
        run, start = session.run, session.start
        taken = start > 0
        stack.enter_context(peers_needed(lambda: taken))  # ends the process before the stack waits for a peer
        if start < run.steps:
            with session.log.while_silent("compiling the step ..."):
                compiled = prepared.lowered.compile()
            batches = _shown(session, global_batches(run, prepared.source, start, run.steps, prepared.bad))
            state = loop(session, compiled, batches, state)
            taken = True
            with session.long_phase():
                session.checkpoints.finish(int(jnp.max(state.step)))

        # Evaluate.
        if session.evaluation is not None and not session.stopping.reached:
            with contextlib.suppress(Stop), session.long_phase():
                evaluate(session, prepared, files.path(workdir_path), state, began)
        elif not session.stopping.reached and try_steps is None:
            for line in last_words({}, workdir_path, config, run.parts.own()):
                session.log.say(line)
        if session.stopping.reached:
            saved = session.checkpoints.latest()
            where = f"at step {saved} of {run.steps}, which is saved" if saved else "before the first step"
            session.log.say(f"stopped {where}" + ("" if try_steps else f"; --workdir={workdir_path} goes on"))
    return state


def restore(
    prepared: Prepared,
    workdir_path: str | pathlib.Path,
    stack: contextlib.ExitStack,
    began: float,
    *,
    shared: bool = True,
    profile: bool = False,
    bar: bool | None = None,
) -> tuple[Session, TrainState]:
    """Takes the run's folder, restores its newest state or makes the first one, and opens its log.

    Args:
      prepared: the run, its data and its step.
      workdir_path: the run's folder.
      stack: closes what is opened here.
      began: when the command began.
      shared: whether the processes share the folder; else no state is saved.
      profile, bar: as in train_and_evaluate.
    """
    config, run = prepared.config, prepared.run
    first, seconds, spec = processes.index() == 0, config.limits.barrier, config.checkpoint
    terminal = Terminal(bar, quiet=not first)
    lock = stack.enter_context(hold(workdir_path, seconds, terminal.say)) if shared else None
    scores: dict[int, float] = {}
    record = {"config": config.to_dict(), "code": card.code(), "threads": machine.cpu_threads()}
    checkpoints = Checkpoints(
        workdir_path, keep=spec.keep, keep_best=spec.keep_best, best_mode=spec.best_mode, keep_every=spec.keep_every,
        meta=run.meta(prepared.source), record=record, scores=scores,
        read_only=not shared, on_error=spec.on_error, check_replicas=spec.check_replicas, seconds=seconds,
        say=terminal.say,
    )  # fmt: skip
    stack.callback(checkpoints.close)
    start = checkpoints.newest() or 0
    if start:
        with peers_needed(lambda: True):  # Orbax waits for them
            for line in check_recorded(checkpoints.recorded(start), start, run, prepared.source):
                terminal.say(line)
            state = checkpoints.restore(run.abstract, run.shardings, start)
    else:
        read = functools.partial(content_of, config.init_from)
        processes.agree("the weights of init_from", read, seconds)
        state = init_from(config.init_from, run.init(), config.train.seeds)

    folder = workdir.freeze(workdir_path, config) if first else files.path(workdir_path)
    log = Log(
        folder if first else None, start=start, steps=run.steps, config=config.to_dict(), terminal=terminal,
        trackers=chosen(config.log, run.parts.trackers), saves=spec.every, every=config.log.every,
        on_error=spec.on_error,
    )  # fmt: skip
    stack.callback(log.close)
    told = processes.broadcast_from_first(
        "metrics.jsonl", lambda: log.history.evaluations(spec.best_metric, start), seconds
    )
    scores.update(told["scores"])
    lines, arrays = introduction(prepared, folder, start)
    if first and not start:
        files.write(
            folder / workdir.PARAMETERS, sharding.table(run.one.abstract.params, run.one.shardings.params) + "\n"
        )
    if first:
        data.keep(folder / workdir.DATA, prepared.source, terminal.say)
    if arrays and first and not start:
        workdir.write_arrays(folder / "noise.npz", arrays)
    for line in lines:
        log.say(line)
    meter = Meter(
        log, seeds=run.seeds, rows=config.data.batch_size * len(run.seeds), start=start, began=began,
        # A short run of skipped steps alone has not trained either.
        max_skipped=min(config.train.max_skipped, run.steps), spike=config.log.spike, collapse=config.log.collapse,
        bad_records=prepared.bad.count,
        steps_per_epoch=epoch_examples(config, prepared.source) / config.data.batch_size,
    )  # fmt: skip
    stopping, watch = Interruption(), stack.enter_context(Watchdog(config.limits.watchdog))
    evaluation = None
    if prepared.test is not None:
        evaluation = Evaluation(run, prepared.source, prepared.test, say=log.say, at=log.at, tick=stopping.check)
    hooks = (trace_ten_steps(folder, start, run.steps, log.say),) if profile and first else ()
    session = Session(run, start, log, meter, checkpoints, stopping, watch, evaluation, told["evaluated"], lock, hooks)
    return session, state


def loop(session: Session, compiled: Any, batches: Iterator[Any], state: TrainState) -> TrainState:
    """Steps start..run.steps-1 over `batches`, with their numbers, saves and evaluations; ends early, saved, when the
    run is told to stop."""
    run, meter, config = session.run, session.meter, session.run.config
    done, saved, ahead = session.start, session.start, None
    # A step's data goes by device_put and device_get: another transfer would wait for the step. Saves and evaluations
    # move arrays as they please.
    with contextlib.suppress(Stop), peers_needed(lambda: done > 0), jax.transfer_guard("disallow"):
        # A run that was killed between a save and its evaluation.
        if _is_due(session, done) and not session.evaluated:
            _evaluate_online(session, done, state)
        for step in range(session.start, run.steps):
            session.stopping.check()
            asked = time.monotonic()
            batch = next(batches)
            meter.waited(time.monotonic() - asked)
            state, metrics = compiled(state, batch)
            # One step runs while one waits: enough to keep the device busy, and a step that is stuck is seen.
            jax.block_until_ready(ahead)
            done, last, ahead = step + 1, step + 1 == run.steps, metrics["loss"]
            session.watch.beat(done)
            meter.fetch()
            for hook in session.hooks:
                hook(done, state)
            if done % config.log.every == 0 or last or done == session.start + 1:
                # Copied, for the next step takes the state away.
                meter.take(done, metrics, jnp.copy(state.skipped_steps))
                session.checkpoints.poll()
            # Saves are deferred while steps are being skipped.
            due = done // config.checkpoint.every > saved // config.checkpoint.every
            if last or (due and not np.max(jax.device_get(metrics["skipped"]))):
                _save(session, done, state)
                saved = done
            if _is_due(session, done):
                _evaluate_online(session, done, state)
    if session.stopping.reached and done:
        with peers_needed(lambda: True):
            _save(session, done, state)
    return state


def evaluate(session: Session, prepared: Prepared, folder: files.Path, state: TrainState, began: float) -> None:
    """The results of a finished run: its last line, its card and its table."""
    assert session.evaluation is not None
    run, log = session.run, session.log
    results = session.evaluation.full(state)
    log.write(run.steps, results)
    if processes.index() == 0:
        minutes = log.history.minutes + (time.monotonic() - began) / 60
        fitted = session.evaluation.classifiers(run.steps)
        if fitted:
            workdir.write_arrays(folder / workdir.CLASSIFIERS, fitted)
        sources = {"train": prepared.source, "test": prepared.test}
        card.write(folder, run.config, sources=sources, mesh=run.mesh, steps=run.steps,
                   params=run.one.abstract.params, minutes=minutes, results=results)  # fmt: skip
        # After the card: what a tracker makes of these is its own affair.
        log.show("table", run.steps, "results", card.markdown(results))
        log.show("points", run.steps, session.evaluation.points)
        log.say(card.table(results) + note(run.seeds))
        words = last_words(results, folder, prepared.config, run.parts.own())
        for line in [left_out(prepared.config, run.config), *words]:
            if line:
                log.say(line)


def _shown(session: Session, batches: Iterator[Any]) -> Iterator[Any]:
    """The batches; the views of the first one of a run go to the log as pictures."""
    for batch in batches:
        if session.start == 0 and session.log.shows("pictures"):
            rows = first_rows(session.run, {"views": batch["views"], "present": batch["present"]}, ROWS)
            drawn = {f"views/{k}": grid(view, rows["present"].get(k)) for k, view in rows["views"].items()}
            session.log.show("pictures", 1, {k: pixels for k, pixels in drawn.items() if pixels is not None})
        yield batch
        break
    yield from batches


def _save(session: Session, done: int, state: TrainState) -> None:
    session.meter.fetch()
    lock = session.lock
    if lock is not None and lock.lost:  # another run has taken the workdir while this one slept
        session.log.abandon()
        raise InputError(str(lock.path), f"a lock of {lock.lost}", "that of this run, which ends here")
    session.log.sync()  # the line of a step is there before its checkpoint: a resume drops none
    with session.long_phase(), jax.transfer_guard("allow"):
        session.checkpoints.save(done, state)


def _is_due(session: Session, done: int) -> bool:
    return session.evaluation is not None and session.evaluation.is_due(done, session.run.steps)


def _evaluate_online(session: Session, done: int, state: TrainState) -> None:
    assert session.evaluation is not None
    session.meter.fetch()
    began, metric = time.monotonic(), session.run.config.checkpoint.best_metric
    with session.long_phase(), jax.transfer_guard("allow"):
        values = session.evaluation.online(state, done)
    session.log.write(done, values)
    if metric in values:
        session.checkpoints.scores[done] = values[metric]
    session.meter.paused(time.monotonic() - began)
