"""Views with the same ops: one traced function, and the numbers that each view has by itself."""

import numpy as np

from hcl_jax import data
from hcl_jax.views import VIEWS
from tests.data.test_pipeline import same


def test_views_alike_are_traced_once_and_have_the_numbers_of_views_that_are_not(counting, view):
    """Draws of a row, of the batch, wide ones and a target; an op of a kind twice; salts, missing and swapped rows."""
    traced = []

    def mark(x, draws, *, kind=0):
        traced.append(kind)
        wide = draws.uniform("wide", (7, 32, 32))  # each row from a seed of its own
        draws.target("moved", draws.coin("coin", 0.5))
        return x + draws.shared("shared") + wide[:, :1, :1, :1]

    def made(*kinds):
        ops = [({"op": "flip"}, {"op": "mark", "kind": kind}, {"op": "flip", "p": 0.3}) for kind in kinds]
        views = {
            "a": view("image", *ops[0], draws="a"),
            "missing": view("image", *ops[1], draws="b", missing=0.4),
            "swapped": {**view("image", *ops[2], draws="a"), "swapped": 0.5},
            "other": view("image", ops[0][0]),
        }
        more = {"seed": 0, "start": 0, "stop": 2, "keep_draws": True, "views": {**VIEWS, "mark": mark}}
        return list(data.batches(counting(50), views, batch_size=40, rows=np.arange(40), **more))

    alike, apart = made(0, 0, 0), made(0, 1, 2)
    assert traced == [0, 0, 1, 2]
    same(alike, apart)
    views = alike[1]["views"]
    assert (views["a"]["draws"]["flip/coin"] != views["missing"]["draws"]["flip/coin"]).any()
    assert (views["a"]["image"] != views["swapped"]["image"]).any()
