"""Batches as pure functions of (seed, step, row): the same for any number of hosts, and resumable from the step alone.

One map makes a whole local batch: one gather, one call of each op. Nothing is buffered that a restart would restore.
"""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from hcl_jax.data import bad_records, blocks, images, mixture
from hcl_jax.data import order as orders
from hcl_jax.data.alike import Alike
from hcl_jax.data.bad_records import BadRecords
from hcl_jax.data.noise import Noise, training_noise
from hcl_jax.data.source import Source
from hcl_jax.errors import InputError, nearest
from hcl_jax.views import VIEWS, make_view
from hcl_jax.views.draws import Draws
from hcl_jax.views.lazy import tf

PARALLEL, AHEAD = 16, 2  # batches made at once, at most; batches that wait for the step
Batch = dict[str, Any]
# step -> (record int64 [n], bool [n] of the rows that hold one, or None when all do)
Positions = Callable[[Any], tuple[Any, Any]]
CLEAN = Noise(None, {}, {})


def batches(
    source: Source,
    views_config: Mapping[str, Any],
    *,
    seed: int,
    batch_size: int,
    rows: Sequence[int] | np.ndarray,
    start: int,
    stop: int | None,
    order: str = "shuffled",
    views: Mapping[str, Any] = VIEWS,
    keep_draws: bool = False,
    sample: int = 0,
    flipped: float = 0.0,
    flipped_keeps: bool = False,
    bad: BadRecords | None = None,
) -> Iterator[Batch]:
    """The local rows of the training batches of steps start..stop-1.

        p = t B + r,  record = permutation_(seed, p // N)(p mod N)

    Of a mixture, as mixture.records.

    Args:
      source: N records.
      views_config: view -> {kind, field, ops, draws, missing, swapped}.
      seed: of the run.
      batch_size: B, rows of the global batch; may exceed N.
      rows: int [n], sorted global rows that this process makes.
      start, stop: steps; stop None never ends.
      order: "shuffled" as above, or "whole": each step holds every record once, record r in row r, and rows past the
        last record are absent (one graph as the whole batch).
      views: op name -> function.
      keep_draws: whether a view keeps the random numbers it drew, as "draws".
      sample, flipped, flipped_keeps: of `noise.training_noise`. With a sample of m records N above is m. A swapped view
        is made from another record, which is read besides; "index" and labels stay those of the row's own record.
      bad: takes the bad records that are met: those that cannot be read or decoded, are of another shape than they
        should be, or have a label outside its classes. The next good record stands for each, index and labels with it.
        None, or the order "whole": the first bad record ends the run.

    Returns:
      NumPy batches {"index": int32 [n], "labels": {label: [n, ...]}, "present": {view: bool [n]} of those
      views that a row can lack, "views": {view: pytree}}. A view that a row lacks is zeros there.

    Raises:
      InputError: a view of a field that is not there, more bad records than `bad` allows, a sample or swapped views of
        records that stay in order.
    """
    if source.missing is not None:
        raise source.missing
    local = _checked(source, views_config, rows, batch_size)
    asked: dict[str, Any] = {"sample": sample, "flipped": flipped, "flipped_keeps": flipped_keeps}
    noise = training_noise(source.num_examples, source.labels, views_config, seed=seed, **asked)
    if order == "whole":
        swaps = {f"views.{name}.swapped": views_config[name]["swapped"] for name in noise.borrowed}
        for field, value in {"data.sample": sample, **swaps}.items():
            if value:
                raise InputError(f"config.{field}", value, "0, for data.order is whole")
    bad = BadRecords(0) if bad is None or order == "whole" else bad
    positions = _positions(source, seed, batch_size, local, order, sampled=noise.rows)

    whole: dict[str, np.ndarray] = {}  # kept when a step is made again

    def stream(first: int, stands: Mapping[int, int]) -> Any:
        steps, spare = (first, stop), dict[str, Any](noise=noise, stands=stands, whole=whole if bad.most > 0 else None)
        return _stream(source, views_config, positions, seed, batch_size, local, steps, views, keep_draws, **spare)

    borrowed = tuple(noise.borrowed.values())
    return _sound(stream, source, views_config, positions, start, bad, noise.rows, borrowed)


