"""Views of recipes from ImageNet, smaller, against the authors' operations one after another on the numbers drawn.

TensorFlow's are run as they are; torchvision's on PIL images are Pillow's, with its rounding to 8 bits after each.
"""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from hcl_jax import config as configs
from hcl_jax.views import Draws, colours, make_view
from hcl_jax.views.lazy import tf
from tests.views.test_crops import drawn_box
from tests.views.test_like_tensorflow import byol_box, byol_centre, google_box, google_centre

N, SIDE, LEVEL = 12, 40, 1 / 255


@pytest.fixture(scope="module")
def files():
    """Twelve PNGs of several sizes, with edges and slopes as photographs have them."""
    rng = np.random.default_rng(0)
    made = []
    for k in range(N):
        coarse = rng.integers(0, 256, (9, 8, 3)).astype(np.float32)
        made.append(tf.io.encode_png(tf.cast(tf.image.resize(coarse, (70 + 5 * k, 120 - 4 * k)), tf.uint8)).numpy())
    return made


def view(recipe, name, files):
    """The pictures of one step, their operations but the last normalisation, and the numbers drawn."""
    ops = [dict(op) for op in configs.complete(configs.load(recipe)).views[name]["ops"]]
    ops = [op | ({"size": SIDE} if "size" in op else {}) for op in ops if op["op"] != "normalise"]
    made, record = run(ops, files)
    return made, ops, record


def run(ops, files, graph=False):
    """Pictures and numbers drawn; the pipeline makes them in a graph, which takes longer here."""

    def make(x):
        draws = Draws(0, 7, N, np.arange(N), "a")
        return make_view({"kind": "image", "ops": ops}, x, draws, upright=False)["image"], draws.record

    made, record = (tf.function(make) if graph else make)(tf.constant(files))
    return made.numpy(), {k: v.numpy() for k, v in record.items()}


CHANGES = {
    "brightness": tf.add,
    "contrast": lambda x, f: tf.image.adjust_contrast(x, f),
    "saturation": lambda x, f: tf.image.adjust_saturation(x, f),
    "hue": lambda x, f: tf.image.adjust_hue(x, f),
}


def by_tensorflow(data, drawn, cut, bright):
    """color_jitter, grey and blur of Google's and DeepMind's codes after `cut` (their crop)."""
    changes = CHANGES | {"brightness": bright}
    x = cut(tf.io.decode_png(data), drawn)
    x = tf.image.flip_left_right(x) if drawn["flip/coin"] else x
    if drawn["color_jitter/coin"]:
        for k in np.argsort(drawn["color_jitter/order"]):
            name = colours.JITTERS[k]
            x = tf.clip_by_value(changes[name](x, float(drawn[f"color_jitter/{name}"])), 0.0, 1.0)
    x = tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(x)) if drawn["grey/coin"] else x
    x = tf.clip_by_value(x, 0.0, 1.0)
    if drawn["blur/coin"]:
        r, sigma = int(SIDE / 10 / 2), drawn["blur/sigma"]
        taps = np.exp(-(np.arange(-r, r + 1.0) ** 2) / (2 * sigma**2))
        taps = (taps / taps.sum()).astype(np.float32)
        for shape in ([1, -1, 1, 1], [-1, 1, 1, 1]):
            kernel = tf.tile(tf.reshape(taps, shape), [1, 1, 3, 1])
            x = tf.nn.depthwise_conv2d(x[None], kernel, [1, 1, 1, 1], "SAME")[0]
    if drawn.get("solarise/coin"):
        x = tf.where(x < 0.5, x, 1.0 - x)
    return np.asarray(x)


def google_cut(x, drawn):
    box = (drawn[f"random_resized_crop/{k}"] for k in ("height", "ratio", "place"))
    share, ratio, place = box
    top, left, h, w = google_box(*x.shape[:2], share, ratio.astype(float), place)
    patch = tf.image.convert_image_dtype(x[top : top + h, left : left + w], tf.float32)
    return tf.compat.v1.image.resize_bicubic(patch[None], (SIDE, SIDE))[0]


def byol_cut(x, drawn):
    area, ratio, place = (drawn[f"random_resized_crop/{k}"] for k in ("area", "ratio", "place"))
    top, left, h, w = byol_box(*x.shape[:2], float(area[0]), float(ratio[0]), place)
    patch = tf.image.resize(x[top : top + h, left : left + w], (SIDE, SIDE), "bicubic")
    return tf.clip_by_value(patch / 255.0, 0.0, 1.0)


