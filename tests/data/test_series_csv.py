"""Time series by a long table: order, unequal lengths, gaps, labels, and tables that are refused."""

import numpy as np
import pytest
from refusals import refused_source as refused

from hcl_jax import data

LINES = """id,time,label,x,y
b,2,run,4,40
a,10,walk,3,
a,9,walk,2,20
b,1,run,,30
a,-1,walk,1,10
"""


@pytest.fixture
def opened(tmp_path, config):
    def make(text, split="train", name="train.csv", **fields):
        (tmp_path / name).write_text(text)
        fields = {"dir": str(tmp_path), **fields}
        return data.open_source(config(name="series_csv", **fields), split)

    return make


def test_lines_become_series_in_order_of_time(opened):
    source = opened(LINES)
    got = {k: v.numpy() for k, v in source.fetch(np.arange(2)).items()}
    nan = np.nan
    np.testing.assert_array_equal(got["series"], [[[nan, 30], [4, 40], [nan, nan]], [[1, 10], [2, 20], [3, nan]]])
    assert got["label"].tolist() == [0, 1] and source.class_names == {"label": ("run", "walk")}
    assert source.describe(1) == "id a" and set(source.fields) == {"series"}


def test_dates_and_other_names_of_columns(opened):
    dates = {"10": "2024-03-01", "9": "2024-02-29T23:59:59", "-1": "2023-12-31", "2": "2020-02", "1": "2020-01"}
    lines = [line.split(",") for line in LINES.splitlines()[1:]]
    text = "\n".join(["who,when,label,x,y", *(",".join([a, dates[t], *rest]) for a, t, *rest in lines)])
    series = opened(text, record="who", time="when").fetch(np.arange(2))["series"]
    np.testing.assert_array_equal(series, opened(LINES).fetch(np.arange(2))["series"])


def test_both_splits_have_one_shape_and_the_scale_of_training(opened, tmp_path):
    longer = "".join(f"d,{t},run,5,5\n" for t in range(7))
    (tmp_path / "test.csv").write_text(f"id,time,label,x,y\nc,0,swim,1,1\n{longer}")
    train, test = (opened(LINES, split, standardise=True) for split in ("train", "test"))
    assert train.fields == test.fields == {"series": ((7, 2), "float32")}
    assert train.labels == test.labels == {"label": 3}
    x = np.array([1, 2, 3, 4])
    np.testing.assert_allclose(test.fetch([0])["series"][0, 0, 0], (1 - x.mean()) / x.std(), rtol=1e-6)


def test_a_table_alone_is_held_out_by_series(opened, tmp_path):
    text = "id,time,x\n" + "".join(f"s{i},{t},{i}\n" for i in range(30) for t in range(2))
    asked = dict(dir=str(tmp_path / "train.csv"), held_out=0.3)
    train, test = (opened(text, split, **asked) for split in ("train", "test"))
    assert train.num_examples + test.num_examples == 30 and train.labels == {}  # no column label, no classes
    values = [set(s.fetch(np.arange(s.num_examples))["series"][:, 0, 0].numpy()) for s in (train, test)]
    assert not values[0] & values[1] and len(values[0] | values[1]) == 30


@pytest.mark.parametrize(
    "old, new, line",
    [
        ("id,", "name,", "found no column 'id'; allowed: columns .*; config.data.record names it"),
        ("time", "moment", "found no column 'time'; .*; config.data.time names it"),
        ("b,2,run,4", "b,2,run,four", r"line 2: x: found 'four'; allowed: a finite number, or blank where missing"),
        ("b,2,run,4", "b,2,run,inf", "line 2: x: found 'inf'; allowed: a finite number"),
        ("a,9,", " ,9,", "line 4: id: found nothing; allowed: a name in each line"),
        ("b,2,run", "b,2,walk", "line 5: found label run for id b, which is walk before; allowed: one value"),
        ("a,9,", "a,10,", "lines 3 and 4: found id a time 10; allowed: one line for each time of a series"),
        ("a,9,", "a,soon,", "time: found cells that are no times; allowed: numbers, or dates such as 2024"),
        (",x,y", ",x,x", "2 columns 'x'"),
        ("b,1,run,,30\n", "b,1,run,,\nc,1,run,,\n", "line 6: found no value in id c; allowed: at least one"),
    ],
)
def test_what_is_refused(opened, config, tmp_path, old, new, line):
    assert old in LINES
    (tmp_path / "train.csv").write_text(LINES.replace(old, new))
    refused(line, config(name="series_csv", dir=str(tmp_path)))


def test_channels_of_the_splits_must_be_the_same(opened, config, tmp_path):
    opened("id,time,label,x,z\nc,0,run,1,1\n", "train", name="train.csv")
    (tmp_path / "test.csv").write_text(LINES)
    refused("test.csv: found channels x, y; allowed: x, z, as in", config(name="series_csv", dir=str(tmp_path)))
