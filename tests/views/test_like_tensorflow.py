"""`like="tensorflow"` against tf.image itself: pixels for given draws, distributions of boxes and factors."""

import math

import numpy as np
import pytest
from scipy import stats

from hcl_jax.views import Draws, Replay, boxes, colours, crops, image
from hcl_jax.views.lazy import tf

DRAWS, P = 20_000, 0.01
LEVEL = 1 / 255


def close(made, want, within=LEVEL):
    """Every pixel within 1/255 of tf.image's, nan in neither."""
    assert made.shape == want.shape and float(np.abs(np.asarray(made) - np.asarray(want)).max()) <= within


def drawn_as(ours, theirs):
    """Kolmogorov-Smirnov; values that come in whole pixels are compared as they are, which only makes p larger."""
    p = stats.ks_2samp(np.asarray(ours, np.float64), np.asarray(theirs, np.float64)).pvalue
    assert p > P, p


@pytest.fixture(scope="module")
def soft():
    """Pictures uint8 [6, 37, 52, 3] with edges and slopes, as photographs have them."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 10, 13, 3)).astype(np.float32)
    return tf.cast(tf.image.resize(coarse, (37, 52), "bilinear"), tf.uint8).numpy()


def filters(half_pixel, cubic):
    return {"like": "tensorflow", "half_pixel": half_pixel, "cubic": cubic}


@pytest.mark.parametrize("size", [(16, 24), (50, 70)])
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_resize_is_tf_image_resize(bench, soft, method, size):
    x = soft / np.float32(255)
    made = bench(6)(crops.resize, soft, size=size, like="tensorflow", method=method)
    close(made, tf.image.resize(x, size, method), 0.001)  # its table of weights has 1,024 places a pixel
    keys = {"cubic": -0.75} if method == "bicubic" else {}
    old = bench(6)(crops.resize, soft, size=size, method=method, like="tensorflow", half_pixel=False, **keys)
    close(old, tf.compat.v1.image.resize(x, size, method), 0.001)
    assert np.abs(old - made).max() > 0.02


@pytest.mark.parametrize("op", [crops.random_resized_crop, crops.centre_crop])
@pytest.mark.parametrize("how", [{"antialias": False}, {"antialias": False, "half_pixel": False, "cubic": -0.75},
                                 {"antialias": False, "cubic": -0.75}, {"clip": False}])  # fmt: skip
def test_files_and_pixels_are_resized_alike(bench, soft, op, how):
    soft = soft[:2]
    data = tf.stack([tf.io.encode_png(x) for x in soft])
    for method in ("bilinear", "bicubic"):
        known = {k: v for k, v in how.items() if k != "cubic" or method == "bicubic"}
        made = bench(2)(op, soft, size=(20, 11), method=method, **known)
        close(bench(2)(op, data, size=(20, 11), method=method, **known), made, 0.001)


def test_clip_is_left_to_the_op_clip(bench, soft):
    x = np.where(soft > 128, 255, 0).astype(np.uint8)
    wild = bench(6)(crops.resize, x, size=30, like="tensorflow", method="bicubic")
    assert wild.max() > 1.05 and wild.min() < -0.05
    close(wild, tf.image.resize(x / np.float32(255), (30, 30), "bicubic"), 0.001)
    np.testing.assert_array_equal(bench(6)(colours.clip, wild), np.clip(wild, 0.0, 1.0))


def google_box(height, width, share, ratio, place, scale=(0.08, 1.0), covered=0.1):
    """GenerateRandomCrop and the loop around it, on given numbers."""
    least, most = (np.float32(s) * height * width for s in scale)
    for u, r in zip(share, ratio, strict=True):
        tall, top = round(math.sqrt(least / r)), round(math.sqrt(most / r))
        if round(top * r) > width:
            top = int((width + 0.5 - 1e-7) / r)
            top -= round(top * r) > width
        top = min(top, height)
        tall = min(tall, top)
        tall += min(int(u * (top - tall + 1)), top - tall)
        tall += tall * round(tall * r) < least
        tall -= tall * round(tall * r) > most
        wide = round(tall * r)
        if not least <= tall * wide <= most or wide > width or tall > height or min(tall, wide) <= 0:
            continue
        if tall * wide < covered * height * width:
            continue
        return int(place[0] * (height - tall)), int(place[1] * (width - wide)), tall, wide
    return 0, 0, height, width


def test_random_resized_crop_is_simclrs(bench, soft):
    """Box by box on the numbers drawn, then tf.compat.v1's bicubic: Google's crop_and_resize."""
    run = bench(6)
    made = run(crops.random_resized_crop, soft, size=(16, 20), method="bicubic", **filters(False, -0.75))
    assert run["height"].shape == run["ratio"].shape == (6, 100)
    for row in range(6):
        top, left, h, w = google_box(37, 52, run["height"][row], run["ratio"][row].astype(float), run["place"][row])
        patch = soft[row, top : top + h, left : left + w] / np.float32(255)
        close(made[row], tf.compat.v1.image.resize_bicubic(patch[None], (16, 20))[0], 0.001)


def bounding_boxes(height, width, n=DRAWS, attempts=100):
    """Ours by the op's own draws, in parts of 2,000 rows."""
    made = []
    for step in range(n // 2000):
        draws = Draws(2, step, 2000, np.arange(2000), "a")
        numbers = (draws.uniform("height", (attempts,)), draws.uniform("ratio", (attempts,), 3 / 4, 4 / 3))
        sides = (tf.constant([float(s)]) for s in (height, width))
        made.append(boxes.bounding_box(*sides, *numbers, draws.uniform("place", (2,)), (0.08, 1.0), (3 / 4, 4 / 3)))
    return np.concatenate([np.stack(part, 1) for part in made]).astype(np.float64)


def tf_boxes(height, width, n=DRAWS):
    @tf.function
    def draw(height, width):
        def one(i):
            begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
                [height, width, 3], tf.zeros([1, 0, 4]), [0, i], 0.1, (3 / 4, 4 / 3), (0.08, 1.0), 100, True
            )
            return tf.concat([begin[:2], size[:2]], 0)

        return tf.map_fn(one, tf.range(n), fn_output_signature=tf.int32)

    return draw(tf.constant(height), tf.constant(width)).numpy().astype(np.float64)


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("height, width", [(375, 500), (60, 500)])
def test_boxes_are_distributed_as_tf_image_draws_them(height, width):
    """A wide picture leaves few heights that fit: another clamp of the height would show there."""
    ours, theirs = bounding_boxes(height, width), tf_boxes(height, width)
    for measure in (lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 3] / b[:, 2], lambda b: b[:, 2], lambda b: b[:, 0],
                    lambda b: b[:, 1]):  # fmt: skip
        drawn_as(measure(ours), measure(theirs))
    if (height, width) == (375, 500):  # what it is not
        draws = Draws(2, 0, DRAWS, np.arange(DRAWS), "a")
        area, ratio = (
            draws.uniform("area", (10,), 0.08, 1.0),
            draws.uniform("ratio", (10,), -math.log(4 / 3), math.log(4 / 3)),
        )
        sides = (tf.constant([float(s)]) for s in (height, width))
        other = boxes.random_box(*sides, area, ratio, draws.uniform("place", (2,)), (3 / 4, 4 / 3))
        assert stats.ks_2samp(np.asarray(other[2] * other[3]), theirs[:, 2] * theirs[:, 3]).pvalue < 1e-9


