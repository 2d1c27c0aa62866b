"""Colour ops against colorsys and plain NumPy in float64."""

import colorsys

import numpy as np
import pytest

from hcl_jax.errors import InputError
from hcl_jax.views import Draws, colours
from hcl_jax.views.lazy import tf

LUMINANCE = np.array([0.299, 0.587, 0.114])


def grey_of(x):
    return x if x.shape[-1] == 1 else (x @ LUMINANCE)[..., None]


def hue_of(x, turns):
    def one(pixel):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((h + turns) % 1.0, s, v)

    return np.array([one(p) for p in x.reshape(-1, 3)]).reshape(x.shape)


def jittered(x, factors, order, convention):
    """One row, [H, W, C] in float64, change by change."""
    for name in order:
        f = factors[name]
        if name == "brightness":
            x = x * f if convention == "multiply" else x + f
        elif name == "contrast":
            x = f * x + (1 - f) * grey_of(x).mean()
        elif x.shape[-1] == 3:
            x = f * x + (1 - f) * grey_of(x) if name == "saturation" else hue_of(x, f)
        x = np.clip(x, 0.0, 1.0)
    return x


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("convention", ["multiply", "add"])
@pytest.mark.parametrize("order", ["random", "fixed"])
def test_color_jitter_equals_the_loop(bench, pictures, channels, convention, order):
    x, run = pictures(n=24, height=5, width=4, channels=channels), bench(24)
    made = run(colours.color_jitter, x, p=0.7, strength=0.9, convention=convention, order=order)
    assert made.shape == x.shape and made.dtype == np.float32
    assert 0 < run["coin"].sum() < 24
    orders = set()
    for row in range(24):
        want = x[row] / 255.0
        if run["coin"][row]:
            turn = np.argsort(run["order"][row]) if order == "random" else np.arange(4)
            orders.add(tuple(turn))
            factors = {name: float(run[name][row]) for name in colours.JITTERS}
            want = jittered(want, factors, [colours.JITTERS[k] for k in turn], convention)
        np.testing.assert_allclose(made[row], want, atol=1e-5)
    assert len(orders) > 8 if order == "random" else len(orders) == 1


def test_color_jitter_draws_in_its_ranges(bench, pictures):
    run = bench(2000)
    run(colours.color_jitter, pictures(2000, 1, 1), brightness=0.4, contrast=1.5, saturation=0.2, hue=0.1, strength=0.8)
    for name, low, high in (
        ("brightness", 1 - 0.32, 1.32),
        ("contrast", 0.0, 2.2),
        ("saturation", 0.84, 1.16),
        ("hue", -0.08, 0.08),
    ):
        drawn, width = run[name], high - low
        assert low <= drawn.min() < low + 0.01 * width and high - 0.01 * width < drawn.max() <= high + 1e-6, name
        assert abs(drawn.mean() - (low + high) / 2) < 0.03 * width, name
    run = bench(2000)
    run(colours.color_jitter, pictures(2000, 1, 1), brightness=0.4, convention="add")
    assert -0.4 <= run["brightness"].min() < -0.39 and 0.39 < run["brightness"].max() <= 0.4


@pytest.mark.parametrize("one", colours.JITTERS)
def test_one_change_alone(bench, pictures, one):
    x, run = pictures(height=4, width=4), bench()
    made = run(colours.color_jitter, x, **{**dict.fromkeys(colours.JITTERS, 0.0), one: 0.3}, p=1.0)
    for row in range(8):
        want = jittered(x[row] / 255.0, {one: float(run[one][row])}, [one], "multiply")
        np.testing.assert_allclose(made[row], want, atol=1e-5)


def test_hue_of_greys_and_of_whole_turns(pictures):
    from hcl_jax.views.lazy import tf

    x = pictures().reshape(8, -1, 3).transpose(0, 2, 1).astype(np.float32) / 255.0
    for turns in (0.0, 1.0, -1.0, 2.0):
        np.testing.assert_allclose(colours.turn_hue(x, tf.fill([8, 1, 1], turns)), x, atol=2e-6)
    flat = np.repeat(x[:, :1], 3, axis=1)
    np.testing.assert_array_equal(colours.turn_hue(flat, tf.fill([8, 1, 1], 0.37)), flat)


@pytest.mark.parametrize("op", ["color_jitter", "grey", "solarise", "invert", "gamma"])
@pytest.mark.parametrize("channels", [1, 3])
def test_p_0_changes_nothing(bench, pictures, op, channels):
    x = pictures(channels=channels)
    np.testing.assert_array_equal(bench()(getattr(colours, op), x, p=0.0), (x * np.float32(1 / 255)).astype(np.float32))


def test_no_strength_changes_nothing(bench, pictures):
    x = pictures()
    np.testing.assert_allclose(bench()(colours.color_jitter, x, strength=0.0, p=1.0), x / 255.0, atol=1e-6)


def test_grey(bench, pictures):
    x, run = pictures(n=32), bench(32)
    made = run(colours.grey, x, p=0.5)
    want = np.where(run["coin"][:, None, None, None], grey_of(x / 255.0), x / 255.0)
    np.testing.assert_allclose(made, want, atol=1e-6)
    one = pictures(channels=1)
    np.testing.assert_allclose(bench()(colours.grey, one, p=1.0), one / 255.0, atol=1e-6)


