"""Tokenizers of files: CLIP's merges against loops, ids of published tables, digests, and files that are none."""

import gzip
import itertools
import json
import re
import sys
import unicodedata

import numpy as np
import pytest

from hcl_jax.errors import InputError
from hcl_jax.views import Draws, make_view, tokenizers
from hcl_jax.views.lazy import tf

PAIRS = ["t h", "th e</w>", "c a", "ca t</w>", "! !</w>", "a t</w>", "s o", "i n", "in g</w>", "Ã ¼", "h e</w>"]
TEXTS = ["The CAT!", "", "!", "!?", "!!! ?!", "  the\tcat's\nsinging ", "Grüße, 世界 🙂", "über 42 cats &amp; ½",
         "<B>at</B>", "“so” it’s\u00a0the ﬁrst", "the " * 60, "schÃ¶n", "x² naïve Σίσυφος",
         "<end_of_text> the"]  # fmt: skip


def write(folder, *pairs, name="merges.txt.gz"):
    path = folder / name
    text = "\n".join(["#version: 0.2", *pairs, ""])
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if name.endswith(".gz") else text.encode())
    return str(path)


@pytest.fixture(scope="module")
def merges(tmp_path_factory):
    pytest.importorskip("ftfy", reason="ftfy is not installed")
    return write(tmp_path_factory.mktemp("merges"), *PAIRS)


def kind(character):
    """Letters in a row are a word, each digit is one, and so is what is left in a row."""
    return "L" if unicodedata.category(character)[0] == "L" else unicodedata.category(character)[0] == "N" or "other"


def words_of(text):
    """The words of a clean text, without a regular expression of Unicode classes."""
    found = []
    while text := text.lstrip():
        if special := re.match("<start_of_text>|<end_of_text>|'(s|t|re|ve|m|ll|d)", text):
            word = special[0]
        else:
            alike = next((i for i, c in enumerate(text) if c.isspace() or kind(c) != kind(text[0])), len(text))
            word = text[: 1 if kind(text[0]) is True else alike]
        found.append(word)
        text = text[len(word) :]
    return found


def oracle(text, length):
    """The steps of the paper on each word: the earliest learned pair that stands in it is merged, everywhere."""
    import html

    import ftfy

    printable = [b for b in range(256) if chr(b).isprintable() and b not in (32, 160, 173)]
    order = printable + [b for b in range(256) if b not in printable]
    sign = {b: chr(b) if b in printable else chr(256 + order.index(b) - len(printable)) for b in order}
    names = [sign[b] for b in order]
    names += [n + "</w>" for n in names] + [p.replace(" ", "") for p in PAIRS] + ["<start_of_text>", "<end_of_text>"]
    ids = [names.index("<start_of_text>")]
    text = " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()
    for word in words_of(text):
        if word in names[-2:]:
            ids.append(names.index(word))
            continue
        parts = [sign[b] for b in word.encode()]
        parts[-1] += "</w>"
        while here := [k for k, p in enumerate(PAIRS) if p in map(" ".join, itertools.pairwise(parts))]:
            first, second = PAIRS[min(here)].split()
            merged, i = [], 0
            while i < len(parts):
                both = parts[i : i + 2] == [first, second]
                merged.append(first + second if both else parts[i])
                i += 1 + both
            parts = merged
        ids += [names.index(p) for p in parts]
    ids = (ids + [len(names) - 1])[:length]
    ids[-1] = len(names) - 1
    return ids + [0] * (length - len(ids))


@pytest.mark.parametrize("length", [77, 8])
def test_merges_of_clip_equal_loops(merges, length):
    """Another order of the ids or of the merges, other words, a lost end token, other repairs of Unicode."""
    made = tokenizers.encode_batch(TEXTS, merges, length, keep_ids=True)
    for text, row in zip(TEXTS, made, strict=True):
        assert row.tolist() == oracle(text, length), text


