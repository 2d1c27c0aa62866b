"""Everything of a run that can be refused before a file is written."""

import functools
import pathlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from hcl_jax import config as configs
from hcl_jax import data, workdir
from hcl_jax.check.before_run import look_before_run
from hcl_jax.check.content import content_of
from hcl_jax.check.evaluation import check_evaluation, is_evaluated
from hcl_jax.check.memory import check_memory, share_of
from hcl_jax.check.tokenizers import check_tokenizers, without_bytes
from hcl_jax.config import validate
from hcl_jax.config.as_found import left_out
from hcl_jax.core import objectives
from hcl_jax.data.held_out import unread_test
from hcl_jax.errors import InputError
from hcl_jax.evaluation import sampled_of
from hcl_jax.evaluators.entries import entries
from hcl_jax.evaluators.sampled import read_by
from hcl_jax.parallel import mesh as meshes
from hcl_jax.run import Parts, Run, build, epoch_examples, noise_of, steps_of
from hcl_jax.runtime import machine, processes
from hcl_jax.workdir import card
from hcl_jax.workdir.trackers import chosen

ODD = 8  # lines on odd data that a run prints


class Prepared(NamedTuple):
    """A run before anything is written.

    Attributes:
      config: completed.
      run, source, test: what it is made of; test is None where nothing is evaluated.
      changed: {open field: (frozen, given)} where the workdir's config differs.
      lowered: the step, traced and ready to compile.
      bad: the training records that are replaced by others, as they are met.
      odd: what a look at the data found, a line each; in the first process, at the start of a run.
      content: {what: digest} that the other processes must have too; {} where there are none.
    """

    config: Any
    run: Run
    source: data.Source
    test: data.Source | None
    changed: dict[str, tuple[Any, Any]]
    lowered: Any
    bad: data.BadRecords
    odd: tuple[str, ...] = ()
    content: dict[str, str] = {}


class Bound(NamedTuple):
    """A config bound to its data.

    Attributes:
      run, source, test, changed: as in Prepared.
      evaluated: {data of an entry, "" for those of the run: {split: source}} of what evaluators read.
    """

    run: Run
    source: data.Source
    test: data.Source | None
    changed: dict[str, tuple[Any, Any]]
    evaluated: dict[str, dict[str, data.Source]]


def prepare(config: Any, workdir_path: str | pathlib.Path, parts: Parts, try_steps: int | None) -> Prepared:
    """Checks a completed config and binds it to its data.

    Args:
      config: completed.
      workdir_path: the run's folder.
      parts: tables of parts.
      try_steps: how many steps on random input, or None.

    Raises:
      InputError: the first thing that is wrong.
    """
    opened = None
    chosen(configs.complete(config).log, parts.trackers)
    if try_steps is not None:
        validate.check(config, **parts.checked())
        config = shortened(config, try_steps)
        if workdir.has_run(workdir_path):
            raise InputError(f"--steps={try_steps}", "the folder of a run", "another --workdir, or none")

        def opened() -> tuple[data.Source, None]:
            return data.random_like(config.data, config.views, sources=parts.sources), None

    config = workdir.as_begun(workdir_path, config)
    run, source, test, changed, evaluated = bound(config, workdir_path, parts, opened)
    odd: tuple[str, ...] = ()
    bad = data.BadRecords(config.data.max_bad_records)
    if opened is None and processes.index() == 0 and not workdir.has_run(workdir_path):
        page = look_before_run(run.config, parts.evaluators, source, test)
        if page.refusal is not None:
            raise page.refusal
        odd = page.odd
        bad.add(page.bad)  # a batch that meets one has to be made again
    alone = processes.count() == 1 or opened is not None  # random input follows from the config
    content = {} if alone else content_of(run, source, evaluated)
    # Shapes that do not fit show here.
    lowered = run.step().lower(run.abstract, run.abstract_batch)
    return Prepared(config, run, source, test, changed, lowered, bad, odd, content)


def bound(
    config: Any,
    workdir_path: str | pathlib.Path | None,
    parts: Parts,
    opened: Callable[[], tuple[data.Source, data.Source | None]] | None = None,
) -> Bound:
    """A completed config bound to its data, after every check that reads no record.

    Args:
      config: completed.
      workdir_path: the run's folder; None: there is none.
      parts: tables of parts.
      opened: gives the training source, and the test source where something is evaluated; None opens them.

    Raises:
      InputError: the first thing that is wrong.
    """
    validate.check(config, **parts.checked())
    changed = {}
    if workdir_path is not None:
        changed = workdir.check(workdir_path, config, functools.partial(plain_inputs, parts.losses))
    source, test = opened() if opened else open_splits(config, parts)
    run = build(config, parts, source, meshes.make_mesh(config.mesh))
    check_tokenizers(run, source)
    check_memory("config.data.batch_size", config.data.batch_size, run.abstract_batch, share_of(run))
    check_length(run, source, changed)
    test = test if is_evaluated(run.config, parts) else None
    return Bound(run, source, test, changed, {} if test is None else check_evaluation(run, source, test))


