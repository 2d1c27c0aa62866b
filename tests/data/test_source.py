"""Sources over arrays: fields of several arrays, values that are not finite, and a share of the labels."""

import numpy as np
import pytest

from hcl_jax import data
from hcl_jax.data.source import Arrays, from_arrays, with_labelled
from hcl_jax.errors import InputError

N = 12


def arrays(n=N, **fields):
    """Records of a graph of 3 nodes and a series; a class and a value as labels."""
    number = np.arange(n)
    graph = {
        "nodes": (number[:, None, None] + np.zeros((n, 3, 2))).astype(np.float32),
        "edges": np.broadcast_to(number[:, None, None] % 3, (n, 4, 2)).astype(np.int32),
        "edge_mask": np.broadcast_to(number[:, None] % 2 == 0, (n, 4)),
    }
    return Arrays(
        fields={"graph": graph, "series": number.astype(np.float32)[:, None, None] + np.zeros((1, 5, 1)), **fields},
        labels={"label": (number % 4).astype(np.int32), "score": number.astype(np.float32) / n},
        classes={"label": 4, "score": 0},
        licence="",
        citation="",
    )


def numpy(tree):
    return {k: numpy(v) for k, v in tree.items()} if isinstance(tree, dict) else tree.numpy()


def test_a_field_of_several_arrays_is_read_as_one(config):
    made = arrays()
    source = from_arrays("made", made, config(labels=("label", "score")), "train")
    assert source.fields == {"graph": ((), "arrays"), "series": ((5, 1), "float64")}
    assert source.num_examples == N and source.labels == {"label": 4, "score": 0}
    rows = np.array([7, 0, 7, 11])
    got = numpy(source.fetch(rows))
    assert set(got) == {"graph", "series", "label", "score"} and set(got["graph"]) == set(made.fields["graph"])
    for part, value in made.fields["graph"].items():
        assert got["graph"][part].dtype == value.dtype
        np.testing.assert_array_equal(got["graph"][part], value[rows])
    np.testing.assert_array_equal(got["label"], rows % 4)


def test_a_field_of_several_arrays_in_a_batch(config, view):
    """Absent rows are zeros in every array of the view."""
    there = np.arange(N) % 3 != 0
    source = from_arrays("made", arrays()._replace(present={"graph": there}), config(), "train")
    views = {"g": view("graph", kind="graph"), "s": view("series", kind="series")}
    batches = data.evaluation_batches(source, views, batch_size=8, rows=np.arange(8))
    for batch, start in zip(batches, (0, 8), strict=True):
        rows = np.arange(start, start + 8)
        real = rows < N
        np.testing.assert_array_equal(batch["present"]["g"], real & (rows % 3 != 0))
        np.testing.assert_array_equal(batch["present"]["s"], real)
        for part, value in arrays(16).fields["graph"].items():
            mask = batch["present"]["g"].reshape(-1, *[1] * (value.ndim - 1))
            np.testing.assert_array_equal(batch["views"]["g"][part], np.where(mask, value[rows], 0))


def test_num_examples_cuts_every_array(config):
    few = from_arrays("made", arrays(), config(num_examples=5), "train")
    assert few.num_examples == 5
    assert few.fingerprint == from_arrays("made", arrays(5), config(), "train").fingerprint
    assert from_arrays("made", arrays(), config(num_examples=5), "test").num_examples == N
    whole = from_arrays("made", arrays(), config(), "train")
    changed = arrays()
    changed.fields["graph"]["edges"] = changed.fields["graph"]["edges"] + 1
    assert whole.fingerprint != few.fingerprint
    assert whole.fingerprint != from_arrays("made", changed, config(), "train").fingerprint


@pytest.mark.parametrize("part", ["nodes", "edge_mask"])
def test_arrays_of_unequal_length(config, part):
    made = arrays()
    made.fields["graph"][part] = made.fields["graph"][part][:-1]
    with pytest.raises(InputError, match=f"made train: found lengths .*'graph/{part}': 11.*one record in every array"):
        from_arrays("made", made, config(), "train")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["series", "series_b", "features", "myseries", "graph/nodes"])
def test_values_that_are_not_finite(config, field, value):
    """A missing value may stand in a series, and nowhere else; infinity nowhere."""
    made = arrays(**{k: np.zeros((N, 3)) for k in ("series_b", "features", "myseries")})
    name, _, part = field.partition("/")
    at = made.fields[name][part] if part else made.fields[name]
    at[3, 1] = value
    if field.startswith("series") and np.isnan(value):
        got = from_arrays("made", made, config(), "train").fetch(np.array([2, 3]))[field].numpy()
        np.testing.assert_array_equal(got, at[2:4])
        assert np.isnan(got).any()
        return
    line = f"made train: field {field}: found a number that is not finite; allowed: finite numbers"
    with pytest.raises(InputError) as error:
        from_arrays("made", made, config(), "train")
    assert str(error.value) == line


def test_a_series_without_any_value(config):
    made = arrays()
    made.fields["series"][4] = np.nan
    with pytest.raises(InputError, match="made train record 4: found no value; allowed: at least one in each series"):
        from_arrays("made", made, config(), "train")


MANY = 2000
TABLE = {"made": lambda spec, split: from_arrays("made", arrays(MANY), spec, split)}


def open_made(config, split="train", **fields):
    return data.open_source(config(name="made", labels=("label", "score"), **fields), split, TABLE)


def labels_of(source):
    got = source.fetch(np.arange(source.num_examples))
    return got["label"].numpy(), got["score"].numpy()


def test_a_share_of_the_examples_keeps_its_classes(config):
    number = np.arange(MANY)
    hidden = {}
    for share in (0.1, 0.5):
        label, score = labels_of(open_made(config, labelled=share))
        hidden[share] = label == -1
        assert abs(np.mean(~hidden[share]) - share) < 4 * np.sqrt(share * (1 - share) / MANY)
        np.testing.assert_array_equal(label, np.where(hidden[share], -1, number % 4))
        np.testing.assert_array_equal(score, number.astype(np.float32) / MANY)  # a value is no class
        per_class = np.bincount(label[label >= 0], minlength=4) / (MANY / 4)
        assert np.abs(per_class - share).max() < 0.1
    assert not (hidden[0.5] & ~hidden[0.1]).any(), "more labels are those of fewer and others"
    assert (labels_of(open_made(config, labelled=1.0))[0] == number % 4).all()


def test_the_labelled_examples_are_the_same_for_every_seed(config, view):
    source = open_made(config, labelled=0.3)
    expected, _ = labels_of(source)
    views = {"s": view("series", kind="series")}
    for seed in (0, 7):
        given = {"seed": seed, "batch_size": 500, "rows": np.arange(500), "start": 0, "stop": 5}
        for batch in data.batches(source, views, **given):
            np.testing.assert_array_equal(batch["labels"]["label"], expected[batch["index"]])


def test_labels_are_hidden_of_the_training_split_only(config):
    plain, some = ({s: open_made(config, s, labelled=x) for s in ("train", "test")} for x in (1.0, 0.3))
    assert (labels_of(some["test"])[0] == np.arange(MANY) % 4).all()
    assert some["test"].fingerprint == plain["test"].fingerprint
    prints = [open_made(config, labelled=x).fingerprint for x in (1.0, 0.3, 0.31, 0.3)]
    assert prints[0] == plain["train"].fingerprint and prints[1] == prints[3] and len(set(prints)) == 3
    assert with_labelled(plain["train"], 1.0) is plain["train"]
