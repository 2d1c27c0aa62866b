"""Crops and sizes of pictures: dense [n, H, W, C], or encoded bytes [n] of any sizes (JPEG, PNG, BMP, GIF)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from hcl_jax.errors import InputError
from hcl_jax.views import headers
from hcl_jax.views.lazy import tf
from hcl_jax.views.params import choice, number, numbers_of, sides, span, whole
from hcl_jax.views.resample import METHODS, pixels, resample, unit

ATTEMPTS = 10
LUMINANCE = (0.299, 0.587, 0.114)
Window = Callable[..., tuple[Any, Any, Any, Any]]


def random_resized_crop(
    x: Any,
    draws: Any,
    *,
    size: int | Sequence[int],
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    method: str | None = None,
    channels: int = 3,
    background: float | Sequence[float] = 1.0,
    upright: bool = True,
) -> Any:
    """A random box of random area and aspect ratio, resized (the crop of Inception, SimCLR and torchvision).

    area a ~ U(scale) H W, log r ~ U(log ratio), w = round(sqrt(a r)), h = round(sqrt(a / r)): the first of 10 attempts
    that fits, placed uniformly; none fits: the largest centred box within `ratio`.

    Args:
      x: [n, H, W, C] uint8 or float, or encoded bytes [n].
      draws: "area" [n, 10], "ratio" [n, 10] (its log), "place" [n, 2].
      size: side or (height, width) in pixels.
      scale: range of the area, as a fraction.
      ratio: range of width / height.
      method: "bilinear" or "bicubic", antialiased; None is bilinear for pixels, bicubic for encoded bytes.
      channels: 1 or 3, of what is decoded (bytes only).
      background: what shows through transparent pixels (bytes only), 0..1; dense RGBA goes through flatten_alpha first.
      upright: whether pictures are turned as EXIF says before the box is drawn (bytes only); `data.upright` where the
        recipe does not say.

    Returns:
      float32 [n, height, width, C].

    Raises:
      InputError: a parameter out of range.

    Reference: Szegedy et al. 2015, section 6; Chen et al. 2020 (SimCLR), appendix A.
    """
    op = "random_resized_crop"
    low, high = span(f"{op}.scale", scale, 1e-6, 1.0)
    flat, wide = span(f"{op}.ratio", ratio, 1e-3, 1e3)
    area = draws.uniform("area", (ATTEMPTS,), low, high)
    log_ratio = draws.uniform("ratio", (ATTEMPTS,), math.log(flat), math.log(wide))
    place = draws.uniform("place", (2,))

    def window(height: Any, width: Any, area: Any, log_ratio: Any, place: Any) -> tuple[Any, Any, Any, Any]:
        return random_box(height, width, area, log_ratio, place, (flat, wide))

    return _cut(x, op, size, window, (area, log_ratio, place), method, channels, background, upright)


def random_box(height: Any, width: Any, area: Any, log_ratio: Any, place: Any, ratio: tuple[float, float]) -> Any:
    """The box of `random_resized_crop`: top, left, height, width in whole pixels, float32 [n]."""
    # In float32 exp and sqrt round by the length of the vector: another split of the rows could round to another pixel.
    height, width, area, log_ratio, place = (tf.cast(v, tf.float64) for v in (height, width, area, log_ratio, place))
    pixels_there = (height * width)[:, None]
    wide = tf.round(tf.sqrt(pixels_there * area * tf.exp(log_ratio)))
    tall = tf.round(tf.sqrt(pixels_there * area * tf.exp(-log_ratio)))
    fits = (wide >= 1.0) & (wide <= width[:, None]) & (tall >= 1.0) & (tall <= height[:, None])
    first = tf.argmax(tf.cast(fits, tf.int32), axis=1)
    some = tf.reduce_any(fits, axis=1)
    # The largest box of an allowed ratio: one side is whole, the other cut.
    spare_tall = tf.clip_by_value(tf.round(width / ratio[0]), 1.0, height)
    spare_wide = tf.clip_by_value(tf.round(height * ratio[1]), 1.0, width)
    tall = tf.where(some, tf.gather(tall, first, batch_dims=1), spare_tall)
    wide = tf.where(some, tf.gather(wide, first, batch_dims=1), spare_wide)
    centred = tf.stack([tf.floor((height - tall) / 2.0), tf.floor((width - wide) / 2.0)], axis=1)
    free = tf.stack([height - tall, width - wide], axis=1)
    corner = tf.where(some[:, None], tf.minimum(tf.floor(place * (free + 1.0)), free), centred)
    return tuple(tf.cast(v, tf.float32) for v in (corner[:, 0], corner[:, 1], tall, wide))


def centre_crop(
    x: Any,
    draws: Any,
    *,
    size: int | Sequence[int],
    fraction: float = 0.875,
    method: str | None = None,
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
      method, channels, background, upright: as in random_resized_crop.

    Returns:
      float32 [n, height, width, C].
    """
    del draws
    fraction = number("centre_crop.fraction", fraction, 1e-3, 1.0)
    tall_size, wide_size = sides("centre_crop.size", size)

    def window(height: Any, width: Any) -> tuple[Any, Any, Any, Any]:
        side = fraction * tf.minimum(height / tall_size, width / wide_size)
        tall = tf.clip_by_value(tf.round(side * tall_size), 1.0, height)
        wide = tf.clip_by_value(tf.round(side * wide_size), 1.0, width)
        return tf.floor((height - tall) / 2.0), tf.floor((width - wide) / 2.0), tall, wide

    return _cut(x, "centre_crop", size, window, (), method, channels, background, upright)


