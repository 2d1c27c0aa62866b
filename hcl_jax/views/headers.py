"""What the header of an encoded picture says: its size, transparency, and how it is to be turned. Decodes nothing.

A header may lie or end early: what cannot be read is None, or 1 for the orientation, and never an exception.
"""

import io
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from hcl_jax.views.lazy import tf

# Bytes of a file that are looked at first: 256 whole files of 110 kB take 33 ms under Python's lock, heads 1 ms.
HEAD = 4096
SIZE = 64  # bytes that hold the size of any but a JPEG, and of a GIF but for its frames
ORIENTATION = 0x0112  # the tag of TIFF and EXIF
NUMBERS = {1: "B", 3: "H", 4: "I"}  # TIFF's types of whole numbers
BROKEN = (struct.error, EOFError, IndexError, ValueError, OverflowError)


class Header(NamedTuple):
    """A picture as it is stored.

    Fields:
      height, width: in pixels.
      see_through: whether it may have transparent pixels that TensorFlow decodes.
      turn: EXIF orientation, 1 to 8; 1 is as it is stored, from 5 on height and width change places.
      pixels: of all that a decoder takes memory for (every frame of a GIF).
    """

    height: int
    width: int
    see_through: bool
    turn: int
    pixels: int


def header(file: BinaryIO) -> Header | None:
    """The header of a JPEG, PNG, GIF, WebP or BMP file; None where it cannot be read."""
    try:
        start = _start(file)
        size = _SIZES[start](file) if start else None
    except BROKEN:
        return None
    if size is None or size[0] < 1 or size[1] < 1:
        return None
    height, width, see_through, frames = size
    return Header(height, width, see_through, turn(file), max(height * width, frames))


def turn(file: BinaryIO, whole: bool = True) -> int:
    """EXIF orientation of a picture, 1 to 8; 1 where it says none.

    Args:
      file: of the picture.
      whole: False for the beginning of a file: 0 then says that the rest is needed.
    """
    try:
        start = _start(file)
        if start == "jpeg":
            exif = next((b[6:] for _, b in _segments(file, (0xE1,)) if b.startswith(b"Exif\0\0")), None)
        elif start == "png":
            exif = next((b for _, b in _chunks(file, (b"eXIf",))), None)
        elif start == "webp":
            exif = next((b.removeprefix(b"Exif\0\0") for _, b in _riff(file, (b"EXIF",))), None)
        else:
            exif = None
        return 1 if exif is None else _orientation(exif)
    except BROKEN:
        return 1 if whole else 0


def turns(encoded: Any) -> Any:
    """EXIF orientations of encoded pictures: string [n] -> int32 [n], for graphs.

    The files are looked at by Python, which is fast for heads alone: the whole is for PNG and the few others whose
    head does not say.
    """

    def of(whole: bool) -> Any:
        return lambda files: np.array([turn(io.BytesIO(f), whole) for f in files], np.int32)

    heads = tf.strings.substr(encoded, 0, HEAD)
    found = tf.numpy_function(of(False), [heads], tf.int32, stateful=False)
    found = tf.ensure_shape(found, encoded.shape)
    rest = tf.where(found == 0)

    def looked_up() -> Any:
        files = tf.gather_nd(encoded, rest)
        more = tf.ensure_shape(tf.numpy_function(of(True), [files], tf.int32, stateful=False), [None])
        return tf.tensor_scatter_nd_update(found, rest, more)

    return tf.cond(tf.size(rest) > 0, looked_up, lambda: found)


def turned(picture: Any, orientation: Any) -> Any:
    """A stored picture [h, w, C] as it is to be seen, for an orientation int32 []; as Pillow's exif_transpose."""

    def change() -> Any:
        swapped = tf.cond(orientation >= 5, lambda: tf.transpose(picture, [1, 0, 2]), lambda: picture)
        across, down = flips(orientation)
        mirrored = tf.cond(across, lambda: tf.reverse(swapped, [1]), lambda: swapped)
        return tf.cond(down, lambda: tf.reverse(mirrored, [0]), lambda: mirrored)

    return tf.cond(orientation > 1, change, lambda: picture)


def flips(orientation: Any) -> tuple[Any, Any]:
    """(left with right, top with bottom): which sides change after axes have; bool [] each."""
    across = tf.reduce_any(orientation == tf.constant([2, 3, 6, 7]))
    return across, tf.reduce_any(orientation == tf.constant([3, 4, 7, 8]))


def _start(file: BinaryIO) -> str:
    file.seek(0)
    head = file.read(12)
    file.seek(0)
    if head[:2] == b"\xff\xd8":
        return "jpeg"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "webp"
    return {b"GIF8": "gif"}.get(head[:4], "bmp" if head[:2] == b"BM" else "")


