"""Encoded pictures: formats, sizes, and what a viewer would not show as training sees it."""

import collections
import io
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from hcl_jax.check.oddities import Oddities
from hcl_jax.data import images
from hcl_jax.views.lazy import tf

ORIENTATION = 0x0112  # EXIF's tag
NAMES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".gif": "GIF", ".webp": "WEBP"}
LONG, SMALL = 4, 8  # sides that differ by more; smaller than the median by more


class Header(NamedTuple):
    """What the head of a file says."""

    format: str
    size: tuple[int, int]
    odd: tuple[str, ...]


class Encoded:
    """Pictures as files hold them.

    Args:
      describe: record number -> its file.
    """

    def __init__(self, describe: Callable[[int], str]):
        self.describe, self.odd = describe, Oddities()
        self.formats: collections.Counter[str] = collections.Counter()
        self.sizes: list[tuple[int, int]] = []
        self.numbers: list[int] = []
        self.bad: list[int] = []

    def add(self, numbers: np.ndarray, values: np.ndarray) -> None:
        """Looks at the bytes of some records."""
        with ThreadPoolExecutor() as pool:  # decoding lets go of the interpreter
            pixels = list(pool.map(_pixels, values))
        for number, content, fault in zip(numbers.tolist(), values, pixels, strict=True):
            if fault == "does not decode":
                self.bad.append(number)
                continue
            kinds = [fault] if fault else []
            head = header(content)
            if head:
                self.formats[head.format] += 1
                self.sizes.append(head.size)
                self.numbers.append(number)
                kinds += head.odd
                ending = os.path.splitext(self.describe(number))[1].lower()
                if NAMES.get(ending, head.format) != head.format:
                    kinds.append(f"{head.format} named {ending}")
            for kind in kinds:
                self.odd.note(kind, [number])

    def summary(self) -> str:
        """Formats and sizes."""
        formats = ", ".join(f"{n:,} {f}" for f, n in self.formats.most_common()) or "no picture that decodes"
        if not self.sizes:
            return formats
        wide, high = np.array(self.sizes).T
        if len(set(self.sizes)) == 1:
            return f"{formats}; {wide[0]} x {high[0]} pixels"
        low, most = (self.sizes[i] for i in (np.argmin(wide * high), np.argmax(wide * high)))
        middle = f"{int(np.median(wide))} x {int(np.median(high))}"
        return f"{formats}; {low[0]} x {low[1]} to {most[0]} x {most[1]} pixels, median {middle}"

    def oddities(self) -> list[str]:
        """Lines of what is odd."""
        if self.sizes:
            numbers, sides = np.array(self.numbers), np.array(self.sizes)
            short, long = sides.min(axis=1), sides.max(axis=1)
            self.odd.note(f"with one side more than {LONG} times the other", numbers[long > LONG * short])
            small = short * SMALL < np.median(short)
            self.odd.note(f"less than 1/{SMALL} of the median size", numbers[small])
        self.odd.note("that do not decode", self.bad)
        return self.odd.lines(self.describe)


def header(content: bytes) -> Header | None:
    """What the head of a picture's file says; None where it is no head that Pillow knows."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                odd = []
                if image.getexif().get(ORIENTATION, 1) not in (0, 1):
                    odd.append("with an EXIF orientation")
                if getattr(image, "is_animated", False):
                    odd.append("of several frames, of which the first is read")
                if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                    odd.append("with transparency")
                if image.mode in ("CMYK", "YCCK"):
                    odd.append("in CMYK, read as RGB")
                if image.mode.startswith(("I", "F")):
                    odd.append("of more than 8 bits a channel, of which the upper 8 are read")
                return Header(str(image.format), image.size, tuple(odd))
    except Exception:  # a damaged file may raise anything here
        return None


def _pixels(content: bytes) -> str:
    """ "does not decode", "of one colour", or ""."""
    try:
        picture = images.decode(tf.constant(content), 3).numpy()
    except (tf.errors.OpError, ValueError):
        return "does not decode"
    return "of one colour" if (picture == picture[0, 0]).all() else ""
