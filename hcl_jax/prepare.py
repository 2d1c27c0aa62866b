"""Everything of a run that can be refused before a file is written."""

import functools
import hashlib
import itertools
import logging
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from hcl_jax import config as configs
from hcl_jax import data, workdir
from hcl_jax.check import look_before_run
from hcl_jax.config import validate
from hcl_jax.core import model, objectives
from hcl_jax.data.pipeline import AHEAD
from hcl_jax.disk.reading import readable
from hcl_jax.errors import InputError
from hcl_jax.evaluation import outputs_of, sources_of
from hcl_jax.evaluators import EVALUATORS, ONE_SHAPE
from hcl_jax.evaluators.entries import Entry, entries
from hcl_jax.evaluators.known_labels import check_known_labels
from hcl_jax.evaluators.known_sizes import size_lines
from hcl_jax.evaluators.raw import raw_features
from hcl_jax.parallel import mesh as meshes
from hcl_jax.parallel import sharding
from hcl_jax.run import Parts, Run, build, epoch_examples, noise_of, steps_of
from hcl_jax.runtime import machine, processes
from hcl_jax.workdir import card

ODD = 8  # lines on odd data that a run prints
LOG = logging.getLogger("hcl_jax")
RAW = ""  # the raw input of a view, among the shapes of its outputs


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
    if try_steps is not None:
        validate.check(config, **parts.checked())
        config = shortened(config, try_steps)
        if workdir.has_run(workdir_path):
            raise InputError(f"--steps={try_steps}", "the folder of a run", "another --workdir, or none")

        def opened() -> tuple[data.Source, None]:
            return data.random_like(config.data, config.views, sources=parts.sources), None

    run, source, test, changed, evaluated = bound(config, workdir_path, parts, opened)
    odd: tuple[str, ...] = ()
    if opened is None and processes.index() == 0 and not workdir.has_run(workdir_path):
        page = look_before_run(config, parts.evaluators, source, test)
        if page.refusal is not None:
            raise page.refusal
        odd = page.odd
    alone = processes.count() == 1 or opened is not None  # random input follows from the config
    content = {} if alone else content_of(run, source, evaluated)
    # Shapes that do not fit show here.
    lowered = run.step().lower(run.abstract, run.abstract_batch)
    bad = data.BadRecords(config.data.max_bad_records)
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
    check_memory("config.data.batch_size", run.abstract_batch, _share(run))
    check_length(run, source, changed)
    return Bound(run, source, test, changed, {} if test is None else check_evaluation(run, source, test))


def open_splits(config: Any, parts: Parts) -> tuple[data.Source, data.Source | None]:
    """(training source, test source or None where nothing is evaluated)."""
    source = data.open_source(config.data, config.data.train_split, parts.sources)
    evaluated = is_evaluated(config, parts)
    return source, data.open_source(config.data, config.data.test_split, parts.sources) if evaluated else None


def _share(run: Run) -> float:
    """Of a global batch, what this process makes."""
    leading = run.config.train.seeds if run.single else run.config.data.batch_size
    return len(sharding.local_rows(run.batch_sharding, leading)) / leading


def content_of(run: Run, source: data.Source, evaluated: Mapping[str, Mapping[str, data.Source]]) -> dict[str, str]:
    """{what: digest} of all that a run reads: records, noise, tokenizers. data/content.py says what that costs.

    Args:
      run: the run.
      source: what it trains on.
      evaluated: {data of an entry, "" for those of the run: {split: source}}.
    """
    config, found = run.config, {}

    def add(name: str, one: data.Source, digests: Mapping[str, str]) -> None:
        for what, digest in digests.items():
            found[f"{name} ({one.name}), {what}"] = f"{digest[:16]} of {one.num_examples} records"

    add("training data", source, data.content_of(source, config.seed))
    for entry, splits in evaluated.items():
        for split, one in splits.items():
            if entry or split != "train":
                of = f" of {entry}" if entry else ""
                add(f"{split} data{of}", one, data.content_of(one, config.seed))
    for seed in run.seeds:
        noise = noise_of(config, source, seed)
        arrays = {f"offsets/{k}": v for k, v in noise.offsets.items()} | {
            f"views/{k}": v for k, v in noise.borrowed.items()
        }
        rows = {} if noise.rows is None else {"rows": noise.rows}
        found[f"noise of seed {seed}"] = data.of_arrays({**arrays, **rows})[:16]
    for field, value in configs.flatten(config.to_dict()).items():
        if field.endswith(".tokenizer") and isinstance(value, str) and os.path.isfile(value):
            with readable(value, "a tokenizer.json"), open(value, "rb") as file:
                found[f"config.{field}"] = f"{value} {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
    if threads := cpu_threads():
        # Sums that every process makes for itself, of the same numbers, would end in other bits.
        found["threads of XLA:CPU, which NPROC=n in the environment sets"] = str(threads)
    return found