def test_no_box_that_covers_enough_is_the_whole_picture():
    """60 x 1000: the widest box has 8 % of the picture, less than the tenth asked for."""
    for size in (tf_boxes(60, 1000, 20), bounding_boxes(60, 1000, 2000)):
        np.testing.assert_array_equal(np.unique(size, axis=0), [[0, 0, 60, 1000]])


def byol_box(height, width, area, log_ratio, place):
    tall, wide = (round(math.sqrt(height * width * area * math.exp(s * log_ratio))) for s in (-1, 1))
    tall, wide = min(tall, height), min(wide, width)
    return int(place[0] * (height - tall + 1)), int(place[1] * (width - wide + 1)), tall, wide


def test_random_resized_crop_is_byols(bench, soft):
    """One attempt by area, its sides cut to the picture's: _decode_and_random_crop of DeepMind's code."""
    run = bench(60)
    how = {"like": "tensorflow", "method": "bicubic", "distribution": "area", "attempts": 1, "fallback": "clamp"}
    x = np.tile(soft, (10, 1, 1, 1))
    made = run(crops.random_resized_crop, x, size=16, min_object_covered=0.0, clip=True, **how)
    cut = 0
    for row in range(60):
        drawn = float(run["area"][row, 0]), float(run["ratio"][row, 0])
        top, left, h, w = byol_box(37, 52, *drawn, run["place"][row])
        cut += 37 * 52 * drawn[0] > (h + 1) * (w + 1)
        patch = tf.image.resize(x[row, top : top + h, left : left + w].astype(np.float32), (16, 16), "bicubic")
        close(made[row], np.clip(patch / 255.0, 0, 1), 0.001)
    assert cut > 3


