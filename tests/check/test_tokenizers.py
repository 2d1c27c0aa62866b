"""Tokenizers and encoders that do not fit are refused before a run begins, in one line."""

import numpy as np
import pytest

from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.check.__main__ import main as check
from hcl_jax.losses import LOSSES
from hcl_jax.prepare import plain_inputs
from hcl_jax.views import tokenizers


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A folder with 16 pairs and two tokenizers of 300 ids: a learned one, and one whose id 0 is a word."""
    folder = tmp_path_factory.mktemp("pairs")
    image = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), np.uint8)
    for split in ("train", "test"):
        np.savez(folder / f"{split}.npz", image=image, text=np.array([f"the cat {i}" for i in range(16)]))
    texts = [f"{a}{b}{c} the cat" for a in "abcdef" for b in "ghijkl" for c in "mno"]
    assert tokenizers.train_bpe(texts, 300, str(folder / "learned.json")) == 300
    text = (folder / "learned.json").read_text()
    (folder / "foreign.json").write_text(text.replace("[PAD]", "<word>"))
    return folder


def line(capsys, pairs, tokenizer, **fields):
    flags = {"data.dir": pairs, "data.batch_size": 8, "data.tokenizer": tokenizer, **fields}
    status = check(["--config=clip:pairs", *(f"--config.{k}={v}" for k, v in flags.items())])
    return status, capsys.readouterr().err.strip()


def test_a_table_that_is_too_short(pairs, capsys):
    encoder = "towers.text.encoder"
    status, found = line(capsys, pairs, pairs / "learned.json", **{f"{encoder}.vocab_size": 299})
    assert status == 2 and "\n" not in found
    assert f"{encoder}.vocab_size: found 299; allowed: at least 300, for the ids of {pairs}/learned.json" in found
    assert line(capsys, pairs, pairs / "learned.json", **{f"{encoder}.vocab_size": 300}) == (0, "")
    status, found = line(capsys, pairs, pairs / "foreign.json", **{f"{encoder}.vocab_size": 300})
    assert status == 2 and "at least 301" in found and "moved up by one" in found


def test_kept_ids_need_an_encoder_that_hides_no_padding(pairs, capsys):
    """The word at 0 would be taken for padding."""
    ops = "({'op': 'tokens', 'length': 16, 'keep_ids': True},)"
    fields = {"towers.text.encoder.vocab_size": 300, "views.text.ops": ops, "evaluate.views.text.ops": ops}
    status, found = line(capsys, pairs, pairs / "foreign.json", **fields)
    assert status == 2 and "encoder.hide_padding: found True; allowed: False, for 0 is the token '<word>'" in found
    kept = {**fields, "towers.text.encoder.hide_padding": "False"}
    assert line(capsys, pairs, pairs / "foreign.json", **kept) == (0, "")


def test_a_tokenizer_that_no_op_takes(pairs, capsys):
    ops = "({'op': 'tokens', 'length': 16, 'tokenizer': 'bytes'},)"
    named = {"views.text.ops": ops, "evaluate.views.text.ops": ops}
    status, found = line(capsys, pairs, pairs / "learned.json", **named)
    assert status == 2 and found.endswith("allowed: 'bytes', for no op tokens takes it")


def test_a_run_of_before_named_what_it_would_take_anyway():
    """The command that began it goes on with it."""
    config = configs.complete(configs.load("clip:emoji"))
    before = configs.complete(configs.load("clip:emoji"))
    with before.unlocked():
        before.views.text.ops = ({**before.views.text.ops[0], "tokenizer": "bytes"},)
    assert configs.differences(config, before) != {}
    assert configs.differences(*(plain_inputs(LOSSES, c) for c in (config, before))) == {}


def test_no_file(pairs, capsys):
    status, found = line(capsys, pairs, pairs / "none.json")
    assert status == 2 and found.startswith("hcl_jax: config.data.tokenizer: found ") and "merges" in found


def test_the_file_is_part_of_the_fingerprint(pairs, tmp_path):
    """Wherever it lies; of "bytes" nothing is added."""

    def opened(tokenizer):
        fields = configs.defaults().data
        fields.update({"name": "npz", "dir": str(pairs), "labels": (), "tokenizer": str(tokenizer)})
        return data.open_source(fields, "train").fingerprint

    moved, changed = tmp_path / "moved.json", tmp_path / "changed.json"
    moved.write_bytes((pairs / "learned.json").read_bytes())
    changed.write_bytes(moved.read_bytes() + b"\n")
    plain, learned = opened("bytes"), opened(pairs / "learned.json")
    assert learned == opened(moved) == f"{plain}, tokenizer {tokenizers.load(str(moved)).digest}"
    assert learned != opened(changed)
