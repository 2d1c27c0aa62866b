"""Pictures from files: class folders and emoji."""

import json
import zipfile

import numpy as np
import pytest
from refusals import refused_source as refused

from hcl_jax import data
from hcl_jax.errors import InputError
from hcl_jax.views.lazy import tf


def picture(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    encode = tf.io.encode_png if path.suffix == ".png" else tf.io.encode_jpeg
    path.write_bytes(encode(pixels).numpy())


def one_batch(source, views, size, **more):
    return next(data.batches(source, views, seed=0, batch_size=size, rows=np.arange(size), start=0, stop=1, **more))


@pytest.fixture
def odd(tmp_path):
    """Two classes, four training pictures of odd sizes with all endings, one test picture."""
    sizes = {"cat/1.jpg": (7, 11), "cat/2.JPEG": (33, 5), "dog/1.png": (1, 1), "dog/2.jpeg": (20, 21)}
    for i, (name, size) in enumerate(sizes.items()):
        write(tmp_path / "train" / name, picture(*size, seed=i))
    write(tmp_path / "test" / "dog" / "1.jpg", picture(9, 9))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no picture")
    return tmp_path


@pytest.fixture
def even(tmp_path):
    """Twelve PNGs of 4 x 6 in three classes, and their pixels by path."""
    pixels = {}
    for c in "abc":
        for i in range(4):
            path = tmp_path / "train" / c / f"{i}.png"
            pixels[str(path)] = picture(4, 6, seed=len(pixels))
            write(path, pixels[str(path)])
    return tmp_path, pixels


@pytest.mark.parametrize("in_memory", [True, False])
def test_odd_sizes_become_one_size_by_a_crop(config, view, odd, in_memory):
    source = data.open_source(config(name="folder", dir=str(odd), in_memory=in_memory), "train")
    assert source.fields == {"image": ((), "string")} and source.labels == {"label": 2}
    assert source.class_names == {"label": ("cat", "dog")}
    views = {
        "a": view("image", {"op": "random_resized_crop", "size": 8}),
        "b": view("image", {"op": "centre_crop", "size": 8}),
    }
    batch = one_batch(source, views, 4)
    assert batch["views"]["a"]["image"].shape == (4, 8, 8, 3)
    for row, label in zip(batch["index"], batch["labels"]["label"], strict=True):
        assert source.paths[row].split("/")[:2] == ["train", ("cat", "dog")[label]]
        assert source.describe(row) == str(odd / source.paths[row])


def test_bytes_in_memory_and_files_give_the_same_batches(config, view, odd):
    made = []
    for in_memory in (True, False):
        source = data.open_source(config(name="folder", dir=str(odd), in_memory=in_memory), "train")
        made.append((source.fingerprint, one_batch(source, {"a": view("image", {"op": "centre_crop", "size": 8})}, 4)))
    assert made[0][0] == made[1][0]
    np.testing.assert_array_equal(made[0][1]["views"]["a"]["image"], made[1][1]["views"]["a"]["image"])
    np.testing.assert_array_equal(made[0][1]["labels"]["label"], made[1][1]["labels"]["label"])


def test_one_size_is_decoded_once(config, even):
    folder, pixels = even
    asked = config(name="folder", dir=str(folder))
    source = data.open_source(asked, "train")
    assert source.fields == {"image": ((4, 6, 3), "uint8")}
    record = {k: v.numpy() for k, v in source.fetch(np.arange(12)).items()}
    for i in range(12):
        np.testing.assert_array_equal(record["image"][i], pixels[source.describe(i)])
    # Round the classes: the first n records hold every class.
    np.testing.assert_array_equal(record["label"], np.tile([0, 1, 2], 4))
    few = data.open_source(config(name="folder", dir=str(folder), num_examples=3), "train")
    np.testing.assert_array_equal(few.fetch([0, 1, 2])["label"], [0, 1, 2])
    assert (
        source.fingerprint
        == data.open_source(config(name="folder", dir=str(folder), in_memory=False), "train").fingerprint
    )


def test_no_batch_can_be_made_of_odd_sizes_without_a_crop(config, view, odd):
    source = data.open_source(config(name="folder", dir=str(odd), in_memory=False), "train")
    with pytest.raises(InputError):
        data.batch_specs(source, {"a": view()}, seed=0, batch_size=4)


@pytest.mark.slow(one=True)
def test_damaged_pictures_are_named(config, view, even):
    folder, _ = even
    bad = folder / "train" / "b" / "2.png"
    whole = bad.read_bytes()
    for content in (b"", b"no picture", whole[: len(whole) // 2]):
        bad.write_bytes(content)
        refused(r"b/2.png: found a picture that does not decode", config(name="folder", dir=str(folder)))
        source = data.open_source(config(name="folder", dir=str(folder), in_memory=False), "train")
        views = {"a": view("image", {"op": "centre_crop", "size": 4})}
        with pytest.raises(InputError, match=r"b/2.png: found a picture that does not decode") as error:
            one_batch(source, views, 12)
        assert "\n" not in str(error.value)
    first = folder / "train" / "a" / "0.png"
    bad.write_bytes(whole)
    first.write_bytes(b"")
    refused(r"a/0.png: found a picture that does not decode", config(name="folder", dir=str(folder)))
    source = data.open_source(config(name="folder", dir=str(folder), in_memory=False), "train")
    first.unlink()
    with pytest.raises(InputError, match=r"a/0.png: found unreadable"):
        one_batch(source, views, 12)


def test_bad_folders(config, tmp_path, odd):
    refused("config.data.dir: found nothing", config(name="folder"))
    refused("config.data.dir: found no folder", config(name="folder", dir=str(tmp_path / "none")))
    anywhere = config(name="folder", dir=str(tmp_path / "none"), train_split="", held_out=0.2)
    refused("allowed: a folder with pictures at any depth: .jpg", anywhere)
    asked = config(name="folder", dir=str(odd))
    refused("'valid'; allowed: test, train", asked, split="valid")
    (odd / "test" / "emu").mkdir()
    refused("emu: found a class that the training split lacks; allowed: cat, dog", asked, split="test")
    (odd / "valid").mkdir()
    refused("found no class folder", asked, split="valid")
    (odd / "valid" / "cat").mkdir()
    refused("found no picture", asked, split="valid")


def test_cifar10_from_jpeg_files(config, view, real_data, tmp_path):
    with zipfile.ZipFile(real_data("cifar10.zip")) as archive:
        names = [n for n in archive.namelist() if n.startswith("cifar10/test/") and n.endswith(("00.jpg", "50.jpg"))]
        archive.extractall(tmp_path, names)
    source = data.open_source(config(name="folder", dir=str(tmp_path / "cifar10")), "test")
    assert source.fields == {"image": ((32, 32, 3), "uint8")} and source.labels == {"label": 10}
    assert source.num_examples == len(names) >= 100


EMOJI = [
    {"image": f"{i}.png", "name": f"face {i}", "short_names": [], "category": "ab"[i % 2], "subcategory": "xyz"[i % 3]}
    for i in range(40)
]


@pytest.fixture
def emoji(tmp_path):
    """A folder of 40 emoji of which twitter lacks every fourth."""
    for i, record in enumerate(EMOJI):
        write(tmp_path / "emoji" / "google" / record["image"], picture(64, 64, 4, seed=i))
        if i % 4:
            write(tmp_path / "emoji" / "twitter" / record["image"], picture(64, 64, 4, seed=100 + i))
    (tmp_path / "emoji" / "emoji.json").write_text(json.dumps(EMOJI))
    return tmp_path


def test_emoji_in_a_folder_and_in_a_zip_are_the_same(config, view, emoji):
    with zipfile.ZipFile(emoji / "other.zip", "w") as archive:
        for path in (emoji / "emoji").rglob("*.*"):
            archive.write(path, path.relative_to(emoji))
    labels = ("category", "subcategory")
    wheres = (emoji, emoji / "emoji", emoji / "other.zip")
    made = [data.open_source(config(name="emoji", dir=str(d), labels=labels), "train") for d in wheres]
    test = data.open_source(config(name="emoji", dir=str(emoji), labels=labels), "test")
    train = made[0]
    assert len({m.fingerprint for m in made}) == 1
    assert train.num_examples + test.num_examples == 40 and 3 <= test.num_examples <= 13
    assert train.labels == {"category": 2, "subcategory": 3}
    assert train.fields == {"google": ((64, 64, 4), "uint8"), "twitter": ((64, 64, 4), "uint8"), "name": ((), "string")}
    assert not {train.describe(i) for i in range(train.num_examples)} & {
        test.describe(i) for i in range(test.num_examples)
    }
    views = {"g": view("google"), "t": view("twitter")}
    batch = one_batch(train, views, train.num_examples)
    number = np.array([int(train.describe(i).removesuffix(".png")) for i in batch["index"]])
    np.testing.assert_array_equal(batch["present"]["t"], number % 4 != 0)
    np.testing.assert_array_equal(batch["labels"]["category"], number % 2)
    assert batch["present"]["g"].all(), "the source says which fields a record lacks: listed for all of them"
    assert (batch["views"]["t"]["image"][number % 4 == 0] == 0).all()


def test_bad_emoji(config, emoji):
    asked = config(name="emoji", dir=str(emoji), labels=())
    refused("config.data.dir: found nothing", config(name="emoji", labels=()))
    refused("none, which is no folder and no zip file", config(name="emoji", dir=str(emoji / "none"), labels=()))
    refused("'valid'; allowed: test, train", asked, split="valid")
    refused(
        "config.data.labels: found 'label'; allowed: .* category, subcategory", config(name="emoji", dir=str(emoji))
    )
    for record in EMOJI:
        (emoji / "emoji" / "google" / record["image"]).write_bytes(b"none")
    refused(r"google/\d+.png: found a picture that does not decode", asked)
    (emoji / "emoji" / "emoji.json").write_text('[{"image": 1}]')
    refused("emoji.json: found KeyError", asked)
    (emoji / "emoji" / "emoji.json").unlink()
    refused("no emoji.json", asked)


def test_icons(config, tmp_path):
    """Equal outlines are in one split, a text is the name with its tags, and what is not drawn filled is absent."""
    records = [{"name": f"i-{i}", "text": f"i {i}", "category": "ab"[i % 2], "tags": ["x", f"t{i}"]} for i in range(30)]
    for i, record in enumerate(records):
        write(tmp_path / "icons" / "outline" / f"{record['name']}.png", picture(64, 64, 1, seed=i // 2))
        if i % 3 == 0:
            write(tmp_path / "icons" / "filled" / f"{record['name']}.png", picture(64, 64, 1, seed=100 + i))
    (tmp_path / "icons" / "icons.json").write_text(json.dumps(records))
    asked = config(name="icons", dir=str(tmp_path), labels=("category",))
    numbers = {}
    for split in ("train", "test"):
        source = data.open_source(asked, split)
        record = source.fetch(tf.range(source.num_examples))
        numbers[split] = [int(source.describe(i)[2:-4]) for i in range(source.num_examples)]
        for row, i in enumerate(numbers[split]):
            assert record["name"][row] == f"i {i}".encode() and record["caption"][row] == f"i {i}: x t{i}".encode()
            np.testing.assert_array_equal(record["outline"][row], picture(64, 64, 1, seed=i // 2))
            drawn = np.asarray(record["filled"][row])
            np.testing.assert_array_equal(drawn, picture(64, 64, 1, seed=100 + i) if i % 3 == 0 else 0)
        np.testing.assert_array_equal(source.known_present["filled"], np.array(numbers[split]) % 3 == 0)
    assert sorted(numbers["train"] + numbers["test"]) == list(range(30)) and len(numbers["test"]) > 1
    assert {i // 2 for i in numbers["train"]}.isdisjoint(i // 2 for i in numbers["test"])
    (tmp_path / "icons" / "icons.json").write_text("[]x")
    refused("icons.json: found", asked)


def test_real_icons(config, real_data):
    asked = config(name="icons", dir=real_data("icons.zip"), labels=("category",))
    test = data.open_source(asked, "test")
    assert 900 < test.num_examples < 1200 and test.labels == {"category": 41}


def test_real_emoji(config, real_data):
    asked = config(name="emoji", dir=real_data("emoji.zip"), labels=("category", "subcategory"))
    test = data.open_source(asked, "test")
    assert 340 < test.num_examples < 420 and test.labels == {"category": 10, "subcategory": 99}