def jittered(soft, like="tensorflow", order=(0, 1, 2, 3), **factors):
    """The op on six rows with the same factors, in the order given."""
    neutral = {"brightness": 0.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    given = {name: np.full(6, factor, np.float32) for name, factor in (neutral | factors).items()}
    place = np.tile(np.argsort(order).astype(np.float32), (6, 1))
    record = {**given, "order": place, "coin": np.ones(6, bool)}
    return np.asarray(colours.color_jitter(tf.constant(soft), Replay(record), like=like, hue=0.5))


CHANGES = {
    "brightness": tf.add,
    "contrast": lambda x, f: tf.image.adjust_contrast(x, f),
    "saturation": lambda x, f: tf.image.adjust_saturation(x, f),
    "hue": lambda x, f: tf.image.adjust_hue(x, f),
}


@pytest.mark.parametrize(
    "name, factor",
    [("brightness", 0.3), ("brightness", -0.4), ("contrast", 0.2), ("contrast", 1.8), ("saturation", 0.2),
     ("saturation", 1.8), ("hue", 0.2), ("hue", -0.35)],
)  # fmt: skip
def test_each_colour_change_is_tf_images(soft, name, factor):
    want = np.clip(CHANGES[name](tf.constant(soft / np.float32(255)), factor), 0.0, 1.0)
    close(jittered(soft, **{name: factor}), want, 1e-4)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)])
def test_colour_changes_follow_each_other_as_in_simclr(soft, order):
    factors = {"brightness": 0.25, "contrast": 1.6, "saturation": 1.7, "hue": -0.15}
    x = tf.constant(soft / np.float32(255))
    for k in order:
        x = tf.clip_by_value(CHANGES[colours.JITTERS[k]](x, factors[colours.JITTERS[k]]), 0.0, 1.0)
    close(jittered(soft, order=order, **factors), x, 2e-4)


def test_saturation_of_what_is_not_clipped(soft):
    """Overshoot of the crop reaches the first change: values above 1, channels below 0, no channel above 0."""
    x = (soft / np.float32(255) - 0.3) * 1.6
    for f in (0.3, 1.7):
        planes = tf.reshape(tf.transpose(x, [0, 3, 1, 2]), [6, 3, -1])
        made = colours.scale_saturation(planes, tf.fill([6, 1, 1], f))
        made = tf.transpose(tf.reshape(made, [6, 3, 37, 52]), [0, 2, 3, 1])
        close(made, tf.image.adjust_saturation(tf.constant(x), f), 1e-4)


@pytest.mark.slow(one=True)
def test_factors_are_distributed_as_tf_image_draws_them(bench):
    """Each from two pixels, or from one red one."""

    @tf.function
    def draw():
        two, red = tf.constant([[[0.25] * 3, [0.5] * 3]]), tf.constant([[[0.5, 0.25, 0.25]]])

        def one(i):
            bright = tf.image.stateless_random_brightness(two, 0.8, [1, i])[0, 0, 0] - 0.25
            contrast = tf.image.stateless_random_contrast(two, 0.2, 1.8, [2, i])[0]
            saturation = tf.image.stateless_random_saturation(red, 0.2, 1.8, [3, i])[0, 0, 1]
            hue = tf.image.rgb_to_hsv(tf.image.stateless_random_hue(red, 0.2, [4, i]))[0, 0, 0]
            return tf.stack([bright, (contrast[1, 0] - contrast[0, 0]) * 4.0, (1.0 - 2.0 * saturation) * 2.0,
                             tf.math.floormod(hue + 0.5, 1.0) - 0.5])  # fmt: skip

        return tf.map_fn(one, tf.range(DRAWS), fn_output_signature=tf.float32)

    theirs, run = draw().numpy(), bench(DRAWS)
    run(colours.color_jitter, np.zeros((DRAWS, 1, 1, 3), np.uint8), like="tensorflow")
    for k, name in enumerate(colours.JITTERS):
        drawn_as(run[name], theirs[:, k])


