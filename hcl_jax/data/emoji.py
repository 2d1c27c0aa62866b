"""Emoji: each drawn by two vendors and named in English, so one record has two pictures and a text."""

import json
from typing import Any

import numpy as np

from hcl_jax.data import archive
from hcl_jax.data.source import Arrays, unknown_split
from hcl_jax.disk.reading import readable

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
    with archive.opened(data.dir, "emoji", LAYOUT, data.max_array_bytes) as (names, read):
        with readable(f"{data.dir} emoji.json", "a list of {image, name, category, subcategory}", ""):
            records = json.loads(read("emoji.json"))
            text = [str(r["name"]) for r in records]
            words = {k: [str(r[k]) for r in records] for k in ("category", "subcategory")}
            files = [str(r["image"]) for r in records]
        keep = [i for i, f in enumerate(files) if (archive.fifth(f.encode()) == 0) == (split == "test")]
        pictures, present = {}, {}
        for vendor in VENDORS:
            paths = [f"{vendor}/{files[i]}" for i in keep]
            there = np.array([p in names for p in paths], bool)
            pictures[vendor] = np.zeros((len(keep), SIDE, SIDE, 4), np.uint8)
            present[vendor] = there
            if there.any():
                found = [p for p in paths if p in names]
                pictures[vendor][there] = archive.pictures(read, found, "emoji", (SIDE, SIDE, 4), data.max_pixels)
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