def _unpack(layout: str, file: BinaryIO) -> tuple[Any, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _segments(file: BinaryIO, wanted: tuple[int, ...]) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of a JPEG's segments before its pixels, of the wanted markers."""
    file.seek(2)
    while True:
        while _unpack("B", file)[0] != 0xFF:  # as decoders do, over what does not belong there
            pass
        marker = 0xFF
        while marker == 0xFF:
            (marker,) = _unpack("B", file)
        if marker in (0xD9, 0xDA):
            return
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD7:  # without content
            continue
        (length,) = _unpack(">H", file)
        after = file.tell() + length - 2
        if marker in wanted:
            yield marker, file.read(max(length - 2, 0))
        file.seek(after)


def _chunks(file: BinaryIO, wanted: tuple[bytes, ...]) -> Iterator[tuple[bytes, bytes]]:
    """(name, content) of a PNG's wanted chunks."""
    file.seek(8)
    while True:
        length, name = _unpack(">I4s", file)
        if name == b"IEND":
            return
        after = file.tell() + length + 4
        if name in wanted:
            yield name, file.read(length)
        file.seek(after)


def _riff(file: BinaryIO, wanted: tuple[bytes, ...]) -> Iterator[tuple[bytes, bytes]]:
    """(name, content) of a WebP's wanted chunks; one without VP8X has a single chunk."""
    file.seek(12)
    if file.read(4) != b"VP8X":
        return
    file.seek(12)
    while True:
        head = file.read(8)
        if not head:
            raise EOFError  # of a head that was cut, or of the file: there is no last chunk
        name, length = struct.unpack("<4sI", head)
        after = file.tell() + length + length % 2
        if name in wanted:
            yield name, file.read(length)
        file.seek(after)


def _orientation(tiff: bytes) -> int:
    """The tag in the first directory of EXIF's bytes."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    (place,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, place)
    for entry in range(place + 2, place + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(f"{order}HHI", tiff, entry)
        if tag == ORIENTATION and kind in NUMBERS and values == 1:
            (found,) = struct.unpack_from(order + NUMBERS[kind], tiff, entry + 8)
            return found if 1 <= found <= 8 else 1
    return 1


def _jpeg_size(file: BinaryIO) -> tuple[int, int, bool, int] | None:
    frames = tuple(m for m in range(0xC0, 0xD0) if m not in (0xC4, 0xC8, 0xCC))
    for _, content in _segments(file, frames):
        height, width = struct.unpack_from(">HH", content, 1)
        return height, width, False, 0
    return None


def _png_size(file: BinaryIO) -> tuple[int, int, bool, int]:
    file.seek(16)
    width, height, _, colours = _unpack(">IIBB", file)
    transparent = colours in (4, 6) or any(n == b"tRNS" for n in _names_before_pixels(file))
    return height, width, transparent, 0


def _names_before_pixels(file: BinaryIO) -> Iterator[bytes]:
    for name, _ in _chunks(file, (b"tRNS", b"IDAT")):
        if name == b"IDAT":
            return
        yield name


def _webp_size(file: BinaryIO) -> tuple[int, int, bool, int] | None:
    file.seek(12)
    name, _ = _unpack("<4sI", file)
    if name == b"VP8X":
        flags, width, height = struct.unpack("<I3s3s", file.read(10))
        sides = (int.from_bytes(side, "little") + 1 for side in (height, width))
        return *sides, bool(flags & 0x10), 0  # type: ignore[return-value]
    if name == b"VP8L":
        _, bits = _unpack("<BI", file)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, bool(bits >> 28 & 1), 0
    if name == b"VP8 ":
        file.seek(26)
        width, height = _unpack("<HH", file)
        return height & 0x3FFF, width & 0x3FFF, False, 0
    return None


def _gif_size(file: BinaryIO) -> tuple[int, int, bool, int]:
    """A decoder takes memory for every frame, and a frame may be larger than the picture says."""
    file.seek(6)
    width, height, flags, _, _ = _unpack("<HHBBB", file)
    file.seek(3 << (flags & 7) + 1 if flags & 0x80 else 0, io.SEEK_CUR)
    pixels = 0
    try:
        while True:
            (kind,) = _unpack("B", file)
            if kind == 0x2C:
                _, _, wide, tall, flags = _unpack("<HHHHB", file)
                pixels += wide * tall
                file.seek((3 << (flags & 7) + 1 if flags & 0x80 else 0) + 1, io.SEEK_CUR)
            elif kind == 0x21:
                file.seek(1, io.SEEK_CUR)
            else:
                break
            while size := _unpack("B", file)[0]:
                file.seek(size, io.SEEK_CUR)
    except struct.error:
        pass  # cut: what is there counts
    return height, width, False, pixels


def _bmp_size(file: BinaryIO) -> tuple[int, int, bool, int] | None:
    file.seek(18)
    width, height, _, depth = _unpack("<iiHH", file)
    if depth <= 8:  # with a palette, which TensorFlow passes over: other colours, and no error
        return None
    return abs(height), abs(width), depth == 32, 0


_SIZES: dict[str, Any] = {
    "jpeg": _jpeg_size,
    "png": _png_size,
    "webp": _webp_size,
    "gif": _gif_size,
    "bmp": _bmp_size,
}