@pytest.mark.parametrize(
    "recipe, name, cut",
    [
        ("simclr:imagenet", "a", google_cut),
        ("simclr:imagenet_code", "b", google_cut),
        ("byol:imagenet", "a", byol_cut),
        ("byol:imagenet", "b", byol_cut),
    ],
)
def test_views_in_tensorflow(files, recipe, name, cut):
    made, _, record = view(recipe, name, files)
    if "simclr" in recipe:
        record["blur/sigma"] = 0.1 + 1.9 * record["blur/sigma"]  # one number in 0..1 for the batch
        assert len(set(record["blur/sigma"])) == 1
    for row in range(N):
        bright = tf.multiply if recipe == "simclr:imagenet_code" else tf.add
        want = by_tensorflow(files[row], {k: v[row] for k, v in record.items()}, cut, bright)
        assert np.abs(made[row] - want).max() <= LEVEL, row


def pil_hue(x, turns):
    """torchvision's adjust_hue of a PIL image: hue, saturation and value on 8 bits."""
    h, s, v = x.convert("HSV").split()
    h = Image.fromarray(np.asarray(h) + np.uint8(int(turns * 255) % 256))
    return Image.merge("HSV", (h, s, v)).convert("RGB")


def by_pillow(data, ops, drawn):
    x = Image.open(io.BytesIO(data))
    for op in ops:
        name = op["op"]
        mine = {k.partition("/")[2]: v for k, v in drawn.items() if k.startswith(f"{name}/")}
        if name == "random_resized_crop":
            top, left, h, w = drawn_box(x.height, x.width, mine["area"], mine["ratio"], mine["place"])
            method = Image.Resampling[op.get("method", "bilinear").upper()]
            x = x.crop((left, top, left + w, top + h)).resize((SIDE, SIDE), method)
        elif not mine["coin"]:
            continue
        elif name == "flip":
            x = ImageOps.mirror(x)
        elif name == "grey":
            x = x.convert("L").convert("RGB")
        elif name == "blur":
            x = x.filter(ImageFilter.GaussianBlur(float(mine["sigma"])))
        elif name == "solarise":
            x = ImageOps.solarize(x)
        else:
            for k in np.argsort(mine["order"]):
                factor = float(mine[colours.JITTERS[k]])
                kind = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color, None)[k]
                x = kind(x).enhance(factor) if kind else pil_hue(x, factor)
    return np.asarray(x, np.float32) / 255.0


@pytest.mark.parametrize(
    "recipe, name",
    [("moco:imagenet_v1", "a"), ("moco:imagenet_v2", "a"), ("moco:imagenet_v3_r50", "b"), ("simsiam:imagenet", "b"),
     ("swav:imagenet", "small1"), ("dino:imagenet", "a"),
     ("dino:imagenet", "b"), ("dino:imagenet", "small1"), ("clip:vit_b", "image")],
)  # fmt: skip
def test_views_in_pillow(files, recipe, name):
    """What the 8 bits in between make: a level or two on average, more in single pixels, by the hue above all."""
    made, ops, record = view(recipe, name, files)
    away = []
    for row in range(N):
        away.append(np.abs(made[row] - by_pillow(files[row], ops, {k: v[row] for k, v in record.items()})))
    assert np.mean(away) < 1.5 * LEVEL and np.percentile(away, 99) < 8 * LEVEL


def middle_of(recipe, files):
    (cut, *rest) = configs.complete(configs.load(recipe)).evaluate.views["image"]["ops"]
    rest = [dict(op) for op in rest if op["op"] != "normalise"]
    return run([{**cut, "size": 35}, *rest], files, graph=True)[0]  # 35 = 0.875 * 40


@pytest.mark.parametrize("recipe", ["moco:imagenet_v2", "simsiam:imagenet", "swav:imagenet", "dino:imagenet"])
def test_evaluation_is_resize_and_centre_crop(files, recipe):
    for x, made in zip(files, middle_of(recipe, files), strict=True):
        x = Image.open(io.BytesIO(x))
        scale = 40 / min(x.size)
        size = tuple(40 if side == min(x.size) else int(40 * side / min(x.size)) for side in x.size)
        assert scale < 1 and size != x.size
        x = x.resize(size, Image.Resampling.BICUBIC if "dino" in recipe else Image.Resampling.BILINEAR)
        left, top = (round((side - 35) / 2) for side in size)
        want = np.asarray(x.crop((left, top, left + 35, top + 35)), np.float32) / 255.0
        assert np.abs(made - want).max() <= 1.1 * LEVEL


@pytest.mark.parametrize("recipe, centre", [("simclr:imagenet", google_centre), ("byol:imagenet", byol_centre)])
def test_evaluation_is_the_middle(files, recipe, centre):
    resized = tf.compat.v1.image.resize_bicubic if "simclr" in recipe else lambda x, s: tf.image.resize(x, s, "bicubic")
    for x, made in zip(files, middle_of(recipe, files), strict=True):
        x = tf.io.decode_png(x)
        top, left, h, w = centre(*x.shape[:2])
        want = resized(tf.image.convert_image_dtype(x[None, top : top + h, left : left + w], tf.float32), (35, 35))[0]
        assert np.abs(made - np.clip(want, 0.0, 1.0)).max() <= LEVEL
