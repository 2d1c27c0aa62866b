"""What a run keeps of its training records, so that its model can be used where they are not."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hcl_jax.data.source import Source
from hcl_jax.disk.reading import readable
from hcl_jax.errors import InputError
from hcl_jax.views import tokenizers
from hcl_jax.views.lazy import tf
from hcl_jax.workdir import files

LAYOUT = 1


def keep(path: files.Path, source: Source, say: Callable[[str], None]) -> None:
    """Writes what is known of the training records, unless the file says just that: it may be damaged, or of a run
    that was begun before there was such a file. A run without it trains all the same."""
    try:
        text = kept(source)
    except Exception as error:  # a source of the user's own may hold anything
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        say(f"no {path.name}, so that the model needs the data beside it: {reason}")
        return
    if not path.exists() or path.read_bytes() != text.encode():
        files.write(path, text)


def kept(source: Source) -> str:
    """What a model needs to know of the records that it was trained on, as JSON; reads none.

    Names, shapes and dtypes of fields, labels with the names of their classes, the size, the fingerprint, and how
    pictures are read and series were standardised. The last entry is the SHA-256 of all others.
    """
    one = tf.data.Dataset.from_tensors(np.zeros(1, np.int64)).map(source.fetch).element_spec
    moments = {k: {"mean": m.tolist(), "deviation": d.tolist()} for k, (m, d) in source.moments.items()}
    plain = {
        "layout": LAYOUT,
        "name": str(source.name),
        "num_examples": int(source.num_examples),
        "fields": {k: {"shape": _sizes(shape), "dtype": _dtype(dtype)} for k, (shape, dtype) in source.fields.items()},
        "record": {k: _plain(v) for k, v in one.items()},
        "labels": {k: int(v) for k, v in source.labels.items()},
        "class_names": {k: list(map(str, v)) for k, v in source.class_names.items()},
        "present": source.present,
        "fingerprint": source.fingerprint,
        "whole": bool(source.whole),
        "sides": {k: list(map(int, v)) for k, v in source.sides.items()},
        "upright": bool(source.upright),
        "max_pixels": int(source.max_pixels),
        "shrink": int(source.shrink),
        "moments": moments,
        "columns": {k: list(map(str, v)) for k, v in source.columns.items()},
    }
    return json.dumps({**plain, "sha256": _sha256(plain)}, indent=1) + "\n"


def without_records(text: str, data: Any, where: str, missing: InputError) -> Source:
    """A source of which all is known but the records.

    Args:
      text: what `kept` gave.
      data: the run's `config.data`.
      where: the file, for messages.
      missing: why there are no records; whatever would read one raises it.

    Raises:
      InputError: no such text, one that was changed, or texts that another tokenizer would read.
    """
    with readable(where, "the data.json that a run wrote", "no data.json"):
        plain = json.loads(text)
        if plain["layout"] != LAYOUT:
            raise InputError(where, f"layout {plain['layout']}", f"layout {LAYOUT}, or a newer release")
        if plain.pop("sha256", None) != _sha256(plain):  # a value that was changed would pass for one of the run
            raise InputError(where, "other contents than its sha256 is of", "the file that the run wrote")
        source = Source(
            name=plain["name"],
            num_examples=int(plain["num_examples"]),
            fetch=_nothing({k: _spec(v) for k, v in plain["record"].items()}, missing),
            fields={k: (tuple(v["shape"]), v["dtype"]) for k, v in plain["fields"].items()},
            labels=dict(plain["labels"]),
            present=plain["present"],
            fingerprint=plain["fingerprint"],
            licence="",
            citation="",
            class_names={k: tuple(v) for k, v in plain["class_names"].items()},
            whole=plain["whole"],
            upright=plain["upright"],
            max_pixels=plain["max_pixels"],
            shrink=plain["shrink"],
            tokenizer=data.tokenizer,
            sides={k: (v[0], v[1]) for k, v in plain["sides"].items()},
            moments={k: (np.array(v["mean"]), np.array(v["deviation"])) for k, v in plain["moments"].items()},
            columns={k: tuple(v) for k, v in plain["columns"].items()},
            missing=missing,
        )
    if data.tokenizer != "bytes":
        digest = tokenizers.load(data.tokenizer, "config.data.tokenizer").digest
        if not source.fingerprint.endswith(f"tokenizer {digest}"):
            raise InputError("config.data.tokenizer", f"another file, {data.tokenizer}", "the run's tokenizer")
    return source


def _sha256(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def _dtype(dtype: Any) -> str:
    """The name of a dtype, or a word such as "arrays"; a source of the user's own may give a type of NumPy."""
    return dtype if isinstance(dtype, str) else tf.dtypes.as_dtype(dtype).name


def _sizes(shape: Any) -> list[int | None]:
    return [None if n is None else int(n) for n in shape]


def _plain(spec: Any) -> Any:
    """The shape and dtype of a record's tensor, or of each part of it."""
    if isinstance(spec, Mapping):
        return {"parts": {k: _plain(v) for k, v in spec.items()}}
    return {"shape": _sizes(spec.shape.as_list()[1:]), "dtype": spec.dtype.name}


def _spec(plain: Mapping[str, Any]) -> Any:
    if "parts" in plain:
        return {k: _spec(v) for k, v in plain["parts"].items()}
    return tuple(plain["shape"]), tf.dtypes.as_dtype(plain["dtype"])


def _nothing(record: Mapping[str, Any], missing: InputError) -> Callable[[Any], dict[str, Any]]:
    """`fetch` that has the shapes of the records, for what is traced, and gives none."""

    def tensor(spec: Any, size: Any, static: int | None) -> Any:
        if isinstance(spec, dict):
            return {k: tensor(v, size, static) for k, v in spec.items()}
        shape, dtype = spec
        zeros = tf.zeros(tf.concat([size, [n or 0 for n in shape]], 0), dtype)
        return tf.raw_ops.PlaceholderWithDefault(input=zeros, shape=tf.TensorShape([static, *shape]))

    def fetch(index: Any) -> dict[str, Any]:
        if tf.executing_eagerly():
            raise missing
        index = tf.convert_to_tensor(index)
        never = tf.raw_ops.Assert(condition=tf.constant(False), data=[tf.constant(str(missing))])
        with tf.control_dependencies([never]):
            size = tf.identity(tf.shape(index))
        return {k: tensor(v, size, index.shape[0]) for k, v in record.items()}

    return fetch
