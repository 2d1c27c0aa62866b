"""TFDS data sets: mocked, prepared here as ArrayRecord or TFRecord, and not prepared; and our own builders."""

import gzip
import json

import numpy as np
import pytest

from hcl_jax import data
from hcl_jax.data import tfds as ours
from hcl_jax.errors import InputError
from hcl_jax.views.lazy import tf

tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")
from hcl_jax.data import builders  # noqa: E402

CROP = {"op": "centre_crop", "size": 8}


def batches(source, views, size=8, stop=3):
    return list(data.batches(source, views, seed=0, batch_size=size, rows=np.arange(size), start=0, stop=stop))


def refused(pattern, call, *arguments):
    with pytest.raises(InputError, match=pattern) as error:
        call(*arguments)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data_dir with our digits as ArrayRecord."""
    folder = tmp_path_factory.mktemp("array_record")
    builders.Digits(data_dir=folder).download_and_prepare(file_format="array_record")
    return folder


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("name", "fields", "classes"),
    [
        ("cifar10", {"image": ((32, 32, 3), "uint8"), "id": ((), "string")}, 10),
        ("imagenet2012", {"image": ((), "string"), "file_name": ((), "string")}, 1000),
    ],
)
def test_mocked(config, view, name, fields, classes, in_memory):
    with tfds.testing.mock_data(num_examples=10):
        source = data.open_source(config(name=name, in_memory=in_memory), "train")
        assert (source.num_examples, source.fields, source.labels) == (10, fields, {"label": classes})
        made = batches(source, {"a": view("image", CROP)})
    assert made[0]["views"]["a"]["image"].shape == (8, 8, 8, 3)
    np.testing.assert_array_equal(np.sort(np.concatenate([b["index"] for b in made])[:10]), np.arange(10))
    assert "Krizhevsky" in source.citation or "Russakovsky" in source.citation


def test_trial_run_knows_the_shape_without_data(config, view):
    source = data.random_like(config(name="cifar100"), {"a": view()}, sources=data.SOURCES)
    assert source.fields == {"image": ((32, 32, 3), "uint8")}


def test_memory_and_random_access_give_the_same_batches(config, view, prepared):
    made, prints = [], set()
    for in_memory in (True, False):
        asked = config(name="digits", dir=str(prepared), in_memory=in_memory, num_examples=20)
        source = ours.open_tfds(asked, "train")
        assert source.num_examples == 20 and source.fields == {"image": ((8, 8, 1), "uint8")}
        prints.add(source.fingerprint)
        made.append(batches(source, {"a": view()}))
    for a, b in zip(*made, strict=True):
        np.testing.assert_array_equal(a["index"], b["index"])
        np.testing.assert_array_equal(a["labels"]["label"], b["labels"]["label"])
        np.testing.assert_array_equal(a["views"]["a"]["image"], b["views"]["a"]["image"])
    assert len(prints) == 1


def test_splits(config, prepared):
    asked = config(name="digits", dir=str(prepared), in_memory=False)
    assert ours.open_tfds(asked, "test").num_examples == 360
    assert ours.open_tfds(asked, "train[:10%]").num_examples == 144
    refused("'valid'; allowed: test, train", ours.open_tfds, asked, "valid")
    refused("'test.:0%.', which is 0 of the 360 records of test", ours.open_tfds, asked, "test[:0%]")
    refused(
        "config.data.labels: found 'kind'",
        ours.open_tfds,
        config(name="digits", dir=str(prepared), labels=("kind",)),
        "train",
    )


def test_tfrecord_has_no_random_access(config, view, tmp_path):
    builders.Digits(data_dir=tmp_path).download_and_prepare()
    refused(
        "TFRecord.*tfds convert_format",
        ours.open_tfds,
        config(name="digits", dir=str(tmp_path), in_memory=False),
        "train",
    )
    source = ours.open_tfds(config(name="digits", dir=str(tmp_path)), "train")
    assert source.num_examples == 1437 and batches(source, {"a": view()}, stop=1)


def test_prepare_makes_array_record(config, view, tmp_path):
    asked = config(name="digits", dir=str(tmp_path), in_memory=False, prepare=True)
    assert batches(ours.open_tfds(asked, "train"), {"a": view()}, stop=1)
    assert list(tmp_path.glob("digits/*/*.array_record*"))


def test_what_is_not_there(config, tmp_path):
    refused("found no folder", data.open_source, config(name="cifar10", dir=str(tmp_path / "none")), "train")
    for in_memory in (True, False):
        asked = config(name="cifar10", dir=str(tmp_path), in_memory=in_memory)
        refused(
            "cifar10 not prepared in .*; allowed: prepared data: --config.data.prepare",
            data.open_source,
            asked,
            "train",
        )
    refused(
        "config.data.name: found 'cifarr10'; allowed: cifar10, ", data.open_source, config(name="cifarr10"), "train"
    )


@pytest.mark.slow(one=True)
def test_damaged_array_record_names_the_record(config, view, tmp_path):
    builders.Digits(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    (file,) = tmp_path.glob("digits/*/digits-test.array_record*")
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 255
    file.write_bytes(content)
    refused(
        r"digits/1.0.0 test record \d+: found unreadable \(.*\); allowed: whole records; data.in_memory=False",
        ours.open_tfds,
        config(name="digits", dir=str(tmp_path)),
        "test",
    )
    source = ours.open_tfds(config(name="digits", dir=str(tmp_path), in_memory=False), "test")
    with pytest.raises(InputError, match=r"digits/1.0.0 test record \d+: found unreadable") as error:
        batches(source, {"a": view()}, size=90, stop=4)
    assert "\n" not in str(error.value)


def test_builders_through_tfds_load(tmp_path):
    records = tfds.load("digits", split="test", data_dir=tmp_path)
    first = next(records.as_numpy_iterator())
    assert len(records) == 360 and first["image"].shape == (8, 8, 1) and 0 <= first["label"] < 10


def test_fashion_mnist_builder(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    for name in ("train", "t10k"):
        head = b"\0\0\x08\x03" + np.array([4, 28, 28], ">u4").tobytes()
        image = gzip.compress(head + bytes(4 * 28 * 28))
        label = gzip.compress(b"\0\0\x08\x01" + np.array([4], ">u4").tobytes() + bytes([0, 1, 2, 9]))
        (manual / f"{name}-images-idx3-ubyte.gz").write_bytes(image)
        (manual / f"{name}-labels-idx1-ubyte.gz").write_bytes(label)
    builder = tfds.builder("fashion_mnist_idx", data_dir=tmp_path)
    builder.download_and_prepare()
    assert builder.info.splits["train"].num_examples == 4
    assert sorted(r["label"] for r in builder.as_dataset(split="test").as_numpy_iterator()) == [0, 1, 2, 9]


def test_emoji_builder(tmp_path):
    root = tmp_path / "downloads" / "manual" / "emoji"
    records = [{"image": f"{i}.png", "name": f"face {i}", "category": "a", "subcategory": "b"} for i in range(12)]
    for vendor in ("google", "twitter"):
        (root / vendor).mkdir(parents=True)
        for i, record in enumerate(records):
            if vendor == "google" or i:
                png = tf.io.encode_png(np.full((64, 64, 4), i, np.uint8)).numpy()
                (root / vendor / record["image"]).write_bytes(png)
    (root / "emoji.json").write_text(json.dumps(records))
    builder = tfds.builder("emoji", data_dir=tmp_path)
    builder.download_and_prepare()
    made = [r for s in ("train", "test") for r in builder.as_dataset(split=s).as_numpy_iterator()]
    assert sorted(r["name"] for r in made) == sorted(r["name"].encode() for r in records)
    for record in made:
        number = int(record["name"].split()[1])
        assert record["has_twitter"] == (number > 0) and record["google"][0, 0, 0] == number
