"""Readers of data that fits in memory: one split as NumPy arrays."""

import gzip
import logging
import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from hcl_jax.data.casts import finite_floats, whole_numbers
from hcl_jax.data.limits import check_bytes
from hcl_jax.data.npz import names_of, read_npz
from hcl_jax.data.series import moments
from hcl_jax.data.source import Arrays, as_text, folder_of, listed, split_file, unknown_split
from hcl_jax.data.tables import columns_of
from hcl_jax.disk.reading import readable
from hcl_jax.errors import InputError

FASHION_MNIST = "/usr/share/datasets/fashion-mnist"  # where Debian's package dataset-fashion-mnist puts it
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
IDX_DTYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
CLASS_NAMES = "class_names"
LENGTHS = "lengths"  # of the series of an npz, whose steps then stand one after the other
NPZ_FIELDS = ("image", "series", "text", "tokens", "features")
LOG = logging.getLogger("hcl_jax")


def digits(data: Any, split: str) -> Arrays:
    """scikit-learn's handwritten digits, 8 x 8: image uint8 [N, 8, 8, 1] (0..16 stretched to 0..255) and label.

    Every fifth image of each class is the test split: 1,437 and 360.
    """
    from sklearn.datasets import load_digits

    if split not in ("train", "test"):
        raise unknown_split(split, ("train", "test"), "digits")
    loaded = load_digits()
    by_class = np.argsort(loaded.target, kind="stable")
    test = np.zeros(len(by_class), bool)
    test[by_class[::5]] = True
    keep = test if split == "test" else ~test
    image = np.round(loaded.images[keep] * (255 / 16)).astype(np.uint8)[..., None]
    return Arrays(
        fields={"image": image},
        labels={"label": loaded.target[keep].astype(np.int32)},
        classes={"label": 10},
        licence="CC BY 4.0",
        citation="Alpaydin, Kaynak: Optical Recognition of Handwritten Digits, UCI, 1998; doi:10.24432/C50P49",
        class_names={"label": tuple("0123456789")},
    )


def fashion_mnist(data: Any, split: str) -> Arrays:
    """Fashion-MNIST from IDX files in `data.dir`, or where Debian's package puts them."""
    if not data.dir and not os.path.isdir(FASHION_MNIST):
        raise InputError(
            "config.data.dir", "nothing", "a folder with Fashion-MNIST's IDX files, or Debian's dataset-fashion-mnist"
        )
    read = idx_folder(folder_of(data, "Fashion-MNIST's IDX files") if data.dir else FASHION_MNIST, split, data)
    return read._replace(
        licence="MIT",
        citation="Xiao, Rasul, Vollgraf: Fashion-MNIST, arXiv:1708.07747",
        class_names={"label": FASHION_CLASSES} if read.classes["label"] == 10 else {},
    )


def idx(data: Any, split: str) -> Arrays:
    """MNIST-like IDX files, plain or .gz, in `data.dir`: image [N, H, W, 1] and label."""
    return idx_folder(folder_of(data, "IDX files such as train-images-idx3-ubyte.gz"), split, data)


def idx_folder(folder: str, split: str, data: Any) -> Arrays:
    """`<split>-images-idx3-ubyte[.gz]` and `<split>-labels-idx1-ubyte[.gz]`; the split "test" may be named t10k."""
    known = sorted({f.split("-images")[0].replace("t10k", "test") for f in listed(folder) if "-images" in f})
    if not known:
        raise InputError("config.data.dir", f"no IDX file in {folder}", "files such as train-images-idx3-ubyte.gz")
    if split not in known:
        raise unknown_split(split, known, folder)
    most = data.max_array_bytes
    image, label = (_idx_file(_idx_path(folder, split, what), most) for what in ("images", "labels"))
    if image.ndim not in (3, 4) or label.ndim != 1:
        raise InputError(
            f"{folder} {split}", f"images {image.shape} and labels {label.shape}", "[N, H, W] or [N, H, W, C] and [N]"
        )
    return Arrays(
        fields={"image": image[..., None] if image.ndim == 3 else image},
        labels={"label": whole_numbers(f"{folder} {split}-labels", label)},
        classes={"label": int(label.max(initial=0)) + 1},
        licence="",
        citation="",
    )


def _idx_path(folder: str, split: str, what: str) -> str:
    names = [split] + (["t10k"] if split == "test" else [])
    for name in names:
        found = [file for file in listed(folder) if file.startswith((f"{name}-{what}", f"{name}.{what}"))]
        if len(found) > 1:  # a file and its .gz, as gunzip -k leaves them
            LOG.warning("%s: %s is read, %s passed over", folder, found[0], ", ".join(found[1:]))
        if found:
            return os.path.join(folder, found[0])
    raise InputError(
        folder, f"no {names[-1]}-{what} file", f"{names[-1]}-{what}-idx{3 if what == 'images' else 1}-ubyte[.gz]"
    )


