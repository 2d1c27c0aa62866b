"""Mixtures: shares, epochs of each part, what a part lacks, hosts and restarts."""

import jax
import numpy as np
import pytest

from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.config import validate
from hcl_jax.data import mixture
from hcl_jax.data.source import Arrays, from_arrays
from hcl_jax.encoders import ENCODERS, HEADS
from hcl_jax.errors import InputError
from hcl_jax.losses import LOSSES
from hcl_jax.views import VIEWS
from hcl_jax.views.lazy import tf

SIZES = {"images": 10, "pairs": 7, "words": 13}


def reader(fields, labels, classes, **more):
    """A source in memory that reads nothing; the value of every field is the record's number."""

    def read(asked, split):
        n = SIZES[asked.name]
        number = np.arange(n)
        made = {
            "image": np.broadcast_to(number[:, None, None, None], (n, 2, 2, 1)).astype(np.uint8),
            "text": np.array([f"{asked.name} {i}" for i in number]),
        }
        values = {k: (number % c).astype(np.int32) for k, c in zip(labels, classes, strict=True)}
        arrays = Arrays({k: made[k] for k in fields}, values, dict(zip(labels, classes, strict=True)), "", "", **more)
        return from_arrays(asked.name, arrays, asked, split)

    return read


PARTS = {
    "images": reader(("image",), ("label",), (5,)),
    "pairs": reader(("image", "text"), ("label", "topic"), (5, 3)),
    "words": reader(("text",), (), ()),
}
TABLE = {**data.SOURCES, **PARTS}


@pytest.fixture
def mixed(config):
    """make(weights, **more): the three parts as one source."""

    def make(weights=(0.2, 0.5, 0.3), split="train", **more):
        own = {"images": ("label",), "pairs": ("label", "topic"), "words": ()}
        parts = {n: {"name": n, "labels": own[n], "weight": w} for n, w in zip(PARTS, weights, strict=True)}
        for part in parts.values():
            if part["weight"] is None:
                del part["weight"]
        for name, fields in more.items():
            parts[name] = {**parts[name], **fields}
        asked = config(name="mixture", parts=parts)
        return data.open_source(asked, split, TABLE)

    return make


@pytest.fixture
def views(view):
    return {
        "image": view("image", {"op": "noise", "std": 0.5, "p": 1.0}),
        "text": view("text", {"op": "tokens", "length": 12}, kind="text", draws="text"),
    }


def oracle(position, sizes, shares, order_of):
    """(part, place within it) of one position: each part in turn takes its whole steps of what the others left."""
    place = position
    for k in range(len(sizes)):
        width = round(2**20 * shares[k] / sum(shares[k:]))
        before = place * width // 2**20
        if (place + 1) * width // 2**20 > before:
            return k, order_of(k, before)
        place -= before
    raise AssertionError("the last part takes what is left")


