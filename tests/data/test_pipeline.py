"""Batches: pure functions of (seed, step, row)."""

import itertools

import jax
import numpy as np
import pytest

from hcl_jax import data
from hcl_jax.errors import InputError


def run(source, views, *, batch_size, rows=None, start=0, stop=4, seed=0, **more):
    rows = np.arange(batch_size) if rows is None else rows
    return list(
        data.batches(source, views, seed=seed, batch_size=batch_size, rows=rows, start=start, stop=stop, **more)
    )


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def at_rows(batch, rows):
    return jax.tree.map(lambda x: x[rows], batch)


@pytest.fixture
def noisy(view):
    """Two views with random ops; b lacks a third of the examples."""
    ops = ({"op": "noise", "std": 0.5, "p": 0.5}, {"op": "flip"})
    return {"a": view("image", *ops), "b": view("image", *ops, draws="b", missing=0.3)}


def test_contents(counting, view):
    (batch,) = run(counting(10), {"a": view()}, batch_size=4, stop=1)
    assert set(batch) == {"index", "labels", "present", "views"}
    assert batch["index"].dtype == np.int32 and batch["labels"]["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["index"], batch["labels"]["label"])
    assert batch["present"] == {}, "only views that a row can lack are listed"
    picture = batch["views"]["a"]["image"]
    assert picture.shape == (4, 2, 2, 1) and picture.dtype == np.float32
    np.testing.assert_array_equal(np.round(picture[:, 0, 0, 0] * 255), batch["index"])


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("hosts", [2, 3, 4])
def test_any_number_of_hosts_makes_the_same_batches(counting, noisy, hosts):
    """R14, R16: indices, labels, presence and every drawn number."""
    # 12 rows of 40 records: 10 steps are three epochs. Rows go round the hosts, as on a pod where none has a block.
    source = counting(40)
    whole = run(source, noisy, batch_size=12, stop=10)
    for host in range(hosts):
        rows = np.arange(12)[host::hosts]
        for one, local in zip(whole, run(source, noisy, batch_size=12, rows=rows, stop=10), strict=True):
            same(at_rows(one, rows), local)


@pytest.mark.parametrize("hosts", [1, 2, 3, 4])
def test_three_epochs_of_batches_that_divide_nothing(counting, view, hosts):
    """R14: 41 records in batches of 10, whose rows the hosts share unevenly: each epoch a permutation, in one order."""
    source, views = counting(41), {"a": view()}
    made = np.full((13, 10), -1)
    for host in range(hosts):
        rows = np.arange(10)[host::hosts]
        made[:, rows] = [b["index"] for b in run(source, views, batch_size=10, rows=rows, stop=13)]
    for epoch in made.ravel()[: 3 * 41].reshape(3, 41):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(41))
    np.testing.assert_array_equal(made, [b["index"] for b in run(source, views, batch_size=10, stop=13)])


def test_every_epoch_holds_every_record_once_and_batches_wrap(counting, view):
    made = np.concatenate([b["index"] for b in run(counting(10), {"a": view()}, batch_size=4, stop=15)])
    for epoch in made.reshape(6, 10):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(10))
    assert len({tuple(e) for e in made.reshape(6, 10)}) == 6


def test_a_batch_larger_than_the_data(counting, view):
    (batch,) = run(counting(3), {"a": view()}, batch_size=8, stop=1)
    for epoch in batch["index"][:6].reshape(2, 3):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(3))


@pytest.mark.slow(one=True)
def test_resume_at_every_step(counting, noisy):
    """R15, R16: ten records in batches of four, two epochs and a half."""
    source = counting(10)
    whole = run(source, noisy, batch_size=4, stop=6)
    for start in range(1, 6):
        rest = run(source, noisy, batch_size=4, start=start, stop=6)
        assert len(rest) == 6 - start
        for a, b in zip(whole[start:], rest, strict=True):
            same(a, b)


