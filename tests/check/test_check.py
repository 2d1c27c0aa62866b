"""The look at data before a run: what is odd is named, what a run would refuse is refused, nothing is written."""

import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.check.__main__ import main as check
from hcl_jax.check.look import look
from hcl_jax.main import main
from hcl_jax.prepare import introduction, prepare
from hcl_jax.run import Parts


def opened(arrays, folder, split="train"):
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"{split}.npz", **arrays)
    config = configs.defaults().data
    config.name, config.dir, config.labels = "npz", str(folder), [k for k in arrays if k.startswith("label")]
    return data.open_source(config, split)


def picture(path, shape=(40, 48, 3), seed=0, value=None, **saved):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels if value is None else np.full_like(pixels, value)).save(path, **saved)


@pytest.fixture(scope="module")
def oddities(tmp_path_factory):
    """A folder with twenty oddities, and what each line about them must hold."""
    root = tmp_path_factory.mktemp("pictures")
    cat, dog = root / "train/cat", root / "train/dog"
    seeds = iter(range(1000))
    for split in ("train", "test"):
        for name in ("cat", "dog", "Dog"):
            for number in range(4):
                picture(root / split / name / f"{number}.png", seed=next(seeds))
    picture(cat / "deeper/a.png", seed=next(seeds))
    (cat / "a.bmp").write_bytes(b"BM")
    (cat / "._a.png").write_bytes(b"x")
    os.symlink("/nowhere.png", cat / "link.png")
    (root / "train/empty").mkdir()
    picture(root / "train/single/a.png", seed=next(seeds))
    (root / "train/loose.jpg").write_bytes(b"x")
    (cat / "zero.jpg").write_bytes(b"")
    picture(cat / os.fsdecode(b"caf\xe9.png"), seed=next(seeds))
    picture(cat / "clear.png", (40, 48, 4), seed=next(seeds))
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 48, 4), np.uint8), "CMYK").save(cat / "ink.jpg")
    Image.fromarray(np.random.default_rng(2).integers(0, 2**16, (40, 48)).astype(np.uint16)).save(cat / "sixteen.png")
    frames = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 48, 3), np.uint8)) for i in (3, 4)]
    frames[0].save(cat / "moving.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(dog / "turned.jpg", seed=next(seeds), exif=exif)
    picture(dog / "tiny.png", (2, 2, 3), seed=next(seeds))
    picture(dog / "long.png", (20, 400, 3), seed=next(seeds))
    picture(dog / "black.png", value=0)
    picture(dog / "png.jpg", seed=next(seeds), format="PNG")
    shutil.copy(dog / "0.png", dog / "again.png")
    shutil.copy(dog / "1.png", cat / "other.png")
    shutil.copy(dog / "2.png", root / "test/dog/leak.png")
    return root, [
        "1 file in folders below a class: train/cat/deeper/a.png",
        r"\.bmp 1",
        "hidden 1",
        r"1 cannot be read: .*link\.png",
        "1 class folder without a picture: empty",
        "1 with a single record: single",
        "1 file outside",
        r"1 undecodable: .*zero\.jpg",
        "1 file whose name is not UTF-8: train/cat/caf",
        "1 with transparency: .*clear",
        "1 in CMYK.*ink",
        "1 of more than 8 bits.*sixteen",
        "1 of several frames.*moving",
        "1 with an EXIF orientation.*turned",
        "1 less than 1/8 of the median size.*tiny",
        "1 with one side more than 4 times the other.*long",
        "1 of one colour.*black",
        r"1 PNG named \.jpg",
        r"1 equal to an earlier one: .*again",
        "1 equal to one of another class: .*other",
        "1 of 13 in the training.*leak",
        "'Dog' and 'dog'",
    ]


FLAGS = ["--config=simclr:cifar10", "--config.data.name=folder", "--config.data.batch_size=16",
         "--config.evaluate.batch_size=16"]  # fmt: skip


def test_each_of_twenty_oddities_of_a_folder_has_a_line(oddities, capsys):
    root, expected = oddities
    assert check([*FLAGS, f"--config.data.dir={root}"]) == 0
    printed = capsys.readouterr().out
    odd = [line for line in printed.splitlines() if line.startswith("! ")]
    missing = [pattern for pattern in expected if not any(re.search(pattern, line) for line in odd)]
    assert not missing, printed
    assert re.search(r"knn: +\d+ training and 13 test rows, 4 classes of label", printed)


def test_more_bad_records_than_a_run_replaces_are_refused_before_it_trains(oddities, tmp_path, capsys):
    root, _ = oddities
    flags = [*FLAGS, f"--config.data.dir={root}", "--config.data.max_bad_records=1", "--config.data.in_memory=False"]
    assert check(flags) == 2
    said = capsys.readouterr().err.splitlines()[-1]  # before it come warnings, on stderr until a run has made a handler
    assert main([*flags, f"--workdir={tmp_path / 'run'}"]) == 2
    assert said == capsys.readouterr().err.splitlines()[-1]
    assert "and 1 more bad records of" in said and "config.data.max_bad_records" in said
    assert not (tmp_path / "run").exists()


SERIES = np.random.default_rng(0).normal(size=(8, 10, 2)).astype(np.float32)
SERIES[0, :, 1], SERIES[1], SERIES[2, 6:] = np.nan, 3.0, np.nan
SCALES = SERIES[3:] * np.array([1.0, 1e-4], np.float32)
FEATURES = np.eye(8, 5, dtype=np.float32)
KINDS = {
    "series": ({"series": SERIES}, ["6 to 10, median 10 steps, 2 channels", "% of the values are missing",
                                    "1 with a channel that has no value: record 0",
                                    "1 with all channels constant: record 1"]),
    "scales": ({"series": SCALES}, ["data.standardise"]),
    "dead channel": ({"series": SCALES * np.array([1, 0], np.float32)}, ["1 of 2 channels have one value: 1"]),
    "an offset": ({"series": SCALES * np.array([1, 0], np.float32) + np.float32(273.15)},
                  ["1 of 2 channels have one value: 1"]),
    "ids for classes": ({"features": FEATURES, "label": np.array([0, 2**31 - 1] * 4)},
                        ["of 2,147,483,648 classes 2,147,483,646 without a record: 1, 2, 3, ..."]),
    "texts": ({"text": np.array(["a b", "", "a b", "c\x00d", "\ufffd", "e", "f", "g"])},
              ["1 without a letter: record 1", "2 with a text that occurs more than once: 'a b' 2 times",
               "1 with a control character: record 3", "1 not in UTF-8: record 4"]),
    "tokens": ({"tokens": np.array([[1, 2, 0], [0, 0, 0], [7, 7, 7]] + [[3, 0, 0]] * 5)},
               ["0 to 7; lengths 0 to 3, median 1", "1 of padding alone: record 1", "4 equal to an earlier one"]),
    "features": ({"features": FEATURES}, ["1 of one value: record 5", "3 equal to an earlier one"][:0] + ["0 to 1"]),
    "dead column": ({"features": FEATURES * [1, 1, 0, 1, 1]}, ["1 of 5 columns have one value"]),
    "classes": ({"features": FEATURES, "label": np.array([0, 0, 0, 0, 0, 3, -1, -1])},
                ["0: 5, 1: 0, 2: 0, 3: 1; -1, unknown: 2", "of 4 classes 2 without a record: 1, 2",
                 "of 4 classes 1 with a single record: 3", "2 of 8 records are -1"]),
    "other class": ({"features": FEATURES, "label": np.array([0, 1] * 4)}, ["equal to one of another class"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_odd_of_each_kind_is_named(kind, tmp_path):
    arrays, expected = KINDS[kind]
    page = look({"train": opened(arrays, tmp_path / "data")}).text()
    missing = [text for text in expected if text not in page]
    assert not missing, page


def test_classes_of_the_test_split_alone_are_named(tmp_path):
    splits = {
        split: opened({"features": FEATURES, "label": np.arange(8) % count}, tmp_path / "data", split)
        for split, count in (("train", 2), ("test", 3))
    }
    assert "test label: 2 records of 1 classes that no training record has: 2" in look(splits).odd


def test_a_sample_is_drawn_by_the_seed_and_says_how_many_it_read(tmp_path):
    source = opened({"features": np.arange(50.0).reshape(50, 1), "label": np.arange(50) % 5}, tmp_path / "data")
    pages = [look({"train": source}, most=10, seed=seed).text().split("took")[0] for seed in (0, 0, 1)]
    assert pages[0] == pages[1] != pages[2]
    assert "50 records of npz, 10 looked at" in pages[0]
    assert "50 records of npz, 50 looked at" in look({"train": source}, most=50).text()


def test_token_ids_without_a_vector_are_refused(tmp_path):
    source = opened({"tokens": np.array([[5, 9]])}, tmp_path / "data")
    refusals = [
        look({"train": source}, vocabularies={"tokens": (size, "towers.a.vocab_size")}).refusal for size in (9, 10)
    ]
    assert str(refusals[0]) == "towers.a.vocab_size: found 9, and train tokens holds 9; allowed: at least 10"
    assert refusals[1] is None


@pytest.mark.parametrize("recipe", ["grace:blocks", "graphcl:motifs"])
def test_graphs_are_counted(recipe, capsys):
    assert check([f"--config={recipe}"]) == 0
    assert re.search(r"nodes.*edges", capsys.readouterr().out)


def test_a_run_says_at_its_start_what_is_odd(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), np.uint8)
    opened({"image": pixels, "label": np.arange(16) % 2}, tmp_path / "data", "train")
    opened({"image": pixels[::-1], "label": np.arange(16) % 2}, tmp_path / "data", "test")
    config = configs.load("simclr:digits")
    for field, text in {"name": "npz", "dir": str(tmp_path / "data"), "batch_size": "8"}.items():
        configs.override(config, f"data.{field}", text)
    config.evaluate.evaluators = {"knn": {"k": 3}}
    config.train.epochs = 1.5
    prepared = prepare(configs.complete(config), tmp_path / "run", Parts(), None)
    lines, _ = introduction(prepared, tmp_path / "run", 0)
    assert lines[0] == f"data     {prepared.source.name}, 16 records, 16 to evaluate; label, 2 classes of 8"
    assert lines[1] == "run      3 steps of 8 rows, 1.5 epochs" and lines[4] == f"results  {tmp_path / 'run'}"
    assert re.fullmatch(r"weights  image [\d,]{6,}", lines[3])
    assert any(
        line.startswith("data: test image: 16 of 16 in the training split too: record 0 = rec") for line in lines
    )
    many, _ = introduction(prepared._replace(odd=tuple("abcdefghij")), tmp_path / "run", 0)
    assert many[-3:] == ["data: g", "data: h", "data: 2 more such lines; python -m hcl_jax.check shows all"]


def test_a_tracker_that_is_not_there_is_refused_as_a_run_does(capsys):
    """Else the page says that all is well, and the run is refused."""
    assert check(["--config=simclr:digits", "--config.log.trackers=('mlflo',)"]) == 2
    assert "config.log.trackers: found 'mlflo'" in capsys.readouterr().err
