"""Several sources as one: their records one after the other, and an order in which each has its share.

A record keeps its number whatever the weights are. A view or label that a part lacks is missing there by name.
"""

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hcl_jax.data import order
from hcl_jax.data.content import content_of
from hcl_jax.data.source import Source
from hcl_jax.errors import InputError
from hcl_jax.views.lazy import tf

BITS = 20  # of a share: exact to 1e-6, and whole numbers do not overflow before 2^43 examples
# In the place of a picture that a part lacks, for every row is decoded: a PNG of one pixel.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154089963606060000000040001a30a15e30000000049454e44ae426082"
)
OWN = ("weight",)


class Mix(NamedTuple):
    """How records of a mixture are ordered.

    Fields:
      names: of the K parts.
      sizes: int [K], records of each.
      shares: float [K], of the positions; they sum to 1.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    shares: tuple[float, ...]

    @property
    def starts(self) -> tuple[int, ...]:
        """The number of the first record of each part."""
        return tuple(int(n) for n in np.cumsum((0, *self.sizes))[:-1])


def mixture(data: Any, split: str, opened: Callable[[Any, str], Source]) -> Source:
    """The parts that `data.parts` names, one after the other.

    Args:
      data: `config.data`. A part has the fields of it, but for those that `data.parts[name]` has of its own; without a
        "weight" its weight is its number of records.
      split: `data.train_split` or `data.test_split`, for which a part may have its own word; a part whose word is ""
        has no such split.
      opened: function of (data of a part, split).

    Returns:
      A Source with the union of the parts' fields and labels, by name. A field that a part lacks is marked absent, a
      class that it lacks is -1.

    Raises:
      InputError: no part with such a split, or parts that disagree on a field or a label of one name.
    """
    parts: dict[str, Source] = {}
    for name in sorted(data.parts):  # as a frozen config has them
        own = data.parts[name]
        part = type(data)({**data, **{k: v for k, v in own.items() if k not in OWN}, "parts": {}})
        word = {data.train_split: part.train_split, data.test_split: part.test_split}.get(split, split)
        if not word:
            continue
        parts[name] = opened(part, word)
        if parts[name].whole:
            raise InputError(f"config.data.parts.{name}", f"{parts[name].name}, one graph", "records that stand alone")
    if not parts:
        raise InputError("config.data.parts", f"no part with a {split} split", "at least one")
    fields = _union({name: dict(s.fields) for name, s in parts.items()}, "field")
    labels = _union({name: dict(s.labels) for name, s in parts.items()}, "label")
    names = _union({name: dict(s.class_names) for name, s in parts.items()}, "class names of")
    for label, classes in labels.items():
        lacking = [name for name, s in parts.items() if label not in s.labels]
        if lacking and not classes:
            raise InputError(f"config.data.parts.{lacking[0]}.labels", f"no {label}", f"{label}, for it is no class")
    given = {name: data.parts[name] for name in parts}
    weights = np.array([given[n]["weight"] if "weight" in given[n] else s.num_examples for n, s in parts.items()])
    sources = tuple(parts.values())
    mix = Mix(tuple(parts), tuple(s.num_examples for s in sources), tuple(float(w) for w in weights / weights.sum()))
    sides = {name: here for name in fields if (here := _sides(sources, name))}
    everywhere = all(set(s.fields) == set(fields) and s.present is None for s in sources)
    words = [f"{name} {share!r} {s.fingerprint}" for name, share, s in zip(parts, mix.shares, sources, strict=True)]

    def describe(number: int) -> str:
        part = int(np.searchsorted(mix.starts, number, side="right")) - 1
        return f"{mix.names[part]}: {sources[part].describe(number - mix.starts[part])}"

    return Source(
        name="mixture",
        num_examples=sum(mix.sizes),
        fetch=_fetch(sources, mix, fields, labels, sides, None if everywhere else "present"),
        fields=fields,
        labels=labels,
        present=None if everywhere else "present",
        fingerprint=hashlib.sha256("\n".join(words).encode()).hexdigest(),
        licence="; ".join(dict.fromkeys(s.licence for s in sources if s.licence)),
        citation="\n".join(dict.fromkeys(s.citation for s in sources if s.citation)),
        describe=describe,
        class_names=names,
        mix=mix,
        known_present={} if everywhere else {name: _known_present(sources, name) for name in fields},
        content=lambda seed: {
            f"part {name}: {what}": text for name, s in parts.items() for what, text in content_of(s, seed).items()
        },
        sides=sides,
    )


def _known_present(sources: Sequence[Source], name: str) -> np.ndarray:
    """Which records have a field, as far as the parts know: those of parts that lack it do not."""
    all_of = [np.full(s.num_examples, name in s.fields) for s in sources]
    return np.concatenate([s.known_present.get(name, there) for s, there in zip(sources, all_of, strict=True)])


def records(position: Any, mix: Mix, seed: int) -> Any:
    """The record at each position of the endless stream: every part has its share evenly, in epochs of its own.

        W_k = round(2^20 share_k / (share_k + ... + share_K)),  c_k(q) = floor(q W_k / 2^20)
        from q = p on: part k has the place q where c_k(q + 1) > c_k(q), as its c_k(q)-th; else q becomes q - c_k(q)
        record = start_k + permutation_(seed, k, j // N_k)(j mod N_k), j = c_k(q)

    Of the first p positions part k has share_k p, but for fewer than k + 1.

    Args:
      position: int64 [n].
      mix: of the source.
      seed: of the run.

    Returns:
      int64 [n].
    """
    place, found = position, tf.zeros_like(position)
    open_ = tf.ones_like(position, tf.bool)
    for k, (name, size, start) in enumerate(zip(mix.names, mix.sizes, mix.starts, strict=True)):
        width = round(2**BITS * mix.shares[k] / sum(mix.shares[k:]))
        before, after = place * width // 2**BITS, (place + 1) * width // 2**BITS
        here = open_ & (after > before)
        word = zlib.crc32(f"{seed}/part/{name}".encode())  # parts of one size would have one order
        found = tf.where(here, start + order.records(tf.where(here, before, 0), size, word), found)
        open_, place = open_ & ~here, place - before
    return found


def _sides(sources: Sequence[Source], field: str) -> tuple[int, int] | None:
    """What the pictures of a field measure where they are of one size in all parts that have it."""
    found = {source.sides.get(field) for source in sources if field in source.fields}
    return found.pop() if len(found) == 1 else None


def _union(parts: Mapping[str, Mapping[str, Any]], what: str) -> dict[str, Any]:
    """Name -> value over all parts. Raises InputError where two parts have two values."""
    found: dict[str, Any] = {}
    owner: dict[str, str] = {}
    for part, values in parts.items():
        for name, value in values.items():
            if found.setdefault(name, value) != value:
                first = f"{found[name]}, as {owner[name]} has it, or another name"
                raise InputError(f"config.data.parts.{part}: {what} {name}", value, first)
            owner.setdefault(name, part)
    return found


def _fetch(
    sources: Sequence[Source],
    mix: Mix,
    fields: Mapping[str, Any],
    labels: Mapping[str, int],
    sides: Mapping[str, tuple[int, int]],
    mark: str | None,
) -> Callable[[Any], dict[str, Any]]:
    # In the place of a picture that a part lacks: of the size of the others where they have one.
    blank = {name: tf.io.encode_png(np.zeros((*here, 3), np.uint8)).numpy() for name, here in sides.items()}

    def fetch(index: Any) -> dict[str, Any]:
        index = tf.convert_to_tensor(index, tf.int64)
        part = tf.searchsorted(tf.constant(mix.starts, tf.int64), index, side="right") - 1
        rows = tf.dynamic_partition(tf.range(tf.size(index)), part, len(sources))
        # Each part reads its own rows only.
        pieces = [s.fetch(tf.gather(index, r) - first) for s, r, first in zip(sources, rows, mix.starts, strict=True)]
        for piece in pieces:
            # Readers give classes of several widths.
            piece.update({k: tf.cast(piece[k], tf.int64) for k, classes in labels.items() if classes and k in piece})
        back = tf.math.invert_permutation(tf.concat(rows, 0))

        def joined(values: Sequence[Any]) -> Any:
            whole = tf.gather(tf.concat(values, 0), back)
            return tf.ensure_shape(whole, [index.shape[0], *whole.shape[1:]])

        record: dict[str, Any] = {}
        for name in (*fields, *labels):
            like = next(piece[name] for piece in pieces if name in piece)
            fill = -1 if name in labels else blank.get(name, PIXEL) if fields[name][1] == "string" else 0
            values = [
                piece[name] if name in piece else tf.nest.map_structure(lambda x, r=r, f=fill: _filled(x, r, f), like)
                for piece, r in zip(pieces, rows, strict=True)
            ]
            record[name] = tf.nest.map_structure(lambda *x: joined(x), *values)
        if mark is not None:
            there = [_present(s, p, r, fields) for s, p, r in zip(sources, pieces, rows, strict=True)]
            record[mark] = joined(there)
        return record

    return fetch


def _filled(like: Any, rows: Any, value: int | bytes) -> Any:
    """A row of nothing for each of `rows`, of the shape and dtype of other rows."""
    count = tf.size(rows)
    if like.dtype == tf.string:
        return tf.fill([count, *like.shape[1:]], value)
    return tf.fill([count, *like.shape[1:]], tf.cast(value, like.dtype))


def _present(source: Source, piece: Mapping[str, Any], rows: Any, fields: Mapping[str, Any]) -> Any:
    """bool [rows, fields of the mixture]."""
    own = list(source.fields)
    columns = []
    for name in fields:
        if name in own and source.present is not None:
            columns.append(piece[source.present][:, own.index(name)])
        else:
            columns.append(tf.fill([tf.size(rows)], name in own))
    return tf.stack(columns, 1)
