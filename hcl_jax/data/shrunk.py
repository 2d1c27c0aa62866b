"""Large pictures made small once, so that no step has to decode a photograph of 12 megapixels for a crop of 64."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hcl_jax.data.images import bounded, fault_of_header, stored
from hcl_jax.views import headers
from hcl_jax.views.lazy import tf

QUALITY = 95  # of the JPEG that a picture without transparency becomes
RATIOS = (8, 4, 2, 1)  # by which libjpeg decodes at a smaller size, in much less time


def shrunk(encoded: Any, side: int, turn: Any) -> Any:
    """An encoded picture whose short side is at most `side` pixels; one that is smaller stays to the byte.

    A JPEG is first decoded at the smallest of 1/8, 1/4, 1/2 that is not below `side`; then it is resized (bilinearly,
    antialiased), turned and encoded again: a JPEG of quality 95, a PNG where it is transparent.

    Args:
      encoded: string [].
      side: in pixels.
      turn: EXIF orientation that it is turned by, int32 []; 1 leaves it.

    Returns:
      string [].
    """
    jpeg = tf.io.is_jpeg(encoded)
    height, width, whole = _look(encoded, jpeg)
    short = tf.minimum(height, width)

    def of_jpeg() -> Any:
        place = tf.argmax(tf.stack([short // r >= side for r in RATIOS[:-1]] + [True]), output_type=tf.int32)
        by = [lambda r=r: tf.io.decode_jpeg(encoded, channels=3, ratio=r) for r in RATIOS]
        return tf.switch_case(place, by)

    def smaller() -> Any:
        picture = tf.cond(jpeg, of_jpeg, lambda: whole)
        scale = tf.cast(side, tf.float32) / tf.cast(short, tf.float32)
        size = tf.stack([_scaled(height, scale), _scaled(width, scale)])
        made = tf.image.resize(tf.cast(picture, tf.float32), tf.maximum(size, 1), antialias=True)
        made = headers.turned(tf.saturate_cast(tf.round(made), tf.uint8), turn)
        opaque = tf.logical_or(tf.shape(made)[2] == 3, tf.shape(made)[2] == 1)
        as_jpeg = lambda: tf.io.encode_jpeg(made, quality=QUALITY, chroma_downsampling=False)  # noqa: E731
        return tf.cond(opaque, as_jpeg, lambda: tf.io.encode_png(made))

    return tf.cond(short > side, smaller, lambda: encoded)


def _scaled(length: Any, scale: Any) -> Any:
    return tf.cast(tf.round(tf.cast(length, tf.float32) * scale), tf.int32)


def _look(encoded: Any, jpeg: Any) -> tuple[Any, Any, Any]:
    """(height, width, the picture where it is no JPEG)."""

    def other() -> tuple[Any, Any]:
        picture = stored(encoded, 0)
        return tf.shape(picture)[:2], picture

    sides, whole = tf.cond(
        jpeg,
        lambda: (tf.image.extract_jpeg_shape(encoded)[:2], tf.zeros([0, 0, 3], tf.uint8)),
        other,
    )
    return sides[0], sides[1], whole


def all_shrunk(files: Sequence[bytes], side: int, upright: bool, max_pixels: int) -> list[bytes]:
    """Files as `shrunk` makes them, in parallel; one that does not decode, or is too large, is as it was."""

    def one(file: bytes) -> bytes:
        found = headers.header(io.BytesIO(file))
        if (
            found is None
            or fault_of_header("", found, max_pixels) is not None
            or min(found.height, found.width) <= side
        ):
            return file
        try:
            made: bytes = shrunk(tf.constant(file), side, tf.constant(found.turn if upright else 1)).numpy()
        except tf.errors.OpError:
            return file  # a bad record, found where it is read
        return made

    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, files))


def each_shrunk(encoded: Any, side: int, upright: bool, max_pixels: int) -> Any:
    """The same in a graph: string [n] -> string [n]. Fails at a picture that does not decode."""
    encoded = bounded(encoded, max_pixels)
    turns = headers.turns(encoded) if upright else tf.ones_like(encoded, tf.int32)
    return tf.map_fn(lambda row: shrunk(row[0], side, row[1]), (encoded, turns), fn_output_signature=tf.string)