def is_evaluated(config: Any, parts: Parts) -> bool:
    """Whether a completed config lists an evaluator that has something to read."""
    return any(e.views or e.reads.batches for e in entries(config.evaluate, parts.evaluators))


def check_evaluation(several: Run, train: data.Source, test: data.Source) -> dict[str, dict[str, data.Source]]:
    """Raises InputError for what a run's evaluation cannot read, before the run has trained for it. Reads no record.

    Returns:
      The sources that it reads, as `sources_of` gives them.
    """
    run = several.one
    spec, listed = run.config.evaluate, entries(run.config.evaluate, run.parts.evaluators)
    sources = sources_of(run, train, test)
    for name, splits in sources.items():
        here = [e for e in listed if e.source == name]
        if any(e.reads.batches for e in here):
            _check_batches(run, splits["test"])
        asked = {e.labels for e in here} | ({spec.labels} if not name else set())
        labels = asked - {""} if spec.views else set()
        for label in labels:
            if not splits["train"].labels.get(label):
                raise InputError(
                    _labels_field(here, label, spec), f"{label!r}, which holds no classes", "'' or classes"
                )
        if spec.views:
            fields = {label: _labels_field(here, label, spec) for label in labels}
            _check_known(run, [e for e in here if not e.reads.batches], splits, fields)
        made = {view: _check_view(run, view, splits, here, labels) for view in spec.views}
        for entry, call in ((e, call) for e in here for call in e.views):
            _check_shapes(entry, call, made, spec.baselines)


def _check_known(run: Run, here: list[Entry], splits: Mapping[str, data.Source], fields: Mapping[str, str]) -> None:
    """What labels, masks and numbers of rows say of evaluators: refused, or said where a number will mean nothing."""
    spec, (train, test) = run.config.evaluate, (splits["train"], splits["test"])
    present = {
        name: data.known_presence(source, spec.views.to_dict(), run.config.seed)
        for name, source in (("training", train), ("test", test))
    }
    check_known_labels(here, train.known_labels, test.known_labels, spec.folds, fields, present)
    for entry in here:
        labels = train.known_labels.get(entry.labels)
        counts = np.unique(labels[labels >= 0], return_counts=True)[1] if labels is not None else None
        rows = train.num_examples if counts is None else int(counts.sum())
        smallest = None if counts is None else int(counts.min())
        for line in size_lines(entry, rows, test.num_examples, smallest, folds=spec.folds, baselines=spec.baselines):
            LOG.warning("%s", line)


def _check_shapes(
    entry: Entry, call: tuple[tuple[str, str], ...], made: Mapping[str, Mapping[str, tuple]], baselines: bool
) -> None:
    """Raises InputError for outputs, or raw inputs, that an evaluator of the table cannot read."""
    where = f"config.evaluate.evaluators.{entry.name}.views"
    shapes = {f"{view}.{output}": made[view][output] for view, output in call}
    for name, shape in shapes.items():
        if entry.function in EVALUATORS.values() and len(shape) != 2:
            raise InputError(where, f"{name} of shape {shape}", "one vector [N, D] for each row")
    if entry.evaluator not in ONE_SHAPE:
        return
    raw = {f"raw {view}": made[view][RAW] for view, _ in call} if baselines and "raw" in entry.features else {}
    for some, allowed in ((shapes, "outputs of one shape"), (raw, "raw inputs of one width, or no raw in features")):
        if len(set(some.values())) > 1:
            raise InputError(where, " with ".join(f"{k} {v}" for k, v in some.items()), allowed)
        for entry in (e for e in here if e.evaluator in ONE_SHAPE):
            for call in entry.views:
                shapes = {f"{view}.{output}": made[view][output] for view, output in call}
                if len(set(shapes.values())) > 1:
                    text = " with ".join(f"{k} {v}" for k, v in shapes.items())
                    where = f"config.evaluate.evaluators.{entry.name}.views"
                    raise InputError(where, text, "outputs of one shape")
    return sources


def _labels_field(here: Iterable[Entry], label: str, spec: Any) -> str:
    """The field that asks for a label."""
    if label == spec.labels:
        return "config.evaluate.labels"
    return next(f"config.evaluate.evaluators.{e.name}.labels" for e in here if e.labels == label)


def _check_batches(run: Run, test: data.Source) -> None:
    """The batches of the test split must be as those of the training split."""
    size = run.config.data.batch_size
    meshes.check_batch(size, run.mesh)
    batch = data.batch_specs(
        test, run.config.views, seed=run.config.seed, batch_size=size, order="each", views=run.parts.views
    )
    _same_shapes("config.views", run.abstract_batch["views"], batch["views"])