def _idx_file(path: str, max_bytes: int) -> np.ndarray:
    allowed = "an IDX file: 0, 0, dtype, rank, sizes, data"
    with readable(path, allowed), gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
        raw = file.read(4)
        sizes = file.read(4 * raw[3]) if len(raw) == 4 else b""
        if raw[:2] != b"\0\0" or len(raw) < 4 or raw[2] not in IDX_DTYPES or len(sizes) < 4 * raw[3]:
            raise InputError(path, f"the header {raw.hex() or 'of an empty file'}", allowed)
        shape = tuple(int(n) for n in np.frombuffer(sizes, ">u4"))
        dtype = np.dtype(IDX_DTYPES[raw[2]])
        size = dtype.itemsize * math.prod(shape)
        check_bytes(path, size, max_bytes)
        body = file.read(size + 1)  # no more: what a .gz holds is not known before
    if len(body) != size:
        found = f"{len(body)} bytes of data" if len(body) < size else f"more than {size} bytes of data"
        raise InputError(path, found, f"{dtype.itemsize} bytes for each of {shape}")
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def npz(data: Any, split: str) -> Arrays:
    """`<data.dir>/<split>.npz` with plain arrays: keys that begin with image, series, text, tokens or features, and
    labels.

    image [N, H, W] or [N, H, W, C], uint8 or float; series [N, T] or [N, T, C], or with `lengths` [N] the steps of all
    series one after the other, [sum] or [sum, C]; text [N] of str; features [N, D]; label [N, ...]. `path` [N] of str
    is the file of each record, `class_names` [C] of str the names of the classes of `label`, `class_names_X` those of a
    label X. With `data.standardise` each channel of a series has mean 0 and deviation 1 over the training split. A file
    with the key features is one that `python -m hcl_jax.embed` wrote, or like it: any other key is a label, and
    `index`, the examples' numbers, is passed over.
    """
    folder = folder_of(data, "<split>.npz")
    path = split_file(folder, split, (".npz",))
    arrays = _one_by_one(path, read_npz(path, max_bytes=data.max_array_bytes), data, folder)
    named = _named(data)
    fields, labels, paths, words = {}, {}, None, {}
    embedded = "features" in arrays
    for key, value in arrays.items():
        if embedded and key == "index":
            continue
        if value.ndim == 0:
            raise InputError(f"{path}: {key}", "a single value", "an array with one record a row")
        if "/" in key:
            raise InputError(f"{path}: {key}", "a name with a slash", "names without one")
        if key in named or key.startswith("label"):
            labels[key] = value
        elif key.startswith(NPZ_FIELDS) or key in columns_of(data.text):
            fields[key] = _npz_field(f"{path}: {key}", key, value)
        elif key == "path":
            paths = _words(f"{path}: {key}", value)
        elif key.startswith(CLASS_NAMES):
            words[key] = _words(f"{path}: {key}", value)
        elif embedded:
            labels[key] = value
        else:
            raise InputError(
                path,
                f"the key {key!r}",
                f"keys that begin with {', '.join(NPZ_FIELDS)} or label, config.data.labels, path and class_names",
            )
    by: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    if data.standardise:
        made, by = _standardised(data, folder, split, {k: arrays[k] for k in fields if k.startswith("series")})
        fields |= made
    kept = {k: _number_labels(f"{path}: {k}", v) for k, v in labels.items()}
    classes, names = {k: v[1] for k, v in kept.items()}, {}
    for label, count in classes.items():
        key = class_names_key(label)
        if key in words and count:
            if len(words[key]) < count:
                raise InputError(f"{path}: {key}", f"{len(words[key])} names", f"{count}, one a class of {label}")
            names[label], classes[label] = words[key], len(words[key])
    return Arrays(
        fields=fields,
        labels={k: v[0] for k, v in kept.items()},
        classes=classes,
        licence="",
        citation="",
        class_names=names,
        paths=paths,
        moments=by,
    )


def _one_by_one(path: str, arrays: dict[str, np.ndarray], data: Any, folder: str) -> dict[str, np.ndarray]:
    """The arrays of a file with `lengths` [N]: series [N, T, C], filled up with nan to the longest of both splits."""
    if not (own := _series_of(arrays, data)) or LENGTHS in _named(data):
        return arrays
    has, longest = LENGTHS in arrays, 0
    for split in dict.fromkeys((data.train_split,) if data.held_out else (data.train_split, data.test_split)):
        other = os.path.join(folder, f"{split}.npz")
        if not os.path.isfile(other) or not _series_of(there := names_of(other), data):
            continue
        if (LENGTHS in there) != has:
            lacks, other = (other, path) if has else (path, other)
            raise InputError(lacks, f"no {LENGTHS}, which {other} has", f"{LENGTHS} in both, or in none")
        if has:
            read = read_npz(other, (LENGTHS,), data.max_array_bytes)[LENGTHS]
            longest = max(longest, int(_lengths(f"{other}: {LENGTHS}", read).max()))
    if not has:
        return arrays
    arrays = dict(arrays)
    lengths = _lengths(f"{path}: {LENGTHS}", arrays.pop(LENGTHS))
    longest = max(longest, int(lengths.max()))
    for key in own:
        value = arrays[key]
        if value.dtype.kind not in "uifb" or value.ndim not in (1, 2) or len(value) != lengths.sum():
            allowed = f"numbers [{lengths.sum()}] or [{lengths.sum()}, C], the sum of {LENGTHS}"
            raise InputError(f"{path}: {key}", f"{value.dtype} of shape {value.shape}", allowed)
        value = value[:, None] if value.ndim == 1 else value
        value = value if value.dtype.kind == "f" else value.astype(np.float64)
        check_bytes(path, len(lengths) * longest * value.shape[1] * value.itemsize, data.max_array_bytes)
        arrays[key] = np.full((len(lengths), longest, value.shape[1]), np.nan, value.dtype)
        arrays[key][np.arange(longest) < lengths[:, None]] = value
    return arrays


