"""Records of the right shape without data: for `--steps=2` and for timing."""

import types
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from hcl_jax.data import graphs, tfds
from hcl_jax.data.series import PACKAGED
from hcl_jax.data.source import Source, fingerprint_arrays, from_arrays, gather
from hcl_jax.errors import InputError

RECORDS = 1024  # when data.num_examples is 0
POOL = 64  # distinct inputs: enough for shapes and timing, and ImageNet's size stays in memory
WORDS = tuple("a blue bright cat dog field fish green house in near night of old on photo red river sea two".split())
# Fields of data that may not be there, so that a trial run builds the same model as the run.
KNOWN: dict[str, dict[str, tuple[int, ...]]] = {
    "digits": {"image": (8, 8, 1)},
    "fashion_mnist": {"image": (28, 28, 1)},
    "icons": {"outline": (64, 64, 1), "filled": (64, 64, 1)},
    "emoji": {"google": (64, 64, 4), "twitter": (64, 64, 4)},
}
SHAPES: dict[str, tuple[int, ...]] = {"image": (32, 32, 3), "series": (128, 1), "text": (), "features": (64,)}
RANKS = {"image": 3, "series": 2, "features": 1}
MADE = ("blocks", "motifs", "preferences")  # sources that need no files


def random_like(
    data: Any, views: Mapping[str, Any], split: str = "train", sources: Mapping[str, Any] | None = None
) -> Source:
    """A source whose records fit these views.

    Args:
      data: `config.data`; shape is that of the image or series ((H, W, C) or (T, C)), () takes that of `data.name`
        where it is known without data, else 32 x 32 x 3 and 128 x 1; num_examples (0 = 1024), labels and num_classes
        (0 = 10).
      views: `config.views`; each view's `field` becomes a field of its `kind`.
      split: train and test differ in their numbers.
      sources: the names that `data.name` may have besides TFDS's; None skips that check.

    Returns:
      A Source: uint8 images, float32 series and features, text of random words, graphs, labels 0..num_classes-1.

    Raises:
      InputError: an unknown name.
    """
    if data.name in MADE and data.name in (sources or {}):
        return (sources or {})[data.name](type(data)({**data, "dir": ""}), split)
    if not data.num_examples and data.sample > RECORDS:  # records enough for the sample
        data = type(data)({**data, "num_examples": data.sample})
    if any(v["kind"] == "graph" for v in views.values()):
        return _graphs(data, {v["field"] for v in views.values()}, split)
    known = {}
    if not data.shape:
        known = (
            _known(data, split, sources or {})
            if sources is None or data.name in sources
            else tfds.shapes(data, sources)
        )
    return _make(
        data, {v["field"]: (v["kind"], known.get(v["field"], tuple(data.shape))) for v in views.values()}, split
    )


def _known(data: Any, split: str, sources: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    if data.name == "series" or data.name in PACKAGED:
        return (
            {k: shape for k, (shape, _) in sources[data.name](data, split).fields.items()}
            if data.name in sources
            else {}
        )
    return KNOWN.get(data.name, {})


def random(data: Any, split: str) -> Source:
    """A source with the fields image, series, text and features, as random_like makes them."""
    return _make(data, {k: (k, tuple(data.shape)) for k in SHAPES}, split)


def _graphs(data: Any, fields: set[str], split: str) -> Source:
    """One graph of a batch's size, or many; data.shape's last number is the width of the nodes' features."""
    whole = data.order == "whole"
    size = data.num_examples or (data.batch_size if whole else RECORDS)
    read = graphs.stochastic_blocks if whole else graphs.motifs
    made = read(types.SimpleNamespace(num_examples=size), split)
    parts = dict(made.fields["graph"])
    if data.shape:
        parts["nodes"] = np.resize(parts["nodes"], (*parts["nodes"].shape[:-1], data.shape[-1]))
    names = (data.labels,) if isinstance(data.labels, str) else tuple(data.labels)
    made = made._replace(
        fields=dict.fromkeys(sorted(fields), parts),
        labels=dict.fromkeys(names, made.labels["label"]),
        classes=dict.fromkeys(names, made.classes["label"]),
        licence="none",
        citation="",
        class_names={},
    )
    return from_arrays("random", made, data, split)


def _make(data: Any, kinds: Mapping[str, tuple[str, tuple[int, ...]]], split: str) -> Source:
    rng = np.random.default_rng(zlib.crc32(split.encode()))
    size, classes = data.num_examples or RECORDS, data.num_classes or 10
    # A record is entry i mod POOL; its labels are its own.
    pool = {name: _column(rng, kind, shape) for name, (kind, shape) in sorted(kinds.items())}
    names = (data.labels,) if isinstance(data.labels, str) else tuple(data.labels)
    labels = {label: rng.integers(0, classes, size).astype(np.int32) for label in names}
    inputs, outputs = gather(pool), gather(labels)
    return Source(
        name="random",
        num_examples=size,
        fetch=lambda index: inputs(index % POOL) | outputs(index),
        fields={k: (v.shape[1:], "string" if v.dtype == object else v.dtype.name) for k, v in pool.items()},
        labels=dict.fromkeys(labels, classes),
        present=None,
        fingerprint=fingerprint_arrays(pool | labels),
        licence="none",
        citation="",
        content=lambda seed: {},  # of the split's name alone
    )


def _column(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    if kind == "text":
        return np.array([" ".join(rng.choice(WORDS, 12)) for _ in range(POOL)], object)
    rank = RANKS.get(kind)
    if rank is None:
        raise InputError("config.views kind", repr(kind), "image, series, text, features or graph")
    # The shape is that of the first kind it fits; a second kind in the same recipe takes its default.
    shape = shape if len(shape) == rank else SHAPES[kind]
    if kind == "image":
        return rng.integers(0, 256, (POOL, *shape), dtype=np.uint8)
    return rng.standard_normal((POOL, *shape)).astype(np.float32)