def test_an_exclamation_mark_is_no_padding(merges):
    """Published ids have "!" at 0, where rows are filled with 0: moved up, no token is 0."""
    start, end = 512 + len(PAIRS), 513 + len(PAIRS)
    made = tokenizers.encode_batch(["the cat!?"], merges, 8, keep_ids=True)[0]
    assert made.tolist() == [start, 513, 515, 0, 256 + 30, end, 0, 0]
    moved = tokenizers.encode_batch(["the cat!?"], merges, 8)[0]
    assert moved.tolist() == [start + 1, 514, 516, 1, 256 + 31, end + 1, 0, 0]
    assert tokenizers.vocabulary_size(merges, True) == end + 1 == tokenizers.vocabulary_size(merges) - 1
    assert tokenizers.decode_batch(moved[None], merges) == ["the cat !? "]


def test_a_view_takes_the_tokenizer_of_the_data(merges, tmp_path):
    given, draws = tf.constant(["the cat"]), Draws(0, 0, 1, np.arange(1), "a")
    made = make_view({"kind": "text", "ops": ({"op": "tokens", "length": 5},)}, given, draws, tokenizer=merges)
    want = tokenizers.encode_batch(["the cat"], merges, 5)
    np.testing.assert_array_equal(made["tokens"], want)
    plain = {"kind": "text", "ops": ({"op": "tokens", "length": 5, "tokenizer": "bytes"},)}
    assert make_view(plain, given, draws, tokenizer=merges)["tokens"].numpy().max() < 260
    other = {"kind": "text", "ops": ({"op": "tokens", "length": 5, "tokenizer": merges},)}
    assert tokenizers.digests({"a": plain, "b": other}) == {"b.ops[0]": tokenizers.load(merges).digest}


def test_a_file_is_read_again_when_it_has_changed(tmp_path):
    pytest.importorskip("ftfy", reason="ftfy is not installed")
    path = write(tmp_path, *PAIRS, name="merges.txt")
    before = tokenizers.load(path)
    write(tmp_path, *PAIRS[:4], name="merges.txt")
    assert tokenizers.load(path).digest != before.digest
    assert tokenizers.vocabulary_size(path, True) == 514 + 4


WORDS = b'{"model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": %b}}'


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"{}", "tokenizer.json of the tokenizers library"),
        (b'{"model": 3', "tokenizer.json of the tokenizers library"),
        (WORDS % b"{}", "no token"),
        (WORDS % b'{"[PAD]": 0, "a": 2147483647}', "the id 2147483647"),
        (WORDS % b'{"a": 0}', "texts without ids .*UNK"),
        (b"\xef\xbb\xbf" + WORDS % b'{"a": 0}', "texts without ids .*UNK"),
        (b"\x1f\x8b\x08 damaged", "an unreadable file"),
        (b"#version\nt h\nthe cat sat\n", "line 3: found 'the cat sat'"),
        (b"#version\nt h\nth ee</w>\n", "line 3: found 'th ee</w>'"),
        (b"#version\n", "no merge"),
        (b"", "no merge"),
        (b"\xff\xfe\x00", "no text in UTF-8"),
        (None, "found '.*file'; allowed: \"bytes\", or the path"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_one_line(tmp_path, content, found):
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=found) as error:
        tokenizers.load(str(tmp_path / "file"))
    assert "\n" not in str(error.value)


def test_without_ftfy_merges_are_refused(tmp_path, monkeypatch):
    """Some texts would have other ids on a machine without it, and no one would see it."""
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(InputError, match=r"ftfy is not installed; allowed: pip install -e '.\[text\]'"):
        tokenizers.load(write(tmp_path, *PAIRS[:3]))


def test_published_files_with_padding_keep_their_ids(tmp_path):
    """keep_ids changes nothing where 0 is padding."""
    path = tmp_path / "t.json"
    tokenizers.train_bpe(["the cat"] * 3, 270, str(path))
    assert json.loads(path.read_text())["model"]["type"] == "BPE"
    plain, kept = (tokenizers.encode_batch(["the cat"], str(path), 9, keep_ids=k) for k in (False, True))
    np.testing.assert_array_equal(plain, kept)