def _check_view(
    run: Run, view: str, splits: Mapping[str, data.Source], here: Iterable[Entry], labels: Iterable[str]
) -> dict[str, tuple[int, ...]]:
    """The shapes of the outputs of a view, equal in both splits, and of its raw input where some evaluator reads it."""
    spec, where = run.config.evaluate, "config.evaluate.views"
    specs = [
        data.batch_specs(
            source, {view: spec.views[view]}, seed=run.config.seed, batch_size=spec.batch_size, views=run.parts.views,
            order="each", where=where, size_field="config.evaluate.batch_size",
        )
        for source in splits.values()
    ]  # fmt: skip
    check_memory("config.evaluate.batch_size", specs[1], 1 / processes.count())
    _same_shapes(where, specs[0]["views"], specs[1]["views"])
    for batch, label in itertools.product(specs, labels):
        if len(batch["labels"][label].shape) > 1:
            found = f"{label!r} of shape {batch['labels'][label].shape}"
            raise InputError(_labels_field(here, label, spec), found, "one class a row")
    encode = functools.partial(model.encode, run.model, spec.views[view]["tower"], outputs_of(run, view))
    inputs = specs[1]["views"][view]
    found = jax.eval_shape(encode, run.abstract.params, run.abstract.model_state, inputs)
    made = {name: array.shape for name, array in found.items()}
    if spec.baselines and any("raw" in e.features for e in here):
        row = {name: np.zeros((1, *x.shape[1:]), x.dtype) for name, x in inputs.items()}
        made[RAW] = (spec.batch_size, *raw_features(row).shape[1:])
    return made


def _same_shapes(where: str, train: Any, test: Any) -> None:
    """Raises InputError where a view of the test split has another shape than that of the training split."""
    for view, fields in train.items():
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(fields), jax.tree.leaves(test[view]), strict=True):
            if a.shape[1:] != b.shape[1:]:
                field = jax.tree_util.keystr(path, simple=True, separator="/")
                found = f"{field} of shape {b.shape[1:]} in the test split"
                raise InputError(f"{where}.{view}", found, f"{a.shape[1:]}, as in the training split")


def plain_inputs(losses: Mapping, config: Any) -> Any:
    """A config whose objectives have lists as inputs, for comparison with another: names say the same."""
    plain = config.to_dict()
    plain["objectives"] = objectives.with_bound_inputs(plain["objectives"], losses)
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
    before, threads = recorded.get("threads", 0), cpu_threads()
    if before and threads and before != threads:
        lines.append(f"threads of XLA:CPU: {before} -> {threads}, so that last bits differ; NPROC={before} keeps them")
    return lines


def cpu_threads() -> int:
    """The number of threads that the last bits of this run follow from; 0 where the devices are no CPUs."""
    return machine.threads() if jax.default_backend() == "cpu" else 0


def check_memory(field: str, batch: Any, share: float = 1.0) -> None:
    """Raises InputError for batches that do not fit into this machine, before one is made: the system would kill it.

    Args:
      field: of the size, for the message.
      batch: shapes of a global batch.
      share: of its rows that this process makes.
    """
    one = share * sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(batch))
    need, there = one * (1 + AHEAD), machine.memory()  # in the step, and those that wait for it
    if need > there:
        rows = jax.tree.leaves(batch)[0].shape[0]
        found = f"{rows} rows, {need / 2**30:.1f} GiB in each process with the {AHEAD} batches that wait"
        raise InputError(field, found, f"what fits into {there / 2**30:.1f} GiB of memory")


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
    lines = [f"{folder}: resumed at step {start} of {run.steps}"]
    if not start:
        lines = [sharding.table(run.one.abstract.params, run.one.shardings.params)]
    for seed in run.seeds:
        noise = noise_of(config, source, seed)
        arrays |= data.noise_arrays(noise, seed)
        line = data.noise_line(noise, source.num_examples, seed)
        lines += [line] if line else []
    if prepared.odd:
        shown = [f"data: {line}" for line in prepared.odd[:ODD]]
        more = len(prepared.odd) - ODD
        lines += [*shown, f"data: {more} more such lines; python -m hcl_jax.check shows all"] if more > 0 else shown
    records, rows, k = epoch_examples(config, source), config.data.batch_size, config.train.accumulate
    if rows > records and config.data.order == "shuffled":
        lines.append(f"batch {rows}: of {records} records some stand in it more than once")
    if k > 1:
        lines.append(f"accumulate {k}: {k} losses of {rows // k} rows each; negatives do not add up")
    if config.train.cache > 1:
        each = rows // k // config.train.cache
        lines.append(f"cache {config.train.cache}: the encoders take {each} rows at a time, the loss all")
    lines += [f"config.{field}: {old!r} -> {new!r}" for field, (old, new) in prepared.changed.items()]
    return lines, arrays


def shortened(config: Any, steps: int) -> Any:
    """The same run, `steps` long, on random input."""
    if steps < 1:
        raise InputError("--steps", steps, ">= 1")
    plain = config.to_dict()
    plain["train"]["steps"] = steps
    plain["log"]["every"] = 1
    return configs.complete(configs.ConfigDict(plain))
