"""Readers of arrays: what they give, and one line for each kind of bad file."""

import gzip
import os
import struct
import sys

import numpy as np
import pytest
from refusals import refused_source as refused

from hcl_jax import data
from hcl_jax.data import arrays, source


def everything(made):
    """All fields and labels of a source as NumPy arrays."""
    return {k: v.numpy() for k, v in made.fetch(np.arange(made.num_examples)).items()}


def test_digits(config):
    train, test = (data.open_source(config(), s) for s in ("train", "test"))
    assert (train.num_examples, test.num_examples) == (1437, 360)
    assert train.fields == {"image": ((8, 8, 1), "uint8")} and train.labels == {"label": 10}
    a, b = everything(train), everything(test)
    assert a["image"].max() == 255
    share = [np.bincount(x["label"], minlength=10) / len(x["label"]) for x in (a, b)]
    assert np.abs(share[0] - share[1]).max() < 0.005
    assert train.fingerprint != test.fingerprint
    assert train.fingerprint == data.open_source(config(), "train").fingerprint
    # Known bytes: another order or scale on another machine would be another data set.
    assert train.fingerprint.startswith(DIGITS)


DIGITS = "ab69451a"


def test_num_examples_bounds_the_training_split_only(config):
    few = config(num_examples=100)
    assert [data.open_source(few, s).num_examples for s in ("train", "test")] == [100, 360]
    np.testing.assert_array_equal(
        everything(data.open_source(few, "train"))["image"],
        everything(data.open_source(config(), "train"))["image"][:100],
    )
    refused("config.data.num_examples: found -1", config(num_examples=-1))


def test_labels_are_chosen_by_name(config):
    assert data.open_source(config(labels=()), "train").labels == {}
    refused(r"config.data.labels: found 'lable'; allowed: \(\) or labels of digits: label", config(labels=("lable",)))
    refused(r"label: found \d; allowed: 0 to 4", config(num_classes=5))
    refused("'valid'; allowed: test, train", config(), split="valid")


def test_fingerprint_sees_values_types_and_shapes():
    x = np.arange(6, dtype=np.float32)
    prints = {source.fingerprint_arrays({"x": v}) for v in (x, x + 1, x.astype(np.float64), x.reshape(2, 3))}
    prints |= {source.fingerprint_arrays({"y": x}), source.fingerprint_arrays({"x": np.array(["a", "b"], object)})}
    assert len(prints) == 6
    many = np.zeros((5000, 3))
    other = many.copy()
    other[2777, 1] = 1  # one number of fifteen thousand
    assert source.fingerprint_arrays({"x": many}) != source.fingerprint_arrays({"x": other})
    assert source.fingerprint_files([("a", 1)]) != source.fingerprint_files([("a", 2)])


def idx_bytes(array, code=8):
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder, n=6, side=3, opener=open, ending=""):
    rng = np.random.default_rng(0)
    made = {}
    for split, name in (("train", "train"), ("test", "t10k")):
        image = rng.integers(0, 256, (n, side, side), dtype=np.uint8)
        label = (np.arange(n) % 3).astype(np.uint8)
        made[split] = image, label
        for array, what in ((image, "images-idx3"), (label, "labels-idx1")):
            with opener(folder / f"{name}-{what}-ubyte{ending}", "wb") as file:
                file.write(idx_bytes(array))
    return made


@pytest.mark.parametrize(("opener", "ending"), [(open, ""), (gzip.open, ".gz")])
@pytest.mark.parametrize("name", ["idx", "fashion_mnist"])
def test_idx_files(config, tmp_path, opener, ending, name):
    made = write_idx(tmp_path, opener=opener, ending=ending)
    for split in ("train", "test"):
        read = data.open_source(config(name=name, dir=str(tmp_path)), split)
        got = everything(read)
        np.testing.assert_array_equal(got["image"][..., 0], made[split][0])
        np.testing.assert_array_equal(got["label"], made[split][1])
        assert read.labels == {"label": 3}


