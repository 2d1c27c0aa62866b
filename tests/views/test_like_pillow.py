"""`like="pillow"` against Pillow itself, and torchvision's transforms of PIL images, which are Pillow's."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from hcl_jax.views import Replay, colours, crops, image
from hcl_jax.views.lazy import tf

LEVEL = 1 / 255


@pytest.fixture(scope="module")
def soft():
    """Pictures uint8 [4, 37, 52, 3] with edges and slopes, as photographs have them."""
    coarse = np.random.default_rng(0).integers(0, 256, (4, 10, 13, 3)).astype(np.float32)
    return tf.cast(tf.image.resize(coarse, (37, 52), "bilinear"), tf.uint8).numpy()


def by_pillow(x, change):
    return np.stack([np.asarray(change(Image.fromarray(one)), np.float32) / 255.0 for one in x])


def close(made, want, within=LEVEL):
    assert made.shape == want.shape and np.abs(made - want).max() <= within + 1e-6


@pytest.mark.parametrize("size", [(16, 24), (50, 70)])
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_resize(bench, soft, method, size):
    made = bench(4)(crops.resize, soft, size=size, like="pillow", method=method)
    kind = getattr(Image.Resampling, method.upper())
    close(made, by_pillow(soft, lambda x: x.resize(size[::-1], kind)), 1.1 * LEVEL)  # it rounds after each axis
    if method == "bicubic":  # its default
        np.testing.assert_array_equal(bench(4)(crops.resize, soft, size=size, like="pillow"), made)


def test_jpegs_are_decoded_as_pillow_decodes_them(bench):
    """At quality 90 and a size that needs no resampling: TensorFlow's own choice is a level away on average."""
    rough = np.random.default_rng(0).integers(0, 256, (3, 12, 16, 3)).astype(np.float32)
    x = tf.cast(tf.image.resize(rough, (96, 128), "bilinear"), tf.uint8)
    data = tf.stack([tf.io.encode_jpeg(one, quality=90) for one in x])
    want = np.stack([np.asarray(Image.open(io.BytesIO(one)), np.float32) / 255.0 for one in data.numpy()])
    np.testing.assert_allclose(bench(3)(crops.resize, data, size=(96, 128), like="pillow"), want, atol=1e-6)
    fast = bench(3)(crops.resize, data, size=(96, 128))
    assert 0.5 * LEVEL < np.abs(fast - want).mean() < 1.5 * LEVEL


def jittered(x, **factors):
    n, neutral = len(x), {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    record = {name: np.full(n, factor, np.float32) for name, factor in (neutral | factors).items()}
    draws = Replay({**record, "order": np.tile(np.arange(4.0, dtype=np.float32), (n, 1)), "coin": np.ones(n, bool)})
    return np.asarray(colours.color_jitter(tf.constant(x), draws, like="pillow"))


@pytest.mark.parametrize("factor", [0.2, 0.9, 1.8])
@pytest.mark.parametrize("name, enhance", [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast),
                                           ("saturation", ImageEnhance.Color)])  # fmt: skip
def test_colours(soft, name, enhance, factor):
    """Pillow rounds the grey and then cuts down to whole levels, which is left out: it is darker by half a level."""
    made, want = jittered(soft, **{name: factor}), by_pillow(soft, lambda x: enhance(x).enhance(factor))
    close(made, want, LEVEL * (1.0 + 0.5 * abs(1.0 - factor) * (name == "saturation")))
    inside = (want > 0.0) & (want < 1.0)
    assert 0.3 * LEVEL < (made - want)[inside].mean() < 0.7 * LEVEL or factor == 1.0


def test_contrast_is_about_the_rounded_mean():
    """A mean of 100.5 levels is 101 for Pillow; no contrast is left, so the mean is all there is."""
    x = np.full((2, 4, 4, 3), 100, np.uint8)
    x[:, :2] = 101
    made = jittered(x, contrast=0.0)
    np.testing.assert_allclose(made, 101 / 255, atol=1e-6)
    np.testing.assert_array_equal(by_pillow(x, lambda x: ImageEnhance.Contrast(x).enhance(0.0)), np.float32(101 / 255))


def boxes_by_hand(x, sigma, rounded):
    """Three boxes along each axis of [n, H, W, C] levels, each pass with its edge repeated: in float64, or in Pillow's
    whole numbers with 24 bits behind the point, each pass rounded."""
    square = sigma**2
    reach = int((np.sqrt(4 * square + 1) - 1) / 2)
    part = (2 * reach + 1) * (reach * (reach + 1) - square) / (6 * (square / 3 - (reach + 1) ** 2))
    taps = np.array([part, *[1.0] * (2 * reach + 1), part]) / (2 * (reach + part) + 1)
    if rounded:
        full = int(np.float32(2**24) / np.float32(2 * (reach + part) + 1))
        taps = np.full(len(taps), full)
        taps[[0, -1]] = (2**24 - (2 * reach + 1) * full) // 2
    x = x.astype(taps.dtype)
    for axis in (2, 2, 2, 1, 1, 1):
        padded = np.pad(x, [(reach + 1, reach + 1) if k == axis else (0, 0) for k in range(4)], "edge")
        x = sum(w * padded.take(range(k, k + x.shape[axis]), axis) for k, w in enumerate(taps))
        x = (x + 2**23) >> 24 if rounded else x
    return x / 255.0


@pytest.mark.parametrize("sigma", [0.1, 0.7, 1.0, 1.4, 1.5, 2.0, 5.0])
def test_blur_is_three_boxes(bench, soft, sigma):
    """Pillow's filter by hand is Pillow's with its six roundings to 8 bits, and ours without them."""
    made = bench(4)(image.blur, soft, p=1.0, sigma=(sigma, sigma), like="pillow")
    want = by_pillow(soft, lambda x: x.filter(ImageFilter.GaussianBlur(sigma)))
    close(boxes_by_hand(soft, sigma, True), want, 0.0)
    close(made, boxes_by_hand(soft, sigma, False), 1e-5)
    close(made, want, 2.5 * LEVEL)
    assert np.abs(made - want).mean() < 0.6 * LEVEL


def test_boxes_are_not_the_gaussian(bench, soft):
    """The tails of three boxes end at 3 (l + 1) pixels, and a small sigma blurs less than it says."""
    line = np.zeros((4, 1, 41, 3), np.float32)
    line[:, :, 20] = 1.0
    made = bench(4)(image.blur, line, p=1.0, sigma=(2.0, 2.0), like="pillow")
    gauss = bench(4)(image.blur, np.tile(line, (1, 41, 1, 1)), p=1.0, sigma=(2.0, 2.0), kernel=0.5)
    shape = made[0, 0, :, 0] / made[0, 0].sum()
    assert np.count_nonzero(shape) == 13 and 0.005 < np.abs(made[0, 0, :, 0] - gauss[0, 20, :, 0]).max() < 0.02


def test_grey_and_solarise(bench, soft):
    grey = by_pillow(soft, lambda x: x.convert("L").convert("RGB"))
    close(bench(4)(colours.grey, soft, p=1.0, like="pillow"), grey)
    np.testing.assert_allclose(
        bench(4)(colours.solarise, soft, p=1.0, like="pillow"), by_pillow(soft, ImageOps.solarize), atol=1e-6
    )
    edge = np.full((4, 2, 2, 3), 0.501, np.float32)  # between 127.5 and 128 levels
    np.testing.assert_array_equal(bench(4)(colours.solarise, edge, p=1.0, like="pillow"), edge)
    assert (bench(4)(colours.solarise, edge, p=1.0) < 0.5).all()
