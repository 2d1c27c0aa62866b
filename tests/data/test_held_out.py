"""A share of the records held out: which ones, what each part serves of them, and what cannot be held out."""

import numpy as np
import pytest

from hcl_jax import data
from hcl_jax.data.held_out import held_out, unread_test
from hcl_jax.errors import InputError

N = 40


@pytest.fixture
def both(config, counting):
    """make(**fields): (training part, held-out part) of 40 records, whose labels say their numbers."""

    def make(n=N, sources=None, **fields):
        read = []

        def source(asked, split):
            read.append(split)
            paths = [f"{i}.jpg" for i in range(n)]
            return counting(n, present=np.arange(n) % 3 != 0, **fields)._replace(paths=paths)

        asked = config(name="mine", **{"held_out": 0.25, **fields})
        parts = [data.open_source(asked, s, {"mine": source}) for s in ("train", "test")]
        assert read == ["train"]  # read once for both, and never as a split that is not there
        return parts

    return make


def test_the_two_parts_share_the_records_out(both):
    """Each record is in one part, with its own picture, label, name and mask."""
    held = held_out(N, 0.25, 0)
    for part, numbers in zip(both(), (np.flatnonzero(~held), np.flatnonzero(held)), strict=True):
        assert part.num_examples == len(numbers)
        got = part.fetch(np.arange(len(numbers)))
        np.testing.assert_array_equal(got["label"], numbers)
        np.testing.assert_array_equal(got["image"][:, 0, 0, 0], numbers)
        np.testing.assert_array_equal(got["present"][:, 0], numbers % 3 != 0)
        np.testing.assert_array_equal(part.known_labels["label"], numbers)
        np.testing.assert_array_equal(part.known_present["image"], numbers % 3 != 0)
        assert part.paths == [f"{i}.jpg" for i in numbers]
        assert part.describe(1) == f"record {numbers[1]}"


def test_a_record_is_held_out_by_its_number_and_the_seed_alone(both):
    np.testing.assert_array_equal(held_out(N, 0.25, 3), held_out(10 * N, 0.25, 3)[:N])
    assert (held_out(N, 0.25, 3) <= held_out(N, 0.5, 3)).all()  # a larger share holds out those and more
    shares = [held_out(10_000, 0.2, seed) for seed in (0, 1)]
    assert all(abs(s.mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 10_000) for s in shares)  # four deviations
    assert abs((shares[0] & shares[1]).mean() - 0.04) < 4 * np.sqrt(0.04 * 0.96 / 10_000)
    made = [both(held_out=share, held_out_seed=seed) for seed in (0, 1) for share in (0.25, 0.5)]
    assert len({part.fingerprint for parts in made for part in parts}) == 8


def test_a_seed_orders_the_records_that_are_left(both, view):
    """One epoch of training holds each of them once, and none that is held out."""
    train, test = both()
    made = list(data.batches(train, {"a": view()}, seed=5, batch_size=train.num_examples,
                             rows=np.arange(train.num_examples), start=0, stop=1))  # fmt: skip
    seen = made[0]["labels"]["label"]
    assert sorted(seen) == sorted(train.known_labels["label"]) and not set(seen) & set(test.known_labels["label"])


def test_a_part_of_a_mixture_holds_out_its_own_share(config, counting):
    sources = {**data.SOURCES, "mine": lambda asked, split: counting(N)}
    parts = {"a": {"name": "mine", "held_out": 0.25}, "b": {"name": "mine", "held_out": 0.5}}
    asked = config(name="mixture", parts=parts)
    held = [held_out(N, share, 0).sum() for share in (0.25, 0.5)]
    assert data.open_source(asked, "train", sources).mix.sizes == (N - held[0], N - held[1])
    assert data.open_source(asked, "test", sources).mix.sizes == tuple(held)


def test_of_one_graph_classes_are_held_out_and_no_node(config):
    whole = data.open_source(config(name="blocks"), "train")
    held = held_out(whole.num_examples, 0.25, 0)
    rows = np.arange(whole.num_examples)
    known = whole.known_labels["label"]
    assert (known >= 0).any()
    for split, hidden in (("train", held), ("test", ~held)):
        part = data.open_source(config(name="blocks", held_out=0.25), split)
        got, wanted = part.fetch(rows), np.where(hidden, -1, known)
        np.testing.assert_array_equal(got["label"], wanted)
        np.testing.assert_array_equal(part.known_labels["label"], wanted)
        np.testing.assert_array_equal(got["graph"]["nodes"], whole.fetch(rows)["graph"]["nodes"])


def test_a_test_split_that_a_share_leaves_unread_is_named(config, tmp_path):
    """The test split as a file beside that of training, or a folder; not where it is read, or is another thing."""
    (tmp_path / "train.npz").touch()
    (tmp_path / "test.csv").touch()
    asked = config(name="npz", dir=str(tmp_path), held_out=0.25)
    assert unread_test(asked) == []
    (tmp_path / "test.npz").touch()
    why = "is there and not read, for config.data.held_out is 0.25; --config.data.held_out=0 reads it"
    assert unread_test(asked) == [f"test.npz {why}"]
    assert unread_test(config(name="npz", dir=str(tmp_path))) == []
    for split in ("train", "test"):
        (tmp_path / "pictures" / split).mkdir(parents=True)
    assert unread_test(config(name="folder", dir=str(tmp_path / "pictures"), held_out=0.25)) == [f"test {why}"]


@pytest.mark.parametrize(
    "fields, line",
    [
        ({"held_out": 1e-6}, r"config.data.held_out: found 1e-06, which is none of 40 records; allowed: a share, or a"),
        ({"held_out": 0.999999}, "which is all of 40 records"),
        ({"test_split": "train"}, "config.data.test_split: found 'train'; allowed: another name than data.train_split"),
    ],
)
def test_what_cannot_be_held_out(config, counting, fields, line):
    asked = config(**{"name": "mine", "held_out": 0.25, **fields})
    with pytest.raises(InputError, match=line):
        data.open_source(asked, "train", {**data.SOURCES, "mine": lambda *_: counting(N)})