def test_idx_of_other_types(config, tmp_path):
    write_idx(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(
        idx_bytes(np.linspace(0, 1, 54, dtype=">f4").reshape(6, 3, 3), 13)
    )
    got = everything(data.open_source(config(name="idx", dir=str(tmp_path)), "train"))
    assert got["image"].dtype == np.float32
    np.testing.assert_allclose(got["image"].ravel(), np.linspace(0, 1, 54), rtol=1e-6)


def test_bad_idx_files(config, tmp_path):
    asked = config(name="idx", dir=str(tmp_path))
    refused("config.data.dir: found nothing; allowed: a folder with IDX", config(name="idx"))
    refused("found no folder", config(name="idx", dir=str(tmp_path / "none")))
    refused("found no IDX file", asked)
    write_idx(tmp_path)
    refused("'valid'; allowed: test, train", asked, split="valid")
    images = tmp_path / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    for content, line in ((b"", "empty file"), (b"\1" + whole, "the header"), (whole[:-1], "53 bytes of data")):
        images.write_bytes(content)
        refused(line, asked)
    images.unlink()
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(whole)[:-9])
    refused("unreadable file", asked)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.zeros((5, 3, 3), np.uint8))))
    refused("one record in every array", asked)


def test_real_fashion_mnist(config):
    if not os.path.isdir(arrays.FASHION_MNIST):
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    test = data.open_source(config(name="fashion_mnist"), "test")
    assert (test.num_examples, test.fields, test.labels) == (10_000, {"image": ((28, 28, 1), "uint8")}, {"label": 10})
    assert test.class_names["label"][9] == "Ankle boot"


def test_npz(config, tmp_path):
    rng = np.random.default_rng(0)
    columns = {
        "image": rng.integers(0, 256, (4, 5, 5, 3), dtype=np.uint8),
        "image_b": rng.random((4, 5, 5)),
        "series": rng.standard_normal((4, 7)),
        "text": np.array(["a", "b c", "", "ü"]),
        "label": np.array([0, 2, 1, -1]),
        "score": rng.random(4),
    }
    np.savez(tmp_path / "train.npz", **columns)
    read = data.open_source(config(name="npz", dir=str(tmp_path), labels=("label", "score")), "train")
    assert read.fields == {
        "image": ((5, 5, 3), "uint8"),
        "image_b": ((5, 5, 1), "float32"),
        "series": ((7, 1), "float32"),
        "text": ((), "string"),
    }
    assert read.labels == {"label": 3, "score": 0}
    got = everything(read)
    np.testing.assert_array_equal(got["image"], columns["image"])
    np.testing.assert_allclose(got["score"], columns["score"], rtol=1e-6)
    assert got["text"][3].decode() == "ü"


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ({"image": np.zeros((2, 3, 3)), "label": np.array([None, {}], object)}, "found pickled objects"),
        (
            {"picture": np.zeros((2, 3, 3)), "label": np.zeros(2, int)},
            "found the key 'picture'; allowed: keys that begin",
        ),
        ({"image": np.zeros((2, 3)), "label": np.zeros(2, int)}, r"image: found shape \(2, 3\)"),
        ({"image": np.zeros((2, 3, 3)), "label": np.zeros(3, int)}, "one record in every array"),
        (
            {"image": np.full((2, 3, 3), np.nan), "label": np.zeros(2, int)},
            "field image: found a number that is not finite",
        ),
        ({"image": np.zeros((2, 3, 3)), "label": np.array([0, -2])}, "label label: found -2"),
        ({"image": np.zeros((2, 3, 3)), "label": np.array([0, 2**32])}, "label record 1: found 4294967296"),
        ({"image": np.zeros((2, 3, 3)), "label": np.array(["a", "b"])}, "label: found dtype <U1"),
        ({"image": np.zeros((0, 3, 3)), "label": np.zeros(0, int)}, "found no record"),
        ({"image": np.zeros((2, 3, 3))}, "config.data.labels: found 'label'"),
    ],
)
def test_bad_npz(config, tmp_path, columns, line):
    np.savez(tmp_path / "train.npz", **columns)
    refused(line, config(name="npz", dir=str(tmp_path)))


def test_names_in_an_npz(config, tmp_path):
    """Paths follow the records that are kept; a class without a record keeps its name."""
    names = {"path": np.array(["a", "b", "c"]), "class_names": np.array(["x", "y", "z"])}
    columns = {"features": np.zeros((3, 2)), "label": np.array([0, 1, 1]), "kind": np.zeros(3, int)}
    np.savez(tmp_path / "train.npz", **columns, **names, class_names_kind=np.array(["one"]))
    read = data.open_source(config(name="npz", dir=str(tmp_path), labels=("label", "kind"), num_examples=2), "train")
    assert read.paths == ("a", "b") and read.labels == {"label": 3, "kind": 1}
    assert read.class_names == {"label": ("x", "y", "z"), "kind": ("one",)}
    for other, line in (
        ({"path": np.array(["a"])}, "'path': 1}; allowed: one record in every array"),
        ({"class_names": np.array(["x"])}, "class_names: found 1 names; allowed: 2, one a class of label"),
        ({"class_names": np.array([1, 2])}, r"class_names: found int64 of shape \(2,\); allowed: a list of str"),
    ):
        np.savez(tmp_path / "train.npz", **columns, **{**names, **other})
        refused(line, config(name="npz", dir=str(tmp_path)))


