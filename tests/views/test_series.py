"""Series ops against loops, NumPy and SciPy in float64."""

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from hcl_jax.errors import InputError
from hcl_jax.views import Draws, frequency, series

ALL = [
    *("jitter", "scale", "negate", "flip_time", "permute", "warp", "magnitude_warp", "crop_resize"),
    *("drop_channels", "shuffle_channels", "rotate_axes", "mask_time", "z_normalise", "fill_missing"),
]
SPECTRAL = ["band_limit", "shift_phase", "scale_spectrum"]


def rows_of(coin, changed, x):
    return np.where(coin[:, None, None], changed, x)


def test_jitter_and_scale(bench, waves):
    x, run = waves(n=32), bench(32)
    made = run(series.jitter, x, sigma=0.8, p=0.5)
    assert run["noise"].shape == x.shape and made.dtype == np.float32
    np.testing.assert_allclose(made, rows_of(run["coin"], x + 0.8 * run["noise"].astype(float), x), atol=1e-5)
    run = bench(32)
    made = run(series.scale, x, sigma=1.1, mean=2.0)
    assert run["factor"].shape == (32, 3)
    np.testing.assert_allclose(made, x * (2.0 + 1.1 * run["factor"].astype(float))[:, None], atol=1e-5)


def test_negate_flip_and_shuffle(bench, waves):
    x = waves(n=32)
    for op, changed in (("negate", -x), ("flip_time", x[:, ::-1])):
        run = bench(32)
        np.testing.assert_array_equal(run(getattr(series, op), x), rows_of(run["coin"], changed, x))
    run = bench(32)
    made = run(series.shuffle_channels, x)
    shuffled = np.stack([row[:, np.argsort(u)] for row, u in zip(x, run["order"], strict=True)])
    np.testing.assert_array_equal(made, rows_of(run["coin"], shuffled, x))


