"""Which framework does what: the defaults that `like` sets in operations on pictures, one table."""

from collections.abc import Mapping
from typing import Any

from hcl_jax.views.params import choice

# "torchvision" is what its transforms do to tensors; on PIL images their colours and blurs are Pillow's.
FRAMEWORKS = ("tensorflow", "torchvision", "pillow")
LUMINANCE = (0.299, 0.587, 0.114)
SHORTER = (0.2989, 0.587, 0.114)  # of tf.image and torchvision: white becomes 0.9999
EIGHT_BIT = 128 / 255


def _row(ours: Any, tensorflow: Any, torchvision: Any, pillow: Any) -> dict[str | None, Any]:
    return {None: ours, "tensorflow": tensorflow, "torchvision": torchvision, "pillow": pillow}


RESIZING = {
    "method": _row(None, "bilinear", "bilinear", "bicubic"),
    "antialias": _row(True, False, True, True),
    "cubic": _row(-0.5, -0.5, -0.75, -0.5),
    "half_pixel": _row(True, True, True, True),
    "clip": _row(True, False, True, True),
    "dct": _row("fast", "fast", "accurate", "accurate"),
}
# op -> argument -> its default by `like`; the first is that of `like=None`.
DEFAULTS: dict[str, dict[str, dict[str | None, Any]]] = {
    "random_resized_crop": {
        "distribution": _row("area", "bounding_box", "area", "area"),
        "attempts": _row(10, 100, 10, 10),
        "fallback": _row("centred", "whole", "centred", "centred"),
        "min_object_covered": _row(0.0, 0.1, 0.0, 0.0),
        **RESIZING,
    },
    "centre_crop": {
        "order": _row("crop", "crop", "resize", "crop"),
        "rounding": _row("nearest", "nearest", "nearest", "nearest"),
        "odd": _row("after", "before", "after", "after"),
        **RESIZING,
    },
    "resize": RESIZING,
    "color_jitter": {
        "convention": _row("multiply", "add", "multiply", "multiply"),
        "contrast_about": _row("grey", "channels", "grey", "rounded_grey"),
        "saturate": _row("grey", "hsv", "grey", "grey"),
        "luminance": _row(LUMINANCE, SHORTER, SHORTER, LUMINANCE),
    },
    "grey": {"luminance": _row(LUMINANCE, SHORTER, SHORTER, LUMINANCE)},
    "solarise": {"threshold": _row(0.5, 0.5, 0.5, EIGHT_BIT)},
    "blur": {
        "filter": _row("gaussian", "gaussian", "gaussian", "boxes"),
        "edges": _row("reflect", "zero", "reflect", "nearest"),
        "sigma_for": _row("row", "row", "row", "row"),
    },
}


def settled(op: str, like: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an operation: what is given, and the framework's default for the rest.

    Args:
      op: the operation's name.
      like: "tensorflow", "torchvision", "pillow", or None for our own defaults.
      given: argument -> what the recipe says, None where it says nothing; others than those of the table are left out.

    Returns:
      Argument -> value.

    Raises:
      InputError: an unknown framework.
    """
    if like is not None:
        choice(f"{op}.like", like, FRAMEWORKS)
    return {name: by[like] if given[name] is None else given[name] for name, by in DEFAULTS[op].items()}


def text(op: str) -> str:
    """The defaults of an operation by `like`, a table for the terminal."""
    lines = [("like", "None", *FRAMEWORKS), *((n, *(repr(v) for v in by.values())) for n, by in DEFAULTS[op].items())]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