def resize(
    x: Any,
    draws: Any,
    *,
    size: int | Sequence[int],
    method: str | None = None,
    channels: int = 3,
    background: float | Sequence[float] = 1.0,
    upright: bool = True,
) -> Any:
    """The whole picture at another size; the aspect ratio is not kept.

    Args:
      x: [n, H, W, C] uint8 or float, or encoded bytes [n].
      draws: not used.
      size: side or (height, width) in pixels.
      method, channels, background, upright: as in random_resized_crop.

    Returns:
      float32 [n, height, width, C].
    """
    del draws

    def window(height: Any, width: Any) -> tuple[Any, Any, Any, Any]:
        return tf.zeros_like(height), tf.zeros_like(width), height, width

    return _cut(x, "resize", size, window, (), method, channels, background, upright)


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
    top, left, tall, wide = random_box(height, width, area, log_ratio, place, (flat, wide))
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
    method: Any,
    channels: int,
    background: Any,
    upright: bool,
) -> Any:
    """One box of each picture at one size; `window(height [n], width [n], *drawn)` says where."""
    size = sides(f"{op}.size", size)
    if method is not None:
        choice(f"{op}.method", method, METHODS)
    if x.dtype != tf.string:
        x = unit(x, op)
        # Boxes that draw nothing have one row and are broadcast.
        box = window(*(tf.constant([float(s)]) for s in x.shape[1:3]), *drawn)
        return resample(x, box, size, method or "bilinear")
    if x.shape.rank != 1:
        raise InputError(op, f"encoded pictures of shape {x.shape}", "one string a row, [n]")
    if channels not in (1, 3):
        raise InputError(f"{op}.channels", repr(channels), "1, 3")
    shade = numbers_of(f"{op}.background", background)
    if len(shade) not in (1, 3):
        raise InputError(f"{op}.background", repr(background), "one number, or one for each of red, green, blue")

    def one(row: tuple[Any, ...]) -> Any:
        patch = _decode(row[0], row[1], lambda h, w: window(h, w, *(d[None] for d in row[2:])), channels, shade)
        patch = tf.image.resize(patch, size, method or "bicubic", antialias=True)
        return tf.clip_by_value(patch, 0.0, 1.0)

    turn = headers.turns(x) if upright else tf.ones_like(x, tf.int32)
    return tf.map_fn(one, (x, turn, *drawn), fn_output_signature=tf.TensorSpec([*size, channels], tf.float32))


def _decode(data: Any, turn: Any, window: Window, channels: int, background: list[float]) -> Any:
    """The window of one encoded picture as it is turned, over the background: float32 [h, w, channels] in 0..1."""
    across, down = headers.flips(turn)

    def box(stored_height: Any, stored_width: Any) -> Any:
        """The window of the turned picture, as a box of the stored one."""
        stored = tf.stack([stored_height, stored_width])
        height, width = tf.unstack(tf.where(turn >= 5, stored[::-1], stored))
        sizes = window(tf.cast(height, tf.float32)[None], tf.cast(width, tf.float32)[None])
        top, left, tall, wide = tf.unstack(tf.cast(tf.concat(sizes, axis=0), tf.int32))
        top = tf.where(down, height - top - tall, top)
        left = tf.where(across, width - left - wide, left)
        return tf.where(turn >= 5, tf.stack([left, top, wide, tall]), tf.stack([top, left, tall, wide]))

    def from_jpeg() -> Any:
        # Only the blocks under the window are decoded.
        shape = tf.image.extract_jpeg_shape(data)
        patch = tf.image.decode_and_crop_jpeg(data, box(shape[0], shape[1]), channels=channels)
        return tf.cast(patch, tf.float32) / 255.0

    def from_other() -> Any:
        whole_picture = tf.io.decode_image(data, expand_animations=False)
        shape = tf.shape(whole_picture)
        top, left, height, width = tf.unstack(box(shape[0], shape[1]))
        patch = tf.cast(whole_picture[top : top + height, left : left + width], tf.float32) / 255.0
        see_through = (shape[2] == 2) | (shape[2] == 4)
        colours = shape[2] - tf.cast(see_through, tf.int32)
        alpha = tf.where(see_through, patch[..., -1:], 1.0)
        patch = patch[..., :colours] * alpha + tf.constant(background) * (1.0 - alpha)
        if channels == 3:
            return tf.broadcast_to(patch, [height, width, 3])
        return tf.cond(tf.shape(patch)[2] == 1, lambda: patch, lambda: _luminance(patch))

    patch = tf.ensure_shape(tf.cond(tf.io.is_jpeg(data), from_jpeg, from_other), [None, None, channels])
    return tf.ensure_shape(headers.turned(patch, turn), [None, None, channels])


def _luminance(x: Any) -> Any:
    return tf.reduce_sum(x * tf.constant(LUMINANCE), axis=-1, keepdims=True)