@pytest.mark.parametrize("cuts", ["equal", "random"])
def test_permute_equals_the_loop(bench, waves, cuts):
    x, run = waves(n=32, length=23), bench(32)
    made = run(series.permute, x, max_segments=6, cuts=cuts, p=0.8)
    counts = set()
    for row in range(32):
        count = int(run["segments"][row] * 6) + 1
        if cuts == "equal":
            at = [-(-k * 23 // count) for k in range(1, count)]
        else:
            at = sorted(1 + int(u * 22) for u in run["cuts"][row, : count - 1])
        pieces = np.split(x[row], at)
        want = np.concatenate([pieces[k] for k in np.argsort(run["order"][row, :count])])
        counts.add(count)
        np.testing.assert_array_equal(made[row], want if run["coin"][row] else x[row])
    assert counts == set(range(1, 7))


def test_permute_of_one_piece_changes_nothing(bench, waves):
    x = waves()
    for cuts in ("equal", "random"):
        np.testing.assert_array_equal(bench()(series.permute, x, max_segments=1, cuts=cuts), x)


def spline(values, length):
    return CubicSpline(np.linspace(0, length - 1, len(values)), values)(np.arange(length))


@pytest.mark.parametrize("knots", [0, 1, 4])
def test_warp_equals_the_loop(bench, waves, knots):
    x, run = waves(length=40), bench()
    made = run(series.warp, x, sigma=0.4, knots=knots, p=0.8)
    for row in range(8):
        speed = np.maximum(spline(1 + 0.4 * run["speed"][row].astype(float), 40), 0.05)
        times = np.concatenate([[0], np.cumsum(speed[:-1])])
        times *= 39 / times[-1]
        want = np.stack([np.interp(times, np.arange(40), x[row, :, c]) for c in range(3)], axis=1)
        np.testing.assert_allclose(made[row], want if run["coin"][row] else x[row], atol=1e-4)
    np.testing.assert_allclose(made[:, [0, -1]], x[:, [0, -1]], atol=1e-4)


def test_magnitude_warp_equals_the_loop(bench, waves):
    x, run = waves(length=40), bench()
    made = run(series.magnitude_warp, x, sigma=0.3, knots=3)
    for row in range(8):
        for c in range(3):
            curve = spline(1 + 0.3 * run["curve"][row, c].astype(float), 40)
            np.testing.assert_allclose(made[row, :, c], x[row, :, c] * curve, atol=1e-5)


def test_curves_that_do_not_bend_change_nothing(bench, waves):
    x = waves()
    np.testing.assert_allclose(bench()(series.warp, x, sigma=0.0), x, atol=1e-4)
    np.testing.assert_allclose(bench()(series.magnitude_warp, x, sigma=0.0), x, atol=1e-6)


def test_crop_tells_its_start(bench, waves):
    x, run = waves(n=64), bench(64)
    made, start = run(series.crop, x, length=15, target="start"), run.target("start")
    np.testing.assert_array_equal(start, np.floor(run["start"] * 6))
    assert set(start) == set(range(6))
    for row in range(64):
        np.testing.assert_array_equal(made[row], x[row, start[row] : start[row] + 15])
    np.testing.assert_array_equal(bench()(series.crop, x[:8], length=20), x[:8])


@pytest.mark.parametrize("length", [0, 1, 33])
def test_crop_resize_equals_the_loop(bench, waves, length):
    x, run = waves(), bench()
    made = run(series.crop_resize, x, fraction=(0.3, 0.8), length=length, p=0.7)
    size = length or 20
    assert made.shape == (8, size, 3) and 0 < run["coin"].sum() < 8
    for row in range(8):
        share = float(run["fraction"][row]) if run["coin"][row] else 1.0
        start = float(run["start"][row]) * (1 - share)
        times = 19 * (start + share * (np.arange(size) / max(size - 1, 1)))
        want = np.stack([np.interp(times, np.arange(20), x[row, :, c]) for c in range(3)], axis=1)
        np.testing.assert_allclose(made[row], want, atol=2e-5)


def test_drop_channels_leaves_one(bench, waves):
    x, run = waves(n=64), bench(64)
    made = run(series.drop_channels, x, p=0.4, value=-1.0)
    kept = run["drop"] >= np.float32(0.4)
    kept[np.arange(64), run["drop"].argmax(1)] = True
    np.testing.assert_array_equal(made, np.where(kept[:, None], x, np.float32(-1.0)))
    alone = bench(64)(series.drop_channels, x, p=1.0)
    np.testing.assert_array_equal((alone != 0).any(1).sum(1), 1)


def test_rotate_axes_is_a_rotation_of_each_sensor(bench, waves):
    from scipy.spatial.transform import Rotation

    x, run = waves(channels=6), bench()
    made = run(series.rotate_axes, x, p=0.7)
    for row in range(8):
        w, i, j, k = run["quaternion"][row].astype(float)
        turn = Rotation.from_quat([i, j, k, w])
        want = np.concatenate([turn.apply(x[row, :, :3]), turn.apply(x[row, :, 3:])], axis=1)
        np.testing.assert_allclose(made[row], want if run["coin"][row] else x[row], atol=1e-5)


@pytest.mark.parametrize("span", [1, 3])
def test_mask_time_keeps_what_it_hides(bench, waves, span):
    x, run = waves(n=32), bench(32)
    made = run(series.mask_time, x, p=0.3, span=span, value=9.0, target=True)
    mask = np.repeat(run["mask"] < np.float32(0.3), span, axis=1)[:, :20]
    np.testing.assert_array_equal(run.target("mask"), mask)
    np.testing.assert_array_equal(run.target("clean"), x)
    np.testing.assert_array_equal(made, np.where(mask[:, :, None], np.float32(9.0), x))
    run = bench(32)
    np.testing.assert_array_equal(run(series.mask_time, x, p=0.0), x)
    assert run.draws.targets == {}


def test_z_normalise_and_fill_missing_bear_nan(bench, waves):
    x = 5.0 + 3.0 * waves()
    x[0, :5, 1] = np.nan
    x[1, :, 2] = np.nan
    x[2, :, 0] = 4.0
    made = bench()(series.z_normalise, x)
    real = x.astype(np.float64)
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning):
        want = (real - np.nanmean(real, 1, keepdims=True)) / np.sqrt(np.nanvar(real, 1, keepdims=True) + 1e-6)
    np.testing.assert_array_equal(np.isnan(made), np.isnan(x))
    np.testing.assert_allclose(made, want, atol=1e-4)
    filled = bench()(series.fill_missing, x, value=7.0, indicator=True)
    np.testing.assert_array_equal(filled[..., :3], np.where(np.isnan(x), np.float32(7.0), x))
    np.testing.assert_array_equal(filled[..., 3:], ~np.isnan(x))


@pytest.mark.parametrize("amplitude", [1e-30, 1e-12, 1e-5, 1.0, 1e12, 1e30])
def test_z_normalise_knows_no_unit(bench, waves, amplitude):
    x = waves()
    x[1] = 0.1  # whose mean is no float32
    made = bench()(series.z_normalise, x * np.float32(amplitude))
    np.testing.assert_allclose(np.delete(made, 1, 0).std(1), 1, rtol=1e-3)
    np.testing.assert_allclose(made, bench()(series.z_normalise, x), atol=1e-4)
    assert not made[1].any()
    unit = bench()(series.z_normalise, waves(), epsilon=1.0)
    variance = waves().astype(float).var(1)
    np.testing.assert_allclose(unit.std(1), np.sqrt(variance / (variance + 1)), rtol=1e-4)


@pytest.mark.parametrize("op", [name for name in ALL if name not in ("rotate_axes", "fill_missing")])
def test_nan_stays_missing_and_does_not_spread(bench, waves, op):
    """A missing value makes at most its neighbours missing, and only in its own row and channel or time."""
    x = waves(n=16)
    clean = bench(16)(getattr(series, op), x)
    x[3, 7, 1] = np.nan
    made = bench(16)(getattr(series, op), x)
    assert np.isnan(made).sum() <= 8
    others = np.arange(16) != 3
    np.testing.assert_array_equal(made[others], clean[others])


@pytest.mark.parametrize("op", [*ALL[:8], "shuffle_channels", "rotate_axes"])
def test_p_0_changes_nothing(bench, waves, op):
    x = waves()
    np.testing.assert_allclose(bench()(getattr(series, op), x, p=0.0), x, atol=2e-5 if op == "crop_resize" else 0)


@pytest.mark.parametrize("op", [*ALL, *SPECTRAL, "spectrum"])
def test_any_split_of_the_rows_makes_the_same(waves, op):
    from hcl_jax.views.lazy import tf

    x = waves(n=12)
    change = getattr(series, op, None) or getattr(frequency, op)
    whole = np.asarray(change(tf.constant(x), Draws(0, 1, 12, np.arange(12), "a")))
    for rows in (np.arange(0, 12, 3), np.array([11]), np.arange(5)):
        part = np.asarray(change(tf.constant(x[rows]), Draws(0, 1, 12, rows, "a")))
        # The draws are equal bit by bit; arithmetic may round otherwise where vectors of another length end.
        np.testing.assert_allclose(part, whole[rows], atol=2e-6)


@pytest.mark.parametrize("length", [20, 21])
def test_spectral_ops_equal_numpy(bench, waves, length):
    x = waves(n=32, length=length)
    real = np.fft.rfft(x.astype(np.float64), axis=1)
    bins = np.arange(real.shape[1])
    for keep in ("low", "high"):
        run = bench(32)
        made = run(frequency.band_limit, x, keep=keep)
        below = bins < run["cut"][:, None].astype(np.float32) * np.float32(length // 2)
        kept = (below if keep == "low" else ~below) | (bins == 0)
        want = np.fft.irfft(real * kept[:, :, None], length, axis=1)
        np.testing.assert_allclose(made, rows_of(run["coin"], want, x), atol=1e-5)
    run = bench(32)
    made = run(frequency.shift_phase, x)
    turned = real * np.exp(1j * run["angle"].astype(np.float64)[:, None, None] * (bins > 0)[:, None])
    np.testing.assert_allclose(made, rows_of(run["coin"], np.fft.irfft(turned, length, axis=1), x), atol=1e-5)
    run = bench(32)
    made = run(frequency.scale_spectrum, x, sigma=0.5, share=0.4)
    factor = np.where(run["chosen"] < np.float32(0.4), np.maximum(1 + 0.5 * run["factor"].astype(np.float64), 0), 1.0)
    want = np.fft.irfft(real * factor[:, :, None], length, axis=1)
    np.testing.assert_allclose(made, rows_of(run["coin"], want, x), atol=1e-5)
    np.testing.assert_allclose(bench(32)(frequency.spectrum, x), np.abs(real), atol=1e-5)


@pytest.mark.parametrize(
    "op, params, match",
    [
        ("jitter", {"sigma": -1}, "sigma"),
        ("permute", {"max_segments": 0}, "max_segments"),
        ("permute", {"max_segments": 99}, "max_segments"),
        ("permute", {"cuts": "some"}, "cuts"),
        ("warp", {"knots": -1}, "knots"),
        ("crop", {"length": 21}, "length"),
        ("crop_resize", {"fraction": (0.5, 2.0)}, "fraction"),
        ("drop_channels", {"p": 1.1}, "p"),
        ("mask_time", {"span": 0}, "span"),
        ("z_normalise", {"epsilon": -1.0}, "epsilon"),
    ],
)
def test_bad_parameters_name_themselves(bench, waves, op, params, match):
    with pytest.raises(InputError, match=rf"^{op}\.{match}: found"):
        bench()(getattr(series, op), waves(), **params)


def test_bad_inputs_name_the_op(bench, waves):
    with pytest.raises(InputError, match="three for each sensor"):
        bench()(series.rotate_axes, waves(channels=4))
    with pytest.raises(InputError, match=r"\[n, T, C\]"):
        bench()(series.scale, waves()[0, 0])
    np.testing.assert_array_equal(bench()(series.negate, waves()[:, :, 0], p=1.0), -waves()[:, :, :1])
