"""Crops and sizes of pictures: dense [n, H, W, C], or encoded bytes [n] of any sizes (JPEG, PNG, BMP, GIF)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from hcl_jax.errors import InputError
from hcl_jax.views import boxes, encoded
from hcl_jax.views.boxes import Box
from hcl_jax.views.encoded import Decoding, decoding
from hcl_jax.views.frameworks import settled
from hcl_jax.views.lazy import tf
from hcl_jax.views.params import choice, number, sides, span, whole
from hcl_jax.views.resample import Resampling, pixels, resample, resampling, unit

ATTEMPTS = 10  # of the op erase
MOST_ATTEMPTS = 10_000
Window = Callable[..., Box]


def random_resized_crop(
    x: Any,
    draws: Any,
    *,
    size: int | Sequence[int],
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    like: str | None = None,
    distribution: str | None = None,
    attempts: int | None = None,
    fallback: str | None = None,
    min_object_covered: float | None = None,
    method: str | None = None,
    antialias: bool | None = None,
    cubic: float | None = None,
    half_pixel: bool | None = None,
    clip: bool | None = None,
    dct: str | None = None,
    channels: int = 3,
    background: float | Sequence[float] = 1.0,
    upright: bool = True,
) -> Any:
    """A random box of random area and aspect ratio, resized (the crop of Inception, SimCLR and torchvision).

    "area": area a ~ U(scale) H W, log r ~ U(log ratio), w = round(sqrt(a r)), h = round(sqrt(a / r)): the first of 10
    attempts that fits, placed uniformly; none fits: the largest centred box within `ratio`.
    "bounding_box": r ~ U(ratio), h uniform from sqrt(scale[0] H W / r) to the highest that fits, w = round(h r).

    Args:
      x: [n, H, W, C] uint8 or float, or encoded bytes [n].
      draws: "area" [n, attempts] ("height", 0..1, of "bounding_box"), "ratio" [n, attempts] (its log for "area"),
        "place" [n, 2].
      size: side or (height, width) in pixels.
      scale: range of the area, as a fraction.
      ratio: range of width / height.
      like: "tensorflow", "torchvision" or "pillow": the framework whose defaults the arguments below have where nothing
        else is given (docs/parts.md has the table); None is our own, the first column there.
      distribution: "area" (torchvision, and by name Inception), or "bounding_box" (tf.image).
      attempts: how many boxes are tried.
      fallback: the box where none fits: "centred" (the largest within `ratio`), "whole" (the picture), or "clamp" (the
        last attempt, its sides cut to the picture's; with one attempt DeepMind's crop).
      min_object_covered: the least share of the picture that a box must have to fit.
      method: "bilinear" or "bicubic"; None is bilinear for pixels, bicubic for encoded bytes.
      antialias: whether the filter widens where a box shrinks.
      cubic: Keys' a of a bicubic filter that is not antialiased, -0.5 (tf.image), or -0.75 with the edge repeated
        (torch, TensorFlow 1); antialiased it is -0.5.
      half_pixel: False has the corner-aligned centres of TensorFlow 1; needs antialias=False.
      clip: whether the overshoot of bicubic is cut to 0..1 here; the op `clip` does it later.
      dct: of JPEGs, "fast" (TensorFlow's decoder), or "accurate" (Pillow's, to the bit but for the edge of a window;
        the other is a level away on average).
      channels: 1 or 3, of what is decoded (bytes only).
      background: what shows through transparent pixels (bytes only), 0..1; dense RGBA goes through flatten_alpha first.
      upright: whether pictures are turned as EXIF says before the box is drawn (bytes only); `data.upright` where the
        recipe does not say.

    Returns:
      float32 [n, height, width, C].

    Raises:
      InputError: a parameter out of range.

    Reference: Szegedy et al. 2015, section 6; Chen et al. 2020 (SimCLR), appendix A; boxes.py names each code.
    """
    op = "random_resized_crop"
    low, high = span(f"{op}.scale", scale, 1e-6, 1.0)
    flat, wide = span(f"{op}.ratio", ratio, 1e-3, 1e3)
    chosen = settled(op, like, locals())
    distribution = choice(f"{op}.distribution", chosen["distribution"], ("area", "bounding_box"))
    attempts = whole(f"{op}.attempts", chosen["attempts"], 1, MOST_ATTEMPTS)
    fallback = choice(f"{op}.fallback", chosen["fallback"], ("centred", "whole", "clamp"))
    covered = number(f"{op}.min_object_covered", chosen["min_object_covered"], 0.0, 1.0)
    if distribution == "area":
        area = draws.uniform("area", (attempts,), low, high)
        drawn = area, draws.uniform("ratio", (attempts,), math.log(flat), math.log(wide)), draws.uniform("place", (2,))
    else:
        share = draws.uniform("height", (attempts,))
        drawn = share, draws.uniform("ratio", (attempts,), flat, wide), draws.uniform("place", (2,))

    def window(height: Any, width: Any, first: Any, ratios: Any, place: Any) -> Box:
        if distribution == "area":
            return boxes.random_box(height, width, first, ratios, place, (flat, wide), fallback, covered)
        return boxes.bounding_box(height, width, first, ratios, place, (low, high), (flat, wide), fallback, covered)

    return _cut(
        x,
        op,
        size,
        window,
        drawn,
        resampling(op, chosen, cubic),
        decoding(op, chosen, channels, background, upright),
    )


def centre_crop(
    x: Any,
    draws: Any,
    *,
    size: int | Sequence[int],
    fraction: float = 0.875,
    like: str | None = None,
    order: str | None = None,
    rounding: str | None = None,
    odd: str | None = None,
    method: str | None = None,
    antialias: bool | None = None,
    cubic: float | None = None,
    half_pixel: bool | None = None,
    clip: bool | None = None,
    dct: str | None = None,
    channels: int = 3,
    background: float | Sequence[float] = 1.0,
    upright: bool = True,
) -> Any:
    """The largest centred box of the asked shape, times `fraction`, resized: the picture for evaluation.

    Args:
      x: [n, H, W, C] uint8 or float, or encoded bytes [n].
      draws: not used.
      size: side or (height, width) in pixels.
      fraction: side of the box over the largest possible; 0.875 = 224 / 256.
      like: as in random_resized_crop.
      order: "crop" (the box is cut out, then resized), or "resize" (the whole picture is resized, then its middle cut
        out: torchvision's Resize(size / fraction), CenterCrop(size)).
      rounding: of the box's sides to whole pixels, "nearest" or "down" (order "crop" only).
      odd: on which side the odd pixel of a margin lies, "after" the box or "before" it (order "crop" only).
      method, antialias, cubic, half_pixel, clip, dct, channels, background, upright: as in random_resized_crop.

    Returns:
      float32 [n, height, width, C].
    """
    del draws
    op = "centre_crop"
    fraction = number(f"{op}.fraction", fraction, 1e-3, 1.0)
    shape = sides(f"{op}.size", size)
    chosen = settled(op, like, locals())
    order = choice(f"{op}.order", chosen["order"], ("crop", "resize"))
    for name, value, plain in (("rounding", rounding, "nearest"), ("odd", odd, "after")):
        if order == "resize" and value not in (None, plain):
            raise InputError(f"{op}.{name}", repr(value), f"{plain!r} where order is 'resize'")
    rounding = choice(f"{op}.rounding", chosen["rounding"], ("nearest", "down"))
    odd = choice(f"{op}.odd", chosen["odd"], ("after", "before"))
    how, picture = resampling(op, chosen, cubic), decoding(op, chosen, channels, background, upright)
    if order == "resize":
        return _cut(x, op, size, _all_of_it, (), how, picture, lambda h, w: boxes.covering(h, w, shape, fraction))
    return _cut(x, op, size, lambda h, w: boxes.middle(h, w, shape, fraction, rounding, odd), (), how, picture)


def resize(
    x: Any,
    draws: Any,
    *,
    size: int | Sequence[int],
    like: str | None = None,
    method: str | None = None,
    antialias: bool | None = None,
    cubic: float | None = None,
    half_pixel: bool | None = None,
    clip: bool | None = None,
    dct: str | None = None,
    channels: int = 3,
    background: float | Sequence[float] = 1.0,
    upright: bool = True,
) -> Any:
    """The whole picture at another size; the aspect ratio is not kept.

    Args:
      x: [n, H, W, C] uint8 or float, or encoded bytes [n].
      draws: not used.
      size: side or (height, width) in pixels.
      like: as in random_resized_crop.
      method, antialias, cubic, half_pixel, clip, dct, channels, background, upright: as in random_resized_crop.

    Returns:
      float32 [n, height, width, C].
    """
    del draws
    chosen = settled("resize", like, locals())
    how, picture = resampling("resize", chosen, cubic), decoding("resize", chosen, channels, background, upright)
    return _cut(x, "resize", size, _all_of_it, (), how, picture)


def _all_of_it(height: Any, width: Any) -> Box:
    return tf.zeros_like(height), tf.zeros_like(width), height, width


def pad_crop(x: Any, draws: Any, *, pad: int = 4, edges: str = "constant") -> Any:
    """Shifts each picture by up to `pad` pixels each way: the cheap crop for small pictures.

    y[i, j] = padded[i + dy, j + dx],  dy, dx ~ uniform on 0..2 pad

    Args:
      x: [n, H, W, C].
      draws: "shift" [n, 2].
      pad: pixels added on each side.
      edges: "constant" (zeros) or "reflect".

    Returns:
      [n, H, W, C] of the same dtype.

    Reference: He et al. 2016, section 4.2.
    """
    height, width, channels = pixels(x, "pad_crop").shape[1:]
    pad = whole("pad_crop.pad", pad)
    edges = choice("pad_crop.edges", edges, ("constant", "reflect"))
    if edges == "reflect" and pad >= min(height, width):
        raise InputError("pad_crop.pad", pad, f"less than the side, {min(height, width)}, when edges reflect")
    shift = tf.cast(tf.floor(draws.uniform("shift", (2,)) * (2 * pad + 1)), tf.int32)
    shift = tf.minimum(shift, 2 * pad)
    down, across = shift[:, :1] + tf.range(height), shift[:, 1:] + tf.range(width)
    tall, wide = height, width
    if edges == "constant":
        x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        tall, wide = height + 2 * pad, width + 2 * pad
    else:
        down, across = _reflected(down - pad, height), _reflected(across - pad, width)
    # Whole lines first, then columns: half the cost of one gather of pixels.
    lines = tf.gather(tf.reshape(x, [-1, tall, wide * channels]), down, batch_dims=1)
    x = tf.gather(tf.reshape(lines, [-1, wide, channels]), tf.repeat(across, height, axis=0), batch_dims=1)
    return tf.reshape(x, [-1, height, width, channels])


def _reflected(at: Any, length: int) -> Any:
    """Places outside 0..length - 1 mirrored at the first and the last pixel."""
    return (length - 1) - tf.abs((length - 1) - tf.abs(at))


def erase(
    x: Any,
    draws: Any,
    *,
    p: float = 0.5,
    scale: Sequence[float] = (0.02, 0.33),
    ratio: Sequence[float] = (0.3, 3.3),
    value: float = 0.0,
) -> Any:
    """Overwrites a random box; its area and ratio are drawn as in random_resized_crop.

    Args:
      x: [n, H, W, C].
      draws: "coin" [n], "area" [n, 10], "ratio" [n, 10], "place" [n, 2].
      p: probability for each row.
      scale: range of the area, as a fraction.
      ratio: range of width / height.
      value: what is written.

    Returns:
      float32 [n, H, W, C].

    Reference: Zhong et al. 2020, algorithm 1.
    """
    x = unit(x, "erase")
    p = number("erase.p", p, 0.0, 1.0)
    low, high = span("erase.scale", scale, 1e-6, 1.0)
    flat, wide = span("erase.ratio", ratio, 1e-3, 1e3)
    area = draws.uniform("area", (ATTEMPTS,), low, high)
    log_ratio = draws.uniform("ratio", (ATTEMPTS,), math.log(flat), math.log(wide))
    place, coin = draws.uniform("place", (2,)), draws.coin("coin", p)
    height, width = (tf.constant([float(s)]) for s in x.shape[1:3])
    top, left, tall, wide = boxes.random_box(height, width, area, log_ratio, place, (flat, wide))
    return _overwrite(x, top, left, tall, tf.where(coin, wide, 0.0), number("erase.value", value))


def cutout(x: Any, draws: Any, *, size: int | Sequence[int], p: float = 1.0, value: float = 0.0) -> Any:
    """Overwrites a box of one size, centred on any pixel, so that part of it may lie outside.

    Args:
      x: [n, H, W, C].
      draws: "coin" [n], "centre" [n, 2].
      size: side or (height, width) in pixels.
      p: probability for each row.
      value: what is written.

    Returns:
      float32 [n, H, W, C].

    Reference: DeVries and Taylor 2017, section 3.2.
    """
    x = unit(x, "cutout")
    tall, wide = sides("cutout.size", size)
    coin, centre = draws.coin("coin", number("cutout.p", p, 0.0, 1.0)), draws.uniform("centre", (2,))
    top = tf.floor(centre[:, 0] * x.shape[1]) - tall // 2
    left = tf.floor(centre[:, 1] * x.shape[2]) - wide // 2
    return _overwrite(x, top, left, float(tall), tf.where(coin, float(wide), 0.0), number("cutout.value", value))


def _overwrite(x: Any, top: Any, left: Any, tall: Any, wide: Any, value: float) -> Any:
    lines, columns = tf.range(x.shape[1], dtype=tf.float32), tf.range(x.shape[2], dtype=tf.float32)
    down = (lines >= top[:, None]) & (lines < (top + tall)[:, None])
    across = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    box = tf.cast(down[:, :, None, None] & across[:, None, :, None], tf.float32)
    return x * (1.0 - box) + value * box


def _cut(
    x: Any,
    op: str,
    size: Any,
    window: Window,
    drawn: tuple[Any, ...],
    how: Resampling,
    picture: Decoding,
    grid: Window | None = None,
) -> Any:
    """One box of each picture at one size; `window(height [n], width [n], *drawn)` says where. With a `grid` the box is
    resized to its (tall, wide), and the part of `size` at its (top, left) kept."""
    size = sides(f"{op}.size", size)
    if x.dtype == tf.string:
        return encoded.cut(x, op, size, window, drawn, how, picture, grid)
    x = unit(x, op)
    how = how._replace(method=how.method or "bilinear")
    # Boxes that draw nothing have one row and are broadcast.
    height, width = (tf.constant([float(s)]) for s in x.shape[1:3])
    if grid is None:
        return resample(x, window(height, width, *drawn), size, how)
    tall, wide, top, left = grid(height, width)
    box = top * (height / tall), left * (width / wide), size[0] * (height / tall), size[1] * (width / wide)
    return resample(x, box, size, how, cut=False)
