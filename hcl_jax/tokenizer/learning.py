"""A tokenizer of one's own: a byte pair encoding learned from the texts that a recipe trains on."""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from hcl_jax import data
from hcl_jax.data.source import Source, as_text
from hcl_jax.errors import InputError, nearest
from hcl_jax.views import tokenizers
from hcl_jax.views.lazy import tf

CHUNK = 1024  # records that are read at once
MOST = 1_000_000  # texts that it is learned from


class Learned(NamedTuple):
    """What was learned.

    Attributes:
      tokens: how many.
      texts: from how many texts.
      mean: tokens of a text.
      cut: share of the texts that the view cuts.
    """

    tokens: int
    texts: int
    mean: float
    cut: float


def text_view(config: Any, name: str) -> str:
    """The view whose texts are meant: `name`, or the only one with the op tokens. Raises InputError otherwise."""
    known = [v for v, view in config.views.items() if any(op["op"] == "tokens" for op in view["ops"])]
    if not known:
        raise InputError("config.views", "none with the op tokens", "a recipe that reads texts")
    if name not in known and (name or len(known) > 1):
        raise InputError("--view", repr(name), nearest(name, known))
    return name or known[0]


def table_of(config: Any, view: str) -> int:
    """The vocab_size of the encoder that reads a view. Raises InputError where the recipe does not say it."""
    towers = [tower for tower in config.towers.values() if view in tower["views"]]
    for tower in towers:
        if "vocab_size" in tower["encoder"]:
            return int(tower["encoder"]["vocab_size"])
    raise InputError("--vocabulary", "nothing", f"a number of tokens, for no encoder of view {view} has a vocab_size")


def texts_of(source: Source, field: str, most: int = MOST) -> Iterator[str]:
    """The texts of a field, all or `most` evenly spaced ones; in the order of the records."""
    numbers = np.unique(np.linspace(0, source.num_examples - 1, min(most, source.num_examples)).astype(np.int64))
    for start in range(0, len(numbers), CHUNK):
        yield from map(as_text, source.fetch(tf.constant(numbers[start : start + CHUNK]))[field].numpy())


def learn(config: Any, view: str, vocabulary: int, output: str, most: int = MOST) -> Learned:
    """Learns a tokenizer from the training texts of a view, before its ops, and writes it.

    Args:
      config: completed and checked.
      view: of the recipe.
      vocabulary: upper limit on tokens, at least 260.
      output: the tokenizer.json to write; a new name.
      most: texts that it is learned from.

    Raises:
      InputError: a file that is there, a field that is no text.
    """
    if os.path.exists(output):
        raise InputError(f"--output={output}", "a file that is there", "a new name: runs know a file by its digest")
    folder = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(folder):
        raise InputError(f"--output={output}", f"no folder {folder}", "a file in a folder that is there")
    # The tokenizer that the recipe names is the one that is made here.
    spec = type(config.data)({**config.data.to_dict(), "tokenizer": "bytes"})
    source = data.open_source(spec, spec.train_split)
    field = config.views[view]["field"]
    if source.fields.get(field, ((), ""))[1] != "string":
        found = f"{field!r}, which is no text" if field in source.fields else repr(field)
        strings = [name for name, (_, dtype) in source.fields.items() if dtype == "string"]
        raise InputError(f"config.views.{view}.field", found, f"texts of {source.name}: {nearest(field, strings)}")
    texts = list(texts_of(source, field, most))
    try:
        tokens = tokenizers.train_bpe(texts, vocabulary, output)
    except OSError as error:
        raise InputError(f"--output={output}", str(error), "a folder that this user may write, with room") from None
    lengths = np.array([len(e.ids) for e in tokenizers.load(output).library.encode_batch(texts)])
    length = next(op.get("length", 64) for op in config.views[view]["ops"] if op["op"] == "tokens")
    return Learned(tokens, len(texts), float(lengths.mean()), float((lengths > length).mean()))
