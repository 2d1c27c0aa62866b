"""A source: records that any host can read by number, and the text that says which records they are."""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hcl_jax.data import order
from hcl_jax.data.content import of_columns
from hcl_jax.disk.reading import readable
from hcl_jax.errors import InputError, nearest
from hcl_jax.views import tokenizers
from hcl_jax.views.lazy import tf

# Arrays up to this size enter the fingerprint whole, larger ones by a sample of rows: enough to tell two data sets
# apart, and quick for gigabytes.
WHOLE_BYTES, SAMPLED_ROWS = 2**28, 256
LOG = logging.getLogger("hcl_jax")
CHANNELS = (1, 3, 4)  # of pictures: grey, RGB, RGBA
IGNORED = (
    255,
    65535,
)  # the largest of their dtypes: labels of rows that count for nothing, as segmentation writes them
MAX_PIXELS = 100_000_000  # where data.max_pixels does not say


class Source(NamedTuple):
    """Records with random access.

    Fields:
      name: what the records are, for messages and logs.
      num_examples: N; records are 0..N-1.
      fetch: int64 [n] -> {field: tensor [n, ...]} for every name in `fields` and `labels`, and `present`. Called inside
        tf.data graphs. A string field of a picture holds encoded bytes (JPEG, PNG).
      fields: what a view may read, name -> (shape of one record with None where it varies, dtype name). A field of
        several arrays (a graph: nodes, edges, masks) has the dtype name "arrays", and `fetch` gives a dict for it.
      labels: label -> number of classes (labels 0..C-1, and -1 for unknown); 0 when the label is no class.
      present: None, or the name under which `fetch` gives bool [n, len(fields)], columns in the order of `fields`.
      fingerprint: sha256 that differs when the records differ.
      licence, citation: of the data.
      describe: record number -> its file or name, for messages.
      class_names: label -> its class names, where there are any.
      whole: records refer to records by number (the nodes of one graph), so that every batch must hold all, in order.
      mix: of a mixture, its parts and their shares (mixture.Mix); None where the order is one permutation an epoch.
      known_labels: label -> [N], of the labels that no record has to be read for.
      known_present: field -> bool [N], of the fields that some records lack where no record has to be read for it.
      content: seed -> {what: digest} of what the records hold (content.py), for processes that must hold the same; None
        reads a sample of the records.
      upright: whether encoded pictures are turned as EXIF says.
      max_pixels: of an encoded picture; a larger one is a bad record.
      shrink: where above 0, encoded pictures may have been made that small, and be of another format than their files.
      tokenizer: of text: "bytes", or the path of a file (views/tokenizers.py).
      sides: field -> (height, width) of encoded pictures that are all of one size, as they are turned, and not
        transparent: a view has them as pixels, uint8 [n, height, width, 3], as if they had been decoded into memory.
      paths: the file of each record, relative to the folder of the data; the name of each
        node of a graph by tables; None where records are no files of their own.
      groups: int [N], the first record of the same thing (one picture with several captions), which are held out
        together; None where each stands alone.
      moments: field -> (mean, deviation) [C], by which series were standardised.
      columns: field -> the names of the features of a graph's nodes, where they have any.
      missing: why there are no records to read, of a source that is only known by what a run kept (kept.py).
    """

    name: str
    num_examples: int
    fetch: Callable[[Any], dict[str, Any]]
    fields: dict[str, tuple[tuple[int | None, ...], str]]
    labels: dict[str, int]
    present: str | None
    fingerprint: str
    licence: str
    citation: str
    describe: Callable[[int], str] = "record {}".format
    class_names: Mapping[str, tuple[str, ...]] = {}
    whole: bool = False
    mix: Any = None
    known_labels: Mapping[str, np.ndarray] = {}
    known_present: Mapping[str, np.ndarray] = {}
    content: Callable[[int], dict[str, str]] | None = None
    upright: bool = True
    max_pixels: int = MAX_PIXELS
    shrink: int = 0
    tokenizer: str = "bytes"
    sides: Mapping[str, tuple[int, int]] = {}
    paths: Sequence[str] | None = None
    groups: np.ndarray | None = None
    moments: Mapping[str, tuple[np.ndarray, np.ndarray]] = {}
    columns: Mapping[str, tuple[str, ...]] = {}
    missing: InputError | None = None


