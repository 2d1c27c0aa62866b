"""Which training examples a run reads, and what is wrong with them: arrays that follow from its seed alone.

The choices of a smaller share or count are among those of a larger one, so that the levels of a study differ by what is
added. Cost: a permutation of the examples for each kind of noise, 8 bytes an example.
"""

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from hcl_jax.errors import InputError

FIELDS = ("sample", "flipped", "flipped_keeps")  # of config.data, keywords of training_noise


class Noise(NamedTuple):
    """What training reads in place of the plain examples.

    Fields:
      rows: int64 [m], rising: the examples that are trained on; None is all.
      offsets: label -> int64 [N], what is added to the class, modulo the number of classes.
      borrowed: view -> int64 [N], the example whose record the view is made from.
    """

    rows: np.ndarray | None
    offsets: dict[str, np.ndarray]
    borrowed: dict[str, np.ndarray]


def noise_fields(data: Any) -> dict[str, Any]:
    """The keywords of training_noise that `config.data` holds: sample, flipped and flipped_keeps."""
    return {field: data[field] for field in FIELDS}


def sampled_rows(n: int, count: int, seed: int) -> np.ndarray:
    """Distinct rows, drawn without replacement.

        rows = permutation(seed)[:count]

    Args:
      n: how many there are.
      count: how many are drawn, 0 to n.
      seed: of the run.

    Returns:
      int64 [count], in random order; those of a smaller count begin those of a larger one.

    Raises:
      InputError: a count outside 0 to n.
    """
    if not 0 <= count <= n:
        raise InputError("count", count, f"0 to {n}, the rows that there are")
    return _rng(seed, "sampled").permutation(n)[:count]


def label_offsets(
    n: int, classes: int, ratio: float, seed: int, keeps: bool = False, word: str = "flipped"
) -> np.ndarray:
    """How far the class of each row is moved: y' = (y + offset) mod C.

        k = round(ratio n) rows;  offset uniform in 1..C-1, with keeps in 0..C-1;  0 for every other row

    Args:
      n: rows.
      classes: C, 2 or more.
      ratio: share of the rows whose class is drawn again, 0 to 1. Half a row is rounded to the even number.
      seed: of the run.
      keeps: the draw is over all classes, so that it may hit the true one. The published code of noise on the labels of
        a downstream task does that; 1/C of the chosen rows then keep their class.
      word: two labels with different words are flipped independently.

    Returns:
      int64 [n]. The rows of a smaller ratio are among those of a larger one, with the same offsets.

    Raises:
      InputError: fewer than two classes, or a ratio outside 0 to 1.
    """
    if classes < 2:
        raise InputError("classes", classes, "2 or more")
    rng = _rng(seed, word)
    rows = rng.permutation(n)[: _share(ratio, n)]
    drawn = rng.integers(0 if keeps else 1, classes, n)  # of every row: a larger ratio then moves no other offset
    offsets = np.zeros(n, np.int64)
    offsets[rows] = drawn[rows]
    return offsets


def swapped_rows(n: int, ratio: float, seed: int, word: str) -> np.ndarray:
    """The row whose record each row gets: a random cycle over the chosen rows, so that no record is lost or doubled.

        k = round(ratio n) rows c_1 .. c_k in random order;  c_i gets the record of c_(i+1), c_k that of c_1

    Args:
      n: rows.
      ratio: share of the rows that get another's record, 0 to 1. One row cannot be swapped: where the share rounds to
        one, two are (none where n is 1).
      seed: of the run.
      word: views with the same word are swapped alike.

    Returns:
      int64 [n], a permutation: no chosen row keeps its own, every other row does. The rows of a smaller ratio are among
      those of a larger one.

    Raises:
      InputError: a ratio outside 0 to 1.
    """
    count = _share(ratio, n)
    count = min(2, n) if count == 1 else count
    rows = _rng(seed, f"swapped/{word}").permutation(n)[:count]
    origin = np.arange(n)
    origin[rows] = np.roll(rows, -1)
    return origin


