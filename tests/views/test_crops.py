"""Crops against loops over rows and pixels in float64."""

import math

import numpy as np
import pytest

from hcl_jax.errors import InputError
from hcl_jax.views import Draws, Replay, boxes, crops
from hcl_jax.views.lazy import tf


def kernel(t, method):
    t = abs(t)
    if method == "bilinear":
        return max(0.0, 1.0 - t)
    if t < 1.0:
        return 1.5 * t**3 - 2.5 * t**2 + 1.0
    return -0.5 * t**3 + 2.5 * t**2 - 4.0 * t + 2.0 if t < 2.0 else 0.0


def resized_axis(x, size, method):
    """Antialiased resize of the first axis, pixel by pixel."""
    length = len(x)
    stretch = max(length / size, 1.0)
    made = []
    for i in range(size):
        at = (i + 0.5) * length / size
        weights = np.array([kernel((p + 0.5 - at) / stretch, method) for p in range(length)])
        made.append(np.tensordot(weights / weights.sum(), x, 1))
    return np.array(made)


def resized(x, size, method):
    y = resized_axis(np.asarray(x, np.float64), size[0], method)
    y = resized_axis(y.swapaxes(0, 1), size[1], method).swapaxes(0, 1)
    return np.clip(y, 0.0, 1.0) if method == "bicubic" else y


def drawn_box(height, width, area, log_ratio, place, ratio=(3 / 4, 4 / 3)):
    """torchvision's RandomResizedCrop.get_params on given numbers."""
    for a, r in zip(area, log_ratio, strict=True):
        target, aspect = height * width * float(a), math.exp(float(r))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(place[0] * (height - h + 1)), int(place[1] * (width - w + 1)), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(16, 16), (5, 7), (30, 11)])
@pytest.mark.parametrize("channels", [1, 3])
def test_random_resized_crop_equals_the_loop(bench, pictures, method, size, channels):
    x, run = pictures(channels=channels), bench()
    made = run(crops.random_resized_crop, x, size=size, method=method)
    assert made.shape == (8, *size, channels) and made.dtype == np.float32
    for row in range(8):
        top, left, h, w = drawn_box(12, 16, run["area"][row], run["ratio"][row], run["place"][row])
        want = resized(x[row, top : top + h, left : left + w] / 255.0, size, method)
        np.testing.assert_allclose(made[row], want, atol=2e-6)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(12, 16), (5, 7), (30, 40)])
def test_resize_equals_tensorflows_antialiased_resize(bench, pictures, method, size):
    x = pictures()
    want = tf.clip_by_value(tf.image.resize(x / np.float32(255), size, method, antialias=True), 0.0, 1.0)
    np.testing.assert_allclose(bench()(crops.resize, x, size=size, method=method), want, atol=3e-6)