def batch_specs(
    source: Source,
    views_config: Mapping[str, Any],
    *,
    seed: int,
    batch_size: int,
    order: str = "shuffled",
    views: Mapping[str, Any] = VIEWS,
    keep_draws: bool = False,
    where: str = "config.views",
    size_field: str = "config.data.batch_size",
) -> Batch:
    """Shapes and dtypes of a whole batch; reads no record.

    Args:
      source, views_config, seed, batch_size, order, views, keep_draws: as for `batches`; the order "each" gives the
        batches of `evaluation_batches`.
      where, size_field: the config fields of the views and of batch_size, for messages.

    Returns:
      A batch of jax.ShapeDtypeStruct with leading axis B.

    Raises:
      InputError: a view whose shape differs from record to record.
    """
    local = _checked(source, views_config, np.arange(batch_size), batch_size, where)
    positions = _positions(source, seed, batch_size, local, order, size_field)
    stream = _stream(source, views_config, positions, seed, batch_size, local, (0, 1), views, keep_draws, where)
    for name, view in stream.element_spec["views"].items():
        for leaf in tf.nest.flatten(view):
            if not leaf.shape.is_fully_defined():
                raise InputError(
                    f"{where}.{name}.ops",
                    f"records of shape {leaf.shape}",
                    "ops that give one shape: a crop or a resize",
                )
    return tf.nest.map_structure(
        lambda s: jax.ShapeDtypeStruct(tuple(s.shape), s.dtype.as_numpy_dtype), stream.element_spec
    )


