"""Folders of pictures without splits: what is found at any depth, what is a class, and runs without classes."""

import logging

import numpy as np
import pytest
from refusals import refused_source as refused

from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.config.as_found import as_found
from hcl_jax.config.check_views import check_size
from hcl_jax.data.images import stored
from hcl_jax.errors import InputError
from hcl_jax.evaluators import EVALUATORS
from hcl_jax.evaluators.entries import entries
from tests.data.test_pictures import picture, write


@pytest.fixture
def found(tmp_path, config, caplog):
    """make(*paths): (source of pictures at these paths, what was said); other files are empty."""

    def make(*paths, **fields):
        for i, path in enumerate(paths):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            if path.endswith((".png", ".jpg", ".JPG")):
                write(tmp_path / path, picture(4 + i % 2, 6, seed=i))  # of two sizes
            elif not path.endswith(".bmp"):
                (tmp_path / path).write_bytes(b"")
        caplog.clear()
        with caplog.at_level(logging.WARNING, "hcl_jax"):
            source = data.open_source(config(name="folder", dir=str(tmp_path), train_split="", **fields), "")
        return source, [line.partition(": ")[2] for line in caplog.messages]

    return make


def test_folders_are_classes_where_all_pictures_are_in_them(found):
    others = ("a/x.txt", "c/x.txt", ".trash/4.png", "a/.trash/5.png")
    source, said = found("b/1.png", "b/deep/er/2.png", "a/3.JPG", *others)
    assert source.paths == ["a/3.JPG", "b/1.png", "b/deep/er/2.png"]  # round the classes
    assert source.class_names == {"label": ("a", "b")} and source.labels == {"label": 2}
    np.testing.assert_array_equal(source.fetch(np.arange(3))["label"], [0, 1, 1])
    assert said == ["2 files of other types passed over: .txt 2", "1 class folder without a picture: c"]


@pytest.mark.parametrize(
    "paths, why",
    [
        (("2.png", "1.png"), "there are no folders"),
        (("1.png", "a/2.png", "b/3.png"), "1 file of 3 are in no folder"),
        (("a/b/1.png", "a/c/2.png"), "all pictures are in a"),
        (("train/1.png", "test/2.png"), "the folders test, train are splits"),
    ],
)
def test_pictures_without_classes(found, paths, why):
    """All are records, in the order of their paths; the default of data.labels is no fault."""
    for in_memory in (True, False):
        source, said = found(*paths, in_memory=in_memory)
        assert source.paths == sorted(paths) and source.labels == source.class_names == source.known_labels == {}
        assert said == [f"no classes, for {why}"] and set(source.fetch(np.arange(1))) == {"image"}


def test_a_bitmap_is_a_picture_unless_it_has_a_palette(found, tmp_path):
    from PIL import Image

    whole = Image.fromarray(picture(5, 7))
    whole.save(tmp_path / "whole.bmp")
    whole.quantize(8).save(tmp_path / "palette.bmp")
    source, said = found("1.png")
    assert source.paths == ["1.png", "whole.bmp"] and said[0] == "1 file of other types passed over: .bmp 1"
    np.testing.assert_array_equal(stored(source.fetch(np.array([1]))["image"][0], 3), picture(5, 7))


def test_what_is_refused(config, tmp_path):
    asked = dict(name="folder", dir=str(tmp_path), train_split="")
    (tmp_path / "clip.mov").write_bytes(b"")
    refused(r"config.data.dir: found no picture in .*: .mov 1; allowed: .jpg, .jpeg, .png", config(**asked), split="")
    for path in ("train/a/1.png", "train/b/2.png", "test/a/3.png"):
        write(tmp_path / path, picture(4, 4))
    refused(r"data.train_split: found '' for a folder of test, train; allowed: 'train'", config(**asked), split="")
    refused(r"config.data.held_out: found 0.0; allowed: a share above 0", config(**asked))
    for wrong in (tmp_path / "train", tmp_path / "train" / "a"):
        refused(r"data.train_split='' data.held_out=0.2 for pictures", config(name="folder", dir=str(wrong)))


def test_without_classes_evaluation_leaves_out_what_reads_them():
    config = configs.complete(configs.load("simclr:folder"))
    assert as_found(config, {"label": 3}) is config
    kept = entries(as_found(config, {}).evaluate, EVALUATORS)
    assert [e.name for e in kept] == ["spread"] and len(entries(config.evaluate, EVALUATORS)) == 4
    supervised = configs.complete(configs.load("supervised:digits"))
    with pytest.raises(InputError, match="config.objectives.classes: found labels.label, which the data have not"):
        as_found(supervised, {})


def test_one_field_is_the_size_of_all_views():
    config = configs.load("simclr:folder")
    configs.override(config, "data.size", "48")
    made = configs.complete(config)
    specs = (*made.views.values(), *made.evaluate.views.values())
    assert [op["size"] for spec in specs for op in spec.ops if "size" in op] == [48, 48, 48]
    assert configs.complete(made) == made
    configs.override(config, "data.size", "0")
    with pytest.raises(InputError, match="config.data.size: found 0; .* for views.a.ops.0. names no size of its own"):
        check_size(configs.complete(config).to_dict())