def test_the_whole_box_at_its_size_is_the_picture(bench, pictures):
    x = pictures(height=16)
    whole = {"size": 16, "scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    np.testing.assert_allclose(bench()(crops.random_resized_crop, x, **whole), x / 255.0, atol=1e-6)
    np.testing.assert_allclose(bench()(crops.centre_crop, x, size=16, fraction=1.0), x / 255.0, atol=1e-6)


def test_box_when_no_attempt_fits():
    """A long picture asked for square boxes of all its area: the largest centred square."""
    size = tf.constant([10.0]), tf.constant([100.0])
    numbers = tf.ones([1, 10]), tf.zeros([1, 10]), tf.constant([[0.9, 0.9]])
    assert [float(v[0]) for v in boxes.random_box(*size, *numbers, (1.0, 1.0))] == [0.0, 45.0, 10.0, 10.0]
    assert drawn_box(10, 100, np.ones(10), np.zeros(10), (0.9, 0.9), (1.0, 1.0)) == (0, 45, 10, 10)


def test_areas_ratios_and_places_are_distributed_as_asked():
    n = 4000
    draws = Draws(0, 0, n, np.arange(n), "a")
    scale, ratio = (0.2, 0.6), (3 / 4, 4 / 3)
    numbers = (
        draws.uniform("area", (10,), *scale),
        draws.uniform("ratio", (10,), *map(math.log, ratio)),
        draws.uniform("place", (2,)),
    )
    side = tf.constant([1000.0])
    top, left, h, w = (np.asarray(v, np.float64) for v in boxes.random_box(side, side, *numbers, ratio))
    area = h * w / 1e6
    # At most 0.6 * 4 / 3 < 1: the first attempt always fits, so the area is uniform.
    assert abs(area.mean() - 0.4) < 0.01 and abs(area.std() - 0.4 / math.sqrt(12)) < 0.005
    assert area.min() > 0.199 and area.max() < 0.601
    log_ratio = np.log(w / h)
    assert abs(log_ratio.mean()) < 0.02 and abs(log_ratio.std() - 2 * math.log(4 / 3) / math.sqrt(12)) < 0.01
    for corner, length in ((top, h), (left, w)):
        share = corner / (1000 - length)
        assert corner.min() >= 0 and np.all(corner + length <= 1000) and abs(share.mean() - 0.5) < 0.02


def test_centre_crop_takes_the_middle(bench, pictures):
    x = pictures(height=20, width=32)
    made = bench()(crops.centre_crop, x, size=14, fraction=0.7)
    np.testing.assert_allclose(made, x[:, 3:17, 9:23] / 255.0, atol=1e-6)
    wide = bench()(crops.centre_crop, x, size=(10, 16), fraction=0.5)
    np.testing.assert_allclose(wide, x[:, 5:15, 8:24] / 255.0, atol=1e-6)


@pytest.mark.parametrize("edges", ["constant", "reflect"])
def test_pad_crop_shifts(bench, pictures, edges):
    x, run = pictures(n=64), bench(64)
    made = run(crops.pad_crop, x, pad=3, edges=edges)
    assert made.dtype == np.uint8 and made.shape == x.shape
    padded = np.pad(x, [(0, 0), (3, 3), (3, 3), (0, 0)], edges)
    shifts = np.floor(run["shift"] * 7).astype(int)
    assert shifts.min() == 0 and shifts.max() == 6
    for row, (down, across) in enumerate(shifts):
        np.testing.assert_array_equal(made[row], padded[row, down : down + 12, across : across + 16])
    np.testing.assert_array_equal(bench()(crops.pad_crop, x[:8], pad=0), x[:8])


def test_erase_overwrites_its_box(bench, pictures):
    x, run = pictures(n=16), bench(16)
    made = run(crops.erase, x, p=0.5, scale=(0.1, 0.4), value=0.25)
    coin = run["coin"]
    assert 0 < coin.sum() < 16
    for row in range(16):
        want = x[row] / 255.0
        if coin[row]:
            top, left, h, w = drawn_box(12, 16, run["area"][row], run["ratio"][row], run["place"][row], (0.3, 3.3))
            want[top : top + h, left : left + w] = 0.25
        np.testing.assert_allclose(made[row], want, atol=1e-6)


def test_cutout_overwrites_a_square_about_a_pixel(bench, pictures):
    x, run = pictures(n=16), bench(16)
    made = run(crops.cutout, x, size=6, p=0.8, value=0.5)
    for row in range(16):
        want = x[row] / 255.0
        if run["coin"][row]:
            i, j = (int(run["centre"][row, k] * x.shape[1 + k]) for k in (0, 1))
            want[max(i - 3, 0) : i + 3, max(j - 3, 0) : j + 3] = 0.5
        np.testing.assert_allclose(made[row], want, atol=1e-6)


def encoded(pictures_, names):
    encode = {"png": tf.io.encode_png, "jpeg": lambda x: tf.io.encode_jpeg(x, quality=95)}
    return tf.stack([encode[name](x) for name, x in zip(names, pictures_, strict=True)])


@pytest.fixture
def mixed(pictures):
    """Six pictures of six sizes: JPEG and PNG; grey, RGB, grey with alpha, RGBA."""
    sizes = [(31, 40, 3), (24, 17, 1), (33, 20, 4), (16, 16, 2), (50, 9, 3), (20, 28, 1)]
    raw = [pictures(1, h, w, c, seed=k)[0] for k, (h, w, c) in enumerate(sizes)]
    return raw, encoded(raw, ["png", "png", "png", "png", "jpeg", "jpeg"])


def flattened(x, background, channels):
    x = np.asarray(x, np.float64) / 255.0
    if x.shape[-1] in (2, 4):
        x = x[..., :-1] * x[..., -1:] + background * (1.0 - x[..., -1:])
    if channels == 1 and x.shape[-1] == 3:
        return x @ np.array([[0.299], [0.587], [0.114]])
    return np.broadcast_to(x, (*x.shape[:2], channels))


@pytest.mark.parametrize("channels", [1, 3])
def test_encoded_pictures_of_several_sizes(bench, mixed, channels):
    raw, data = mixed
    run = bench(6)
    made = run(crops.random_resized_crop, data, size=(8, 10), scale=(0.3, 1.0), channels=channels, background=0.5)
    assert made.shape == (6, 8, 10, channels) and made.dtype == np.float32
    for row, x in enumerate(raw):
        if row >= 4:  # what the JPEG decoder makes of it
            x = tf.io.decode_jpeg(data[row], channels=channels).numpy()
        top, left, h, w = drawn_box(*x.shape[:2], run["area"][row], run["ratio"][row], run["place"][row])
        patch = flattened(x, 0.5, channels)[top : top + h, left : left + w]
        # The JPEG decoder interpolates colour across the window's edge, so a window differs there by a few levels.
        np.testing.assert_allclose(made[row], resized(patch, (8, 10), "bicubic"), atol=0.05 if row >= 4 else 3e-6)


def test_encoded_pictures_keep_their_middle_and_whole(bench, mixed):
    raw, data = mixed
    whole = bench(6)(crops.resize, data, size=12)
    middle = bench(6)(crops.centre_crop, data, size=10, fraction=0.8, method="bilinear")
    for row, x in enumerate(raw[:4]):
        flat = flattened(x, 1.0, 3)
        np.testing.assert_allclose(whole[row], resized(flat, (12, 12), "bicubic"), atol=3e-6)
        side = round(0.8 * min(x.shape[:2]))
        top, left = ((length - side) // 2 for length in x.shape[:2])
        want = resized(flat[top : top + side, left : left + side], (10, 10), "bilinear")
        np.testing.assert_allclose(middle[row], want, atol=3e-6)


@pytest.mark.slow(one=True)
def test_encoded_in_a_data_set_has_static_shapes_and_replays(mixed):
    _, data = mixed

    def crop(step):
        draws = Draws(0, step, 6, np.arange(6), "a")
        return crops.random_resized_crop(data, draws, size=8), draws.record

    made = tf.data.Dataset.range(2).map(crop)
    assert made.element_spec[0].shape == (6, 8, 8, 3)
    for picture, record in made.as_numpy_iterator():
        np.testing.assert_array_equal(picture, crops.random_resized_crop(data, Replay(record), size=8))


@pytest.mark.parametrize(
    "op, params, match",
    [
        (crops.random_resized_crop, {"size": 0}, "size"),
        (crops.random_resized_crop, {"size": (4, 4, 4)}, "size"),
        (crops.random_resized_crop, {"size": 10**15}, "size"),
        (crops.random_resized_crop, {"size": 8, "attempts": 10**12}, "attempts"),
        (crops.random_resized_crop, {"size": 8, "scale": (0.5, 0.1)}, "scale"),
        (crops.random_resized_crop, {"size": 8, "scale": (0.5, 1.5)}, "scale"),
        (crops.random_resized_crop, {"size": 8, "ratio": 1.0}, "ratio"),
        (crops.random_resized_crop, {"size": 8, "method": "lanczos"}, "method"),
        (crops.centre_crop, {"size": 8, "fraction": 2.0}, "fraction"),
        (crops.resize, {"size": "8"}, "size"),
        (crops.resize, {"size": 8, "background": -7.0}, "background"),
        (crops.resize, {"size": 8, "channels": 7}, "channels"),
        (crops.resize, {"size": 8, "upright": "no"}, "upright"),
        (crops.pad_crop, {"pad": -1}, "pad"),
        (crops.pad_crop, {"pad": 12, "edges": "reflect"}, "pad"),
        (crops.erase, {"p": 1.5}, "p"),
        (crops.cutout, {"size": 2.5}, "size"),
    ],
)
def test_bad_parameters_name_themselves(bench, pictures, op, params, match):
    with pytest.raises(InputError, match=rf"^{op.__name__}\.{match}: found"):
        bench()(op, pictures(), **params)


def test_bad_inputs_name_the_op(bench, pictures):
    with pytest.raises(InputError, match="encoded pictures"):
        bench(1)(crops.pad_crop, tf.constant([b"x"]))
    with pytest.raises(InputError, match=r"\[n, H, W, C\]"):
        bench()(crops.resize, pictures()[0], size=8)
    with pytest.raises(InputError, match="channels"):
        bench(1)(crops.resize, tf.constant([b"x"]), size=8, channels=4)
    with pytest.raises(InputError, match="background"):
        bench(1)(crops.resize, tf.constant([b"x"]), size=8, background=(1.0, 1.0))
