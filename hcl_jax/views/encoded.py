"""Windows of encoded pictures [n] of any sizes (JPEG, PNG, BMP, GIF), decoded, turned and resized one by one."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hcl_jax.errors import InputError
from hcl_jax.views import headers
from hcl_jax.views.boxes import Box
from hcl_jax.views.frameworks import LUMINANCE
from hcl_jax.views.lazy import tf
from hcl_jax.views.params import choice, numbers_of
from hcl_jax.views.resample import Resampling, from_planes, planes_resized, resized

Window = Callable[..., Box]


class Decoding(NamedTuple):
    """How encoded pictures become pixels.

    Attributes:
      channels: 1 or 3.
      background: what shows through transparent pixels, one number 0..1 or three.
      upright: whether pictures are turned as EXIF says.
      dct: of JPEGs, "fast" or "accurate".
    """

    channels: int
    background: Any
    upright: bool
    dct: str


def decoding(op: str, chosen: Mapping[str, Any], channels: int, background: Any, upright: bool) -> Decoding:
    """How an operation decodes, by its `chosen` arguments and those that no framework sets.

    Raises:
      InputError: an argument that cannot be, also where pixels come and nothing is decoded.
    """
    if isinstance(channels, bool) or channels not in (1, 3):
        raise InputError(f"{op}.channels", repr(channels), "1, 3")
    if len(numbers_of(f"{op}.background", background, 0.0, 1.0)) not in (1, 3):
        raise InputError(f"{op}.background", repr(background), "one number, or one for each of red, green, blue")
    if not isinstance(upright, bool):
        raise InputError(f"{op}.upright", repr(upright), "True, False")
    return Decoding(channels, background, upright, choice(f"{op}.dct", chosen["dct"], ("fast", "accurate")))


def cut(
    x: Any,
    op: str,
    size: tuple[int, int],
    window: Window,
    drawn: tuple[Any, ...],
    how: Resampling,
    picture: Decoding,
    grid: Window | None = None,
) -> Any:
    """One box of each picture at one size.

    Args:
      x: encoded pictures, strings [n].
      op: the asking op's name, for error texts.
      size: (height, width) in pixels.
      window: (height [1], width [1], a row of each of `drawn` [1, ...]) -> the box of the picture as it is turned.
      drawn: numbers [n, ...].
      how: the filter; without a method it is bicubic.
      picture: how they are decoded.
      grid: (height [1], width [1]) of the box -> (tall, wide) to resize it to, and (top, left) of the part of `size`
        that is kept.

    Returns:
      float32 [n, *size, channels].

    Raises:
      InputError: not one string a row.
    """
    channels, background, upright, dct = picture
    how = how._replace(method=how.method or "bicubic")
    if x.shape.rank != 1:
        raise InputError(op, f"encoded pictures of shape {x.shape}", "one string a row, [n]")
    shade = numbers_of(f"{op}.background", background)
    planes = grid is None and how.antialias and how.half_pixel

    def one(row: tuple[Any, ...]) -> Any:
        patch = _decode(row[0], row[1], lambda h, w: window(h, w, *(d[None] for d in row[2:])), channels, shade, dct)
        if planes:
            return planes_resized(patch, size, how)
        if grid is None:
            return resized(patch, size, how)
        height, width = tf.unstack(tf.cast(tf.shape(patch)[:2], tf.float32)[:, None])
        tall, wide, top, left = tf.unstack(tf.cast(tf.concat(grid(height, width), axis=0), tf.int32))
        patch = resized(patch, tf.stack([tall, wide]), how)
        return tf.ensure_shape(patch[top : top + size[0], left : left + size[1]], [*size, channels])

    turn = headers.turns(x) if upright else tf.ones_like(x, tf.int32)
    shape = [channels, *size] if planes else [*size, channels]
    made = tf.map_fn(one, (x, turn, *drawn), fn_output_signature=tf.TensorSpec(shape, tf.float32))
    return from_planes(made) if planes else made


def _decode(data: Any, turn: Any, window: Window, channels: int, background: list[float], dct: str) -> Any:
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
        patch = tf.image.decode_and_crop_jpeg(
            data, box(shape[0], shape[1]), channels=channels, dct_method=f"INTEGER_{dct.upper()}"
        )
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
