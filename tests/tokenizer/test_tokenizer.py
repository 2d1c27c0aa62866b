"""python -m hcl_jax.tokenizer: learned from the training texts, written where the recipe reads it, over no file."""

import json

import numpy as np
import pytest

from hcl_jax.tokenizer.__main__ import main
from hcl_jax.tokenizer.learning import texts_of
from hcl_jax.views import tokenizers


@pytest.fixture
def run(tmp_path, capsys):
    """run(*flags): (status, what the command says) for pairs of tmp_path; test texts have words of their own."""
    image = np.zeros((12, 8, 8, 1), np.uint8)
    for split, word in (("train", "seal"), ("test", "zebu")):
        np.savez(tmp_path / f"{split}.npz", image=image, text=np.array([f"the {word} {word} {i}" for i in range(12)]))

    def call(*flags):
        status = main(["--config=clip:pairs", f"--config.data.dir={tmp_path}", *flags])
        said = capsys.readouterr()
        return status, (said.err if status else said.out).strip().replace(str(tmp_path), "DIR")

    return call


def test_it_learns_from_the_training_texts(run, tmp_path):
    path = tmp_path / "t.json"
    status, said = run("--vocabulary=280", f"--config.data.tokenizer={path}")
    assert status == 0 and said.startswith("DIR/t.json: 2") and "from 12 texts of view text" in said
    known = json.loads(path.read_text())["model"]["vocab"]
    assert "\u0120seal" in known and not any("z" in word for word in known if len(word) > 1)
    assert 260 < tokenizers.vocabulary_size(str(path)) <= 280
    first = path.read_bytes()
    status, said = run("--vocabulary=280", f"--config.data.tokenizer={path}")
    assert status == 2 and "found a file that is there" in said and path.read_bytes() == first
    assert run("--vocabulary=280", f"--output={tmp_path / 'u.json'}")[0] == 0
    assert (tmp_path / "u.json").read_bytes() == first


def test_faults_are_one_line(run, tmp_path):
    output = f"--output={tmp_path / 't.json'}"
    for flags, found in (
        ((), "--output: found nothing; allowed: a new file"),
        ((output,), "vocab_size: found 259; allowed: a whole number of at least 260"),
        ((output, "--vocabulary=2147483648"), "vocab_size: found 2147483648; allowed: a whole number"),
        ((output, "--view=image"), "--view: found 'image'; allowed: text"),
        (
            (f"--output={tmp_path}/none/t.json",),
            "--output=DIR/none/t.json: found no folder DIR/none; allowed: a file in a",
        ),
        ((output, "--config.views.text.field=image"), "config.views.text.field: found 'image', which is no text;"),
    ):
        status, said = run(*flags)
        assert status == 2 and "\n" not in said and found in said, said
    assert not (tmp_path / "t.json").exists()


def test_of_many_texts_some_are_read():
    from hcl_jax import config as configs
    from hcl_jax.data.source import Arrays, from_arrays

    arrays = Arrays({"text": np.array([f"t{i}" for i in range(100)], object)}, {}, {}, "", "")
    spec = configs.defaults().data
    spec.labels = ()
    source = from_arrays("made", arrays, spec, "train")
    assert list(texts_of(source, "text", 4)) == ["t0", "t33", "t66", "t99"]
    assert list(texts_of(source, "text")) == [f"t{i}" for i in range(100)]
