"""Decoding many pictures to one array, and finding the one that does not decode, or that is too large to be decoded."""

import io
import os
from collections.abc import Callable, Sequence

import numpy as np

from hcl_jax.data.source import Source
from hcl_jax.errors import InputError
from hcl_jax.views import headers
from hcl_jax.views.lazy import tf

CHUNK = 512
CHANNELS = 3  # of a picture as a view has it


def stored(encoded: "tf.Tensor", channels: int) -> "tf.Tensor":
    """One JPEG, PNG, GIF (first frame) or WebP as it is stored: string [] -> uint8 [H, W, channels]."""
    return tf.io.decode_image(encoded, channels=channels, expand_animations=False)


def decode(encoded: "tf.Tensor", turn: "tf.Tensor", channels: int) -> "tf.Tensor":
    """The same, turned by an EXIF orientation."""
    return headers.turned(stored(encoded, channels), tf.convert_to_tensor(turn, tf.int32))


def decoded(
    encoded: Sequence[bytes] | Sequence[str],
    *,
    channels: int,
    describe: Callable[[int], str],
    turns: Sequence[int] = (),
) -> np.ndarray | None:
    """All pictures as one array, decoded in parallel.

    Args:
      encoded: bytes of each picture, or its file's path (str).
      channels: 1, 3 or 4.
      describe: number -> name, for messages.
      turns: EXIF orientation of each, to be turned by; () leaves them as they are stored.

    Returns:
      uint8 [N, H, W, channels], or None when sizes differ.

    Raises:
      InputError: a picture that does not decode, by its name.
    """
    turns = turns or [1] * len(encoded)
    if not is_picture(encoded[0], channels):
        raise undecodable(describe(0))
    shape = decode(tf.constant(_bytes_of(encoded[0])), turns[0], channels).shape
    files = isinstance(encoded[0], str)

    def one(item: "tf.Tensor", turn: "tf.Tensor") -> "tf.Tensor":
        picture = decode(tf.io.read_file(item) if files else item, turn, channels)
        same = tf.reduce_all(tf.shape(picture) == shape)
        return tf.cond(same, lambda: picture, lambda: tf.zeros(shape, tf.uint8)), same

    pictures = np.empty((len(encoded), *shape), np.uint8)
    items = [os.fsencode(item) if isinstance(item, str) else item for item in encoded]
    stream = tf.data.Dataset.from_tensor_slices((items, turns)).map(one, num_parallel_calls=tf.data.AUTOTUNE)
    done = 0
    try:
        for chunk, same in stream.batch(CHUNK).prefetch(2).as_numpy_iterator():
            if not same.all():
                return None
            pictures[done : done + len(chunk)] = chunk
            done += len(chunk)
    except tf.errors.OpError:
        for number in range(done, len(encoded)):
            if not is_picture(encoded[number], channels):
                raise undecodable(describe(number)) from None
        raise
    return pictures


def undecodable(name: str) -> InputError:
    """The error for a file that is no picture."""
    return InputError(name, "a picture that does not decode", "a whole JPEG, PNG, GIF or WebP file")


def bounded(encoded: "tf.Tensor", max_pixels: int) -> "tf.Tensor":
    """The same strings [n], after the header of each was looked at; for graphs, which fail at a larger picture.

    Before anything is decoded, for a decoder takes the memory that the header names: 1.4 GB for a PNG of 49 kB.
    """

    def count(item: "tf.Tensor") -> "tf.Tensor":
        def of_jpeg() -> "tf.Tensor":
            return tf.reduce_prod(tf.cast(tf.image.extract_jpeg_shape(item)[:2], tf.int64))

        def of_other() -> "tf.Tensor":
            # Only a GIF says further on how much there is.
            gif = tf.strings.substr(item, 0, 4) == b"GIF8"
            head = tf.strings.substr(item, 0, tf.where(gif, tf.strings.length(item), headers.SIZE))
            return tf.numpy_function(_pixels, [head], tf.int64, stateful=False)

        return tf.ensure_shape(tf.cond(tf.io.is_jpeg(item), of_jpeg, of_other), [])

    found = tf.map_fn(count, encoded, fn_output_signature=tf.int64)
    small = tf.debugging.assert_less_equal(found, tf.constant(max_pixels, tf.int64), "more than data.max_pixels")
    with tf.control_dependencies([small] if small is not None else []):
        return tf.identity(encoded)