def _named(data: Any) -> set[str]:
    return {data.labels} if isinstance(data.labels, str) else set(data.labels)


def _series_of(names: Iterable[str], data: Any) -> list[str]:
    """The series among the arrays of a file; none in one of features, whose other arrays are labels."""
    named, names = _named(data), list(names)
    return [] if "features" in names else [k for k in names if k.startswith("series") and k not in named]


def _lengths(where: str, value: np.ndarray) -> np.ndarray:
    made = whole_numbers(where, value, least=1)
    if made.ndim != 1 or not made.size:
        raise InputError(where, f"shape {value.shape}", "[N], the number of steps of each series")
    return made.astype(np.int64)


def class_names_key(label: str) -> str:
    """The array of an npz with the names of a label's classes."""
    return CLASS_NAMES if label == "label" else f"{CLASS_NAMES}_{label}"


def _words(where: str, value: np.ndarray) -> tuple[str, ...]:
    if value.dtype.kind not in "US" or value.ndim != 1:
        raise InputError(where, f"{value.dtype} of shape {value.shape}", "a list of str")
    return tuple(map(as_text, value))


def _standardised(
    data: Any, folder: str, split: str, fields: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Series [N, T, C] by the mean and deviation of each channel in the training split, and these two, by field."""
    if not fields:
        raise InputError("config.data.standardise", "True for records without a series", "False")
    path = split_file(folder, data.train_split, (".npz",))
    other = {}
    if split != data.train_split:
        names = names_of(path)
        keys = (*fields, *(k for k in (LENGTHS,) if k in names and _series_of(names, data)))
        other = _one_by_one(path, read_npz(path, keys, data.max_array_bytes), data, folder)
    out, by = {}, {}
    for key, value in fields.items():
        # Before the cast: float32 has no digits left for what varies about a large mean.
        train = _series(f"{path}: {key}", other[key] if other else value)
        mean, deviation = by[key] = moments(np.moveaxis(train, 1, 2))
        out[key] = ((_series(f"{folder} {split}: {key}", value) - mean) / deviation).astype(np.float32)
    return out, by


def _series(where: str, value: np.ndarray) -> np.ndarray:
    """Series as float64 [N, T, C]."""
    if value.dtype.kind not in "uifb" or value.ndim not in (2, 3):
        raise InputError(where, f"{value.dtype} of shape {value.shape}", "numbers [N, T] or [N, T, C]")
    value = value.astype(np.float64)
    return value[..., None] if value.ndim == 2 else value


def _npz_field(where: str, key: str, value: np.ndarray) -> np.ndarray:
    if value.dtype.kind in "US":
        if value.ndim != 1:
            raise InputError(where, f"text of shape {value.shape}", "[N]")
        texts = [as_text(v) for v in value]
        for record, text in enumerate(texts):
            if not text.isascii() and text.encode("utf-8", "replace").decode() != text:
                raise InputError(f"{where} record {record}", "half of a surrogate pair", "text that UTF-8 can hold")
        return np.array(texts, object)
    if value.dtype.kind not in "uifb":
        raise InputError(where, f"dtype {value.dtype}", "numbers or text")
    ranks = {"image": (3, 4), "series": (2, 3), "tokens": (2,), "features": (2,)}.get(
        next((k for k in NPZ_FIELDS if key.startswith(k)), ""), ()
    )
    if not ranks:
        raise InputError(where, f"dtype {value.dtype}", "text")
    if value.ndim not in ranks:
        raise InputError(where, f"shape {value.shape}", f"{' or '.join(map(str, ranks))} axes, records first")
    if key.startswith("tokens"):
        return whole_numbers(where, value, least=0)
    if key.startswith("features"):
        return finite_floats(where, value)
    value = value[..., None] if value.ndim == ranks[0] else value
    return value if value.dtype == np.uint8 and key.startswith("image") else finite_floats(where, value)


def _number_labels(where: str, values: np.ndarray) -> tuple[np.ndarray, int]:
    """(values, number of classes): whole numbers are classes, others values (0 classes)."""
    if values.dtype.kind == "f":
        return finite_floats(where, values), 0
    if values.dtype.kind not in "uib":
        raise InputError(where, f"dtype {values.dtype}", "whole numbers (classes) or others (values)")
    return whole_numbers(where, values), int(values.max(initial=0)) + 1
