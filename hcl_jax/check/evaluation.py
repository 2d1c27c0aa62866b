"""Whether what a run evaluates can be read, before it has trained: shapes, labels, numbers of rows. Reads no record."""

import functools
import itertools
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from hcl_jax import data
from hcl_jax.check.memory import check_memory
from hcl_jax.core import model
from hcl_jax.errors import InputError
from hcl_jax.evaluation import outputs_of, sources_of
from hcl_jax.evaluators import EVALUATORS, ONE_SHAPE
from hcl_jax.evaluators.entries import Entry, entries
from hcl_jax.evaluators.known_labels import check_known_labels
from hcl_jax.evaluators.known_sizes import size_lines
from hcl_jax.evaluators.raw import raw_features
from hcl_jax.parallel import mesh as meshes
from hcl_jax.run import Parts, Run
from hcl_jax.runtime import processes

LOG = logging.getLogger("hcl_jax")
RAW = ""  # the raw input of a view, among the shapes of its outputs


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
    return sources


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
    check_memory("config.evaluate.batch_size", spec.batch_size, specs[1], 1 / processes.count())
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
