"""Data: sources of records, and the batches made of them."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from hcl_jax.data import arrays, emoji, folder, graphs, icons, mixture, pairs_csv, preferences, series, synthetic, tfds
from hcl_jax.data.bad_records import BadRecords
from hcl_jax.data.content import content_of, of_arrays
from hcl_jax.data.generated import with_generated
from hcl_jax.data.graph_csv import graph_csv
from hcl_jax.data.held_out import with_held_out
from hcl_jax.data.kept import keep, kept, without_records
from hcl_jax.data.noise import Noise, noise_arrays, noise_fields, noise_line, training_noise
from hcl_jax.data.pipeline import batch_specs, batches, evaluation_batches, known_presence
from hcl_jax.data.series_csv import series_csv
from hcl_jax.data.source import Arrays, Source, from_arrays, with_labelled, with_tokenizer
from hcl_jax.data.synthetic import random_like
from hcl_jax.data.tables import text_table
from hcl_jax.errors import InputError


def in_memory(read: Callable[[Any, str], Arrays], data: Any, split: str) -> Source:
    """A source over the arrays that `read(data, split)` gives."""
    return from_arrays(data.name, read(data, split), data, split)


def _fashion_mnist(data: Any, split: str) -> Source:
    """IDX files; TFDS's copy where `data.dir` holds that, or with `data.prepare`."""
    if data.prepare or os.path.isdir(os.path.join(data.dir or "", "fashion_mnist")):
        return tfds.open_tfds(data, split)
    return in_memory(arrays.fashion_mnist, data, split)


def _mixture(data: Any, split: str, sources: Mapping[str, Callable[[Any, str], Source]] | None = None) -> Source:
    """Several sources as one, each with its share: the parts of `data.parts`."""
    return mixture.mixture(data, split, partial(_read, sources=SOURCES if sources is None else sources))


def _read(data: Any, split: str, sources: Mapping[str, Callable[[Any, str], Source]]) -> Source:
    if sources.get(data.name) is _mixture:  # whose parts may be of a table of one's own
        return _mixture(data, split, sources)
    return with_held_out(data, split, sources.get(data.name, partial(tfds.open_tfds, known=sources)))


# Name -> function of (config.data, split). Any other name is a TFDS name.
SOURCES: dict[str, Callable[[Any, str], Source]] = {
    "digits": partial(in_memory, arrays.digits),
    "fashion_mnist": _fashion_mnist,
    "emoji": partial(in_memory, emoji.emoji),
    "icons": partial(in_memory, icons.icons),
    "idx": partial(in_memory, arrays.idx),
    "npz": partial(in_memory, arrays.npz),
    "csv": partial(in_memory, text_table),
    "folder": folder.folder,
    "pairs_csv": pairs_csv.pairs_csv,
    "series": partial(in_memory, series.series),
    "series_csv": series_csv,
    **{name: partial(in_memory, series.series) for name in series.PACKAGED},
    "planetoid": partial(in_memory, graphs.planetoid),
    "graph_csv": graph_csv,
    "tu": partial(in_memory, graphs.tu),
    "blocks": partial(in_memory, graphs.stochastic_blocks),
    "motifs": partial(in_memory, graphs.motifs),
    "preferences": partial(in_memory, preferences.preferences),
    "random": synthetic.random,
    "mixture": _mixture,
}


# Fields of data that some sources alone read, as they are where they are not read.
UNUSED = {
    **{"dir": "", "text": "text", "picture": "filepath", "record": "id", "time": "time"},
    **{"standardise": False, "in_memory": True, "shrink": 0, "prepare": False},
}
# Name -> those that it reads. Any other name is TFDS's.
READ = {
    **dict.fromkeys(("emoji", "icons", "idx", "planetoid", "tu"), ("dir",)),
    "fashion_mnist": ("dir", "in_memory", "prepare"),
    "npz": ("dir", "text", "standardise"),
    "csv": ("dir", "text"),
    "folder": ("dir", "in_memory", "shrink"),
    "pairs_csv": ("dir", "text", "picture", "in_memory", "shrink"),
    **dict.fromkeys(("series", *series.PACKAGED), ("dir", "standardise")),
    "series_csv": ("dir", "record", "time", "standardise"),
    "graph_csv": ("dir", "record"),
    "preferences": ("dir",),
    "random": tuple(UNUSED),  # stands for another source
    "mixture": tuple(UNUSED),  # of its parts
}
TFDS_READS = ("dir", "in_memory", "prepare")


def fields_read(name: str, sources: Mapping[str, Callable[[Any, str], Source]] = SOURCES) -> tuple[str, ...]:
    """Those of the fields of `UNUSED` that a source reads; one of a user's own may read any."""
    if name in sources and sources[name] is not SOURCES.get(name):
        return tuple(UNUSED)
    return READ.get(name, ()) if name in SOURCES else TFDS_READS


def check_read(data: Any, sources: Mapping[str, Callable[[Any, str], Source]] = SOURCES) -> None:
    """Raises InputError for a field that the source does not read: set, it would change nothing without a word."""
    read = fields_read(data.name, sources)
    for field, unused in UNUSED.items():
        if field not in read and data[field] != unused:
            others = ", ".join(name for name, fields in READ.items() if field in fields)
            raise InputError(
                f"config.data.{field}", repr(data[field]), f"{unused!r} for {data.name}; it is read by {others}"
            )


def open_source(data: Any, split: str, sources: Mapping[str, Callable[[Any, str], Source]] = SOURCES) -> Source:
    """One split of `data.name`: an entry of `sources`, or a TFDS data set of that name.

    Args:
      data: `config.data`.
      split: usually data.train_split or data.test_split.
      sources: name -> function of (data, split).

    Returns:
      A Source with at least one record.

    Raises:
      InputError: an unknown name or split, missing or damaged files.
    """
    if data.num_examples < 0:
        raise InputError("config.data.num_examples", data.num_examples, "0 (all) or more")
    check_read(data, sources)
    source = _read(data, split, sources)
    source = source._replace(upright=data.upright, max_pixels=data.max_pixels, shrink=data.shrink)
    if split == data.train_split:
        source = with_generated(source, data.generated) if data.generated else source
        source = with_labelled(source, data.labelled)
    return with_tokenizer(source, data.tokenizer)


__all__ = [
    "SOURCES",
    "BadRecords",
    "Noise",
    "Source",
    "batch_specs",
    "batches",
    "content_of",
    "evaluation_batches",
    "fields_read",
    "from_arrays",
    "keep",
    "kept",
    "known_presence",
    "noise_arrays",
    "noise_fields",
    "noise_line",
    "of_arrays",
    "open_source",
    "random_like",
    "training_noise",
    "without_records",
]
