"""`like` sets defaults and nothing else: what it stands for can be given by itself, and what is given stays."""

import inspect

import numpy as np
import pytest

from hcl_jax.errors import InputError
from hcl_jax.views import VIEWS, Draws, make_view
from hcl_jax.views.frameworks import DEFAULTS, FRAMEWORKS, settled

NEEDED = {
    "random_resized_crop": {"size": 9},
    "centre_crop": {"size": 9},
    "resize": {"size": 9},
    "blur": {"kernel": 0.6},
}
# One value of each argument that is no framework's default, or not that of all.
OTHER = {
    "distribution": "area", "attempts": 3, "fallback": "clamp", "min_object_covered": 0.05, "method": "bicubic",
    "antialias": True, "cubic": -0.5, "half_pixel": True, "clip": True, "order": "resize", "rounding": "down",
    "odd": "before", "convention": "multiply", "contrast_about": "channels", "saturate": "hsv",
    "luminance": (0.2, 0.5, 0.3), "threshold": 0.3, "dct": "fast", "filter": "gaussian", "edges": "nearest",
    "sigma_for": "batch",
}  # fmt: skip


def made(op, **given):
    x = np.random.default_rng(0).integers(0, 256, (6, 15, 12, 3)).astype(np.uint8)
    spec = {"kind": "image", "ops": ({"op": op, **NEEDED.get(op, {}), **given},)}
    return np.asarray(make_view(spec, x, Draws(0, 1, 6, np.arange(6), "a"))["image"])


def test_the_table_names_arguments_whose_own_default_is_none():
    for op, arguments in DEFAULTS.items():
        parameters = inspect.signature(VIEWS[op]).parameters
        assert parameters["like"].default is None
        for name, by in arguments.items():
            assert parameters[name].default is None and tuple(by) == (None, *FRAMEWORKS), (op, name)
    assert {op for op, f in VIEWS.items() if "like" in inspect.signature(f).parameters} == set(DEFAULTS)


@pytest.mark.parametrize("op", DEFAULTS)
@pytest.mark.parametrize("like", [None, *FRAMEWORKS])
def test_like_is_its_arguments(op, like):
    values = {name: by[like] for name, by in DEFAULTS[op].items()}
    if values.get("antialias"):
        values["cubic"] = -0.5  # antialiased it is this one
    np.testing.assert_array_equal(made(op, like=like), made(op, **values))


@pytest.mark.parametrize("op", DEFAULTS)
def test_what_is_given_stays(op):
    for like in FRAMEWORKS:
        for name in DEFAULTS[op]:
            parameters = dict.fromkeys(DEFAULTS[op]) | {name: OTHER[name]}
            assert settled(op, like, parameters) == {n: by[like] for n, by in DEFAULTS[op].items()} | {
                name: OTHER[name]
            }


@pytest.mark.parametrize(
    "op, given, line",
    [
        ("resize", {"like": "jax"}, "resize.like: found 'jax'; allowed: tensorflow, torchvision, pillow"),
        ("blur", {"like": ["pillow"]}, "blur.like: found ['pillow']; allowed: tensorflow, torchvision, pillow"),
        ("blur", {"edges": "wrap"}, "blur.edges: found 'wrap'; allowed: reflect, zero, nearest"),
        ("blur", {"sigma_for": "core"}, "blur.sigma_for: found 'core'; allowed: row, batch"),
        ("blur", {"filter": "box"}, "blur.filter: found 'box'; allowed: gaussian, boxes"),
        ("blur", {"like": "pillow", "edges": "reflect", "sigma": (1.0, 30.0)}, "blur: found pictures of 15 x 12"),
        ("random_resized_crop", {"distribution": "height"}, "random_resized_crop.distribution: found 'height'"),
        ("random_resized_crop", {"attempts": 0}, "random_resized_crop.attempts: found 0"),
        ("random_resized_crop", {"fallback": "none"}, "random_resized_crop.fallback: found 'none'"),
        ("random_resized_crop", {"min_object_covered": 2.0}, "random_resized_crop.min_object_covered: found 2.0"),
        ("resize", {"cubic": -0.75}, "resize.cubic: found -0.75 with antialias=True; allowed: -0.5"),
        ("resize", {"cubic": -0.75, "like": "tensorflow"}, "resize.cubic: found -0.75 with method='bilinear'"),
        ("centre_crop", {"odd": "before", "like": "torchvision"}, "centre_crop.odd: found 'before'; allowed: 'after'"),
        ("resize", {"cubic": -0.6}, "resize.cubic: found -0.6; allowed: -0.5, -0.75"),
        (
            "resize",
            {"half_pixel": False},
            "resize.half_pixel: found False with antialias=True; allowed: antialias=False",
        ),
        ("resize", {"dct": "slow"}, "resize.dct: found 'slow'; allowed: fast, accurate"),
        ("resize", {"clip": 1}, "resize.clip: found 1; allowed: True, False"),
        ("centre_crop", {"order": "both"}, "centre_crop.order: found 'both'; allowed: crop, resize"),
        ("centre_crop", {"odd": "left"}, "centre_crop.odd: found 'left'; allowed: after, before"),
        ("centre_crop", {"rounding": "up"}, "centre_crop.rounding: found 'up'; allowed: nearest, down"),
        ("color_jitter", {"contrast_about": "mean"}, "color_jitter.contrast_about: found 'mean'"),
        ("color_jitter", {"saturate": "hsl"}, "color_jitter.saturate: found 'hsl'; allowed: grey, hsv"),
        ("color_jitter", {"luminance": (1.0, 2.0)}, "color_jitter.luminance: found (1.0, 2.0); allowed: three numbers"),
        ("grey", {"luminance": 1.0}, "grey.luminance: found 1.0; allowed: three numbers"),
        ("clip", {"low": 1.0, "high": 0.0}, "clip.low, clip.high: found (1.0, 0.0)"),
    ],
)
def test_a_bad_argument_is_one_line(op, given, line):
    with pytest.raises(InputError) as error:
        made(op, **given)
    assert str(error.value).startswith(f"view.ops[0]: {line}") and "\n" not in str(error.value)
