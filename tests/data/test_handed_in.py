"""What people hand in: no record is lost, and no value changed, without a line; tables, folders, arrays, graphs."""

import gzip
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.errors import InputError


def opened(name, folder, split="train", **fields):
    config = configs.defaults().data
    for field, value in {**fields, "name": name, "dir": str(folder)}.items():
        config[field] = value
    return data.open_source(config, split)


def rows(source):
    return source.fetch(tf.range(source.num_examples, dtype=tf.int64))


@pytest.fixture
def lines(caplog):
    caplog.set_level("INFO", "hcl_jax")
    return lambda: [record.getMessage() for record in caplog.records]


def table(folder, name, text):
    (folder / name).write_text(text)
    return folder


def npz(folder, **arrays):
    for split in ("train", "test"):
        np.savez(folder / f"{split}.npz", **arrays)
    return folder


def picture(path, value=0, side=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(path)


def test_each_line_of_a_tsv_is_a_record(tmp_path):
    texts = ['"Wait, she said.', "No.", '"Go!', 'he said "so"', '"quoted"']
    content = "text\tlabel\n" + "".join(f"{t}\t{i % 2}\n" for i, t in enumerate(texts))
    source = opened("csv", table(tmp_path, "train.tsv", content))
    assert [t.decode() for t in rows(source)["text"].numpy()] == texts


def test_a_csv_whose_quotation_does_not_end_is_refused(tmp_path):
    folder = table(tmp_path, "train.csv", 'text,label\n"Wait,0\nNo,1\nlast,1\n')
    with pytest.raises(InputError, match="train.csv line 4: found an unreadable file"):
        opened("csv", folder)


def test_line_ends_in_texts_and_blank_lines_are_counted(tmp_path, lines):
    source = opened("csv", table(tmp_path, "train.csv", 'text,label\n"two\nlines",0\n\nNo,1\n'))
    assert source.num_examples == 2
    assert [line.partition("train.csv: ")[2] for line in lines()] == [
        "1 blank lines passed over",
        "1 of 2 records hold a line end inside quotation marks",
    ]


@pytest.mark.parametrize("gap", ["", " ", "nan", "NA", "null"])
@pytest.mark.parametrize(
    ("words", "classes", "names"),
    [
        (("0", "1", "1"), [0, 1, 1], None),
        (("0.0", "1.0", "1.0"), [0, 1, 1], None),  # as pandas writes whole numbers beside a gap
        (("cat", "dog", "dog"), [0, 1, 1], ("cat", "dog")),
    ],
)
def test_a_gap_in_a_label_column_is_unknown_and_no_class(tmp_path, lines, gap, words, classes, names):
    content = "text,label\n" + "".join(f"t,{w}\n" for w in (*words[:2], gap, words[2]))
    source = opened("csv", table(tmp_path, "train.csv", content))
    assert rows(source)["label"].numpy().tolist() == [*classes[:2], -1, classes[2]]
    assert source.labels == {"label": 2} and source.class_names.get("label") == names
    assert "csv train: label label: 1 of 4 records are -1, unknown" in lines()


def test_a_gap_among_values_is_refused(tmp_path):
    with pytest.raises(InputError, match="train.csv line 3: label: found no value"):
        opened("csv", table(tmp_path, "train.csv", "text,label\na,0.5\nb,\nc,1.5\n"))


def test_pictures_at_any_depth_and_what_is_passed_over(tmp_path, lines):
    for path in ("cat/a.png", "cat/more/b.jpg", "cat/more/still/c.PNG", "dog/d.webp", "dog/e.gif"):
        picture(tmp_path / "train" / path)
    picture(tmp_path / "train" / "outside.png")
    picture(tmp_path / "train" / "dog" / "f.bmp")
    (tmp_path / "train" / "dog" / "notes").write_text("x")
    (tmp_path / "train" / "empty").mkdir()
    (tmp_path / "train" / "dog" / "round").symlink_to(tmp_path / "train" / "dog")
    source = opened("folder", tmp_path)
    found = {os.path.relpath(source.describe(i), tmp_path / "train") for i in range(source.num_examples)}
    assert found == {"cat/a.png", "cat/more/b.jpg", "cat/more/still/c.PNG", "dog/d.webp", "dog/e.gif"}
    assert [line.partition("/train: ")[2] for line in lines() if "/train: " in line] == [
        "2 files of other types passed over: .bmp 1, without an ending 1",
        "1 file outside of the class folders passed over",
        "1 class folder without a picture: empty",
        "2 files in folders below a class: train/cat/more/b.jpg",
    ]


@pytest.mark.parametrize("sides", [(8, 8), (8, 9)])
def test_a_link_to_nothing_is_named(tmp_path, sides):
    for i, side in enumerate(sides):
        picture(tmp_path / "train" / "cat" / f"{i}.png", side=side)
    (tmp_path / "train" / "cat" / "z.png").symlink_to("/nowhere.png")
    with pytest.raises(InputError, match="z.png: found"):
        opened("folder", tmp_path)
    late = opened("folder", tmp_path, in_memory=False)
    assert late.num_examples == 3
    with pytest.raises(tf.errors.OpError):
        rows(late)


@pytest.mark.parametrize("in_memory", [True, False])
def test_names_that_are_no_utf8(tmp_path, in_memory):
    folder = os.path.join(os.fsencode(tmp_path), b"train", b"caf\xe9")
    os.makedirs(folder)
    picture(tmp_path / "a.png", 7)
    os.rename(tmp_path / "a.png", os.path.join(folder, b"\xfc.png"))
    source = opened("folder", tmp_path, in_memory=in_memory)
    assert source.class_names["label"] == ("caf\ufffd",) and source.describe(0).endswith("/\ufffd.png")
    image = rows(source)["image"]
    assert np.all(
        (image if in_memory else tf.map_fn(tf.io.decode_png, image, fn_output_signature=tf.uint8)).numpy() == 7
    )


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"image": np.linspace(0, 255, 128).reshape(2, 8, 8).astype(np.float32)}, "float32 from 0 to 255"),
        ({"image": np.linspace(-1, 1, 128).reshape(2, 8, 8)}, "float32 from -1 to 1"),
        ({"image": np.zeros((2, 3, 8, 8), np.uint8)}, r"pictures of shape \[3, 8, 8\]"),
        ({"tokens": np.array([[5, -1], [5, 0]])}, "-1; allowed: whole numbers from 0"),
        ({"tokens": np.array([[5, 2**32 + 6], [0, 0]])}, "4294967302"),
        ({"tokens": np.array([[5, 0.5], [0, 0]])}, "0.5; allowed: whole numbers"),
        ({"features": np.array([[1e39], [0]])}, "1e[+]39"),
        ({"features": np.ones((2, 1)), "label": np.array([0, -(2**32) - 1])}, "-4294967297"),
        ({"features": np.array([[16777217, 2]])}, "16777217"),
        ({"features": np.array([[1e-50, 2.0]])}, "1e-50"),
        ({"features": np.zeros((2, 0))}, "one value or more"),
        ({"image/left": np.zeros((2, 4, 4), np.uint8)}, "a name with a slash"),
        ({"text": np.array(["a\ud800", "b"])}, "half of a surrogate"),
    ],
)
def test_numbers_that_a_cast_would_cut_or_no_view_expects(tmp_path, arrays, said):
    with pytest.raises(InputError, match=said):
        opened("npz", npz(tmp_path, **{"label": np.array([0, 1]), **arrays}))