@pytest.mark.slow(one=True)
def test_the_stream_has_the_shares_and_each_part_its_epochs():
    """R14: every prefix has the shares to a few records, and the records of each part come in permutations."""
    sizes, shares = (10, 7, 13), (0.2, 0.5, 0.3)
    mix = mixture.Mix(("a", "b", "c"), sizes, shares)
    found = mixture.records(tf.range(2000, dtype=tf.int64), mix, 3).numpy()
    part = np.searchsorted([0, 10, 17], found, side="right") - 1
    taken = [0, 0, 0]
    for position in range(300):
        k, place = oracle(position, sizes, shares, lambda k, place: place)
        assert (part[position], taken[k]) == (k, place)
        taken[k] += 1
    for k, (size, share, start) in enumerate(zip(sizes, shares, mix.starts, strict=True)):
        counts = np.cumsum(part == k)
        assert np.abs(counts - share * np.arange(1, 2001)).max() < k + 1.01
        own = found[part == k] - start
        epochs = own[: len(own) // size * size].reshape(-1, size)
        assert (np.sort(epochs) == np.arange(size)).all() and len({tuple(e) for e in epochs}) > len(epochs) // 2
    assert (found != mixture.records(tf.range(2000, dtype=tf.int64), mix, 4).numpy()).any()
    same_size = mixture.records(tf.range(80, dtype=tf.int64), mixture.Mix(("a", "b"), (40, 40), (0.5, 0.5)), 0).numpy()
    assert (same_size[same_size < 40] != same_size[same_size >= 40] - 40).any(), "parts of one size, two orders"


def test_fields_and_labels_are_missing_by_name(mixed, views):
    """R26: an image-only, an image-text and a text-only set in one batch."""
    source = mixed()
    assert list(source.fields) == ["image", "text"] and source.labels == {"label": 5, "topic": 3}
    assert source.num_examples == 30 and source.describe(12) == "pairs: record 2"
    for batch in data.batches(source, views, seed=0, batch_size=20, rows=np.arange(20), start=0, stop=3):
        index = batch["index"]
        part = np.searchsorted([0, 10, 17], index, side="right") - 1
        own = index - np.array([0, 10, 17])[part]
        np.testing.assert_array_equal(batch["present"]["image"], part < 2)
        np.testing.assert_array_equal(batch["present"]["text"], part > 0)
        np.testing.assert_array_equal(batch["labels"]["label"], np.where(part < 2, own % 5, -1))
        np.testing.assert_array_equal(batch["labels"]["topic"], np.where(part == 1, own % 3, -1))
        for row in range(20):
            tokens = batch["views"]["text"]["tokens"][row]
            text = bytes(int(t) - 3 for t in tokens if 2 < t).decode()
            assert text == ("", f"pairs {own[row]}", f"words {own[row]}")[part[row]]
        assert (batch["views"]["image"]["image"][part == 2] == 0).all()


@pytest.mark.slow(one=True)
def test_hosts_and_every_start(mixed, views):
    """R14, R15, R16: 1 to 4 hosts over three epochs, batches that divide nothing, a start at every step."""
    source = mixed()

    def made(rows, start=0, stop=9):
        return list(data.batches(source, views, seed=1, batch_size=11, rows=rows, start=start, stop=stop))

    def same(a, b):
        jax.tree.map(np.testing.assert_array_equal, a, b)

    whole = made(np.arange(11))
    for hosts in (2, 3, 4):
        for host in range(hosts):
            rows = np.arange(11)[host::hosts]
            for one, local in zip(whole, made(rows), strict=True):
                same(jax.tree.map(lambda x, r=rows: x[r], one), local)
    for start in range(1, 9):
        for a, b in zip(whole[start:], made(np.arange(11), start), strict=True):
            same(a, b)


def test_a_record_keeps_its_number_and_evaluation_its_order(mixed, views):
    one, other = mixed(), mixed((5.0, 1.0, 1.0))
    assert one.fingerprint != other.fingerprint, "other shares are other data"
    for source in (one, other):
        batches = list(data.evaluation_batches(source, views, batch_size=8, rows=np.arange(8)))
        index = np.concatenate([b["index"] for b in batches])
        np.testing.assert_array_equal(index, [*range(30), -1, -1])
        there = np.concatenate([b["present"]["text"] for b in batches])
        np.testing.assert_array_equal(there, (index >= 10))


def test_weights_are_the_sizes_where_none_is_given_and_a_part_may_lack_a_split(mixed):
    assert mixed((None, None, None)).mix.shares == pytest.approx((10 / 30, 7 / 30, 13 / 30))
    assert mixed((None, 20, None)).mix.shares == pytest.approx((10 / 43, 20 / 43, 13 / 43))
    assert mixed(split="test", images={"test_split": ""}).mix.names == ("pairs", "words")


@pytest.mark.slow
def test_a_bad_record_is_replaced_within_its_part(mixed, views):
    """R26, R27: the last record of a part is followed by its first."""
    source = mixed()
    broken = source._replace(fetch=lambda i: _spoiled(source.fetch(i), i, (9, 12, 13)))
    plain = list(data.batches(source, views, seed=0, batch_size=12, rows=np.arange(12), start=0, stop=5))
    for hosts in (1, 4):
        bad = [data.BadRecords(3) for _ in range(hosts)]
        for host in range(hosts):
            rows = np.arange(12)[host::hosts]
            got = data.batches(broken, views, seed=0, batch_size=12, rows=rows, start=0, stop=5, bad=bad[host])
            for a, b in zip(plain, got, strict=True):
                expected = [{9: 0, 12: 14, 13: 14}.get(i, i) for i in a["index"][rows].tolist()]
                np.testing.assert_array_equal(b["index"], expected)
        assert set().union(*(b.faults for b in bad)) == {9, 12, 13}


def _spoiled(record, index, numbers):
    hit = tf.reduce_any(tf.convert_to_tensor(index, tf.int64)[:, None] == tf.constant(numbers, tf.int64), 1)
    return {**record, "label": tf.where(hit, tf.cast(99, record["label"].dtype), record["label"])}


@pytest.mark.slow
def test_pictures_of_several_sizes(config, view, tmp_path):
    """Encoded pictures beside a part without: the crop decodes a pixel in their place, and their row is absent."""
    for i in range(6):
        path = tmp_path / "train" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_png(np.full((5 + i, 7, 3), 40 * i, np.uint8)).numpy())
    parts = {
        "files": {"name": "folder", "dir": str(tmp_path), "in_memory": False},
        "words": {"name": "words", "labels": ()},
    }
    source = data.open_source(config(name="mixture", parts=parts), "train", TABLE)
    views = {"a": view("image", {"op": "centre_crop", "size": 4})}
    for row in range(4):  # a batch in which a part has no row
        (one,) = data.batches(source, views, seed=0, batch_size=4, rows=[row], start=0, stop=1)
        assert one["present"]["a"].tolist() == [one["index"][0] < 6]
    for bad in (None, data.BadRecords(0), data.BadRecords(4)):
        (batch,) = data.batches(source, views, seed=0, batch_size=19, rows=np.arange(19), start=0, stop=1, bad=bad)
        np.testing.assert_array_equal(batch["present"]["a"], batch["index"] < 6)
        for row, number in enumerate(batch["index"].tolist()):
            picture = batch["views"]["a"]["image"][row]
            np.testing.assert_allclose(picture, 40 * number / 255 if number < 6 else 0, atol=1e-6)
        assert bad is None or not bad.faults