def test_solarise_invert_gamma(bench, pictures):
    x = pictures(n=32)
    real = x / 255.0
    run = bench(32)
    made, coin = run(colours.solarise, x, p=0.5, threshold=0.3), run["coin"][:, None, None, None]
    np.testing.assert_allclose(made, np.where(coin & (real >= 0.3), 1 - real, real), atol=1e-6)
    run = bench(32)
    made, coin = run(colours.invert, x), run["coin"][:, None, None, None]
    np.testing.assert_allclose(made, np.where(coin, 1 - real, real), atol=1e-6)
    run = bench(32)
    made = run(colours.gamma, x, power=(0.5, 2.0))
    power = 0.5 * 4.0 ** run["power"].astype(np.float64)
    np.testing.assert_allclose(made, real ** power[:, None, None, None], atol=1e-5)


def test_normalise(bench, pictures):
    x = pictures()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    want = (x / 255.0 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(bench()(colours.normalise, x, mean=mean, std=std), want, atol=1e-5)
    np.testing.assert_allclose(bench()(colours.normalise, x, mean=0.5, std=0.5), x / 127.5 - 1.0, atol=1e-5)


def test_transparency(bench, pictures):
    rgba, two = pictures(channels=4) / 255.0, pictures(channels=2)
    want = rgba[..., :3] * rgba[..., 3:] + np.array([1.0, 0.5, 0.0]) * (1 - rgba[..., 3:])
    made = bench()(colours.flatten_alpha, rgba.astype(np.float32), background=(1.0, 0.5, 0.0))
    np.testing.assert_allclose(made, want, atol=1e-6)
    real = two / 255.0
    flat = real[..., :1] * real[..., 1:] + (1 - real[..., 1:])
    np.testing.assert_allclose(bench()(colours.flatten_alpha, two), flat, atol=1e-6)
    np.testing.assert_allclose(bench()(colours.to_rgb, two), np.repeat(flat, 3, -1), atol=1e-6)
    grey = pictures(channels=1)
    np.testing.assert_array_equal(bench()(colours.to_rgb, grey), np.repeat(grey, 3, -1))
    np.testing.assert_array_equal(bench()(colours.to_rgb, pictures()), pictures())


def test_a_row_has_one_hue_whatever_stands_beside_it():
    """Of pictures whose pixels fill no whole vectors too."""
    rng = np.random.default_rng(0)
    planes, turns = rng.random((13, 3, 63)).astype(np.float32), rng.random((13, 1, 1)).astype(np.float32)
    alone = [colours.turn_hue(planes[k : k + 1], turns[k : k + 1]) for k in range(13)]
    np.testing.assert_array_equal(np.concatenate(alone), colours.turn_hue(planes, turns))


@pytest.mark.parametrize(
    "op, params, match",
    [
        ("color_jitter", {"hue": 0.6}, "hue"),
        ("color_jitter", {"hue": 0.3, "strength": 2.0}, "hue"),
        ("color_jitter", {"brightness": -1}, "brightness"),
        ("color_jitter", {"convention": "other"}, "convention"),
        ("color_jitter", {"order": 3}, "order"),
        ("grey", {"luminance": (-1.0, 0.0, 0.0)}, "luminance"),
        ("color_jitter", {"luminance": (1.0, 1.0, 1.0)}, "luminance"),
        ("flatten_alpha", {"background": 255}, "background"),
        ("grey", {"p": -0.1}, "p"),
        ("grey", {"p": True}, "p"),
        ("solarise", {"threshold": float("nan")}, "threshold"),
        ("gamma", {"power": (2.0, 1.0)}, "power"),
        ("normalise", {"mean": (0.1, 0.2), "std": 1.0}, "mean"),
        ("normalise", {"mean": 0.1, "std": 0.0}, "std"),
    ],
)
def test_bad_parameters_name_themselves(bench, pictures, op, params, match):
    with pytest.raises(InputError, match=rf"^{op}\.{match}: found"):
        bench()(getattr(colours, op), pictures(), **params)


def test_four_channels_are_refused(bench, pictures):
    for op in (colours.color_jitter, colours.grey):
        with pytest.raises(InputError, match="flatten_alpha"):
            bench()(op, pictures(channels=4))


def test_large_pictures_are_changed_one_by_one_with_the_same_bits(monkeypatch):
    """In a graph, whose optimizer may multiply the numbers of one row in another order than those of several."""
    x = tf.constant(np.random.default_rng(0).random((8, 8, 16, 3), np.float32))

    def made(large, **more):
        monkeypatch.setattr(colours, "LARGE", large)
        return tf.function(
            lambda x: colours.color_jitter(x, Draws(0, 3, 8, np.arange(8), "a"), p=0.7, **more), autograph=False
        )(x).numpy()

    for more in ({}, {"like": "tensorflow"}, {"like": "pillow", "hue": 0.0}):
        together, alone = made(10**9, **more), made(1, **more)
        assert (together != x.numpy()).any(axis=(1, 2, 3)).sum() > 3
        np.testing.assert_array_equal(alone, together)