def test_labels_of_few_of_their_classes_are_said(tmp_path, lines):
    opened("npz", npz(tmp_path, features=np.ones((3, 2)), label=np.array([0, 1, 255], np.uint8)))
    assert "npz train: label label: of 256 classes 3 have a record: 0, 1, 255" in lines()


def test_series_of_ones_own_are_standardised_by_the_training_split(tmp_path):
    random = np.random.default_rng(0)
    train, test = (5 + 1e4 * random.normal(size=(n, 7, 2)) * [1, 1e-7] for n in (40, 10))
    for split, values in (("train", train), ("test", test)):
        np.savez(tmp_path / f"{split}.npz", series=values.astype(np.float32), label=np.arange(len(values)) % 2)
    made = {s: rows(opened("npz", tmp_path, s, standardise=True))["series"].numpy() for s in ("train", "test")}
    np.testing.assert_allclose(made["train"].mean((0, 1)), 0, atol=1e-4)
    np.testing.assert_allclose(made["train"].std((0, 1)), 1, rtol=1e-4)
    mean, deviation = train.mean((0, 1)), train.std((0, 1))
    np.testing.assert_allclose(made["test"], (test - mean) / deviation, rtol=1e-3, atol=1e-3)


def test_series_of_unequal_lengths_one_after_the_other(tmp_path):
    """As the file with nan at the ends: of the longest of both splits, standardised or not; pickles say how."""
    arrays = [np.arange(2.0 * n).reshape(n, 2) for n in (3, 5, 4)]
    padded = np.full((3, 5, 2), np.nan)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    label = np.array([0, 1, 0])
    for split, n in (("train", 3), ("test", 1)):
        np.savez(tmp_path / f"{split}.npz", series=np.concatenate(arrays[:n]), lengths=[3, 5, 4][:n], label=label[:n])
        (tmp_path / "by_hand").mkdir(exist_ok=True)
        np.savez(tmp_path / "by_hand" / f"{split}.npz", series=padded[:n], label=label[:n])
    for split in ("train", "test"):
        for by in (False, True):
            made, hand = (opened("npz", f, split, standardise=by) for f in (tmp_path, tmp_path / "by_hand"))
            assert made.fingerprint == hand.fingerprint and made.fields == {
                "series": ((5, 2), hand.fields["series"][1])
            }
    for arrays, said in (
        (
            {"lengths": [3, 4], "series": np.ones((8, 2))},
            r"series: found float64 of shape \(8, 2\); allowed: numbers \[7\]",
        ),
        ({"lengths": [0, 8], "series": np.ones((8, 2))}, "lengths record 0: found 0; allowed: whole numbers from 1"),
        ({"lengths": ["3", "5"], "series": np.ones((8, 2))}, "lengths: found dtype <U1; allowed: whole numbers"),
        ({"lengths": [3j, 5], "series": np.ones((8, 2))}, "lengths: found dtype complex128; allowed: whole numbers"),
        ({"lengths": [3, 5], "image": np.ones((2, 4, 4))}, "train.npz: found the key 'lengths'; allowed: keys that"),
        ({"lengths": [[8]], "series": np.ones((8, 2))}, r"lengths: found shape \(1, 1\)"),
        ({"series": np.array([np.ones(2), np.ones(3)], object)}, "lengths are np.concatenate.arrays., with lengths="),
    ):
        with pytest.raises(InputError, match=said):
            opened("npz", npz(tmp_path, label=label[:2], **arrays))