def test_parts_that_are_read_as_they_are_needed(config, view, tmp_path):
    """A TFDS set and a folder, both streamed; batches of one row, in which a part has none."""
    pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")
    from hcl_jax.data import builders

    builders.Digits(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    (tmp_path / "made" / "train" / "a").mkdir(parents=True)
    (tmp_path / "made" / "train" / "a" / "0.png").write_bytes(tf.io.encode_png(np.zeros((9, 9, 3), np.uint8)).numpy())
    parts = {
        "digits": {"name": "digits", "dir": str(tmp_path), "num_examples": 3},
        "files": {"name": "folder", "dir": str(tmp_path / "made"), "labels": ()},
    }
    table = {name: read for name, read in data.SOURCES.items() if name != "digits"}
    asked = config(name="mixture", parts=parts, in_memory=False)
    line = "config.data.parts.files: field image: found .*string.*; allowed: .*uint8.*, as digits has it"
    with pytest.raises(InputError, match=line):
        data.open_source(asked, "train", table)
    asked.parts.files.in_memory = True
    asked.parts.files.dir = str(tmp_path / "small")
    path = tmp_path / "small" / "train" / "a" / "0.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(tf.io.encode_png(np.full((8, 8, 3), 7, np.uint8)).numpy())
    with pytest.raises(InputError, match="field image"):  # three channels beside one
        data.open_source(asked, "train", table)
    del asked.parts["files"]
    asked.parts.words = {"name": "words", "labels": ()}
    source = data.open_source(asked, "train", {**table, **PARTS})
    views = {"a": view()}
    index = [b["index"][0] for b in data.batches(source, views, seed=0, batch_size=1, rows=[0], start=0, stop=16)]
    np.testing.assert_array_equal(np.sort(index), np.arange(16))
    (batch,) = data.batches(source, views, seed=0, batch_size=16, rows=np.arange(16), start=0, stop=1)
    np.testing.assert_array_equal(batch["index"], index)
    np.testing.assert_array_equal(batch["present"]["a"], batch["index"] < 3)
    assert (batch["labels"]["label"][batch["index"] < 3] >= 0).all()


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ({"words": {"labels": ("label",)}}, "config.data.labels: found 'label'"),
        (
            {"pairs": {"num_classes": 6}},
            "config.data.parts.pairs: label label: found 6; allowed: 5, as images has it",
        ),
        ({n: {"test_split": ""} for n in PARTS}, "config.data.parts: found no part with a test split"),
    ],
)
def test_parts_that_disagree(mixed, parts, line):
    split = "test" if "test split" in line else "train"
    with pytest.raises(InputError, match=line):
        mixed(split=split, **parts)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"name": "mixture"}, "config.data.parts: found none; allowed: parts by name where data.name is mixture"),
        ({"parts": {"a": {"name": "digits"}}}, "config.data.parts: found 1 parts"),
        ({"name": "mixture", "parts": {"a": {"dir": "x"}}}, "config.data.parts.a.name: found no value"),
        (
            {"name": "mixture", "parts": {"a": {"name": "digits", "wieght": 1}}},
            "config.data.parts.a.wieght: found an unknown field",
        ),
        ({"name": "mixture", "parts": {"a": {"name": "digits", "weight": 0}}}, "config.data.parts.a.weight: found 0"),
        (
            {"name": "mixture", "parts": {"a": {"name": "digits", "dir": 3}}},
            "config.data.parts.a.dir: found 3; .* text",
        ),
        ({"name": "mixture", "parts": {"a": {"name": "mixture"}}}, "config.data.parts.a.name: found 'mixture'"),
        ({"name": "mixture", "parts": {"a": {"name": "digits"}}, "sample": 5}, "config.data.sample: found 5"),
        ({"max_bad_records": -1}, "config.data.max_bad_records: found -1; allowed: a whole number >= 0"),
    ],
)
def test_refused_in_one_line(fields, line):
    config = configs.load("simclr:digits")
    with config.ignore_type():
        for field, value in fields.items():
            config.data[field] = value
    with pytest.raises(InputError, match=line) as error:
        validate.check(configs.complete(config), encoders=ENCODERS, heads=HEADS, losses=LOSSES, views=VIEWS)
    assert "\n" not in str(error.value)


def test_a_recipe_of_a_mixture_is_valid():
    config = configs.load("simclr:digits")
    config.data.name = "mixture"
    config.data.parts = {"a": {"name": "digits", "weight": 2.0}, "b": {"name": "digits", "num_examples": 100}}
    config = configs.complete(config)
    validate.check(config, encoders=ENCODERS, heads=HEADS, losses=LOSSES, views=VIEWS)
    source = data.open_source(config.data, "train")
    assert source.num_examples == 1437 + 100 and source.present is None and source.labels == {"label": 10}
    again = configs.from_json(configs.to_json(config), "config.json")
    assert data.open_source(again.data, "train").fingerprint == source.fingerprint
