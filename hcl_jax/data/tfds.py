"""Any TFDS data set: records read in any order from ArrayRecord files and parsed by TensorFlow, or all in memory."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from hcl_jax.data.folder import MEMORY_LIMIT
from hcl_jax.data.source import Arrays, Source, chosen_labels, class_count, from_arrays, taken, unknown_split
from hcl_jax.errors import InputError, nearest
from hcl_jax.views.lazy import tf
from hcl_jax.workdir import files

CHUNK = 1024  # records that are parsed together


def open_tfds(data: Any, split: str, known: Mapping[str, Any] | None = None) -> Source:
    """The TFDS data set `data.name` in `data.dir` (TFDS's own folder when empty).

    Args:
      data: `config.data`; prepare=True downloads and prepares what is missing, as ArrayRecord.
      split: a TFDS split, also "train[:80%]".
      known: the other names that `data.name` may have, for the error text.

    Returns:
      A Source. A feature is a field if every record has the same shape; pictures of different sizes are fields of
      encoded bytes. in_memory=True holds the split in memory and reads TFRecord too.

    Raises:
      InputError: an unknown name or split, or data that is not prepared, with what to do.
    """
    library = _library()
    builder = _builder(library, data, known or {})
    if data.prepare:
        if not files.is_disk(data.dir):  # ArrayRecord reads gs:// and does not write it
            allowed = "a folder on a disk; then gcloud storage cp --recursive FOLDER gs://BUCKET"
            raise InputError("config.data.prepare", f"True for {data.dir}", allowed)
        try:
            builder.download_and_prepare(file_format="array_record")
        except Exception as error:  # network, disk, manual files, a folder with another format: TFDS raises many kinds
            raise InputError(
                "config.data.prepare", f"{type(error).__name__}: {_line(error)}", "a data set that TFDS can prepare"
            ) from error
    info = builder.info
    if info.splits and split.split("[")[0].split("+")[0] not in (*info.splits, "all"):
        raise unknown_split(split, list(info.splits), data.name)
    if info.splits and "+" not in split and _records(info, split) == 0:
        whole = split.split("[")[0]
        found = f"{split!r}, which is 0 of the {_records(info, whole)} records of {whole}"
        raise InputError(f"config.data.train_split, test_split: {data.name}", found, "a part with a record")
    features, fields, numbers = _usable(library, info.features)
    labels = {k: class_count(data, numbers[k]) for k in chosen_labels(data, numbers)}
    fields = {k: v for k, v in fields.items() if k not in labels}
    skip = {k: library.decode.SkipDecoding() for k, v in fields.items() if _encoded(library, features, k, v)}
    columns = (*fields, *labels)
    subset = library.decode.PartialDecoding(dict.fromkeys(columns, True)).extract_features(features)
    licence, citation = str(info.redistribution_info.license or ""), str(info.citation or "")
    names = {k: tuple(features[k].names) for k in labels if hasattr(features[k], "names") and features[k].names}
    turned = data.upright and bool(skip)
    if data.in_memory:
        held = _in_memory(library, builder, data, split, subset, skip, columns)
        inputs, outputs = ({k: held[k] for k in wanted} for wanted in (fields, labels))
        arrays = Arrays(inputs, outputs, labels, licence, citation, class_names=names)
        source = from_arrays(data.name, arrays, data, split)
        return source._replace(fields=fields, fingerprint=_fingerprint(info, split, source.num_examples, turned))
    records = _random_access(library, builder, data, split)
    size = taken(data, split, len(records))
    return Source(
        name=data.name,
        num_examples=size,
        fetch=_fetch(records, subset, skip, columns),
        fields=fields,
        labels=labels,
        present=None,
        fingerprint=_fingerprint(info, split, size, turned),
        describe=f"{info.full_name} {split} record {{}}".format,
        licence=licence,
        citation=citation,
        class_names=names,
    )


def shapes(data: Any, known: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the fields of `data.name` as its builder states them, without data; one of encoded bytes is left out.

    Raises InputError for an unknown name.
    """
    library = _library()
    _, fields, _ = _usable(library, _builder(library, data, known, needs_folder=False).info.features)
    return {k: shape for k, (shape, dtype) in fields.items() if dtype != "string"}


def _library() -> Any:
    tf.__version__  # noqa: B018  first through our proxy, which hides the GPU from TensorFlow
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise InputError(
            "config.data.name",
            f"a TFDS name, but TFDS fails to import ({_line(error)})",
            "pip install tensorflow-datasets importlib_resources",
        ) from None
    from hcl_jax.data import builders

    del builders  # imported because that registers our own data sets
    return tensorflow_datasets


def _builder(library: Any, data: Any, known: Mapping[str, Any], *, needs_folder: bool = True) -> Any:
    if (
        needs_folder
        and data.dir
        and not data.prepare
        and not _mocked(library)
        and not files.path(os.path.expanduser(data.dir), "config.data.dir").is_dir()
    ):
        raise InputError("config.data.dir", f"no folder {data.dir}", "the data_dir of TFDS; data.prepare=True makes it")
    try:
        return library.builder(data.name, data_dir=os.path.expanduser(data.dir) or None)
    except library.core.DatasetNotFoundError:
        names = [*known, *library.list_builders(with_community_datasets=False)]
        raise InputError("config.data.name", repr(data.name), nearest(data.name, names)) from None
    except Exception as error:  # also of the files that it finds in data.dir
        raise InputError(
            "config.data.name",
            f"{data.name!r}: {_line(error) or type(error).__name__}",
            "a TFDS name that can be built",
        ) from None


def _mocked(library: Any) -> bool:
    return library.core.DatasetBuilder.__init__.__name__ == "mock_init"


def _usable(library: Any, features: Any) -> tuple[Any, dict, dict]:
    """What has one shape in every record: (features, field -> (shape, dtype), label -> number of classes)."""
    fields, labels = {}, {}
    for name, feature in features.items():
        info = feature.get_tensor_info()
        if not hasattr(info, "shape"):  # nested features
            continue
        shape, dtype = tuple(info.shape), np.dtype(info.np_dtype)
        if isinstance(feature, library.features.Image) and None in shape:
            if dtype == np.uint8:
                fields[name] = ((), "string")
        elif None not in shape and not isinstance(feature, library.features.Dataset):
            fields[name] = (shape, "string" if dtype.kind in "OSU" else dtype.name)
            if isinstance(feature, library.features.ClassLabel):
                labels[name] = feature.num_classes or 0
            elif dtype.kind in "iuf" and not isinstance(feature, library.features.Image):
                labels[name] = 0
    return features, fields, labels


def _records(info: Any, split: str) -> int | None:
    """How many records a split has; None where TFDS cannot say."""
    try:
        return info.splits[split].num_examples
    except (KeyError, ValueError, AssertionError):
        return None


def _encoded(library: Any, features: Any, name: str, spec: tuple) -> bool:
    return isinstance(features[name], library.features.Image) and spec == ((), "string")


def _fetch(records: Any, features: Any, skip: dict, columns: tuple[str, ...]) -> Any:
    batched = _takes_batches(records)

    def read(index: np.ndarray) -> np.ndarray:
        rows = [int(i) for i in index]
        return np.array(records.__getitems__(rows) if batched else [records[i] for i in rows], object)

    def parse(record: Any) -> dict[str, Any]:
        example = features.deserialize_example(record, decoders=skip)
        return {k: example[k] for k in columns}

    signature = {k: tf.TensorSpec((), tf.string) if k in skip else _spec(features[k]) for k in columns}

    def fetch(index: Any) -> dict[str, Any]:
        raw = tf.numpy_function(read, [index], tf.string, stateful=False)
        raw = tf.ensure_shape(raw, index.shape[:1])
        return tf.map_fn(parse, raw, fn_output_signature=signature)

    return fetch


def _spec(feature: Any) -> Any:
    info = feature.get_tensor_info()
    return tf.TensorSpec(info.shape, info.tf_dtype)


def _takes_batches(records: Any) -> bool:
    """False for the source that tfds.testing.mock_data makes: TFDS 4.9.10 calls its __getitems__ without self."""
    try:
        records.__getitems__([0])
    except TypeError:
        return False
    return True


def _random_access(library: Any, builder: Any, data: Any, split: str) -> Any:
    raw = library.decode.DeserializeMethod.RAW_BYTES
    try:
        return builder.as_data_source(split=split, deserialize_method=raw, file_format="array_record")
    except Exception as error:  # TFDS and array_record raise many kinds
        raise _unprepared(builder, data, error) from None


def _unprepared(builder: Any, data: Any, error: Exception) -> InputError:
    folder = files.path(builder.data_path, "config.data.dir")  # also gs://
    if not folder.is_dir():
        command = f"tfds build {data.name} --file_format=array_record --data_dir=DIR"
        allowed = f"prepared data: --config.data.prepare=True, or {command}"
        return InputError("config.data.dir", f"{data.name} not prepared in {builder.data_path.parent}", allowed)
    if not any(".array_record" in f.name for f in folder.iterdir()):
        allowed = (
            "ArrayRecord, which has random access: tfds convert_format --out_file_format=array_record "
            f"--dataset_version_dir={folder} (needs apache-beam); or --config.data.in_memory=True"
        )
        return InputError("config.data.dir", f"only other formats (TFRecord) in {folder}", allowed)
    return InputError(
        "config.data.dir", f"{data.name} in {folder}: {_line(error)}", "data that TFDS prepared as array_record"
    )


def _in_memory(
    library: Any, builder: Any, data: Any, split: str, features: Any, skip: dict, columns: tuple[str, ...]
) -> dict[str, np.ndarray]:
    whole = builder.info.splits[split].num_bytes if split in (builder.info.splits or ()) else 0
    if whole > MEMORY_LIMIT and not data.num_examples:
        found, allowed = f"True for {whole / 2**30:.0f} GiB", f"False above {MEMORY_LIMIT >> 30} GiB"
        raise InputError("config.data.in_memory", found, allowed)
    try:
        records = _random_access(library, builder, data, split)
    except InputError:
        records = None
    if records is not None:  # TFDS reads ArrayRecord only this way
        size, fetch = taken(data, split, len(records)), _fetch(records, features, skip, columns)
        stream = tf.data.Dataset.range(size).batch(CHUNK).map(fetch, num_parallel_calls=tf.data.AUTOTUNE)
    else:
        # One file after the other: the order that random access has.
        reading = library.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        try:
            stream = builder.as_dataset(split=split, decoders=skip or None, read_config=reading, shuffle_files=False)
        except Exception as error:
            raise _unprepared(builder, data, error) from None
        stream = stream.take(data.num_examples) if data.num_examples and split == data.train_split else stream
        stream = stream.map(lambda example: {k: example[k] for k in columns}).batch(CHUNK)
    chunks: list[dict[str, np.ndarray]] = []
    try:
        chunks.extend(stream.as_numpy_iterator())
    except tf.errors.OpError as error:
        number = CHUNK * len(chunks)
        if records is not None:  # which one of the chunk: the error does not say
            number = next((i for i in range(number, min(number + CHUNK, size)) if not _readable(fetch, i)), number)
        where = f"{builder.info.full_name} {split} record {number}{'' if records is not None else ' or one soon after'}"
        allowed = "whole records; data.in_memory=False replaces a bad one in ArrayRecord"
        raise InputError(where, f"unreadable ({_line(error)})", allowed) from None
    if not chunks:
        raise InputError(f"{data.name} {split}", "no record", "at least one")
    return {k: np.concatenate([c[k] for c in chunks]) for k in columns}


def _readable(fetch: Any, number: int) -> bool:
    try:
        fetch(tf.constant([number], tf.int64))
    except Exception:  # outside a graph a reader's own kind comes through
        return False
    return True


def _fingerprint(info: Any, split: str, size: int, turned: bool) -> str:
    # The version names the records, in memory or not and in whatever file format; data.in_memory may change on resume.
    words = f"{info.full_name} {split} {size}{' upright' if turned else ''}"
    return hashlib.sha256(words.encode()).hexdigest()


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