def test_lengths_that_are_no_lengths_of_series(tmp_path):
    """They stay a label where they are one; a split with them beside one without would have series of two lengths."""
    for arrays in ({"features": np.ones((2, 3))}, {"series": np.ones((2, 6, 1))}):
        folder = npz(tmp_path, lengths=np.array([0, 1]), **arrays)
        assert opened("npz", folder, labels=("lengths",)).labels == {"lengths": 2}
    folder = npz(tmp_path, series=np.ones((2, 6, 1)), label=np.array([0, 1]))
    np.savez(tmp_path / "test.npz", series=np.ones(4), lengths=[4], label=[0])
    for split in ("train", "test"):
        with pytest.raises(InputError, match="train.npz: found no lengths, which .*test.npz has"):
            opened("npz", folder, split)
    assert opened("npz", folder, held_out=0.5).num_examples == 1  # test.npz is not read then


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [("digits", "standardise", True), ("folder", "standardise", True), ("csv", "prepare", True), ("idx", "text", "x")],
)
def test_a_field_that_a_source_does_not_read_is_refused(tmp_path, name, field, value):
    with pytest.raises(InputError, match=f"^config.data.{field}: found {value!r}; allowed: .* for {name}"):
        opened(name, "" if name == "digits" else tmp_path, **{field: value})


def test_every_source_says_what_it_reads():
    assert set(data.READ) <= set(data.SOURCES)
    generated = {"digits", "blocks", "motifs"}
    assert set(data.SOURCES) - set(data.READ) == generated


