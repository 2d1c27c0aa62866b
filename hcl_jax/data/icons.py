"""Icons and what they are called: each drawn as an outline, some filled too, with words for it."""

import json
from typing import Any

import numpy as np

from hcl_jax.data import archive
from hcl_jax.data.source import Arrays, unknown_split
from hcl_jax.disk.reading import readable

SHAPE = (64, 64, 1)
LAYOUT = "icons.zip or a folder with icons.json, outline/*.png and filled/*.png"


def icons(data: Any, split: str) -> Arrays:
    """outline and filled uint8 [N, 64, 64, 1], name and caption [N] ("abacus off: counting math ..."); label category.

    The test split is the fifth whose outline's pixels have a sha256 of 0 mod 5: equal pictures are in one split.
    Where an icon is not drawn filled, that picture is zeros and not present.
    """
    if split not in ("train", "test"):
        raise unknown_split(split, ("train", "test"), "icons")
    with archive.opened(data.dir, "icons", LAYOUT, data.max_array_bytes) as (names, read):
        with readable(f"{data.dir} icons.json", "a list of {name, text, category, tags}", ""):
            records = json.loads(read("icons.json"))
            files = [f"{r['name']}.png" for r in records]
            text = [str(r["text"]) for r in records]
            captions = [f"{r['text']}: {' '.join(map(str, r['tags']))}" for r in records]
            categories = [str(r["category"]) for r in records]
        outline = archive.pictures(read, [f"outline/{f}" for f in files], "icons", SHAPE, data.max_pixels)
        keep = [i for i, picture in enumerate(outline) if (archive.fifth(picture.tobytes()) == 0) == (split == "test")]
        there = np.array([f"filled/{files[i]}" in names for i in keep], bool)
        filled = np.zeros((len(keep), *SHAPE), np.uint8)
        if there.any():
            found = [f"filled/{files[i]}" for i, drawn in zip(keep, there, strict=True) if drawn]
            filled[there] = archive.pictures(read, found, "icons", SHAPE, data.max_pixels)
    classes = tuple(sorted(set(categories)))
    number = {name: i for i, name in enumerate(classes)}
    return Arrays(
        fields={
            "outline": outline[keep],
            "filled": filled,
            "name": np.array([text[i] for i in keep], object),
            "caption": np.array([captions[i] for i in keep], object),
        },
        labels={"category": np.array([number[categories[i]] for i in keep], np.int32)},
        classes={"category": len(classes)},
        licence="MIT",
        citation="Tabler Icons 3.51.0",
        present={} if there.all() else {"filled": there},
        class_names={"category": classes},
        names=[files[i] for i in keep],
    )