def test_seed_epoch_and_row_change_the_random_numbers(counting, view):
    """R16."""
    views = {"a": view("image", {"op": "noise", "std": 0.5, "p": 1.0})}
    first, second = run(counting(4), views, batch_size=4, stop=2)
    other = run(counting(4), views, batch_size=4, stop=1, seed=1)[0]
    assert (first["index"] != other["index"]).any()
    sorted_first = first["views"]["a"]["image"][np.argsort(first["index"])]
    sorted_second = second["views"]["a"]["image"][np.argsort(second["index"])]
    assert (sorted_first != sorted_second).any(axis=(1, 2, 3)).all()
    # One record in every row: what differs is drawn for the row. (Numbers near 0 are cut off, so not every pixel does.)
    (alike,) = run(counting(1), views, batch_size=6, stop=1)
    assert len(np.unique(alike["views"]["a"]["image"].reshape(6, -1), axis=0)) == 6


def test_stop_none_does_not_end(counting, view):
    endless = data.batches(counting(4), {"a": view()}, seed=0, batch_size=2, rows=np.arange(2), start=0, stop=None)
    assert len(list(itertools.islice(endless, 9))) == 9


def test_missing_is_a_share_of_examples_the_same_in_every_epoch(counting, view):
    n = 2000
    views = {"a": view(), "b": view(draws="b", missing=0.25)}
    made = run(counting(n), views, batch_size=n, stop=2)
    there = [b["present"]["b"][np.argsort(b["index"])] for b in made]
    np.testing.assert_array_equal(*there)
    assert abs(there[0].mean() - 0.75) < 0.04
    for batch in made:
        assert "a" not in batch["present"]
        picture, number = batch["views"]["b"]["image"][:, 0, 0, 0], batch["index"] % 256
        np.testing.assert_array_equal(np.round(picture * 255), np.where(batch["present"]["b"], number, 0))


def test_records_may_lack_a_field(counting, view):
    """R26: a missing modality is absent, no bad record."""
    there = np.arange(20) % 3 != 0
    (batch,) = run(counting(20, present=there), {"a": view()}, batch_size=20, stop=1)
    np.testing.assert_array_equal(batch["present"]["a"], there[batch["index"]])
    assert (batch["views"]["a"]["image"][~batch["present"]["a"]] == 0).all()


def test_keep_draws_gives_the_random_numbers(counting, view):
    views = {"a": view("image", {"op": "flip"})}
    (batch,) = run(counting(4), views, batch_size=4, stop=1, keep_draws=True)
    assert batch["views"]["a"]["draws"] and all(len(v) == 4 for v in jax.tree.leaves(batch["views"]["a"]["draws"]))


@pytest.mark.parametrize("n", [1, 7, 8, 9])
def test_evaluation_covers_each_example_once_in_order(counting, view, n):
    batches = list(data.evaluation_batches(counting(n), {"a": view()}, batch_size=4, rows=np.arange(4)))
    assert len(batches) == -(-n // 4)
    index = np.concatenate([b["index"] for b in batches])
    np.testing.assert_array_equal(index[:n], np.arange(n))
    assert (index[n:] == -1).all()
    padding = np.concatenate([b["labels"]["label"] for b in batches])[n:]
    assert (padding == -1).all()
    there = np.concatenate([b["present"]["a"] for b in batches])
    np.testing.assert_array_equal(there, index >= 0)
    assert (np.concatenate([b["views"]["a"]["image"] for b in batches])[n:] == 0).all()


def test_evaluation_rows_of_two_hosts(counting, view):
    whole = list(data.evaluation_batches(counting(9), {"a": view()}, batch_size=4, rows=np.arange(4)))
    for rows in ([0, 3], [1, 2]):
        local = data.evaluation_batches(counting(9), {"a": view()}, batch_size=4, rows=rows)
        for a, b in zip(whole, local, strict=True):
            same(at_rows(a, rows), b)


def test_specs_are_those_of_the_batches(counting, noisy):
    specs = data.batch_specs(counting(10), noisy, seed=0, batch_size=6)
    (batch,) = run(counting(10), noisy, batch_size=6, stop=1)
    assert jax.tree.map(lambda s: (s.shape, s.dtype), specs) == jax.tree.map(lambda x: (x.shape, x.dtype), batch)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"field": "picture"}, "config.views.a.field: found 'picture'; allowed: fields of counting: image"),
        ({"missing": 1.5}, "config.views.a.missing: found 1.5; allowed: 0 to 1, a fraction of the examples"),
        ({"kind": "smell"}, "config.views.a.kind: found 'smell'; allowed: image, series, text, graph, features"),
    ],
)
def test_bad_views_are_one_line(counting, view, change, line):
    with pytest.raises(InputError) as error:
        run(counting(4), {"a": {**view(), **change}}, batch_size=2, stop=1)
    assert str(error.value) == line