def test_grey_is_rgb_to_grayscale(bench, soft):
    want = np.repeat(tf.image.rgb_to_grayscale(soft / np.float32(255)), 3, -1)
    close(bench(6)(colours.grey, soft, p=1.0, like="tensorflow"), want, 1e-6)
    white = np.ones((6, 2, 2, 3), np.float32)
    assert bench(6)(colours.grey, white, p=1.0, like="tensorflow").max() < 0.99995


@pytest.mark.parametrize("sigma_for", ["row", "batch"])
def test_blur_is_simclrs(bench, soft, sigma_for):
    """Depthwise convolutions with black edges; one sigma for the batch, or one a row (DeepMind's code)."""
    run = bench(6)
    made = run(image.blur, soft, p=1.0, kernel=0.3, like="tensorflow", sigma_for=sigma_for)
    sigma = run["sigma"] if sigma_for == "row" else 0.1 + 1.9 * run["sigma"]
    assert len(set(sigma.tolist())) == (6 if sigma_for == "row" else 1)
    r = int(int(0.3 * 37) / 2)
    for row in range(6):
        taps = np.exp(-(np.arange(-r, r + 1.0) ** 2) / (2 * sigma[row] ** 2))
        taps = (taps / taps.sum()).astype(np.float32)
        x = tf.constant(soft[row : row + 1] / np.float32(255))
        for shape in ([1, -1, 1, 1], [-1, 1, 1, 1]):
            x = tf.nn.depthwise_conv2d(x, tf.tile(tf.reshape(taps, shape), [1, 1, 3, 1]), [1, 1, 1, 1], "SAME")
        close(made[row], x[0], 1e-5)


def test_one_sigma_for_the_batch_is_the_same_on_every_process(soft):
    """And another one in the next step and in the other view."""

    def made(step, rows, salt="a"):
        draws = Draws(0, step, 6, rows, salt)
        picture = image.blur(tf.constant(soft[rows]), draws, p=1.0, like="tensorflow", sigma_for="batch")
        return np.asarray(picture), np.asarray(draws.record["sigma"])

    whole, sigma = made(3, np.arange(6))
    part, same = made(3, np.array([4, 1]))
    np.testing.assert_array_equal(part, whole[[4, 1]])
    assert set(sigma) == set(same) and not set(sigma) & (
        set(made(4, np.arange(6))[1]) | set(made(3, np.arange(6), "b")[1])
    )


def google_centre(height, width, proportion=0.875):
    side = round(proportion * min(height, width))
    return (height - side + 1) // 2, (width - side + 1) // 2, side, side


def byol_centre(height, width):
    side = int(224 / 256 * min(height, width))
    return (height - side + 1) // 2, (width - side + 1) // 2, side, side


@pytest.mark.parametrize("theirs, given", [(google_centre, {}), (byol_centre, {"rounding": "down"})])
def test_centre_crops_are_googles_and_deepminds(theirs, given):
    """Their corner has (margin + 1) // 2, and DeepMind cuts the side down: sizes whose margins are odd."""
    for size in ((375, 500), (333, 500), (500, 371), (64, 64)):
        sides = (tf.constant([float(s)]) for s in size)
        made = boxes.middle(*sides, (224, 224), 0.875, odd="before", **given)
        assert tuple(int(v[0]) for v in made) == theirs(*size), size


def test_centre_crop_takes_the_framework_for_its_corner(bench, soft):
    top, left, h, w = google_centre(37, 52)
    made = bench(6)(crops.centre_crop, soft, size=h, like="tensorflow")
    close(made, soft[:, top : top + h, left : left + w] / 255.0, 1e-6)
