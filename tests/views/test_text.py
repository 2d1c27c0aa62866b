"""Text: the way to ids and back, without the network."""

import pathlib

import numpy as np
import pytest

from hcl_jax.errors import InputError
from hcl_jax.views import Draws, text, tokenizers
from hcl_jax.views.lazy import tf

TEXTS = ["hello", "", "grüße, 世界 🙂", "a\x00b", "the quick brown fox jumps over the lazy dog", "x" * 100]


def ids(texts=None, **params):
    texts = TEXTS if texts is None else texts
    return np.asarray(text.tokens(tf.constant(texts, tf.string), None, **params))


def test_bytes_round_trip_and_padding():
    made = ids(length=128)
    assert made.shape == (6, 128) and made.dtype == np.int32
    for row, words in zip(made, TEXTS, strict=True):
        raw = words.encode()
        want = [text.START, *(b + text.FIRST_BYTE for b in raw), text.END]
        np.testing.assert_array_equal(row, want + [text.PADDING] * (128 - len(want)))
    assert tokenizers.decode_batch(made) == TEXTS
    assert tokenizers.vocabulary_size() == 260 > made.max()


@pytest.mark.parametrize("length", [2, 3, 7, 44, 45, 46])
def test_bytes_are_cut_before_the_end_token(length):
    for row, words in zip(ids(length=length), TEXTS, strict=True):
        raw = words.encode()[: length - 2]
        want = [text.START, *(b + text.FIRST_BYTE for b in raw), text.END]
        np.testing.assert_array_equal(row, want + [text.PADDING] * (length - len(want)))


def test_bytes_in_a_data_set_have_a_static_shape():
    data = tf.data.Dataset.from_tensor_slices(TEXTS).batch(3, drop_remainder=True)
    made = data.map(lambda x: text.tokens(x, None, length=9))
    assert made.element_spec.shape == (3, 9)
    np.testing.assert_array_equal(np.concatenate(list(made.as_numpy_iterator())), ids(length=9))


def test_ids_made_before_are_cut_and_padded():
    given = np.arange(1, 13, dtype=np.int64).reshape(2, 6)
    np.testing.assert_array_equal(text.tokens(tf.constant(given), None, length=4), given[:, :4])
    np.testing.assert_array_equal(text.tokens(tf.constant(given), None, length=8), np.pad(given, [(0, 0), (0, 2)]))


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("bpe") / "tokenizer.json")
    assert tokenizers.train_bpe(["the quick brown fox", "the lazy dog", "the the then"] * 20, 300, path) <= 300
    return path


def test_bpe_trained_here_and_loaded_again(bpe):
    made = ids(tokenizer=bpe, length=128)
    assert made.shape == (6, 128) and made.dtype == np.int32
    assert tokenizers.decode_batch(made, bpe) == TEXTS
    assert 260 < tokenizers.vocabulary_size(bpe) <= 300 and made.max() < tokenizers.vocabulary_size(bpe)
    for row in made:
        count = np.count_nonzero(row)
        assert row[0] == text.START and row[count - 1] == text.END and not row[count:].any()
        assert not np.isin(row[1 : count - 1], [0, 1, 2, 3]).any()
    assert np.count_nonzero(made[4]) < 2 + len(TEXTS[4])  # merges were learned
    cut = ids(tokenizer=bpe, length=6)
    np.testing.assert_array_equal(cut[4], [*made[4, :5], text.END])
    data = tf.data.Dataset.from_tensors(TEXTS).map(lambda x: text.tokens(x, None, tokenizer=bpe, length=128))
    assert data.element_spec.shape == (6, 128)
    np.testing.assert_array_equal(next(data.as_numpy_iterator()), made)


def test_bpe_is_the_same_when_trained_again(bpe, tmp_path):
    again = tmp_path / "again.json"
    tokenizers.train_bpe(["the quick brown fox", "the lazy dog", "the the then"] * 20, 300, str(again))
    assert again.read_bytes() == pathlib.Path(bpe).read_bytes()


