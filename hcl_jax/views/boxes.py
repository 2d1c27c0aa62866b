"""Where a crop lies: random boxes by area or as tf.image draws them, and the middle of a picture. All in float64."""

import math
from typing import Any

from hcl_jax.views.lazy import tf

# In float32 exp and sqrt round by the length of the vector: another split of the rows could round to another pixel.
Box = tuple[Any, Any, Any, Any]


def random_box(
    height: Any,
    width: Any,
    area: Any,
    log_ratio: Any,
    place: Any,
    ratio: tuple[float, float],
    fallback: str = "centred",
    min_object_covered: float = 0.0,
) -> Box:
    """Box of a random area and ratio: the first attempt that fits, placed uniformly.

    w = round(sqrt(a H W r)), h = round(sqrt(a H W / r));  fits: 1 <= w <= W, 1 <= h <= H, w h >= c H W

    Args:
      height, width: of the pictures, float32 [n] or [1].
      area: a, as fractions [n, attempts].
      log_ratio: log r [n, attempts].
      place: where in the free room, 0..1 [n, 2].
      ratio: the range of r.
      fallback: where nothing fits, "centred": the largest centred box within `ratio`; "whole": the picture; "clamp":
        the last attempt with its sides cut to the picture's, placed uniformly.
      min_object_covered: c.

    Returns:
      top, left, height, width in whole pixels, float32 [n].

    Reference: torchvision, transforms.RandomResizedCrop.get_params ("centred", 10 attempts); deepmind-research,
      byol/utils/dataset.py ("clamp", 1 attempt).
    """
    height, width, area, log_ratio, place = (tf.cast(v, tf.float64) for v in (height, width, area, log_ratio, place))
    pixels_there = (height * width)[:, None]
    wide = tf.round(tf.sqrt(pixels_there * area * tf.exp(log_ratio)))
    tall = tf.round(tf.sqrt(pixels_there * area * tf.exp(-log_ratio)))
    fits = (wide >= 1.0) & (wide <= width[:, None]) & (tall >= 1.0) & (tall <= height[:, None])
    if min_object_covered > 0.0:
        fits &= tall * wide >= min_object_covered * pixels_there
    some, tall, wide, spare = _first(fits, tall, wide, height, width, ratio, fallback)
    free = tf.stack([height - tall, width - wide], axis=1)
    corner = tf.minimum(tf.floor(place * (free + 1.0)), free)
    return _finished(some, corner, spare, tall, wide)


def bounding_box(
    height: Any,
    width: Any,
    share: Any,
    ratio: Any,
    place: Any,
    scale: tuple[float, float],
    ratios: tuple[float, float],
    fallback: str = "whole",
    min_object_covered: float = 0.1,
) -> Box:
    """Box of a random ratio and a random height, as tf.image.sample_distorted_bounding_box with the picture as object.

    h uniform on the whole numbers from sqrt(a_0 H W / r) to min(H, W / r, sqrt(a_1 H W / r)), w = round(h r): small
    boxes are likelier than by area. The corner is uniform on 0..free - 1: the last line and the last column of places
    are left out, as there.

    Args:
      height, width: of the pictures, float32 [n] or [1].
      share: where in the range of heights, 0..1 [n, attempts].
      ratio: r [n, attempts], itself uniform, not its log.
      place: where in the free room, 0..1 [n, 2].
      scale: a_0, a_1, the range of the area as a fraction.
      ratios: the range of r, for the fallback "centred".
      fallback: as in random_box.
      min_object_covered: the least share of the picture in the box; a smaller one is another failed attempt.

    Returns:
      top, left, height, width in whole pixels, float32 [n].

    Reference: tensorflow/core/kernels/image/sample_distorted_bounding_box_op.cc, GenerateRandomCrop.
    """
    height, width, share, r, place = (tf.cast(v, tf.float64) for v in (height, width, share, ratio, place))
    there, tall_side, wide_side = (height * width)[:, None], height[:, None], width[:, None]
    # The limits are float32 there, and 0.08 of a picture may be a whole number of pixels.
    least, most = (tf.cast(tf.constant(v, tf.float32), tf.float64) * there for v in scale)
    highest = tf.round(tf.sqrt(most / r))
    # The highest box whose width still rounds to the picture's.
    squeezed = tf.floor((wide_side + 0.5 - 1e-7) / r)
    squeezed -= tf.cast(tf.round(squeezed * r) > wide_side, tf.float64)
    highest = tf.minimum(tf.where(tf.round(highest * r) > wide_side, squeezed, highest), tall_side)
    lowest = tf.minimum(tf.round(tf.sqrt(least / r)), highest)
    tall = lowest + tf.minimum(tf.floor(share * (highest - lowest + 1.0)), highest - lowest)
    tall += tf.cast(tall * tf.round(tall * r) < least, tf.float64)  # rounding may take a box over its limits
    tall -= tf.cast(tall * tf.round(tall * r) > most, tf.float64)
    wide = tf.round(tall * r)
    area = tall * wide
    fits = (area >= least) & (area <= most) & (wide <= wide_side) & (tall <= tall_side) & (wide >= 1.0) & (tall >= 1.0)
    fits &= area >= min_object_covered * there
    some, tall, wide, spare = _first(fits, tall, wide, height, width, ratios, fallback)
    free = tf.stack([height - tall, width - wide], axis=1)
    corner = tf.maximum(tf.minimum(tf.floor(place * free), free - 1.0), 0.0)
    return _finished(some, corner, spare, tall, wide)


