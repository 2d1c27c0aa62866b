"""What a run tells its user: what was found before the first step, and where to go after the last."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from hcl_jax import data
from hcl_jax.config.as_found import left_out
from hcl_jax.prepare import Prepared
from hcl_jax.run import epoch_examples, noise_of
from hcl_jax.workdir import card

ODD = 8  # lines on odd data that a run prints


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
        lines.append(_held_out(source, prepared.test))
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
    ]


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


def last_words(results: Mapping[str, float], folder: Any) -> list[str]:
    """After the table of a run's results: what they say, and what can be done with the run."""
    behind = card.behind(results)
    said = (
        [f"the untrained encoder is better in {', '.join(behind)}: train longer, or with other views"] if behind else []
    )
    return [
        *said,
        f"written to {folder}; what next:",
        f"  python -m hcl_jax.report {folder} --output=report.html  # curves, table, views, map, neighbours: one page",
        f"  python -m hcl_jax.embed --workdir={folder} --data=NEW --output=new.npz  # features of other records",
        f"  python -m hcl_jax.main --workdir={folder} --config.train.epochs=N  # a longer run",
    ]
