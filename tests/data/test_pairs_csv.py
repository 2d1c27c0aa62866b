"""Pictures and texts by a table: what a row becomes, rows of one picture, and tables that are refused."""

import numpy as np
import pytest
from refusals import refused_source as refused

from hcl_jax import config as configs
from hcl_jax import data
from tests.data.test_pictures import one_batch, picture, write

ROWS = 40


@pytest.fixture
def table(tmp_path):
    """A table of 40 rows that name 20 pictures of two sizes, each twice; its separators are tabs."""
    for i in range(ROWS // 2):
        write(tmp_path / "pictures" / f"{i}.png", picture(4 + i % 2, 6, seed=i))
    lines = [f'pictures/{i // 2}.png\tnumber "{i}"\t{i}' for i in range(ROWS)]
    (tmp_path / "pairs.tsv").write_text("\n".join(["filepath\ttitle\tmore", *lines]))
    return tmp_path / "pairs.tsv"


@pytest.fixture
def asked(config, table):
    return lambda **fields: config(**{"name": "pairs_csv", "dir": str(table), "text": "title", "labels": (), **fields})


def test_a_row_is_a_picture_and_its_text(asked, table, view):
    made = [data.open_source(asked(in_memory=there), "train") for there in (True, False)]
    assert made[0].fingerprint == made[1].fingerprint and made[0].paths[:3] == [f"pictures/{i}.png" for i in (0, 0, 1)]
    for source in made:
        got = source.fetch(np.array([5, 39]))
        assert got["text"].numpy().tolist() == [b'number "5"', b'number "39"']
        wanted = [(table.parent / "pictures" / f"{i}.png").read_bytes() for i in (2, 19)]
        assert got["image"].numpy().tolist() == wanted
    specs = {"image": view("image", {"op": "resize", "size": 8}), "text": view("text", {"op": "tokens", "length": 9})}
    specs["text"]["kind"] = "text"
    batch = one_batch(made[1], specs, 4)["views"]
    assert batch["image"]["image"].shape == (4, 8, 8, 3) and batch["text"]["tokens"].shape == (4, 9)


def test_rows_of_one_picture_are_held_out_together(asked):
    train, test = (data.open_source(asked(held_out=0.3), split) for split in ("train", "test"))
    assert train.num_examples + test.num_examples == ROWS
    assert not set(train.paths) & set(test.paths) and len(set(test.paths)) * 2 == test.num_examples


def test_another_text_or_picture_is_another_table(asked, table):
    before = data.open_source(asked(), "train").fingerprint
    text = table.read_text()
    for changed in (text.replace('number "7"', "number 7"), text.replace("pictures/7.png", "pictures/8.png")):
        table.write_text(changed)
        assert data.open_source(asked(), "train").fingerprint != before


def test_what_is_refused(asked, table):
    refused("found no column 'caption'; allowed: columns", asked(text="caption"))
    refused("found no column 'file'; allowed: columns title, filepath", asked(picture="file"))
    refused("config.data.text: found 'title, more'; allowed: one column", asked(text="title, more"))
    refused("config.data.labels: found 'x'", asked(labels=("x",)))
    refused("data.test_split: found 'test'; allowed: 'train', for data.dir is one table", asked(), split="test")
    refused("config.data.dir: found .*; allowed: a .csv or .tsv", asked(dir=str(table.parent / "pictures" / "0.png")))
    (table.parent / "pictures").rename(table.parent / "moved")
    refused(r"pairs.tsv: found 40 of 40 files that are not there, the first .*0.png", asked())
    (table.parent / "train.csv").write_text("title,filepath\na,moved/3.png\nb,nowhere.png\n")
    source = data.open_source(asked(dir=str(table.parent), in_memory=False), "train")  # of which one is a bad record
    assert source.paths == ["moved/3.png", "nowhere.png"]


def test_the_columns_of_the_recipe_are_those_of_open_clip():
    spec = configs.load("clip:csv").data
    assert (spec.picture, spec.text) == ("filepath", "title")