class Arrays(NamedTuple):
    """What a reader gives for one split: NumPy arrays with the records on the leading axis.

    Fields:
      fields: inputs, name -> [N, ...], or {part: [N, ...]}; text is an array of str. A float array whose name begins
        with "series" may hold nan: a missing value.
      labels: label -> int [N] (classes) or float [N, ...] (values).
      classes: label -> number of classes, 0 for values.
      present: field -> bool [N] for the fields that some records lack.
      names: a name for each record, or None.
      whole, paths, moments, columns: as in Source.
    """

    fields: Mapping[str, Any]
    labels: dict[str, np.ndarray]
    classes: dict[str, int]
    licence: str
    citation: str
    present: Mapping[str, np.ndarray] = {}
    class_names: Mapping[str, tuple[str, ...]] = {}
    names: Sequence[str] | None = None
    whole: bool = False
    paths: Sequence[str] | None = None
    moments: Mapping[str, tuple[np.ndarray, np.ndarray]] = {}
    columns: Mapping[str, tuple[str, ...]] = {}


def fingerprint_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 over names, dtypes, shapes and values; of an array above 256 MiB over evenly spaced rows.

    Args:
      arrays: name -> [N, ...].

    Returns:
      Hexadecimal digest.
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        sample = array
        if array.nbytes > WHOLE_BYTES:
            sample = array[np.unique(np.linspace(0, len(array) - 1, SAMPLED_ROWS).astype(int))]
        text = array.dtype.kind in "OUS"
        kind = "text" if text else array.dtype.newbyteorder("<").str
        digest.update(f"{name} {kind} {array.shape}\n".encode())
        if text:
            digest.update("\0".join(as_text(v) for v in sample.ravel()).encode())
        else:
            digest.update(np.ascontiguousarray(sample).astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def fingerprint_files(files: Sequence[tuple[str, int]], note: str = "") -> str:
    """sha256 over a list of files and their sizes.

    Args:
      files: (path relative to the data folder, bytes), in record order.
      note: how they are read, where that matters.

    Returns:
      Hexadecimal digest.
    """
    digest = hashlib.sha256()
    for path, size in files:
        digest.update(os.fsencode(path) + f"\0{size}\n".encode())
    digest.update(note.encode())
    return digest.hexdigest()


def as_text(value: str | bytes) -> str:
    """str of a NumPy or TensorFlow string."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def from_arrays(name: str, arrays: Arrays, data: Any, split: str) -> Source:
    """A source over arrays in memory.

    Args:
      name: of the source.
      arrays: one split of it.
      data: `config.data`; read are train_split, num_examples, labels and num_classes.
      split: which split this is; `num_examples` bounds the training split only.

    Returns:
      A Source whose fetch gathers rows.

    Raises:
      InputError: a label that is not there or outside its classes, arrays of unequal length, or no record.
    """
    labels = {k: arrays.labels[k] for k in chosen_labels(data, arrays.labels)}
    inputs = _parts(arrays.fields)
    columns = {**inputs, **labels}
    lengths = {k: len(v) for k, v in (columns if arrays.paths is None else {**columns, "path": arrays.paths}).items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"{name} {split}", f"lengths {lengths}", "one record in every array")
    if not arrays.fields or min(lengths.values()) == 0:
        raise InputError(f"{name} {split}", "no record", "at least one")
    size = taken(data, split, min(lengths.values()))
    classes = {k: class_count(data, arrays.classes[k]) for k in labels}
    for label, values in labels.items():
        check_label(f"{name} {split}: label {label}", values, classes[label])
        if classes[label] and not arrays.whole:  # of one graph, the nodes of other splits are -1
            _count_labels(f"{name} {split}: label {label}", values[:size], classes[label])
    for field, values in inputs.items():
        if not values.size and field in arrays.fields:
            raise InputError(
                f"{name} {split}: field {field}", f"records of shape {values.shape[1:]}", "one value or more"
            )
        if field.startswith("image"):
            _check_pictures(f"{name} {split}: field {field}", values)
        if values.dtype.kind != "f":
            continue
        bad = ~np.isfinite(values)
        if field.startswith("series"):
            empty = np.flatnonzero(np.isnan(values).reshape(len(values), -1).all(axis=1))
            if len(empty):
                raise InputError(f"{name} {split} record {empty[0]}", "no value", f"at least one in each {field}")
            bad = np.isinf(values)
        if bad.any():
            raise InputError(f"{name} {split}: field {field}", "a number that is not finite", "finite numbers")
    columns = {k: v[:size] for k, v in columns.items()}
    mark = None
    if arrays.present:
        mark = "present"
        there = [np.asarray(arrays.present.get(k, np.ones(size, bool)))[:size] for k in arrays.fields]
        columns[mark] = np.stack(there, 1)
    fetch, fingerprint = gather(columns), fingerprint_arrays(columns)
    # Not in the fingerprint whole; the arrays themselves are not kept.
    large = {k: v.nbytes // size for k, v in columns.items() if v.nbytes > WHOLE_BYTES}

    def content(seed: int) -> dict[str, str]:
        return {"records": fingerprint, **({"large arrays": of_columns(fetch, size, large)} if large else {})}

    return Source(
        name=name,
        num_examples=size,
        fetch=fetch,
        fields={k: _kind(v) for k, v in arrays.fields.items()},
        labels=classes,
        present=mark,
        fingerprint=fingerprint,
        licence=arrays.licence,
        citation=arrays.citation,
        describe=arrays.names.__getitem__ if arrays.names is not None else "record {}".format,
        class_names={k: v for k, v in arrays.class_names.items() if k in labels},
        whole=arrays.whole,
        known_labels={k: columns[k] for k in labels},
        known_present={k: np.asarray(v)[:size] for k, v in arrays.present.items()},
        content=content,
        paths=None if arrays.paths is None else arrays.paths[:size],
        moments=arrays.moments,
        columns=arrays.columns,
    )


def _count_labels(where: str, values: np.ndarray, classes: int) -> None:
    """Says in the log how many records are without a class, and where most classes are without a record."""
    unknown = int((values < 0).sum())
    if unknown:
        LOG.warning("%s: %d of %d records are -1, unknown", where, unknown, values.size)
    there = np.unique(values[values >= 0])
    if unknown and set(there) <= {0, 1} and there.size and there[-1] == 1:
        LOG.warning("%s: -1 is read as unknown and not as a class: number classes -1, 1 or -1, 0, 1 from 0 on", where)
    if len(there) > 1 and there[-1] in IGNORED and there[-1] - there[-2] > 1:
        count, advice = (values == there[-1]).sum(), "write -1 for ignored ones"
        said = "%s: %d of %d records are %d, a class by its number, far above the others (to %d): %s"
        LOG.warning(said, where, count, values.size, there[-1], there[-2], advice)
    if 2 * len(there) < classes:
        shown = ", ".join(map(str, there[:8])) + (", ..." if len(there) > 8 else "")
        LOG.warning("%s: of %d classes %d have a record: %s", where, classes, len(there), shown)


def _check_pictures(where: str, values: np.ndarray) -> None:
    """Raises InputError for pictures of another range or order of axes: views would train on them without a word."""
    if values.dtype.kind in "OUS" or values.ndim != 4:
        return
    height, channels = values.shape[1], values.shape[3]
    if height in CHANNELS and channels not in CHANNELS:
        allowed = f"channels last: {[*values.shape[2:], height]} is np.moveaxis(image, 1, -1)"
        raise InputError(where, f"pictures of shape {list(values.shape[1:])}", allowed)
    if values.dtype != np.uint8 and values.size:
        low, high = values.min(), values.max()
        if not 0 <= low <= high <= 1 and np.isfinite(low) and np.isfinite(high):
            raise InputError(where, f"{values.dtype} from {low:g} to {high:g}", "uint8, or numbers from 0 to 1")


def _parts(fields: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every array of the fields; a part of a field of several is named `field/part`."""
    flat: dict[str, np.ndarray] = {}
    for name, value in fields.items():
        flat |= {f"{name}/{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _kind(value: Any) -> tuple[tuple[int | None, ...], str]:
    if isinstance(value, dict):
        return (), "arrays"
    return value.shape[1:], "string" if value.dtype.kind in "OUS" else value.dtype.name


def gather(columns: Mapping[str, np.ndarray]) -> Callable[[Any], dict[str, Any]]:
    """fetch for arrays in memory: rows of each column. The arrays become tensors at the first call.

    Columns `field/part` come as one field, a dict of parts.
    """
    waiting, tensors = dict(columns), {}

    def fetch(index: Any) -> dict[str, Any]:
        # Outside the graph being traced: inside they would be constants of the graph, which must not pass 2 GB.
        with tf.init_scope(), tf.device("CPU:0"):
            while waiting:  # emptied, so that the array does not stay beside its tensor
                name, column = waiting.popitem()
                tensors[name] = tf.convert_to_tensor(column.tolist() if column.dtype.kind in "OUS" else column)
        rows: dict[str, Any] = {}
        for name, tensor in tensors.items():
            field, _, part = name.partition("/")
            if part:
                rows.setdefault(field, {})[part] = tf.gather(tensor, index)
            else:
                rows[name] = tf.gather(tensor, index)
        return rows

    return fetch


def with_labelled(source: Source, share: float) -> Source:
    """The same source, of whose examples about `share` keep their classes; those of the others are -1, unknown."""
    if share == 1.0:
        return source

    def fetch(index: Any) -> dict[str, Any]:
        record = source.fetch(index)
        # One choice for every seed of a study: seed 0.
        hidden = order.lacks(index, 1.0 - share, 0, "labelled")
        kept = {
            k: tf.where(hidden, tf.cast(-1, record[k].dtype), record[k])
            for k, classes in source.labels.items()
            if classes
        }
        return record | kept

    return source._replace(fetch=fetch, fingerprint=f"{source.fingerprint}, {share} labelled", known_labels={})


def with_tokenizer(source: Source, tokenizer: str) -> Source:
    """The same source, whose texts a tokenizer reads; another file makes other records, wherever it lies."""
    if tokenizer == "bytes":
        return source
    digest = tokenizers.load(tokenizer, "config.data.tokenizer").digest
    return source._replace(tokenizer=tokenizer, fingerprint=f"{source.fingerprint}, tokenizer {digest}")


def taken(data: Any, split: str, available: int) -> int:
    """How many records a split gives: the first `data.num_examples` (0 = all) of the training split, all of others."""
    return min(data.num_examples, available) if data.num_examples and split == data.train_split else available


def chosen_labels(data: Any, available: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels that `data.labels` names. Raises InputError for one that the source lacks."""
    names = (data.labels,) if isinstance(data.labels, str) else tuple(data.labels)
    for label in names:
        if label not in available:
            raise InputError(
                "config.data.labels", repr(label), f"() or labels of {data.name}: {nearest(label, available)}"
            )
    return names


def class_count(data: Any, found: int) -> int:
    """`data.num_classes` where it is set and the label is a class, else what the source says."""
    return data.num_classes if data.num_classes and found else found


def check_label(where: str, values: np.ndarray, num_classes: int) -> None:
    """Raises InputError when a class is not in -1..C-1 (-1 = unknown), or a value is not finite."""
    if num_classes and values.size and (values.min() < -1 or values.max() >= num_classes):
        bad = values[(values < -1) | (values >= num_classes)].ravel()[0]
        raise InputError(where, bad, f"0 to {num_classes - 1}, or -1 for unknown")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(where, "a number that is not finite", "finite numbers")


def folder_of(data: Any, what: str) -> str:
    """`data.dir` as a folder that is there. Raises InputError with what it should hold."""
    if not data.dir:
        raise InputError("config.data.dir", "nothing", f"a folder with {what}")
    path = os.path.expanduser(data.dir)
    if not os.path.isdir(path):
        raise InputError("config.data.dir", f"no folder {data.dir}", f"a folder with {what}")
    return path


def listed(folder: str) -> list[str]:
    """The sorted names in a folder. Raises InputError where it cannot be listed."""
    with readable(folder, "a folder that can be read", "an unreadable folder"):
        return sorted(os.listdir(folder))


def unknown_split(split: str, known: Sequence[str], where: str) -> InputError:
    """The error for a split that is not there."""
    return InputError(f"config.data.train_split, test_split: {where}", repr(split), nearest(split, known))


def split_file(folder: str, split: str, endings: tuple[str, ...]) -> str:
    """`<folder>/<split><ending>` of the only ending that is there. Raises InputError when there is none, or several."""
    files = [f for f in listed(folder) if f.endswith(endings)]
    if not files:
        raise InputError("config.data.dir", f"no {' or '.join(endings)} file in {folder}", f"<split>{endings[0]}")
    found = [split + ending for ending in endings if split + ending in files]
    if len(found) > 1:
        raise InputError(folder, " and ".join(found), f"one file for the split {split!r}")
    if found:
        return os.path.join(folder, found[0])
    raise unknown_split(split, [os.path.splitext(f)[0] for f in files], folder)