def _first(
    fits: Any, tall: Any, wide: Any, height: Any, width: Any, ratio: tuple[float, float], fallback: str
) -> tuple[Any, Any, Any, Any]:
    """Which rows are placed at random, the sides of all, and the corner of the rest."""
    first = tf.argmax(tf.cast(fits, tf.int32), axis=1)
    some = tf.reduce_any(fits, axis=1)
    if fallback == "clamp":
        spare_tall = tf.clip_by_value(tall[:, -1], 1.0, height)
        spare_wide = tf.clip_by_value(wide[:, -1], 1.0, width)
    elif fallback == "whole":
        spare_tall, spare_wide = height, width
    else:
        # The largest box of an allowed ratio: one side is whole, the other cut.
        spare_tall = tf.clip_by_value(tf.round(width / ratio[0]), 1.0, height)
        spare_wide = tf.clip_by_value(tf.round(height * ratio[1]), 1.0, width)
    tall = tf.where(some, tf.gather(tall, first, batch_dims=1), spare_tall)
    wide = tf.where(some, tf.gather(wide, first, batch_dims=1), spare_wide)
    centred = tf.stack([tf.floor((height - tall) / 2.0), tf.floor((width - wide) / 2.0)], axis=1)
    return some | (fallback == "clamp"), tall, wide, centred


def _finished(some: Any, corner: Any, spare: Any, tall: Any, wide: Any) -> Any:
    corner = tf.where(some[:, None], corner, spare)
    return tuple(tf.cast(v, tf.float32) for v in (corner[:, 0], corner[:, 1], tall, wide))


def middle(
    height: Any, width: Any, size: tuple[int, int], fraction: float, rounding: str = "nearest", odd: str = "after"
) -> Box:
    """The largest centred box of the shape of `size`, times `fraction`, in whole pixels.

    Args:
      height, width: of the pictures, float32 [n].
      size: (height, width) that gives the shape.
      fraction: side of the box over the largest possible.
      rounding: of the sides, "nearest" or "down".
      odd: where the odd pixel of a margin goes, "after" the box or "before" it.

    Returns:
      top, left, height, width, float32 [n].
    """
    side = fraction * tf.minimum(height / size[0], width / size[1])
    near = tf.round if rounding == "nearest" else tf.floor
    tall = tf.clip_by_value(near(side * size[0]), 1.0, height)
    wide = tf.clip_by_value(near(side * size[1]), 1.0, width)
    more = 0.0 if odd == "after" else 1.0
    return tf.floor((height - tall + more) / 2.0), tf.floor((width - wide + more) / 2.0), tall, wide


def covering(height: Any, width: Any, size: tuple[int, int], fraction: float) -> Box:
    """The grid of torchvision's Resize(size / fraction), CenterCrop(size): (tall, wide) of the whole picture when
    resized, and (top, left) of the part kept, whole numbers as float32 [n].

    The side that is shorter beside `size` becomes round(size / fraction), the other int(that * long / short); the
    corner is round((tall - size) / 2), halves to even.
    """
    height, width = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
    tall, wide = (tf.constant(float(max(math.floor(s / fraction + 0.5), s)), tf.float64) for s in size)
    upright = height * size[1] <= width * size[0]
    other_wide = tf.maximum(tf.floor(tall * width / height), float(size[1]))
    other_tall = tf.maximum(tf.floor(wide * height / width), float(size[0]))
    grid = tf.where(upright, tall, other_tall), tf.where(upright, other_wide, wide)
    corner = tuple(tf.round((g - float(s)) / 2.0) for g, s in zip(grid, size, strict=True))
    return tuple(tf.cast(v, tf.float32) for v in (*grid, *corner))
