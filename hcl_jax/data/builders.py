"""TFDS builders for data that TFDS lacks: importing this module registers digits, fashion_mnist_idx and emoji.

They wrap the readers of arrays.py and emoji.py, for those who want the records as TFDS files:

    tfds.load("digits", split="train", data_dir=...)
"""

import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from hcl_jax.data import arrays, emoji
from hcl_jax.data.npz import MAX_BYTES
from hcl_jax.data.source import MAX_PIXELS, Arrays


def _asked(folder: str, labels: tuple[str, ...] = ("label",)) -> Any:
    """The fields of `config.data` that the readers look at."""
    splits = {"train_split": "train", "test_split": "test"}
    bounds = {"max_pixels": MAX_PIXELS, "max_array_bytes": MAX_BYTES}
    return types.SimpleNamespace(dir=folder, name="", labels=labels, text="", **splits, **bounds)


def _records(read: Arrays) -> Iterator[tuple[int, dict[str, Any]]]:
    columns = {**read.fields, **read.labels}
    for row in range(len(next(iter(columns.values())))):
        yield row, {k: v[row] for k, v in columns.items()}


class Digits(tfds.core.GeneratorBasedBuilder):
    """scikit-learn's handwritten digits, 8 x 8."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {s: _records(arrays.digits(_asked(""), s)) for s in ("train", "test")}

    def _generate_examples(self, records: Any) -> Any:
        return records


class FashionMnistIdx(tfds.core.GeneratorBasedBuilder):
    """Fashion-MNIST from IDX files already on this machine: the manual folder, or Debian's package."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put the four IDX files in manual_dir, or install Debian's dataset-fashion-mnist."

    def _info(self) -> tfds.core.DatasetInfo:
        label = tfds.features.ClassLabel(names=list(arrays.FASHION_CLASSES))
        features = {"image": tfds.features.Image(shape=(28, 28, 1)), "label": label}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        folder = str(dl_manager.manual_dir)
        return {s: _records(arrays.fashion_mnist(_asked(folder), s)) for s in ("train", "test")}

    def _generate_examples(self, records: Any) -> Any:
        return records


class Emoji(tfds.core.GeneratorBasedBuilder):
    """Emoji drawn by two vendors and named in English; a vendor's picture may be absent (zeros, has_<vendor> False)."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put emoji.zip in manual_dir."

    def _info(self) -> tfds.core.DatasetInfo:
        picture = (emoji.SIDE, emoji.SIDE, 4)
        features = {
            **{v: tfds.features.Image(shape=picture) for v in emoji.VENDORS},
            **{f"has_{v}": np.bool_ for v in emoji.VENDORS},
            "name": tfds.features.Text(),
            "category": np.int64,
            "subcategory": np.int64,
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        folder = str(dl_manager.manual_dir)
        return {s: self._generate_examples(emoji.emoji(_asked(folder), s)) for s in ("train", "test")}

    def _generate_examples(self, read: Arrays) -> Any:
        for row, record in _records(read):
            has = {f"has_{v}": bool(read.present[v][row]) if v in read.present else True for v in emoji.VENDORS}
            yield row, record | has