def test_an_op_that_refuses_is_one_line(counting, view):
    views = {"a": view("image", {"op": "noise", "std": "much"})}
    with pytest.raises(InputError, match="std"):
        run(counting(4), views, batch_size=2, stop=1)


@pytest.mark.parametrize("rows", [[], [2, 1], [0, 4], [-1], [[0]]])
def test_bad_rows(counting, view, rows):
    with pytest.raises(InputError, match="rows"):
        run(counting(4), {"a": view()}, batch_size=4, rows=rows, stop=1)


def test_a_label_outside_its_classes_names_the_record(counting, view):
    source = counting(10)._replace(labels={"label": 5})
    with pytest.raises(InputError, match=r"record \d: label label: found \d; allowed: 0 to 4, or -1 for unknown"):
        run(source, {"a": view()}, batch_size=10, stop=1)


def test_a_whole_batch_has_each_record_in_its_row(counting, noisy):
    """Rows past the last record are absent, in every view and with every label."""
    steps = run(counting(10), noisy, batch_size=12, stop=3, order="whole")
    real = np.arange(12) < 10
    lacks = run(counting(10), noisy, batch_size=10, stop=1)[0]
    lacks = set(lacks["index"][~lacks["present"]["b"]])
    for batch in steps:
        np.testing.assert_array_equal(batch["index"], np.where(real, np.arange(12), -1))
        np.testing.assert_array_equal(batch["labels"]["label"], batch["index"])
        np.testing.assert_array_equal(batch["present"]["a"], real)
        np.testing.assert_array_equal(batch["present"]["b"], [r < 10 and r not in lacks for r in range(12)])
        for view in "ab":
            assert (batch["views"][view]["image"][~batch["present"][view]] == 0).all()
    a, b = (s["views"]["a"]["image"][:10] for s in steps[:2])
    assert lacks and (a != b).any(axis=(1, 2, 3)).sum() > 3, "random numbers are those of the step"


@pytest.mark.slow(one=True)
def test_a_whole_batch_on_hosts_and_after_a_stop(counting, noisy):
    source = counting(10)
    whole = run(source, noisy, batch_size=12, stop=3, order="whole")
    for rows in (np.arange(12)[::2], np.arange(12)[1::2]):
        for one, local in zip(whole, run(source, noisy, batch_size=12, rows=rows, stop=3, order="whole"), strict=True):
            same(at_rows(one, rows), local)
    same(whole[2], run(source, noisy, batch_size=12, start=2, stop=3, order="whole")[0])
    specs = data.batch_specs(source, noisy, seed=0, batch_size=12, order="whole")
    assert jax.tree.map(lambda s: (s.shape, s.dtype), specs) == jax.tree.map(lambda x: (x.shape, x.dtype), whole[0])


def test_a_whole_batch_without_room(counting, view):
    line = "config.data.batch_size: found 9; allowed: at least 10, all records: data.order is whole"
    with pytest.raises(InputError) as error:
        run(counting(10), {"a": view()}, batch_size=9, stop=1, order="whole")
    assert str(error.value) == line


def test_records_that_refer_to_each_other_stay_together(counting, view):
    source, views = counting(10)._replace(whole=True), {"a": view()}
    line = "config.data.order: found 'shuffled'; allowed: 'whole': records of counting refer to each other"
    for make in (
        lambda: run(source, views, batch_size=10, stop=1),
        lambda: data.batch_specs(source, views, seed=0, batch_size=10),
    ):
        with pytest.raises(InputError) as error:
            make()
        assert str(error.value) == line
    with pytest.raises(InputError, match="config.evaluate.batch_size: found 9; allowed: at least 10: records of"):
        next(data.evaluation_batches(source, views, batch_size=9, rows=np.arange(9)))
    (batch,) = run(source, views, batch_size=10, stop=1, order="whole")
    (evaluated,) = data.evaluation_batches(source, views, batch_size=10, rows=np.arange(10))
    same(batch, evaluated)
