"""Emoji: each drawn by two vendors and named in English, so one record has two pictures and a text."""

import contextlib
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hcl_jax.data.images import decoded, fault_of_header
from hcl_jax.data.limits import check_bytes
from hcl_jax.data.source import Arrays, unknown_split
from hcl_jax.disk.reading import readable
from hcl_jax.errors import InputError
from hcl_jax.views.headers import header

VENDORS = ("google", "twitter")
SIDE = 64
LAYOUT = "emoji.zip or a folder with emoji.json, google/*.png and twitter/*.png"


def emoji(data: Any, split: str) -> Arrays:
    """google and twitter uint8 [N, 64, 64, 4] (RGBA), name [N]; labels category and subcategory.

    The test split is the fifth whose file name's sha256 is 0 mod 5. A vendor may lack an emoji: its picture is then
    zeros and not present.
    """
    if split not in ("train", "test"):
        raise unknown_split(split, ("train", "test"), "emoji")
    with _files(data.dir, data.max_array_bytes) as (names, read):
        if "emoji.json" not in names:
            raise InputError("config.data.dir", f"no emoji.json in {data.dir}", LAYOUT)
        with readable(f"{data.dir} emoji.json", "a list of {image, name, category, subcategory}", ""):
            records = json.loads(read("emoji.json"))
            text = [str(r["name"]) for r in records]
            words = {k: [str(r[k]) for r in records] for k in ("category", "subcategory")}
            files = [str(r["image"]) for r in records]
        keep = [i for i, f in enumerate(files) if (_part(f) == 0) == (split == "test")]
        pictures, present = {}, {}
        for vendor in VENDORS:
            paths = [f"{vendor}/{files[i]}" for i in keep]
            there = np.array([p in names for p in paths], bool)
            pictures[vendor] = np.zeros((len(keep), SIDE, SIDE, 4), np.uint8)
            present[vendor] = there
            if there.any():
                found = [p for p in paths if p in names]
                pictures[vendor][there] = _pictures([read(p) for p in found], found, data.max_pixels)
    class_names = {k: tuple(sorted(set(v))) for k, v in words.items()}
    number = {k: {w: i for i, w in enumerate(v)} for k, v in class_names.items()}
    return Arrays(
        fields={**pictures, "name": np.array([text[i] for i in keep], object)},
        labels={k: np.array([number[k][v[i]] for i in keep], np.int32) for k, v in words.items()},
        classes={k: len(v) for k, v in class_names.items()},
        licence="google: Apache-2.0 and OFL; twitter: CC-BY 4.0; names: MIT",
        citation="Noto Emoji and Twemoji through emoji-datasource 16.0.0",
        present={} if all(p.all() for p in present.values()) else present,
        class_names=class_names,
        names=[files[i] for i in keep],
    )


def _part(file: str) -> int:
    return int.from_bytes(hashlib.sha256(file.encode()).digest()[:8], "big") % 5


def _pictures(encoded: list[bytes], names: list[str], most: int) -> np.ndarray:
    for name, content in zip(names, encoded, strict=True):
        wrong = fault_of_header(name, header(io.BytesIO(content)), most)
        if wrong is not None:
            raise wrong
    pictures = decoded(encoded, channels=4, describe=names.__getitem__)
    if pictures is None or pictures.shape[1:] != (SIDE, SIDE, 4):
        raise InputError("emoji", "pictures of other sizes", f"{SIDE} x {SIDE} pixels")
    return pictures


@contextlib.contextmanager
def _files(path: str, max_bytes: int) -> Iterator[tuple[frozenset[str], Callable[[str], bytes]]]:
    """(names relative to emoji.json's folder, reader) of a zip file or a folder."""
    if not path:
        raise InputError("config.data.dir", "nothing", LAYOUT)
    path = os.path.expanduser(path)
    if os.path.isfile(os.path.join(path, "emoji.zip")):
        path = os.path.join(path, "emoji.zip")
    if os.path.isdir(path):
        root = os.path.join(path, "emoji") if os.path.isdir(os.path.join(path, "emoji")) else path
        found = [
            os.path.relpath(os.path.join(d, f), root).replace(os.sep, "/") for d, _, fs in os.walk(root) for f in fs
        ]

        def read(name: str) -> bytes:
            where = os.path.join(root, name)
            with readable(where, "a whole file"), open(where, "rb") as file:
                return file.read()

        yield frozenset(found), read
        return
    with readable("config.data.dir", LAYOUT, f"{path}, which is no folder and no zip file"):
        archive = zipfile.ZipFile(path)
    with archive:
        inside = archive.namelist()
        root = next((n.removesuffix("emoji.json") for n in inside if n.split("/")[-1] == "emoji.json"), "")

        def unpacked(name: str) -> bytes:
            with readable(f"{path} {name}", "a whole file"):
                check_bytes(f"{path} {name}", archive.getinfo(root + name).file_size, max_bytes)
                return archive.read(root + name)

        yield frozenset(n.removeprefix(root) for n in inside), unpacked
