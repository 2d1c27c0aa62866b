"""Resampling of boxes as two matrix products: any separable filter, one box a row, antialiased when it shrinks.

At 32 pixels it costs about what tf.image.crop_and_resize does, and it has the pixel centres of PIL and tf.image.resize.
The work grows as size * H * W: 375 x 500 to 224 takes 10 ms of a core; cropping a JPEG of that size takes 3 to 4 ms.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hcl_jax.errors import InputError
from hcl_jax.views.lazy import tf
from hcl_jax.views.params import choice

METHODS = ("bilinear", "bicubic")
CUBICS = (-0.5, -0.75)


def unit(x: Any, op: str) -> Any:
    """Pictures as float32: uint8 0..255 becomes 0..1, floats stay as they are.

    Args:
      x: [n, H, W, C], uint8 or float.
      op: the asking op's name, for the error text.

    Returns:
      float32 [n, H, W, C].

    Raises:
      InputError: encoded bytes or not [n, H, W, C].
    """
    pixels(x, op)
    if x.dtype == tf.uint8:
        return tf.cast(x, tf.float32) * (1.0 / 255.0)
    return tf.cast(x, tf.float32)


def pixels(x: Any, op: str) -> Any:
    """`x` if it is a dense [n, H, W, C] with known H, W, C; raises InputError otherwise."""
    if x.dtype == tf.string:
        raise InputError(op, "encoded pictures", "pixels; put random_resized_crop, centre_crop or resize before it")
    if x.shape.rank != 4 or None in x.shape[1:].as_list():
        raise InputError(op, f"shape {x.shape}", "pictures [n, H, W, C] of one known size")
    return x


def to_planes(x: Any) -> Any:
    """[n, H, W, C] -> [n, C, H, W]: whole planes make later passes contiguous."""
    if planes_of(x) is not None:
        return planes_of(x)
    if x.shape[-1] == 1:
        return tf.transpose(x, [0, 3, 1, 2]) if None in x.shape[1:] else tf.reshape(x, [-1, 1, x.shape[1], x.shape[2]])
    return tf.stack(tf.unstack(x, axis=-1), axis=1)  # half the time of tf.transpose


def from_planes(x: Any) -> Any:
    """[n, C, H, W] -> [n, H, W, C], which the next op may take back: between ops that like planes nothing is moved, for
    in a graph pixels that no op reads are not made."""
    rows, channels, height, width = x.shape
    if None in (height, width):
        y = tf.transpose(x, [0, 2, 3, 1])
    elif channels == 1:
        y = tf.reshape(x, [-1, height, width, 1])
    else:  # of three axes: half the time of a transposition of four
        y = tf.transpose(tf.reshape(x, [-1, channels, height * width]), [0, 2, 1])
        y = tf.ensure_shape(tf.reshape(y, [-1, height, width, channels]), [rows, height, width, channels])
    y.planes_of_it = x
    return y


def planes_of(x: Any) -> Any:
    """The planes [n, C, H, W] that `x` was made from; None where it was made otherwise."""
    return getattr(x, "planes_of_it", None)


def pixelwise(f: Callable[[Any], Any], x: Any) -> Any:
    """f(x) for an f of each number alone, on the planes of [n, H, W, C] where there are such."""
    planes = planes_of(x)
    return f(x) if planes is None else from_planes(f(planes))


class Resampling(NamedTuple):
    """How pixels are made from others.

    Attributes:
      method: "bilinear", "bicubic", or None: bilinear for pixels, bicubic for encoded pictures.
      antialias: whether the filter widens where a picture shrinks.
      cubic: Keys' a where nothing is antialiased, -0.5 (weights outside the box are left out, the others made to sum to
        1) or -0.75 (the pixel at the edge is repeated); antialiased it is -0.5.
      half_pixel: whether pixel i is at (i + 1/2) length / size - 1/2, or at i length / size, as in TensorFlow 1.
      clip: whether the overshoot of bicubic is cut to 0..1.
    """

    method: str | None = None
    antialias: bool = True
    cubic: float = -0.5
    half_pixel: bool = True
    clip: bool = True


def resampling(op: str, chosen: Mapping[str, Any], cubic: float | None = None) -> Resampling:
    """The filter of an operation's `chosen` arguments, of which the recipe gave `cubic`; raises InputError for one that
    cannot be."""
    if chosen["method"] is not None:
        choice(f"{op}.method", chosen["method"], METHODS)
    for name in ("antialias", "half_pixel", "clip"):
        if not isinstance(chosen[name], bool):
            raise InputError(f"{op}.{name}", repr(chosen[name]), "True, False")
    if chosen["cubic"] not in CUBICS:
        raise InputError(f"{op}.cubic", repr(chosen["cubic"]), ", ".join(map(str, CUBICS)))
    if chosen["antialias"] and cubic not in (None, -0.5):
        raise InputError(f"{op}.cubic", f"{cubic} with antialias=True", "-0.5, or antialias=False")
    if chosen["method"] == "bilinear" and cubic not in (None, -0.5):
        raise InputError(f"{op}.cubic", f"{cubic} with method='bilinear'", "-0.5, or method='bicubic'")
    if chosen["antialias"] and not chosen["half_pixel"]:
        raise InputError(f"{op}.half_pixel", "False with antialias=True", "antialias=False, as in TensorFlow 1")
    return Resampling(*(chosen[name] for name in Resampling._fields))


def matrix(start: Any, length: Any, size: Any, source: Any, how: Resampling, bounds: Any = None) -> Any:
    """Weights that resample the interval [start, start + length) of `source` pixels to `size` pixels.

    w[i, p] = k((p - s_i) / a) / sum_q k((q - s_i) / a),  s_i = start + (i + 1/2) length / size - 1/2,
    a = max(length / size, 1) if antialiased, else 1, over the pixels p inside the interval only (as if it were cut out
    first).

    Args:
      start, length: float32 [n], in pixels; whole numbers, unless `bounds` are given.
      size, source: pixels to make, and pixels there are: numbers, or int32 tensors.
      how: the filter; "bilinear" is a triangle, "bicubic" is Keys'.
      bounds: (low, high), each float32 [n]: the interval whose pixels count, in the place of that above.

    Returns:
      float32 [n, size, source].

    Reference: Keys 1981, equation 4 (the kernel); Duff's antialiasing as in PIL and tf.image.resize.
    """
    length, start = length[:, None], start[:, None]
    half = 0.5 if how.half_pixel else 0.0
    step = length / (float(size) if isinstance(size, int) else tf.cast(size, tf.float32))
    centre = start + (tf.cast(tf.range(size), tf.float32) + half) * step - half
    pixel = tf.cast(tf.range(source), tf.float32)
    low, high = (start, start + length) if bounds is None else (b[:, None] for b in bounds)
    inside = (pixel > low - 0.5) & (pixel < high - 0.5)
    stretch = tf.maximum(step, 1.0)[:, :, None] if how.antialias else 1.0
    away = pixel - centre[:, :, None]
    weight = _kernel(tf.abs(away) / stretch, how)
    weight = weight * tf.cast(inside, tf.float32)[:, None, :]
    if how.method == "bicubic" and not how.antialias and how.cubic != -0.5:
        # The two pixels beyond each edge would be those at the edge.
        first, last = (tf.cast(inside & at, tf.float32)[:, None, :] for at in (pixel < low + 0.5, pixel > high - 1.5))
        for beyond in (1.0, 2.0):
            weight += first * _kernel(tf.abs(away - beyond), how) + last * _kernel(tf.abs(away + beyond), how)
    return weight / tf.reduce_sum(weight, axis=-1, keepdims=True)


def _kernel(t: Any, how: Resampling) -> Any:
    if how.method == "bilinear":
        return tf.maximum(1.0 - t, 0.0)
    a = -0.5 if how.antialias else how.cubic
    near = ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0
    far = ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a
    return tf.where(t < 1.0, near, tf.where(t < 2.0, far, 0.0))


def resample(x: Any, box: tuple[Any, Any, Any, Any], size: tuple[int, int], how: Resampling, cut: bool = True) -> Any:
    """Cuts one box out of each picture and resizes it.

    y = A_y x A_x^T for each channel, A from `matrix`.

    Args:
      x: float32 [n, H, W, C].
      box: top, left, height, width in pixels, each float32 [n].
      size: (height, width) to make.
      how: the filter.
      cut: whether pixels outside the box count for nothing, as when it is cut out first; without it the box may be of
        parts of pixels.

    Returns:
      float32 [n, *size, C].
    """
    top, left, height, width = box
    tall, wide = (known if known is not None else tf.shape(x)[k] for k, known in ((1, x.shape[1]), (2, x.shape[2])))
    zero = tf.zeros_like(top)
    bounds = [None if cut else (zero, zero + tf.cast(side, tf.float32)) for side in (tall, wide)]
    down = matrix(top, height, size[0], tall, how, bounds[0])
    across = matrix(left, width, size[1], wide, how, bounds[1])
    y = products(products(down[:, None], to_planes(x)), tf.linalg.matrix_transpose(across[:, None]))
    return from_planes(tf.clip_by_value(y, 0.0, 1.0) if how.clip and how.method == "bicubic" else y)


def resized(x: Any, size: Any, how: Resampling) -> Any:
    """One whole picture [H, W, C] of any size at another, by TensorFlow's kernels where they do what is asked.

    Args:
      x: float32 [H, W, C].
      size: (height, width), numbers or an int32 tensor.
      how: the filter.

    Returns:
      float32 [*size, C].
    """
    keys = how.method == "bilinear" or how.antialias or how.cubic == -0.5
    if how.half_pixel and keys:
        y = tf.image.resize(x, size, how.method, antialias=how.antialias)
    elif not how.half_pixel and (how.method == "bilinear" or how.cubic != -0.5):
        kernel = tf.raw_ops.ResizeBilinear if how.method == "bilinear" else tf.raw_ops.ResizeBicubic
        y = kernel(images=x[None], size=size, align_corners=False, half_pixel_centers=False)[0]
    else:
        tall, wide = tf.unstack(tf.cast(tf.shape(x)[:2], tf.float32)[:, None])
        zero = tf.zeros([1])
        y = resample(x[None], (zero, zero, tall, wide), size, how)[0]
    return tf.clip_by_value(y, 0.0, 1.0) if how.clip else y


def planes_resized(x: Any, size: tuple[int, int], how: Resampling) -> Any:
    """The planes [C, height, width] of `resized`, bit by bit, for an antialiased filter.

    Its kernel goes along the lines in whole vectors, along the columns number by number. A picture that is one column
    wide is lines alone: so each axis goes through as lines, twice as fast for all that is moved in between.
    """
    tall, wide = tf.unstack(tf.shape(x)[:2])
    channels = x.shape[2]

    def lines(x: Any, there: Any, asked: int) -> Any:
        """[there, k] -> [asked, k]."""
        return tf.raw_ops.ScaleAndTranslate(
            images=x[None, :, None],
            size=[asked, 1],
            scale=tf.stack([asked / tf.cast(there, tf.float32), 1.0]),
            translation=[0.0, 0.0],
            kernel_type={"bilinear": "triangle", "bicubic": "keyscubic"}[how.method or "bilinear"],
            antialias=True,
        )[0, :, 0]

    y = tf.transpose(lines(tf.reshape(x, [tall, wide * channels]), tall, size[0]))
    y = tf.transpose(lines(tf.reshape(y, [wide, channels * size[0]]), wide, size[1]))
    y = tf.reshape(y, [channels, *size])
    return tf.clip_by_value(y, 0.0, 1.0) if how.clip else y


def products(a: Any, b: Any) -> Any:
    """The products of matrices, of [n, ..., P, Q] with [n, ..., Q, R]; n may be 1 on one side."""
    return never_alone(tf.matmul, a, b)


def never_alone(f: Callable[..., Any], *xs: Any) -> Any:
    """f(*xs) of arrays [n, ...], n 1 in some of them, where f multiplies matrices row by row. A matrix alone is
    multiplied by another kernel, with other last bits: a row must not depend on whether others stand beside it."""
    alone = tf.reduce_all([tf.shape(x)[0] == 1 for x in xs])

    def twice(x: Any) -> Any:
        return tf.cond(alone, lambda: tf.concat([x, x], axis=0), lambda: x)

    # The branches stand around f whatever the number of rows: an optimizer that sees through them for some would take
    # another kernel for these.
    out = f(*map(twice, xs))
    out = tf.cond(alone, lambda: out[:1], lambda: out)
    rows = [x.shape[0] for x in xs]
    return out if None in rows else tf.ensure_shape(out, [max(rows), *out.shape[1:]])