def _pixels(head: bytes) -> np.int64:
    found = headers.header(io.BytesIO(head))
    return np.int64(0 if found is None else found.pixels)  # what has no header does not decode either


def pixels(encoded: "tf.Tensor", sides: tuple[int, int], upright: bool) -> "tf.Tensor":
    """Pictures of one size: string [n] -> uint8 [n, *sides, 3], turned as EXIF says if `upright`; for graphs."""
    turns = headers.turns(encoded) if upright else tf.ones_like(encoded, tf.int32)
    spec = tf.TensorSpec([None, None, CHANNELS], tf.uint8)
    made = tf.map_fn(lambda row: decode(row[0], row[1], CHANNELS), (encoded, turns), fn_output_signature=spec)
    return tf.ensure_shape(made, [encoded.shape[0], *sides, CHANNELS])


def fault(name: str, encoded: bytes, source: Source, field: str) -> InputError | None:
    """What is wrong with an encoded picture of a source; None where it decodes."""
    found = headers.header(io.BytesIO(encoded))
    wrong = fault_of_header(name, found, source.max_pixels)
    if found is not None and field in source.sides and source.sides[field] not in _sides(found):
        height, width = source.sides[field]
        wrong = wrong or InputError(name, f"a picture of {found.width} x {found.height}", f"{width} x {height}")
    return wrong or (None if is_picture(encoded) else undecodable(name))


def _sides(found: headers.Header) -> tuple[tuple[int, int], tuple[int, int]]:
    return (found.height, found.width), (found.width, found.height)


def fault_of_header(name: str, found: headers.Header | None, max_pixels: int) -> InputError | None:
    """What is wrong with a picture's header; None where it is one, of at most `max_pixels`."""
    if found is None:
        return undecodable(name)
    if found.pixels <= max_pixels:
        return None
    frames = f", {found.pixels} pixels in all frames" if found.pixels > found.height * found.width else ""
    allowed = f"at most {max_pixels} pixels, config.data.max_pixels"
    return InputError(name, f"a picture of {found.width} x {found.height}{frames}", allowed)


def whole_jpegs(encoded: "tf.Tensor", index: "tf.Tensor", whole: np.ndarray) -> "tf.Tensor":
    """The same strings [n], after every JPEG among them was decoded to its end, each record's once; for graphs.

    A crop decodes what it needs, so that a damaged JPEG fails in some steps and not in others. At an eighth of the size
    the whole costs 0.9 ms for 400 x 500 pixels, as much as a crop's part of it: too much to do in every epoch.

    Args:
      encoded: strings [n].
      index: int64 [n], their records.
      whole: bool [N], which records were; those that are looked at now become so.
    """

    def mark(index: np.ndarray) -> np.int32:
        whole[index] = True
        return np.int32(0)

    def look(row: tuple["tf.Tensor", "tf.Tensor"]) -> "tf.Tensor":
        # Any other format is decoded whole by the crop.
        item, known = row
        jpeg = tf.io.is_jpeg(item) & ~known
        return tf.cond(jpeg, lambda: tf.shape(tf.io.decode_jpeg(item, ratio=8))[0], lambda: 0)

    known = tf.ensure_shape(tf.numpy_function(whole.__getitem__, [index], tf.bool), index.shape)
    with tf.control_dependencies([tf.map_fn(look, (encoded, known), fn_output_signature=tf.int32)]):
        marked = tf.numpy_function(mark, [index], tf.int32)
    with tf.control_dependencies([marked]):
        return tf.identity(encoded)


def is_picture(encoded: bytes | str, channels: int = 0) -> bool:
    """Whether TensorFlow decodes these bytes, or the file at this path."""
    try:
        stored(tf.constant(_bytes_of(encoded)), channels)
    except (tf.errors.OpError, ValueError, OSError):
        return False
    return True


def _bytes_of(item: bytes | str) -> bytes:
    if isinstance(item, bytes):
        return item
    with open(item, "rb") as file:
        return file.read()