def training_noise(
    num_examples: int,
    labels: Mapping[str, int],
    views: Mapping[str, Any],
    *,
    seed: int,
    sample: int = 0,
    flipped: float = 0.0,
    flipped_keeps: bool = False,
) -> Noise:
    """The arrays that the batches of a seed are made with. Shares are of the sampled examples, and views are swapped
    among them: nothing of the others enters.

    Args:
      num_examples: N.
      labels: label -> number of classes; 0 is no class and is left alone.
      views: view -> its spec; read are `swapped`, a share, and `draws`, the word.
      seed: of the run.
      sample: how many examples are trained on; 0 is all.
      flipped: share of each label that is replaced.
      flipped_keeps: whether the new class may be the old one.

    Returns:
      Noise over the records 0..N-1.

    Raises:
      InputError: a sample larger than N, labels without two classes.
    """
    if not 0 <= sample <= num_examples:
        raise InputError("config.data.sample", sample, f"0 (all) to {num_examples}, the training examples")
    # In order, so that a sample of all is no sample.
    rows = np.sort(sampled_rows(num_examples, sample, seed)) if sample else None
    chosen = np.arange(num_examples) if rows is None else rows
    count = len(chosen)
    offsets: dict[str, np.ndarray] = {}
    if flipped:
        classes = {k: c for k, c in labels.items() if c}
        if not classes or min(classes.values()) < 2:
            found = ", ".join(f"{k} of {c} classes" for k, c in labels.items()) or "no label"
            raise InputError("config.data.flipped", f"{flipped} with {found}", "0, or labels of 2 classes and more")
        for name, c in classes.items():
            offsets[name] = np.zeros(num_examples, np.int64)
            offsets[name][chosen] = label_offsets(count, c, flipped, seed, flipped_keeps, f"flipped/{name}")
    borrowed: dict[str, np.ndarray] = {}
    for name, view in views.items():
        if view.get("swapped", 0.0):
            borrowed[name] = np.arange(num_examples)
            borrowed[name][chosen] = chosen[swapped_rows(count, view["swapped"], seed, view.get("draws") or name)]
    return Noise(rows, offsets, borrowed)


def noise_arrays(noise: Noise, seed: int) -> dict[str, np.ndarray]:
    """What a run keeps: seed0/sample/rows, seed0/<label>/rows and offsets, seed0/view_<view>/rows and from.

    Args:
      noise: of the seed.
      seed: for the names.

    Returns:
      name -> int64 array: the record numbers that are changed, and what they are changed to.
    """
    made = {} if noise.rows is None else {f"seed{seed}/sample/rows": noise.rows}
    for label, offsets in noise.offsets.items():
        rows = np.flatnonzero(offsets)
        made |= {f"seed{seed}/{label}/rows": rows, f"seed{seed}/{label}/offsets": offsets[rows]}
    for view, origin in noise.borrowed.items():
        rows = _moved(origin)
        made |= {f"seed{seed}/view_{view}/rows": rows, f"seed{seed}/view_{view}/from": origin[rows]}
    return made


def noise_line(noise: Noise, num_examples: int, seed: int) -> str:
    """`noise: 287 of 1437 labels flipped (seed 0)`; empty where the examples are as they are."""
    count = num_examples if noise.rows is None else len(noise.rows)
    said = [] if noise.rows is None else [f"{count} of {num_examples} examples sampled"]
    for label, offsets in noise.offsets.items():
        which = "labels" if len(noise.offsets) == 1 else f"labels {label}"
        said.append(f"{np.count_nonzero(offsets)} of {count} {which} flipped")
    said += [f"{len(_moved(x))} of {count} views {view} swapped" for view, x in noise.borrowed.items()]
    return f"noise: {', '.join(said)} (seed {seed})" if said else ""


def _rng(seed: int, word: str) -> np.random.Generator:
    return np.random.default_rng((seed, zlib.crc32(word.encode())))


def _share(ratio: float, n: int) -> int:
    if not 0 <= ratio <= 1:
        raise InputError("ratio", ratio, "0 to 1, a share of the rows")
    return round(ratio * n)


def _moved(origin: np.ndarray) -> np.ndarray:
    return np.flatnonzero(origin != np.arange(len(origin)))
