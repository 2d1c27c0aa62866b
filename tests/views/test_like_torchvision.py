"""`like="torchvision"` against what torchvision drew and made: peers.npz, which make_peers.py writes."""

import math
import pathlib

import numpy as np
import pytest
from scipy import stats

from hcl_jax.views import Draws, Replay, boxes, colours, crops, image
from hcl_jax.views.lazy import tf

# As in make_peers.py, which needs torchvision.
BOX = (3, 7, 27, 40)
FACTORS = {"brightness": 1.5, "contrast": 0.3, "saturation": 1.8, "hue": 0.2}
ORDER = ("hue", "contrast", "saturation", "brightness")
DRAWS, P, LEVEL = 20_000, 0.01, 1 / 255


@pytest.fixture(scope="module")
def peers():
    with np.load(pathlib.Path(__file__).parent / "peers.npz") as file:
        return dict(file)


def close(made, want):
    made = np.asarray(made)
    made = made if max(made.shape[1:3]) < 30 else made[:, ::2, ::2]
    assert made.shape == want.shape and np.abs(made - want / 65535).max() <= LEVEL


def drawn_as(ours, theirs):
    p = stats.ks_2samp(ours, theirs).pvalue
    assert p > P, p


def box_numbers(height, width):
    """Draws of one attempt that make BOX of a picture."""
    top, left, h, w = BOX
    area, ratio = np.full((2, 1), h * w / (height * width)), np.full((2, 1), math.log(w / h))
    place = np.tile([(top + 0.5) / (height - h + 1), (left + 0.5) / (width - w + 1)], (2, 1))
    return {k: v.astype(np.float32) for k, v in {"area": area, "ratio": ratio, "place": place}.items()}


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_random_resized_crop(peers, method):
    x = peers["pictures"]

    def crop(size, **how):
        draws = Replay(box_numbers(37, 52))
        how = {"like": "torchvision", "attempts": 1, "method": method, **how}
        return crops.random_resized_crop(tf.constant(x), draws, size=size, **how)

    close(crop((16, 20)), peers[f"crop/{method}/True"])
    close(crop((16, 20), antialias=False), peers[f"crop/{method}/False"])
    close(crop((40, 50)), peers[f"grow/{method}"])


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("encoded", [False, True])
def test_centre_crop_resizes_the_whole_picture_first(bench, peers, method, encoded):
    x = peers["pictures"]
    x = tf.stack([tf.io.encode_png(one) for one in x]) if encoded else x
    made = bench(2)(crops.centre_crop, x, size=16, fraction=16 / 18, like="torchvision", method=method)
    close(made, peers[f"middle/{method}"])


def test_grids_of_centre_crops_are_resizes():
    """Resize(256) gives the longer side int(256 long / short), CenterCrop rounds halves to even."""
    for height, width in ((375, 500), (500, 333), (256, 256), (97, 400), (400, 101)):
        short, other = min(height, width), int(256 * max(height, width) / min(height, width))
        want = (256, other) if height == short else (other, 256)
        want = (*want, *(round((side - 224) / 2) for side in want))
        made = boxes.covering(tf.constant([float(height)]), tf.constant([float(width)]), (224, 224), 224 / 256)
        assert tuple(int(v[0]) for v in made) == want


def jittered(x, order=colours.JITTERS, like="torchvision", **factors):
    n, neutral = len(x), {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    record = {name: np.full(n, factor, np.float32) for name, factor in (neutral | factors).items()}
    place = np.tile(np.array([order.index(name) for name in colours.JITTERS], np.float32), (n, 1))
    draws = Replay({**record, "order": place, "coin": np.ones(n, bool)})
    return np.asarray(colours.color_jitter(tf.constant(x), draws, like=like))


def test_colours(peers):
    x = peers["pictures"]
    for name, factor in FACTORS.items():
        close(jittered(x, **{name: factor}), peers[name])
    close(jittered(x, ORDER, **FACTORS), peers["chain"])


def test_grey_and_blur(bench, peers):
    x = peers["pictures"]
    close(bench(2)(colours.grey, x, p=1.0, like="torchvision"), peers["grey"])
    made = bench(2)(image.blur, x, p=1.0, sigma=(1.3, 1.3), kernel=9 / 37, like="torchvision")
    close(made, peers["blur"])


def test_boxes_are_distributed_as_torchvision_draws_them(peers):
    theirs = peers["boxes"].astype(np.float64)
    draws = Draws(1, 0, DRAWS, np.arange(DRAWS), "a")
    limit = math.log(4 / 3)
    numbers = draws.uniform("area", (10,), 0.08, 1.0), draws.uniform("ratio", (10,), -limit, limit)
    sides = tf.constant([375.0]), tf.constant([500.0])
    ours = boxes.random_box(*sides, *numbers, draws.uniform("place", (2,)), (3 / 4, 4 / 3))
    ours = np.stack(ours, 1).astype(np.float64)
    for measure in (lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 3] / b[:, 2], lambda b: b[:, 0], lambda b: b[:, 1]):
        drawn_as(measure(ours), measure(theirs))


def test_factors_and_sigmas_are_distributed_as_torchvision_draws_them(bench, peers):
    run = bench(DRAWS)
    run(colours.color_jitter, np.zeros((DRAWS, 1, 1, 3), np.uint8), like="torchvision")
    other = bench(DRAWS)
    other(image.blur, np.zeros((DRAWS, 2, 2, 1), np.uint8), like="torchvision", p=0.0)

    def steps(name, low, high):
        drawn = (other if name == "sigma" else run)[name].astype(np.float64)
        return np.floor(256 * (drawn - low) / (high - low))

    for k, (name, low, high) in enumerate((("brightness", 0.2, 1.8), ("contrast", 0.2, 1.8), ("saturation", 0.2, 1.8),
                                           ("hue", -0.2, 0.2))):  # fmt: skip
        drawn_as(steps(name, low, high), peers["factors"][:, k])
    drawn_as(steps("sigma", 0.1, 2.0), peers["sigma"])