def open_splits(config: Any, parts: Parts) -> tuple[data.Source, data.Source | None]:
    """(training source, test source or None where nothing is evaluated)."""
    source = data.open_source(config.data, config.data.train_split, parts.sources)
    evaluated = is_evaluated(config, parts)
    return source, data.open_source(config.data, config.data.test_split, parts.sources) if evaluated else None


def plain_inputs(losses: Mapping, config: Any) -> Any:
    """A config for comparison with another, whatever its spelling: objectives have lists as inputs, and no op names the
    tokenizer that it would take anyway."""
    plain = config.to_dict()
    plain["objectives"] = objectives.with_bound_inputs(plain["objectives"], losses)
    if plain["data"]["tokenizer"] == "bytes":
        plain["views"] = without_bytes(plain["views"])
    return configs.ConfigDict(plain)


def check_length(run: Run, source: data.Source, changed: Mapping[str, tuple[Any, Any]]) -> None:
    """A run that goes on may grow, never shrink, also where steps and epochs change places.

    Raises:
      InputError: `changed`, {field: (old, new)}, holds a shorter run.
    """
    steps, epochs = (changed.get(f"train.{f}", (run.config.train[f],))[0] for f in ("steps", "epochs"))
    old = steps_of(steps, epochs, epoch_examples(run.config, source), run.config.data.batch_size)
    if run.steps < old:
        raise InputError("config.train.steps", run.steps, f"at least {old}, as the frozen config has it")


def check_recorded(recorded: Mapping[str, Any], start: int, run: Run, source: data.Source) -> list[str]:
    """Holds a run against what its checkpoint says of it, whatever config.json has become since.

    Returns:
      What is worth saying of a run that may go on.

    Raises:
      InputError: the config differs in a field that is not open.
    """
    if "config" in recorded:
        plain = functools.partial(plain_inputs, run.parts.losses)
        frozen = configs.complete(configs.with_younger(recorded["config"]))
        changed = workdir.allowed(plain(frozen), plain(run.config), f"checkpoint {start}")
        check_length(run, source, changed)
    now = card.code()
    promise = "equal to the last bit is promised for the same ones only"
    code = recorded.get("code", {}).items()
    lines = [f"{name}: {old} -> {now.get(name)}; {promise}" for name, old in code if now.get(name) != old]
    before, threads = recorded.get("threads", 0), machine.cpu_threads()
    if before and threads and before != threads:
        lines.append(f"threads of XLA:CPU: {before} -> {threads}, so that last bits differ; NPROC={before} keeps them")
    return lines


def introduction(prepared: Prepared, folder: Any, start: int) -> tuple[list[str], dict[str, Any]]:
    """What a run says of itself before its first step, and which examples are not what they should be.

    Args:
      prepared: the run.
      folder: as the user calls it.
      start: the step that it goes on from.

    Returns:
      (lines, arrays of `data.noise_arrays` for all seeds).
    """
    run, source, config = prepared.run, prepared.source, prepared.config
    arrays: dict[str, Any] = {}
    lines = [f"{folder}: resumed at step {start} of {run.steps}"] if start else found(prepared, folder)
    if config.data.held_out and prepared.test is not None:
        lines += [_held_out(source, prepared.test), *unread_test(config.data)]
    for seed in run.seeds:
        noise = noise_of(config, source, seed)
        arrays |= data.noise_arrays(noise, seed)
        line = data.noise_line(noise, source.num_examples, seed)
        lines += [line] if line else []
    left = left_out(config, run.config)
    lines += [left] if left else []
    if prepared.odd:
        shown = [f"data: {line}" for line in prepared.odd[:ODD]]
        more = len(prepared.odd) - ODD
        lines += [*shown, f"data: {more} more such lines; python -m hcl_jax.check shows all"] if more > 0 else shown
    records, rows, k = epoch_examples(config, source), config.data.batch_size, config.train.accumulate
    if rows > records and config.data.order == "shuffled":
        said = "some stand in it more than once; config.data.batch_size"
        lines.append(f"batch {rows}: of {records} records {said}={records} has each once")
    if k > 1:
        lines.append(f"accumulate {k}: {k} losses of {rows // k} rows each; negatives do not add up")
    if config.train.cache > 1:
        each = rows // k // config.train.cache
        lines.append(f"cache {config.train.cache}: the encoders take {each} rows at a time, the loss all")
    lines += [f"config.{field}: {old!r} -> {new!r}" for field, (old, new) in prepared.changed.items()]
    return lines, arrays


