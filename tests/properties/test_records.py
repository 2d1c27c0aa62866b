"""Records in = records out: each line of a table and each picture of a folder is a record, or counted."""

import csv
import logging
import pathlib
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcl_jax import data
from hcl_jax.config import defaults

pytestmark = pytest.mark.seconds(90)  # a thousand examples
# Text as people have it and worse: quotation marks, separators, blanks, accents, other alphabets, controls.
letters = st.characters(exclude_categories=["Cs"], exclude_characters="\x00") | st.sampled_from("\"',;\t |\\#\n\r")
texts = st.text(letters, max_size=12)
# A .tsv has no quotation: what separates its records and columns cannot be in one.
plain_texts = st.text(letters.filter(lambda c: c not in "\t\n\r"), max_size=12)
labels = st.integers(0, 3)
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92ef"
    "0000000049454e44ae426082"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("generated")


def source(name, folder, **fields):
    c = defaults().data
    c.update({"name": name, "dir": str(folder), **fields})
    return data.open_source(c, "train")


def whole(made):
    return {k: v.numpy() for k, v in made.fetch(np.arange(made.num_examples)).items()}


def check_table(folder, records):
    made = source("csv", folder)
    found = whole(made)
    assert [t.decode() for t in found["text"]] == [text for text, _ in records]
    # Classes are numbered as they are: 0 to the largest.
    assert found["label"].tolist() == [label for _, label in records]


@given(st.lists(st.tuples(texts, labels), min_size=1, max_size=8))
def test_csv(folder, records):
    for name in ("train", "test"):
        with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([("text", "label"), *records])
    check_table(folder, records)


@given(st.lists(st.tuples(plain_texts, labels), min_size=1, max_size=8), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_tsv(tmp_path_factory, records, end, ended):
    folder = tmp_path_factory.getbasetemp() / "tables"
    folder.mkdir(exist_ok=True)
    lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in records)]
    for name in ("train", "test"):
        with open(folder / f"{name}.tsv", "w", encoding="utf-8", newline="") as file:
            file.write(end.join(lines) + end * ended)
    check_table(folder, records)


names = st.text(st.characters(codec="utf-8", exclude_characters="/\x00"), min_size=1, max_size=6)
endings = st.sampled_from([".png", ".PNG", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".txt", ""])
files = st.tuples(st.sampled_from(["cat", "dog"]), st.lists(names, max_size=2), names, endings)


@given(st.lists(files, max_size=6))
def test_pictures_in_folders(folder, paths):
    """At any depth, of any name: a record each, or counted as another type."""
    root = folder / "pictures"
    shutil.rmtree(root, ignore_errors=True)
    made = set()
    for parts in [("cat", [], "first", ".png"), ("dog", [], "first", ".png"), *paths]:
        path = root / "train" / parts[0] / pathlib.Path(*parts[1]) / (parts[2] + parts[3])
        if ".." in path.parts or path.is_relative_to(root / "train") is False:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_bytes(PNG)
                made.add(path)
        except (NotADirectoryError, FileExistsError, IsADirectoryError):  # a file of that name is there
            continue
    said = Said()
    logging.getLogger("hcl_jax").addHandler(said)
    try:
        found = source("folder", root, in_memory=False)
    finally:
        logging.getLogger("hcl_jax").removeHandler(said)
    kinds = {".png", ".jpg", ".jpeg", ".gif", ".webp"}
    pictures = [p for p in made if p.name.lower().endswith(tuple(kinds)) and not p.name.startswith(".")]
    counts = [sum(p.relative_to(root).parts[1] == c for p in pictures) for c in ("cat", "dog")]
    assert found.num_examples == len(pictures)
    assert np.bincount(found.known_labels["label"], minlength=2).tolist() == counts
    assert any("passed over" in line for line in said.lines) == (len(pictures) < len(made))


class Said(logging.Handler):
    """The lines of the log."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())
