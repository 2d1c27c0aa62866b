"""Time series with classes: the sets that aeon's package holds, and .ts files in a folder."""

import functools
import os
from typing import Any

import numpy as np

from hcl_jax.data.limits import check_bytes
from hcl_jax.data.source import Arrays, listed, unknown_split
from hcl_jax.disk.reading import readable
from hcl_jax.errors import InputError, nearest

PACKAGED = tuple(
    "ACSF1 ArrowHead BasicMotions GunPoint ItalyPowerDemand JapaneseVowels OSULeaf PickupGestureWiimoteZ".split()
)


def series(data: Any, split: str) -> Arrays:
    """series float32 [N, T, C] and label; also length [N] where lengths differ. Missing values and padding are NaN.

    `data.name` or `data.dir` names a packaged set; else `data.dir` is a folder with `<name>_TRAIN.ts` and
    `<name>_TEST.ts`. With `data.standardise` each channel has mean 0 and deviation 1 over the training split.

    Raises:
      InputError: an unknown set or split, unreadable files, or a series without any value.
    """
    if split not in ("train", "test"):
        raise unknown_split(split, ("train", "test"), "series")
    named = data.name if data.name in PACKAGED else data.dir
    read = functools.partial(_packaged, named) if named in PACKAGED else functools.partial(_folder, data)
    both = {s: read(s) for s in ("train", "test")}
    # One shape and one numbering for both splits: UEA's unequal sets have longer series in one of them.
    longest = max(v.shape[-1] for values, _, _ in both.values() for v in values)
    known = sorted({str(c) for _, _, names in both.values() for c in names})
    number = {c: i for i, c in enumerate(known)}
    values, classes, _ = both[split]
    lengths = np.array([v.shape[-1] for v in values], np.int32)
    by: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    if data.standardise:
        mean, deviation = by["series"] = moments(both["train"][0])
        values = [(v - mean[:, None]) / deviation[:, None] for v in values]
    padded = np.full((len(values), longest, values[0].shape[0]), np.nan, np.float32)
    for row, value in zip(padded, values, strict=True):
        row[: value.shape[-1]] = value.T
    fields = {"series": padded} | ({"length": lengths} if lengths.min() < longest else {})
    return Arrays(
        fields=fields,
        labels={"label": np.array([number[str(c)] for c in classes], np.int32)},
        classes={"label": len(known)},
        licence="research use",
        citation="UCR and UEA archives, www.timeseriesclassification.com; packaged by aeon"
        if named in PACKAGED
        else "",
        class_names={"label": tuple(known)},
        moments=by,
    )


def moments(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [C] of the values that are there; a constant or empty channel is only centred.

    Args:
      values: series [C, T], of any lengths.
    """
    x = np.concatenate([np.asarray(v, np.float64) for v in values], axis=1)
    there = ~np.isnan(x)
    count = np.maximum(there.sum(1), 1)
    mean = np.where(there, x, 0).sum(1) / count
    deviation = np.sqrt((np.where(there, x - mean[:, None], 0) ** 2).sum(1) / count)
    return mean, np.where(deviation > 10 * np.finfo(np.float64).eps * np.abs(mean), deviation, 1)


def _check_case(path: str) -> None:
    """Raises InputError for class names that differ by case alone: aeon reads them in lower case, as one class."""
    with readable(path, "a .ts file"), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            words = line.split()
            if words and words[0].lower() == "@data":
                return
            if words and words[0].lower() == "@classlabel":
                twins: dict[str, list[str]] = {}
                for name in words[2:]:
                    twins.setdefault(name.lower(), []).append(name)
                for names in twins.values():
                    if len(names) > 1:
                        found = f"the classes {' and '.join(names)}"
                        raise InputError(
                            path, found, "class names that differ in more than case: aeon reads lower case"
                        )


def _aeon(wanted: str) -> Any:
    try:
        from aeon import datasets
    except ImportError:
        raise InputError(wanted, "aeon is not installed", "pip install -e '.[series]'") from None
    return datasets


def _packaged(name: str, split: str) -> tuple[Any, Any, Any]:
    values, classes, meta = _aeon(f"config.data.name {name}").load_classification(
        name, split=split, return_metadata=True
    )
    return values, classes, meta["class_values"]


def _folder(data: Any, split: str) -> tuple[Any, Any, Any]:
    allowed = f"one of {', '.join(PACKAGED)}, or a folder with .ts files"
    if not os.path.isdir(data.dir):
        raise InputError("config.data.dir", repr(data.dir), allowed)
    files = [f for f in listed(data.dir) if f.endswith(".ts")]
    found = [f for f in files if f.upper().endswith(f"_{split.upper()}.TS") and "_eq_" not in f]
    if len(found) != 1:
        raise InputError(
            "config.data.dir",
            f"{len(found)} files *_{split.upper()}.ts in {data.dir}",
            f"exactly one; there: {nearest(split, files)}",
        )
    path = os.path.join(data.dir, found[0])
    datasets = _aeon(path)
    check_bytes(path, os.path.getsize(path), data.max_array_bytes)
    _check_case(path)
    with readable(path, "a .ts file with class labels"):
        values, classes, meta = datasets.load_from_ts_file(path, return_meta_data=True)
    if not meta.get("classlabel") or not len(values):
        raise InputError(path, "no series with class labels", "a .ts file with class labels")
    return values, classes, [str(c) for c in meta["class_values"]]