def found(prepared: Prepared, folder: Any) -> list[str]:
    """What there is: data, steps, devices, weights, and where the results go; a line each."""
    run, source, config = prepared.run, prepared.source, prepared.config
    records = f"{source.name}, {source.num_examples:,} records"
    tests = "" if prepared.test is None else f", {prepared.test.num_examples:,} to evaluate"
    labels = [_classes(label, count, source) for label, count in source.labels.items()]
    epochs = run.steps * config.data.batch_size / epoch_examples(config, source)
    seeds = "" if len(run.seeds) == 1 else f", {len(run.seeds)} seeds"
    mesh = ", ".join(f"{axis} {size}" for axis, size in run.mesh.shape.items() if size > 1)
    kind = f"{run.mesh.size} x {run.mesh.devices.flat[0].device_kind}"
    counts = {tower: sum(x.size for x in jax.tree.leaves(p)) for tower, p in run.one.abstract.params.items()}
    weights = ", ".join(f"{tower} {count:,}" for tower, count in counts.items() if count)
    return [
        f"data     {'; '.join([records + tests, *labels])}",
        f"run      {run.steps:,} steps of {config.data.batch_size:,} rows, {epochs:.3g} epochs{seeds}",
        f"devices  {kind}{f' ({mesh})' if mesh else ''}",
        f"weights  {weights or 'none'}",
        f"results  {folder}",
        *([] if prepared.test is None or config.evaluate.every is not None else [_sampled(prepared, prepared.test)]),
    ]


def _sampled(prepared: Prepared, test: data.Source) -> str:
    """What is evaluated while the run trains, where `evaluate.every` says nothing."""
    some = sampled_of(prepared.run.one._replace(steps=prepared.run.steps), prepared.source, test)
    if some.steps:
        records = f"{some.bank:,} records to {some.queries:,}"
        return f"watched  kNN of {records} at {len(some.steps)} steps from 0 on; config.evaluate.every=0 is off"
    label, _ = read_by(entries(prepared.config.evaluate, prepared.run.parts.evaluators))
    why = "the run is short" if label and prepared.source.labels.get(label) else "there are no classes"
    return f"watched  nothing before the end: {why}; config.evaluate.every=N evaluates at every Nth step"


def _classes(label: str, count: int, source: data.Source) -> str:
    """A label with the number of its classes, and their sizes where no record has to be read for them."""
    known = source.known_labels.get(label)
    if not count or known is None or known.ndim != 1:
        return f"{label}, {count:,} classes" if count else f"{label}, numbers"
    sizes = np.bincount(known[known >= 0], minlength=count)
    of_each = f"{sizes.min():,}" + (f" to {sizes.max():,}" if sizes.min() < sizes.max() else "")
    unknown = f", {int((known < 0).sum()):,} unknown" if (known < 0).any() else ""
    return f"{label}, {count:,} classes of {of_each}{unknown}"


def _held_out(source: data.Source, test: data.Source) -> str:
    """What `data.held_out` holds out, in numbers."""
    if not source.whole:
        n, m = test.num_examples, source.num_examples + test.num_examples
        return f"held out: {n:,} of {m:,} records, which evaluation alone reads"
    counts = {k: [int((s.known_labels[k] >= 0).sum()) for s in (test, source)] for k in test.known_labels}
    said = (f"the {label} of {n:,} of {n + m:,} nodes that have one" for label, (n, m) in counts.items())
    return f"held out: {', '.join(said) or 'nothing, for no node has a label'}"


def last_words(results: Mapping[str, float], folder: Any, config: Any, own: Sequence[str] = ()) -> list[str]:
    """After the table of a run's results: what they say, and what can be done with the run.

    Args:
      results: the numbers.
      folder: of the run.
      config: its config.
      own: the tables that hold parts of the user's own, which commands do not know.
    """
    behind, length = ", ".join(card.behind(results)), "steps" if config.train.steps else "epochs"
    several = config.train.seeds > 1
    seed, tables = f" --seed={config.seed}" if several else "", [k for k in own if k not in ("evaluators", "trackers")]
    arguments = [repr(str(folder)), *([f"seed={config.seed}"] if several else []), *(f"{k}=..." for k in tables)]
    folder = shlex.quote(str(folder))
    embed = f"python -m hcl_jax.embed --workdir={folder}{seed} --data=NEW --output=new.npz"
    page = "curves, table: one page" if tables else "curves, table, views, map, neighbours: one page"
    return [
        *([f"the untrained encoder is better in {behind}: train longer, or with other views"] if behind else []),
        f"written to {folder}; what next:",
        f"  python -m hcl_jax.report {folder} --output=report.html  # {page}",
        f"  hcl_jax.open({', '.join(arguments)})  # in Python, with your own parts: a model to use"
        if tables
        else f"  {embed}  # features of other records",
        f"  your script again with config.train.{length} = N  # a longer run"
        if own
        else f"  python -m hcl_jax.main --workdir={folder} --config.train.{length}=N  # a longer run",
    ]


def shortened(config: Any, steps: int) -> Any:
    """The same run, `steps` long, on random input."""
    if steps < 1:
        raise InputError("--steps", steps, ">= 1")
    plain = config.to_dict()
    plain["train"]["steps"] = steps
    plain["log"]["every"] = 1
    return configs.complete(configs.ConfigDict(plain))
