"""Geometry and texture against loops over rows and pixels in float64."""

import math

import numpy as np
import pytest

from hcl_jax.errors import InputError
from hcl_jax.views import image


@pytest.mark.parametrize("axis, where", [("horizontal", 2), ("vertical", 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_flip(bench, pictures, axis, where, channels):
    x, run = pictures(n=32, channels=channels), bench(32)
    made = run(image.flip, x, axis=axis)
    assert made.dtype == np.uint8 and 0 < run["coin"].sum() < 32
    np.testing.assert_array_equal(made, np.where(run["coin"][:, None, None, None], np.flip(x, where), x))
    np.testing.assert_array_equal(bench()(image.flip, x[:8], p=1.0, axis=axis), np.flip(x[:8], where))
    np.testing.assert_array_equal(bench()(image.flip, x[:8], p=0.0, axis=axis), x[:8])


def test_rotate90_turns_and_tells(bench, pictures):
    x, run = pictures(n=32, height=9, width=9), bench(32)
    made = run(image.rotate90, x)
    turns = run.target("rotation")
    assert turns.dtype == np.int32 and set(turns) == {0, 1, 2, 3}
    np.testing.assert_array_equal(turns, np.floor(run["turns"] * 4))
    for row in range(32):
        np.testing.assert_array_equal(made[row], np.rot90(x[row], turns[row]))


def bilinear(x, down, across, value):
    """The picture [H, W, C] at a real place; every pixel outside has `value`."""
    i, j = math.floor(down), math.floor(across)

    def pixel(a, b):
        return x[a, b] if 0 <= a < x.shape[0] and 0 <= b < x.shape[1] else np.full(x.shape[2], value)

    f, g = down - i, across - j
    upper = (1 - g) * pixel(i, j) + g * pixel(i, j + 1)
    return (1 - f) * upper + f * ((1 - g) * pixel(i + 1, j) + g * pixel(i + 1, j + 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_random_affine_equals_the_loop(bench, pictures, channels):
    x, run = pictures(height=9, width=11, channels=channels), bench()
    made = run(image.random_affine, x, rotation=40, scale=(0.7, 1.4), translation=0.2, shear=20, p=0.7, value=0.3)
    assert 0 < run["coin"].sum() < 8
    middle = np.array([5.0, 4.0])  # x, y
    for row in range(8):
        want = x[row] / 255.0
        if run["coin"][row]:
            turn, slant = float(run["angle"][row]), math.tan(float(run["shear"][row]))
            size = 0.7 * 2.0 ** float(run["scale"][row])
            matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
            matrix = size * matrix @ np.array([[1.0, slant], [0.0, 1.0]])
            shift = run["shift"][row, ::-1].astype(np.float64) * [11, 9]
            source, want = want, np.zeros_like(want)
            for i in range(9):
                for j in range(11):
                    across, down = np.linalg.solve(matrix, np.array([j, i]) - middle - shift) + middle
                    want[i, j] = bilinear(source, down, across, 0.3)
        np.testing.assert_allclose(made[row], want, atol=2e-4)  # places in float32


def test_random_affine_without_ranges_is_the_picture(bench, pictures):
    x = pictures()
    made = bench()(image.random_affine, x, rotation=0, scale=(1.0, 1.0), translation=0)
    np.testing.assert_allclose(made, x / 255.0, atol=1e-5)


@pytest.mark.parametrize("height, width, channels, kernel", [(12, 16, 3, 0.1), (9, 9, 1, 0.7), (40, 70, 1, 0.3)])
def test_blur_equals_explicit_convolution(bench, pictures, height, width, channels, kernel):
    x, run = pictures(height=height, width=width, channels=channels), bench()
    made = run(image.blur, x, p=0.7, sigma=(0.2, 2.0), kernel=kernel)
    assert made.shape == x.shape and 0 < run["coin"].sum() < 8
    r = max(1, int(kernel * min(height, width) / 2))
    for row in range(8):
        want = x[row] / 255.0
        if run["coin"][row]:
            taps = np.exp(-(np.arange(-r, r + 1.0) ** 2) / (2 * float(run["sigma"][row]) ** 2))
            both = np.outer(taps, taps) / taps.sum() ** 2
            padded = np.pad(want, [(r, r), (r, r), (0, 0)], "reflect")
            want = sum(
                both[i, j] * padded[i : i + height, j : j + width] for i in range(2 * r + 1) for j in range(2 * r + 1)
            )
        np.testing.assert_allclose(made[row], want, atol=2e-6)


def test_blur_limits(bench, pictures):
    x = pictures()
    np.testing.assert_allclose(bench()(image.blur, x, p=1.0, sigma=(0.05, 0.05)), x / 255.0, atol=1e-6)
    np.testing.assert_allclose(bench()(image.blur, x, p=0.0), x / 255.0, atol=1e-6)
    assert 0.1 <= min(bench()(image.blur, x, p=1.0).std((1, 2, 3))) < x.std() / 255.0


def test_noise(bench, pictures):
    x, run = pictures(n=32), bench(32)
    made = run(image.noise, x, std=0.2, p=0.5)
    want = np.clip(x / 255.0 + 0.2 * run["noise"].astype(np.float64), 0, 1)
    np.testing.assert_allclose(made, np.where(run["coin"][:, None, None, None], want, x / 255.0), atol=1e-6)
    assert run["noise"].shape == x.shape


@pytest.mark.parametrize("grid", [2, 4])
def test_shuffle_patches(bench, pictures, grid):
    x, run = pictures(height=8, width=16), bench()
    made, order = run(image.shuffle_patches, x, grid=grid), run.target("jigsaw")
    np.testing.assert_array_equal(order, np.argsort(run["order"], axis=1))
    h, w = 8 // grid, 16 // grid
    for row in range(8):
        for made_at, given_at in enumerate(order[row]):
            (i, j), (a, b) = divmod(made_at, grid), divmod(given_at, grid)
            want = x[row, a * h : (a + 1) * h, b * w : (b + 1) * w]
            np.testing.assert_array_equal(made[row, i * h : (i + 1) * h, j * w : (j + 1) * w], want)


@pytest.mark.parametrize(
    "op, params, match",
    [
        ("flip", {"axis": "diagonal"}, r"flip\.axis"),
        ("flip", {"p": 2}, r"flip\.p"),
        ("rotate90", {}, "rotate90"),
        ("random_affine", {"rotation": -1}, r"random_affine\.rotation"),
        ("random_affine", {"scale": (0.0, 1.0)}, r"random_affine\.scale"),
        ("random_affine", {"edges": "wrap"}, r"random_affine\.edges"),
        ("blur", {"sigma": (0.0, 1.0)}, r"blur\.sigma"),
        ("blur", {"kernel": 2.0}, r"blur\.kernel"),
        ("noise", {"std": -1.0}, r"noise\.std"),
        ("shuffle_patches", {"grid": 5}, r"shuffle_patches\.grid"),
    ],
)
def test_bad_parameters_name_themselves(bench, pictures, op, params, match):
    with pytest.raises(InputError, match=f"^{match}: found"):
        bench()(getattr(image, op), pictures(), **params)


def test_targets_can_be_left_out(bench, pictures):
    run = bench()
    run(image.rotate90, pictures(height=8, width=8), target="")
    run(image.shuffle_patches, pictures(height=8, width=8), grid=2, target="")
    assert run.draws.targets == {}