def test_a_tu_edge_that_is_listed_twice_is_one(tmp_path, lines):
    made = []
    for name, edges in (
        ("once", "1, 2\n2, 1\n2, 3\n3, 2\n"),
        ("twice", "1, 2\n2, 1\n2, 3\n3, 2\n2, 2\n" + "1, 2\n3, 2\n"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for part, text in (("A", edges), ("graph_indicator", "1\n1\n1\n"), ("graph_labels", "0\n")):
            (folder / f"DS_{part}.txt").write_text(text)
        made.append(rows(opened("tu", folder))["graph"])
    for part in made[0]:
        np.testing.assert_array_equal(made[0][part], made[1][part])
    assert [line.partition("_A.txt: ")[2] for line in lines()] == [
        "2 of 7 edges are listed more than once; each is read once",
        "1 edges from a node to itself passed over",
    ]


def test_class_names_of_series_that_differ_by_case_alone(tmp_path):
    pytest.importorskip("aeon")
    header = (
        "@problemName x\n@timeStamps false\n@univariate true\n@classLabel true Cat cat\n@data\n1,2,3:Cat\n4,5,6:cat\n"
    )
    for split in ("TRAIN", "TEST"):
        (tmp_path / f"x_{split}.ts").write_text(header)
    with pytest.raises(InputError, match="the classes Cat and cat"):
        opened("series", tmp_path)


def test_two_files_of_one_split(tmp_path, lines):
    """Two tables are refused; of a file and its .gz, as gunzip -k leaves them, one is read and the other named."""
    table(tmp_path, "train.csv", "text,label\na,0\n")
    with pytest.raises(InputError, match="found train.csv and train.tsv; allowed: one file for the split 'train'"):
        opened("csv", table(tmp_path, "train.tsv", "text\tlabel\na\t0\nb\t1\n"))
    heads = {"images-idx3": b"\0\0\x08\3\0\0\0\2\0\0\0\1\0\0\0\1", "labels-idx1": b"\0\0\x08\1\0\0\0\2"}
    for name, header in heads.items():
        (tmp_path / f"train-{name}-ubyte").write_bytes(header + b"\0\1")
        (tmp_path / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(header + b"\0\1"))
    assert opened("idx", tmp_path).num_examples == 2
    assert "train-images-idx3-ubyte is read, train-images-idx3-ubyte.gz passed over" in "".join(lines())


def test_preferences_are_not_cut(tmp_path):
    long = np.array([[5, 1, 6, 0]], np.int64)
    with pytest.raises(InputError, match="rejected record 0: found 4294967303"):
        opened("preferences", npz(tmp_path, chosen=long, rejected=long + [[0, 0, 2**32 + 1, 0]]), labels=())


def test_a_long_document_is_a_cell_like_others(tmp_path):
    source = opened("csv", table(tmp_path, "train.csv", "text,label\n" + "a" * 140000 + ",0\nb,1\n"))
    assert [len(t) for t in rows(source)["text"].numpy()] == [140000, 1]


def test_words_that_python_takes_for_numbers_are_words(tmp_path):
    assert opened("csv", table(tmp_path, "train.csv", "text,label\na,1_1\nb,1_2\n")).class_names["label"] == (
        "1_1",
        "1_2",
    )


def test_a_label_column_of_gaps_is_a_label_without_a_class(tmp_path, lines):
    source = opened("csv", table(tmp_path, "train.csv", "text,label\na,\nb,\n"))
    assert source.labels["label"] == 1 and "2 of 2 records are -1, unknown" in "".join(lines())


def test_what_varies_about_a_large_mean_is_standardised(tmp_path):
    series = 1e9 + np.array([[0.0, 1, 2], [2, 1, 0]])
    made = rows(opened("npz", npz(tmp_path, series=series, label=np.array([0, 1])), standardise=True))["series"]
    np.testing.assert_allclose(made.numpy()[0, :, 0], np.array([-1, 0, 1]) * 1.5**0.5, rtol=1e-6)


GRAPH = {"feature_indptr": [0, 3, 4, 5], "feature_indices": [0, 0, 1, 1, 0], "feature_values": [1.0, 2, 1, 1, 1],
         "feature_shape": [3, 2], "edges": [[0, 1], [1, 0]], "labels": [0, 1, 1], "train_index": [0, 1],
         "validation_index": [], "test_index": [2]}  # fmt: skip


def test_entries_of_one_place_are_summed_and_lists_may_be_empty(tmp_path):
    graph = {k: np.array(v) for k, v in GRAPH.items()} | {"feature_indptr": np.array([0, 3, 4, 5], np.uint64)}
    np.savez(tmp_path / "graph.npz", **graph)
    source = opened("planetoid", tmp_path, split="validation")
    np.testing.assert_allclose(rows(source)["graph"]["nodes"].numpy()[0], [0.75, 0.25])
    assert (source.known_labels["label"] == -1).all()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"feature_indptr": np.array([0, 2, 1, 5], np.uint32)}, "rising"),
        ({"feature_values": np.array(["a"] * 5)}, "feature_values: found dtype"),
        ({"labels": np.array([2**32 + 1, 1, 1])}, "labels record 0: found 4294967297"),
    ],
)
def test_odd_numbers_of_a_graph_are_a_line(tmp_path, change, line):
    np.savez(tmp_path / "graph.npz", **{k: np.array(v) for k, v in GRAPH.items()} | change)
    with pytest.raises(InputError, match=line):
        opened("planetoid", tmp_path)
