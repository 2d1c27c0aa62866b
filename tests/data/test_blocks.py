"""Blocks of rows: no picture depends on how many rows are made together."""

import numpy as np
import pytest

from hcl_jax import data
from hcl_jax.data import blocks
from hcl_jax.data.source import Arrays, from_arrays
from hcl_jax.views import VIEWS
from hcl_jax.views.lazy import tf

OPS = (
    *({"op": "random_resized_crop", "size": 16}, {"op": "flip"}, {"op": "color_jitter"}, {"op": "grey"}),
    *({"op": "blur", "sigma_for": "batch", "kernel": 0.4}, {"op": "solarise"}, {"op": "rotate90"}),
    {"op": "noise", "std": 0.1},  # its numbers are drawn row by row in a batch of 400
)


@pytest.fixture
def pictures(config):
    """Forty pictures of noise."""
    image = np.random.default_rng(0).integers(0, 256, (40, 20, 24, 3)).astype(np.uint8)
    return from_arrays("noise", Arrays({"image": image}, {}, {}, "", ""), config(labels=()), "train")


def made(source, specs, most, monkeypatch, **more):
    """Two steps whose views are made `most` rows at a time, by 7 of the 400 rows."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", most * 12 * 16 * 16)
    rows = np.arange(0, 21, 3)
    return list(data.batches(source, specs, seed=0, batch_size=400, rows=rows, start=3, stop=5, **more))


def test_no_block_changes_a_picture(pictures, view, monkeypatch):
    """Bit for bit; a and b are traced as one graph, c on its own; an op has targets; the last block is a short one."""
    views = {name: view("image", *OPS, draws=name) for name in "ab"} | {"c": view("image", *OPS[:5], draws="c")}
    whole = made(pictures, views, 7, monkeypatch)
    for most in (1, 3):
        for one, other in zip(whole, made(pictures, views, most, monkeypatch), strict=True):
            for name in views:
                assert set(one["views"][name]) == ({"image"} if name == "c" else {"image", "rotation"})
                for key, value in one["views"][name].items():
                    np.testing.assert_array_equal(other["views"][name][key], value, err_msg=f"{name} {key} {most}")


def test_an_op_of_ones_own_gets_all_rows(pictures, view, monkeypatch):
    """It may look at other rows, as a mixture of pictures does; so does a view whose numbers are kept."""
    seen = []

    def swapped(x, draws):
        seen.append(x.shape[0])
        return tf.reverse(x, [0])

    views = {"a": view("image", OPS[0], {"op": "swapped"})}
    made(pictures, views, 2, monkeypatch, views={**VIEWS, "swapped": swapped})
    (batch, _) = made(pictures, {"a": view("image", OPS[0])}, 2, monkeypatch, keep_draws=True)
    assert seen == [7] and len(batch["views"]["a"]["draws"]["random_resized_crop/place"]) == 7


@pytest.mark.parametrize(
    "kind, ops, shape, rows",
    [
        ("image", ({"op": "resize", "size": 224},), [64], 8),
        ("image", ({"op": "flip"},), [64, 224, 224, 3], 8),
        ("image", ({"op": "resize", "size": (2000, 1000)},), [64], 1),
        ("image", ({"op": "resize", "size": 32},), [64], 426),
        ("image", ({"op": "resize", "size": "wide"},), [64], 0),
        ("image", ({"op": "flip"},), [64], 0),
        ("series", ({"op": "jitter"},), [64, 1000, 3], 0),
    ],
)
def test_rows_at_once(kind, ops, shape, rows):
    x = tf.TensorSpec(shape, tf.string if len(shape) == 1 else tf.float32)
    assert blocks.rows_at_once({"kind": kind, "ops": ops}, x, VIEWS) == rows