def test_npz_that_is_none(config, tmp_path):
    asked = config(name="npz", dir=str(tmp_path))
    refused("found no .npz file", asked)
    (tmp_path / "train.npz").write_bytes(b"no archive at all")
    refused("no .npz at all", asked)
    np.savez(tmp_path / "train.npz", image=np.zeros((2, 3, 3)), label=np.zeros(2, int))
    whole = (tmp_path / "train.npz").read_bytes()
    (tmp_path / "train.npz").write_bytes(whole[: len(whole) // 2])
    refused("found an unreadable file", asked)
    refused("'test'; allowed: train", asked, split="test")


def test_csv_with_a_header(config, tmp_path):
    (tmp_path / "train.csv").write_text('text,label,score\n"a, b",dog,1.5\nc,cat,2\n', encoding="utf-8")
    (tmp_path / "test.csv").write_text("text,label,score\nd,emu,3\n", encoding="utf-8")
    asked = config(name="csv", dir=str(tmp_path), labels=("label", "score"))
    train, test = (data.open_source(asked, s) for s in ("train", "test"))
    assert train.fields == {"text": ((), "string")} and train.labels == {"label": 3, "score": 0}
    assert train.class_names == {"label": ("cat", "dog", "emu")}
    got = everything(train)
    assert list(got["text"]) == [b"a, b", b"c"] and list(got["label"]) == [1, 0] and list(got["score"]) == [1.5, 2]
    assert list(everything(test)["label"]) == [2]


def test_a_third_split_moves_no_class(config, tmp_path):
    for split, word in (("train", "dog"), ("test", "emu"), ("validation", "cat")):
        (tmp_path / f"{split}.csv").write_text(f"text,label\na,{word}\nb,dog\n", encoding="utf-8")
    read = {s: data.open_source(config(name="csv", dir=str(tmp_path)), s) for s in ("train", "validation")}
    assert read["train"].class_names == {"label": ("dog", "emu")}
    assert read["validation"].class_names == {"label": ("dog", "emu", "cat")}
    assert read["validation"].fetch(np.arange(2))["label"].numpy().tolist() == [2, 0]


def test_csv_without_a_header(config, tmp_path):
    (tmp_path / "train.tsv").write_text("one\tuno\t4\ntwo\tdos\t0\n", encoding="utf-8")
    read = data.open_source(config(name="csv", dir=str(tmp_path), text="0, 1", labels=("2",)), "train")
    assert set(read.fields) == {"0", "1"} and read.labels == {"2": 5}
    assert list(everything(read)["1"]) == [b"uno", b"dos"]


def test_bad_csv(config, tmp_path):
    asked = config(name="csv", dir=str(tmp_path))
    path = tmp_path / "train.csv"
    for content, line in (
        (b"", "an empty file"),
        (b"word,label\na,1\n", "no column 'text'; allowed: columns label, word; config.data.text names it"),
        (b'text,label\n"a\nb",1\n\na\n', "line 5: found 1 columns; allowed: 2"),
        (b'text,label\n"a\nb",99999999999\n', "line 2: label: found 99999999999; allowed: whole numbers from"),
        (b"text,label\n\xff,1\n", "unreadable file"),
        (b"text,label\n", "no record"),
    ):
        path.write_bytes(content)
        refused(line, asked)


def test_stsb(config, real_data):
    folder = real_data("stsb")
    asked = config(
        name="csv", dir=folder, train_split="stsb-en-train", test_split="stsb-en-test", text="0,1", labels=("2",)
    )
    train = data.open_source(asked, "stsb-en-train")
    assert train.num_examples == 5749 and train.labels == {"2": 0}


@pytest.mark.parametrize(
    ("name", "sizes", "shape", "classes"),
    [
        ("ArrowHead", (36, 175), (251, 1), 3),
        ("BasicMotions", (40, 40), (100, 6), 4),
        ("JapaneseVowels", (270, 370), (29, 12), 9),
    ],
)
def test_packaged_series(config, name, sizes, shape, classes):
    pytest.importorskip("aeon", reason="aeon is not installed")
    for split, size in zip(("train", "test"), sizes, strict=True):
        for asked in (config(name=name), config(name="series", dir=name)):
            read = data.open_source(asked, split)
            assert (read.num_examples, read.fields["series"], read.labels) == (
                size,
                (shape, "float32"),
                {"label": classes},
            )
    if name == "JapaneseVowels":
        got = everything(read)
        first = got["length"][0]
        assert first < 29 and np.isnan(got["series"][0, first:]).all() and np.isfinite(got["series"][0, :first]).all()


def test_bad_series(config, tmp_path, monkeypatch):
    pytest.importorskip("aeon", reason="aeon is not installed")
    refused(
        "config.data.dir: found 'ArowHead'; allowed: one of ACSF1, ArrowHead", config(name="series", dir="ArowHead")
    )
    refused(r"found 0 files \*_TRAIN.ts", config(name="series", dir=str(tmp_path)))
    for split in ("TRAIN", "TEST"):
        (tmp_path / f"x_{split}.ts").write_text("nonsense\n")
    refused("found no series with class labels|unreadable file", config(name="series", dir=str(tmp_path)))
    refused("'valid'; allowed: test, train", config(name="ArrowHead"), split="valid")
    monkeypatch.setitem(sys.modules, "aeon", None)
    refused("aeon is not installed; allowed: pip install", config(name="ArrowHead"))


def write_series(folder, **splits):
    head = "@problemName x\n@timeStamps false\n@missing true\n@univariate true\n@equalLength false\n"
    for split, lines in splits.items():
        body = "\n".join(lines)
        (folder / f"x_{split.upper()}.ts").write_text(f"{head}@classLabel true a b\n@data\n{body}\n")


def test_series_in_a_folder(config, tmp_path):
    pytest.importorskip("aeon", reason="aeon is not installed")
    write_series(tmp_path, train=["1,2,3:a", "4,5,6:b"], test=["7,8,9:b"])
    got = everything(data.open_source(config(name="series", dir=str(tmp_path)), "test"))
    np.testing.assert_array_equal(got["series"], [[[7], [8], [9]]])
    assert list(got["label"]) == [1]


def test_missing_values_and_unequal_lengths_are_nan(config, tmp_path):
    pytest.importorskip("aeon", reason="aeon is not installed")
    write_series(tmp_path, train=["1,?,3:a", "4,5:b"], test=["7,8,9,10:b"])
    got = everything(data.open_source(config(name="series", dir=str(tmp_path)), "train"))
    nan = np.nan
    np.testing.assert_array_equal(got["series"][:, :, 0], [[1, nan, 3, nan], [4, 5, nan, nan]])
    assert list(got["length"]) == [3, 2]
    write_series(tmp_path, train=["1,2:a", "?,?:b"], test=["7,8:b"])
    asked = config(name="series", dir=str(tmp_path))
    refused("train record 1: found no value; allowed: at least one in each series", asked)


def test_standardised_series(config, tmp_path):
    """By the values of the training split that are there; a constant channel is only centred."""
    pytest.importorskip("aeon", reason="aeon is not installed")
    write_series(tmp_path, train=["1,?,3:a", "4,5:b"], test=["7,8,9:b"])
    asked = config(name="series", dir=str(tmp_path), standardise=True)
    values = np.array([1.0, 3, 4, 5])
    train, test = (everything(data.open_source(asked, s))["series"][:, :, 0] for s in ("train", "test"))
    wanted = (np.array([[1, np.nan, 3], [4, 5, np.nan]]) - values.mean()) / values.std()
    np.testing.assert_allclose(train, wanted, rtol=1e-6)
    np.testing.assert_allclose(test, [(np.array([7, 8, 9]) - values.mean()) / values.std()], rtol=1e-6)
    write_series(tmp_path, train=["0.1,0.1:a", "0.1,0.1:b"], test=["0.1,2:b"])
    train, test = (everything(data.open_source(asked, s))["series"][:, :, 0] for s in ("train", "test"))
    np.testing.assert_allclose([*train, *test], [[0, 0], [0, 0], [0, 1.9]], atol=1e-6)


def test_packaged_sets_are_standardised_by_channel(config):
    pytest.importorskip("aeon", reason="aeon is not installed")
    for name in ("BasicMotions", "JapaneseVowels"):
        got = everything(data.open_source(config(name=name, standardise=True), "train"))["series"]
        np.testing.assert_allclose(np.nanmean(got, (0, 1)), 0, atol=1e-5)
        np.testing.assert_allclose(np.nanstd(got, (0, 1)), 1, rtol=1e-5)
