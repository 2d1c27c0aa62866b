"""Records without data; and that opening needs no TensorFlow."""

import subprocess
import sys

import numpy as np
import pytest

from hcl_jax import data
from hcl_jax.errors import InputError


@pytest.mark.slow(one=True)
def test_importing_needs_no_tensorflow():
    code = "import sys, hcl_jax.data as d; d.SOURCES; assert not {'tensorflow', 'sklearn', 'aeon'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_random_fits_the_views(config, view):
    views = {
        "a": view("photo"),
        "b": view("caption", {"op": "tokens", "length": 8}, kind="text"),
        "c": view("wave", kind="series"),
    }
    asked = config(name="mine", shape=(16, 24, 3), num_classes=7, num_examples=200, labels=("x", "y"))
    source = data.random_like(asked, views)
    assert source.fields == {"photo": ((16, 24, 3), "uint8"), "caption": ((), "string"), "wave": ((128, 1), "float32")}
    assert source.labels == {"x": 7, "y": 7} and source.num_examples == 200
    (batch,) = data.batches(source, views, seed=0, batch_size=200, rows=np.arange(200), start=0, stop=1)
    assert batch["views"]["a"]["image"].shape == (200, 16, 24, 3) and batch["views"]["b"]["tokens"].shape == (200, 8)
    assert set(batch["labels"]["x"]) == set(range(7)) and (batch["labels"]["x"] != batch["labels"]["y"]).any()
    assert (
        source.fingerprint
        == data.random_like(asked, views).fingerprint
        != data.random_like(asked, views, "test").fingerprint
    )


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({"name": "digits"}, (8, 8, 1)),
        ({"name": "digits", "shape": (5, 5, 2)}, (5, 5, 2)),
        ({"name": "npz"}, (32, 32, 3)),
    ],
)
def test_shape_of_the_named_data(config, view, fields, shape):
    assert data.random_like(config(**fields), {"a": view()}, sources=data.SOURCES).fields["image"][0] == shape


@pytest.mark.slow
def test_series_shape_of_a_packaged_set(config, view):
    pytest.importorskip("aeon", reason="aeon is not installed")
    asked = config(name="series", dir="BasicMotions")
    views = {"a": view("series", kind="series")}
    assert data.random_like(asked, views, sources=data.SOURCES).fields == {"series": ((100, 6), "float32")}


def test_random_by_name(config):
    source = data.open_source(config(name="random", shape=(4, 4, 1)), "train")
    assert set(source.fields) == {"image", "series", "text", "features"} and source.fields["image"][0] == (4, 4, 1)


def test_an_unknown_kind(config, view):
    with pytest.raises(InputError, match="kind: found 'smell'"):
        data.random_like(config(), {"a": view(kind="smell")})


def test_a_source_of_ones_own(config):
    mine = data.open_source(config(), "train")
    found = data.open_source(config(name="mine"), "train", {**data.SOURCES, "mine": lambda c, split: mine})
    assert found.fetch is mine.fetch and found.fingerprint == mine.fingerprint
