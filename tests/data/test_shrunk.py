"""Large pictures made small once: their size, colours and turn, what stays as it is, and both ways of reading."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from hcl_jax import data
from hcl_jax.check.encoded import Encoded
from hcl_jax.data.images import stored
from hcl_jax.data.shrunk import all_shrunk

SIDE = 24


def smooth(height, width, channels=3):
    """A picture whose colours change slowly, so that any good resizing gives nearly the same."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    planes = [255 * y, 255 * x, 127 + 60 * np.sin(5 * (x + y)), 255 * (1 - y)][:channels]
    return Image.fromarray(np.stack(planes, 2).astype(np.uint8))


def file(picture, kind="JPEG", **more):
    out = io.BytesIO()
    picture.save(out, kind, **more)
    return out.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif, "quality": 95}


@pytest.mark.parametrize(
    "kind, channels, size, more",
    [
        ("JPEG", 3, (200, 300), {"quality": 95}),  # decoded at an eighth
        ("JPEG", 3, (60, 50), {"quality": 95}),  # at a half
        ("JPEG", 3, (60, 90), turned(6)),
        ("PNG", 3, (50, 90), {}),
        ("PNG", 4, (50, 90), {}),
    ],
)
def test_a_large_picture_is_resized_as_pillow_does(kind, channels, size, more):
    picture = smooth(*size, channels)
    (made,) = all_shrunk([file(picture, kind, **more)], SIDE, True, 10**6)
    found = Image.open(io.BytesIO(made))
    seen = ImageOps.exif_transpose(Image.open(io.BytesIO(file(picture, kind, **more))))
    scale = SIDE / min(size)
    wanted = seen.resize((round(seen.width * scale), round(seen.height * scale)), Image.Resampling.BILINEAR)
    assert min(found.size) == SIDE and found.size == wanted.size and len(found.getbands()) == channels
    assert np.abs(np.asarray(found, float) - np.asarray(wanted, float)).mean() < 3


def test_small_and_damaged_pictures_stay():
    files = [file(smooth(SIDE, 90)), file(smooth(60, 60))[:300], b"no picture", file(smooth(70, 70), "PNG")]
    assert all_shrunk(files, SIDE, True, 4000) == files  # the last has too many pixels


def test_files_and_memory_give_the_same_bytes(config, tmp_path):
    for i, size in enumerate([(60, 90), (20, 30), (50, 40)]):
        (tmp_path / f"{i}.jpg").write_bytes(file(smooth(*size), **turned(8)))
    fields = dict(name="folder", dir=str(tmp_path), train_split="", shrink=SIDE)
    made = [data.open_source(config(in_memory=there, **fields), "") for there in (True, False)]
    images = [source.fetch(np.arange(3))["image"].numpy() for source in made]
    assert images[0].tolist() == images[1].tolist() and made[0].fingerprint == made[1].fingerprint
    assert [stored(i, 3).shape for i in images[0]] == [(36, 24, 3), (20, 30, 3), (24, 30, 3)]
    plain = data.open_source(config(**{**fields, "shrink": 0}), "")
    assert plain.fingerprint != made[0].fingerprint


def test_a_shrunk_picture_is_not_called_misnamed(config, tmp_path):
    """It is a JPEG in memory, whatever its file is; a file of another format than its name is still said without."""
    (tmp_path / "0.png").write_bytes(file(smooth(60, 90), "PNG"))
    (tmp_path / "1.png").write_bytes(file(smooth(60, 80)))
    for shrink, said in ((SIDE, 0), (0, 1)):
        source = data.open_source(config(name="folder", dir=str(tmp_path), train_split="", shrink=shrink), "")
        seen = Encoded(source)
        seen.add(np.arange(2), source.fetch(np.arange(2))["image"].numpy())
        assert sum("named" in line for line in seen.odd.lines(source.describe)) == said