def test_ids_of_a_tokenizer_without_padding_move_up(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    foreign = Tokenizer(models.WordLevel({"the": 0, "fox": 1, "?": 2}, unk_token="?"))
    foreign.pre_tokenizer = pre_tokenizers.Whitespace()
    foreign.save(str(tmp_path / "t.json"))
    made = ids(["the fox dog the", ""], tokenizer=str(tmp_path / "t.json"), length=5)
    np.testing.assert_array_equal(made, [[1, 2, 3, 1, 0], [0, 0, 0, 0, 0]])
    assert tokenizers.vocabulary_size(str(tmp_path / "t.json")) == 4
    gaps = Tokenizer(models.WordLevel({"the": 0, "fox": 1, "cat": 7, "?": 9}, unk_token="?"))
    gaps.save(str(tmp_path / "gaps.json"))
    made = ids(["cat"], tokenizer=str(tmp_path / "gaps.json"), length=2)
    assert tokenizers.vocabulary_size(str(tmp_path / "gaps.json")) == 11 > made.max()
    padded = Tokenizer(models.WordLevel({"[PAD]": 0, "fox": 1, "?": 2}, unk_token="?"))
    padded.pre_tokenizer = pre_tokenizers.Whitespace()
    padded.enable_padding(length=9)
    padded.enable_truncation(1)
    padded.save(str(tmp_path / "p.json"))
    np.testing.assert_array_equal(ids(["fox x"], tokenizer=str(tmp_path / "p.json"), length=3), [[1, 2, 0]])


def run(op, x, n=6, **params):
    draws = Draws(0, 2, n, np.arange(n), "a")
    made = op(x if tf.is_tensor(x) else tf.constant(x), draws, **params)
    return np.asarray(made), {k: np.asarray(v) for k, v in {**draws.record, **draws.targets}.items()}


def test_drop_words():
    texts = ["one two  three\tfour five six", "", "   ", "alone", "ä ö ü", " ".join(f"w{k}" for k in range(40))]
    made, drawn = run(text.drop_words, texts, p=0.4, most=32)
    for row, words in enumerate(w.split() for w in texts):
        kept = [w for k, w in enumerate(words) if k >= 32 or drawn["drop"][row, k] >= np.float32(0.4)]
        assert made[row].decode() == " ".join(kept or words[:1])
    made, _ = run(text.drop_words, texts, p=1.0, most=64)
    assert [m.decode() for m in made] == ["one", "", "", "alone", "ä", "w0"]
    made, _ = run(text.drop_words, texts, p=0.0)
    assert [m.decode() for m in made] == [" ".join(w.split()) for w in texts]
    made, _ = run(text.drop_words, ["", " "], n=2)
    assert list(made) == [b"", b""]


def inner_of(row):
    count = np.count_nonzero(row)
    return np.arange(1, max(count - 1, 1)), count


def test_drop_tokens():
    x = ids(length=40)
    made, drawn = run(text.drop_tokens, x, p=0.3)
    for row in range(6):
        inner, count = inner_of(x[row])
        kept = [x[row, k] for k in range(count) if k not in inner or drawn["drop"][row, k] >= np.float32(0.3)]
        np.testing.assert_array_equal(made[row], kept + [0] * (40 - len(kept)))
    np.testing.assert_array_equal(run(text.drop_tokens, x, p=0.0)[0], x)
    gone = run(text.drop_tokens, x, p=1.0)[0]
    np.testing.assert_array_equal(gone[:, :2], [[text.START, text.END]] * 6)
    assert not gone[:, 2:].any()


def test_crop_tokens():
    x = ids(length=40)
    made, drawn = run(text.crop_tokens, x, fraction=(0.2, 0.6))
    for row in range(6):
        inner, _ = inner_of(x[row])
        length = max(round(float(drawn["fraction"][row]) * len(inner)), min(len(inner), 1))
        start = 1 + int(drawn["start"][row] * (len(inner) - length + 1))
        want = [text.START, *x[row, start : start + length], text.END]
        np.testing.assert_array_equal(made[row], want + [0] * (40 - len(want)))
    np.testing.assert_array_equal(run(text.crop_tokens, x, fraction=(1.0, 1.0))[0], x)


def test_mask_tokens():
    x = ids(length=60)
    made, drawn = run(text.mask_tokens, x, p=0.5)
    how, chosen = drawn["how"], drawn["chosen"] < np.float32(0.5)
    for row in range(6):
        inner, _ = inner_of(x[row])
        chosen[row] &= np.isin(np.arange(60), inner)
    other = 3 + np.floor(drawn["other"] * np.float32(256)).astype(int)
    want = np.where(chosen & (how < np.float32(0.8)), 259, x)
    want = np.where(chosen & (how >= np.float32(0.8)) & (how < np.float32(0.9)), other, want)
    np.testing.assert_array_equal(made, want)
    np.testing.assert_array_equal(drawn["masked"], np.where(chosen, x, -1))
    made, drawn = run(text.mask_tokens, x, p=1.0, mask=3, vocabulary=300, first=4, target="")
    assert "masked" not in drawn and np.isin(made, [0, 1, 2, 3]).mean() > 0.5 and made.max() <= 299
    np.testing.assert_array_equal(run(text.mask_tokens, x, p=0.0)[0], x)


def test_after():
    x = [[5, 4, 1, 7, 1, 0], [5, 1, 0, 0, 0, 0], [1, 2, 2, 2, 2, 2], [5, 5, 5, 5, 0, 0]]
    made, drawn = run(text.after, x, n=4, token=1)
    np.testing.assert_array_equal(made, x)
    want = [[0, 0, 0, 1, 1, 0], [0] * 6, [0, 1, 1, 1, 1, 1], [0] * 6]
    np.testing.assert_array_equal(drawn["response"], np.array(want, bool))
    assert drawn["response"].dtype == bool
    assert set(run(text.after, x, n=4, token=5, target="answer")[1]) == {"answer"}


@pytest.mark.parametrize(
    "op, x, params, match",
    [
        (text.tokens, ["a"], {"length": 1}, r"tokens\.length"),
        (text.tokens, ["a"], {"tokenizer": "nowhere.json"}, r"tokens\.tokenizer"),
        (text.tokens, [1.5], {}, "tokens"),
        (text.drop_tokens, ["a"], {}, "drop_tokens"),
        (text.drop_words, [[1, 2]], {}, "drop_words"),
        (text.drop_words, ["a"], {"p": 2.0}, r"drop_words\.p"),
        (text.mask_tokens, [[1, 2]], {"vocabulary": 3}, r"mask_tokens\.vocabulary"),
        (text.after, ["a"], {"token": 1}, "after"),
        (text.after, [[1, 2]], {"token": 0}, r"after\.token"),
        (text.crop_tokens, [[1, 2]], {"fraction": (1.0, 0.0)}, r"crop_tokens\.fraction"),
    ],
)
def test_bad_use_names_itself(op, x, params, match):
    with pytest.raises(InputError, match=f"^{match}: found"):
        run(op, x, n=1, **params)


def test_a_file_that_is_no_tokenizer(tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InputError, match="bad.json"):
        ids(tokenizer=str(tmp_path / "bad.json"))
    with pytest.raises(InputError, match="vocab_size"):
        tokenizers.train_bpe(["a"], 100, str(tmp_path / "t.json"))
