"""TS2Vec's two crops against the published slices, their distribution, missing ends, and any set of hosts."""

import numpy as np
import pytest

from hcl_jax.errors import InputError
from hcl_jax.views import Draws, make_view
from hcl_jax.views.lazy import tf
from hcl_jax.views.series import overlapping_crops

N, T, C = 6, 11, 2


def both(x, step=3, rows=None, batch_size=None, **params):
    """{"a": (crop, inside, overlap, draws), "b": ...} of one step, as NumPy arrays."""
    rows = np.arange(len(x)) if rows is None else rows
    made = {}
    for side in ("a", "b"):
        draws = Draws(0, step, batch_size or len(x), rows, "crop")
        crop = np.asarray(overlapping_crops(tf.constant(x), draws, side=side, **params))
        targets = (np.asarray(draws.targets[k]) for k in ("inside", params.get("target", "overlap")))
        made[side] = (crop, *targets, {k: np.asarray(v) for k, v in draws.record.items()})
    return made


def pick(number, low, high):
    """The whole number low..high of a float32 number in [0, 1)."""
    return low + min(int(np.float32(number) * np.float32(high - low + 1)), high - low)


def published(x, drawn, least=2):
    """crop_l, crop_left, ... of the published code from the numbers drawn, and its slices of each row."""
    length = pick(drawn["length"][0], least, T)
    left = pick(drawn["start"][0], 0, T - length)
    right = left + length
    eleft, eright = pick(drawn["before"][0], 0, left), pick(drawn["after"][0], right, T)
    offset = [pick(u, -eleft, T - eright) for u in drawn["offset"]]
    a = np.stack([row[o + eleft : o + right] for row, o in zip(x, offset, strict=True)])
    b = np.stack([row[o + left : o + eright] for row, o in zip(x, offset, strict=True)])
    return a, b, length


@pytest.mark.slow(one=True)
def test_equals_the_published_slices(waves):
    x = waves(N, T, C)
    lengths = set()
    for step in range(40):
        made = both(x, step)
        a, b, length = published(x, made["a"][3])
        for (crop, inside, overlap, drawn), wanted, start in zip(
            made.values(), (a, b), (a.shape[1] - length, 0), strict=True
        ):
            size = wanted.shape[1]
            np.testing.assert_array_equal(crop[:, :size], wanted)
            assert not crop[:, size:].any() and crop.shape == (N, T, C) and crop.dtype == np.float32
            np.testing.assert_array_equal(inside, np.tile(np.arange(T) < size, (N, 1)))
            np.testing.assert_array_equal(overlap, np.tile([start, length], (N, 1)))
            assert overlap.dtype == np.int32 and drawn.keys() == made["a"][3].keys()
        np.testing.assert_array_equal(a[:, -length:], b[:, :length])
        lengths.add(length)
    assert len(lengths) > 7


def test_draws_of_a_step_are_shared_and_offsets_are_not(waves):
    _, _, _, drawn = both(waves(N, T, C))["a"]
    assert {k for k, v in drawn.items() if len(np.unique(v)) == 1} == {"length", "start", "before", "after"}
    assert len(np.unique(drawn["offset"])) == N


def test_lengths_are_uniform():
    @tf.function
    def length(step):
        draws = Draws(0, step, 1, np.arange(1), "crop")
        overlapping_crops(tf.zeros([1, 6, 1]), draws, side="b", min_length=3)
        return draws.targets["overlap"][0, 1]

    found = [int(length(tf.constant(step))) for step in range(400)]
    counts = np.bincount(found, minlength=7)
    assert not counts[:3].any() and (np.abs(counts[3:] - 100) < 4 * np.sqrt(75)).all()


def test_every_host_makes_the_same_crops(waves):
    x = waves(N, T, C)
    whole = both(x)
    for rows in (np.array([1, 4]), np.array([5])):
        part = both(x[rows], rows=rows, batch_size=N)
        for side in ("a", "b"):
            for found, wanted in zip(part[side][:3], whole[side][:3], strict=True):
                np.testing.assert_array_equal(found, wanted[rows])


def test_missing_ends_are_shared_evenly(waves):
    """Five missing steps at the end: two go to the front, as in centerize_vary_length_series; holes stay."""
    x = waves(N, T, C)
    x[0, 6:] = np.nan
    x[1, :3] = np.nan
    x[2, 4] = np.nan
    x[3] = np.nan
    centred = x.copy()
    centred[0], centred[1] = np.roll(x[0], 2, 0), np.roll(x[1], -2, 0)
    for step in range(12):
        for side, wanted in zip(both(x, step).values(), both(centred, step, centre=False).values(), strict=True):
            np.testing.assert_array_equal(side[0], wanted[0])
            assert np.isfinite(side[0][~side[1]]).all()


def test_in_a_view_with_an_unknown_number_of_rows(waves):
    x = waves(N, T, C)
    spec = {"kind": "series", "ops": ({"op": "overlapping_crops", "side": "b", "target": "common"},)}

    @tf.function(input_signature=[tf.TensorSpec([None, T, C], tf.float32)])
    def run(x):
        view = make_view(spec, x, Draws(0, 3, N, np.arange(N), "crop"))
        assert view["inside"].shape.as_list() == [None, T] and view["common"].shape.as_list() == [None, 2]
        assert view["series"].shape.as_list() == [None, T, C]
        return view

    draws = Draws(0, 3, N, np.arange(N), "crop").scope("overlapping_crops")
    wanted = overlapping_crops(tf.constant(x), draws, side="b")
    np.testing.assert_array_equal(run(tf.constant(x))["series"], wanted)


def test_whole_series_where_nothing_else_fits(waves):
    x = waves(N, T, C)
    for crop, inside, overlap, _ in both(x, min_length=T).values():
        np.testing.assert_array_equal(crop, x)
        assert inside.all() and (overlap == [0, T]).all()


@pytest.mark.parametrize(
    "params, match",
    [
        ({"side": "c"}, "side: found 'c'; allowed: a, b"),
        ({"side": "a", "min_length": T + 1}, "min_length: found 12; allowed: 1 to 11, the steps"),
        ({"side": "a", "min_length": 0}, "min_length: found 0"),
    ],
)
def test_refused(bench, waves, params, match):
    with pytest.raises(InputError, match=f"^overlapping_crops.{match}"):
        bench(N)(overlapping_crops, waves(N, T, C), **params)