def evaluation_batches(
    source: Source,
    views_config: Mapping[str, Any],
    *,
    batch_size: int,
    rows: Sequence[int] | np.ndarray,
    seed: int = 0,
    views: Mapping[str, Any] = VIEWS,
    keep_draws: bool = False,
    size_field: str = "config.evaluate.batch_size",
    bad: BadRecords | None = None,
) -> Iterator[Batch]:
    """The local rows of the batches that hold every record once, in order and as it is; the last batch is filled up.

    Args:
      source: N records.
      views_config: view -> {kind, field, ops, draws, missing}.
      batch_size: B, rows of the global batch.
      rows: int [n], sorted global rows that this process makes.
      seed: of the ops that draw random numbers, and of `missing`.
      views: op name -> function.
      keep_draws: whether a view keeps the random numbers it drew.
      size_field: the config field of batch_size, for messages.
      bad: as for `batches`, but no record stands for a bad one: its row is absent.

    Returns:
      ceil(N / B) NumPy batches as `batches` gives them. A row past the end, or of a bad record, has index -1, labels -1
      and no view.

    Raises:
      InputError: as `batches`.
    """
    if source.missing is not None:
        raise source.missing
    local = _checked(source, views_config, rows, batch_size)
    positions = _positions(source, seed, batch_size, local, "each", size_field)
    bad = BadRecords(0) if bad is None else bad
    stop = -(-source.num_examples // batch_size)

    whole: dict[str, np.ndarray] = {}  # kept when a step is made again

    def stream(first: int, stands: Mapping[int, int]) -> Any:
        steps, spare = (first, stop), dict[str, Any](stands=stands, whole=whole if bad.most > 0 else None)
        return _stream(source, views_config, positions, seed, batch_size, local, steps, views, keep_draws, **spare)

    return _sound(stream, source, views_config, positions, 0, bad, left_out=True)


def _positions(
    source: Source,
    seed: int,
    batch_size: int,
    local: np.ndarray,
    order: str,
    size_field: str = "config.data.batch_size",
    sampled: np.ndarray | None = None,
) -> Positions:
    """Where the records of a step stand: "shuffled" by epoch, the "whole" set in every step, or "each" record once."""
    num_examples = source.num_examples
    if source.mix is not None and (sampled is not None or order == "whole"):
        raise InputError("config.data", f"a sample, or the order {order!r}", "whole parts, shuffled, for a mixture")
    refer = f"records of {source.name} refer to each other"
    if source.whole and order == "shuffled":
        raise InputError("config.data.order", repr(order), f"'whole': {refer}")
    if batch_size < num_examples and (source.whole or order == "whole"):
        why = ", all records: data.order is whole" if order == "whole" else f": {refer}"
        raise InputError(size_field, batch_size, f"at least {num_examples}{why}")

    with tf.device("CPU:0"):  # as the tensors of the noise in _stream
        kept = None if sampled is None else tf.constant(sampled)

    def shuffled(step: Any) -> tuple[Any, None]:
        place = step * batch_size + tf.constant(local, tf.int64)
        if source.mix is not None:
            return mixture.records(place, source.mix, seed), None
        if sampled is None:
            return orders.records(place, num_examples, seed), None
        return tf.gather(kept, orders.records(place, len(sampled), seed)), None

    def in_order(step: Any) -> tuple[Any, Any]:
        place = (0 if order == "whole" else step) * batch_size + tf.constant(local, tf.int64)
        return tf.minimum(place, num_examples - 1), place < num_examples

    return shuffled if order == "shuffled" else in_order


def _checked(
    source: Source, views_config: Mapping[str, Any], rows: Any, batch_size: int, where: str = "config.views"
) -> np.ndarray:
    local = np.asarray(rows, np.int64)
    if local.ndim != 1 or not local.size or local.min() < 0 or local.max() >= batch_size or (np.diff(local) <= 0).any():
        raise InputError("rows", repr(rows), f"rising row numbers from 0 to {batch_size - 1}")
    for name, view in views_config.items():
        if view["field"] not in source.fields:
            raise InputError(
                f"{where}.{name}.field",
                repr(view["field"]),
                f"fields of {source.name}: {nearest(view['field'], source.fields)}",
            )
        if not 0 <= view.get("missing", 0.0) <= 1:
            raise InputError(f"{where}.{name}.missing", view["missing"], "0 to 1, a fraction of the examples")
    return local


def _stream(
    source: Source,
    views_config: Mapping[str, Any],
    positions: Positions,
    seed: int,
    batch_size: int,
    local: np.ndarray,
    steps: tuple[int, int | None],
    views: Mapping[str, Any],
    keep_draws: bool,
    where: str = "config.views",
    noise: Noise = CLEAN,
    stands: Mapping[int, int] = MappingProxyType({}),
    whole: dict[str, np.ndarray] | None = None,
) -> Any:
    replace, fields = bad_records.replaced(stands), _fields(source, views_config)
    # Tensors outside of the graph: inside they would be constants of it.
    with tf.device("CPU:0"):
        offsets = {k: tf.constant(v) for k, v in noise.offsets.items()}
        borrowed = {k: tf.constant(v) for k, v in noise.borrowed.items()}

    def fetch(index: Any) -> dict[str, Any]:
        record = source.fetch(index)
        pictures = [field for field, picture in fields.items() if picture]
        record |= {field: images.bounded(record[field], source.max_pixels) for field in pictures}
        record = record if whole is None else bad_records.checked(record, source, fields, index, whole)
        some = [field for field in pictures if field in source.sides]
        return record | {f: images.pixels(record[f], source.sides[f], source.upright) for f in some}

    def viewed(view: Any, name: str, x: Any, draws: Draws) -> dict[str, Any]:
        def some(x: Any, draws: Draws) -> dict[str, Any]:
            return make_view(view, x, draws, views, name, upright=source.upright, tokenizer=source.tokenizer)

        return blocks.in_blocks(some, x, draws, 0 if keep_draws else blocks.rows_at_once(view, x, views))

    @tf.autograph.experimental.do_not_convert  # it would turn an InputError into one of its own
    def make(step: Any) -> Batch:
        alike = Alike(views_config)
        index, real = positions(step)
        index, bad = replace(index)
        real = None if real is None else real & ~bad
        record = fetch(index)
        batch: Batch = {"labels": {}, "present": {}, "views": {}}
        for label in source.labels:
            value = record[label]
            value = tf.cast(value, tf.float32 if value.dtype.is_floating else tf.int32)
            if label in offsets:
                value = _moved(value, tf.gather(offsets[label], index), source.labels[label])
            batch["labels"][label] = value if real is None else _blank(value, real, -1)
        others: dict[tuple[str, float], Any] = {}  # read once for the views that are swapped alike
        for name, view in views_config.items():
            word = view.get("draws") or name
            draws = Draws(seed, step, batch_size, local, word)
            shown = record
            if name in borrowed:
                key = (word, view["swapped"])
                shown = others[key] if key in others else fetch(replace(tf.gather(borrowed[name], index))[0])
                others[key] = shown
            made = alike.make(view, shown[view["field"]], draws, functools.partial(viewed, view, f"{where}.{name}"))
            there = _presence(source, shown, name, view, index, real, seed)
            if there is not None:
                made = {
                    k: v if k == "draws" else tf.nest.map_structure(lambda x, m=there: _blank(x, m, 0), v)
                    for k, v in made.items()
                }
            if keep_draws:
                made = {**made, "draws": draws.record}
            if there is not None:
                batch["present"][name] = there
            batch["views"][name] = made
        batch["index"] = tf.cast(index if real is None else tf.where(real, index, -1), tf.int32)
        return batch

    return ordered(make, *steps)


def ordered(make: Callable[[Any], Any], start: int, stop: int | None) -> Any:
    """The tf.data stream of make(start), make(start + 1), ... in that order, several made at once; None never ends."""
    stream = tf.data.Dataset.range(start, np.iinfo(np.int64).max if stop is None else stop)
    stream = stream.map(make, num_parallel_calls=min(os.cpu_count() or 1, PARALLEL), deterministic=True).prefetch(AHEAD)
    options = tf.data.Options()
    # Its thread is waited for when an iterator ends: five pipelines on two cores took a minute to close.
    options.autotune.enabled = False
    options.deterministic = True
    return stream.with_options(options)


def _presence(
    source: Source, record: Mapping[str, Any], name: str, view: Mapping[str, Any], index: Any, real: Any, seed: int
) -> Any:
    """bool [n], or None when the view is there for every row."""
    masks = [] if real is None else [real]
    if source.present is not None:
        masks.append(record[source.present][:, list(source.fields).index(view["field"])])
    if view.get("missing", 0.0) > 0:
        masks.append(~orders.lacks(index, view["missing"], seed, name))
    there = None
    for mask in masks:
        there = mask if there is None else there & mask
    return there


def known_presence(source: Source, views_config: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
    """{view: bool [N]}, which records have it, of the views that some are known to lack. Reads no record."""
    known = {}
    for name, view in views_config.items():
        there = source.known_present.get(view["field"])
        if view.get("missing", 0.0) > 0:
            index = np.arange(source.num_examples, dtype=np.int64)
            has = ~orders.lacks(tf.constant(index), view["missing"], seed, name).numpy()
            there = has if there is None else there & has
        if there is not None:
            known[name] = there
    return known


def _moved(value: Any, offset: Any, classes: int) -> Any:
    """(class + offset) mod C; a class that is unknown, or out of range and still to be refused, stays as it is."""
    offset = tf.reshape(tf.cast(offset, value.dtype), [-1, *[1] * (value.shape.rank - 1)])
    return tf.where((value >= 0) & (value < classes), (value + offset) % classes, value)


def _blank(value: Any, keep: Any, fill: int) -> Any:
    keep = tf.reshape(keep, tf.concat([tf.shape(keep), tf.ones(value.shape.rank - 1, tf.int32)], 0))
    return tf.where(keep, value, tf.cast(fill, value.dtype))


def _fields(source: Source, views_config: Mapping[str, Any]) -> dict[str, bool]:
    """Fields that views read -> whether they are encoded pictures."""
    kinds = {view["field"]: view["kind"] for view in sorted(views_config.values(), key=lambda v: v["kind"] == "image")}
    return {field: kind == "image" and source.fields[field][1] == "string" for field, kind in kinds.items()}


def _sound(
    stream: Callable[[int, Mapping[int, int]], Any],
    source: Source,
    views_config: Mapping[str, Any],
    positions: Positions,
    step: int,
    bad: BadRecords,
    rows: np.ndarray | None = None,
    borrowed: Sequence[np.ndarray] = (),
    left_out: bool = False,
) -> Iterator[Batch]:
    """The batches of `stream(step, stand-ins)`. A step with bad records is made again, with others in their place."""
    fields, stands, tried = _fields(source, views_config), dict[int, int](), -1
    failure = tf.errors.OpError  # looked up now: at the end of a program, when generators are closed, tf may be gone
    next_of = bad_records.following(source.num_examples, rows, () if source.mix is None else source.mix.starts)
    while True:
        bad_records.extend(stands, bad, next_of, lambda number: bad_records.fault_of(source, fields, number))
        bad_records.warn(bad, source, {} if left_out else stands)
        try:
            for batch in stream(step, stands).as_numpy_iterator():
                faults = bad_records.label_faults(source, batch["labels"], batch["index"])
                if faults:
                    break
                yield batch
                step += 1
            else:
                return
        except failure:  # of a record that it does not name
            index = np.array([stands.get(i, i) for i in positions(tf.constant(step, tf.int64))[0].numpy().tolist()])
            others = [stands.get(i, i) for origin in borrowed for i in origin[index].tolist()]
            faults = bad_records.faults_of(source, fields, [*index.tolist(), *others])
            if not faults and (tried == step or not bad.most):
                raise
            tried = step  # a read that fails once is no bad record
        bad.add(faults)
