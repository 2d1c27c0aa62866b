"""Preferences: the rule that makes them, and one line for each record that is none."""

import numpy as np
import pytest

from hcl_jax import data
from hcl_jax.data import preferences
from hcl_jax.errors import InputError


def parts(row):
    """(prompt, response) of one sequence."""
    row = list(row)
    at = row.index(preferences.SEPARATOR)
    response = row[at + 1 :]
    end = response.index(0) if 0 in response else len(response)
    assert not any(response[end:]), "padding lies at the end"
    return row[:at], response[:end]


def errors(row):
    prompt, response = parts(row)
    assert len(prompt) == len(response)
    return sum(a != b for a, b in zip(sorted(prompt), response, strict=True))


def test_made_by_the_rule(config):
    source = data.open_source(config(name="preferences", labels=()), "train")
    assert source.num_examples == 8192 and source.labels == {}
    assert source.fields == {"chosen": ((13,), "int32"), "rejected": ((13,), "int32")}
    made = {k: v.numpy() for k, v in source.fetch(np.arange(2000)).items()}
    found = np.array([[errors(row) for row in made[k]] for k in ("chosen", "rejected")])
    for a, b in zip(made["chosen"], made["rejected"], strict=True):
        assert parts(a)[0] == parts(b)[0]
    assert set(np.abs(found[0] - found[1])) == {1, 2} and found.max() <= 3
    # Who knows the rule agrees with 90 % of the preferences.
    assert np.mean(found[0] < found[1]) == pytest.approx(0.9, abs=0.02)
    preferences.check("made", made["chosen"], made["rejected"])
    assert {len(parts(row)[0]) for row in made["chosen"]} == {4, 5, 6}
    letters = made["chosen"][made["chosen"] > preferences.SEPARATOR]
    assert (letters.min(), letters.max()) == (2, 17)


def test_swapped_pairs_are_told():
    chosen, rejected, swapped = preferences.made(np.random.default_rng(0), 500)
    better = [errors(a) < errors(b) for a, b in zip(chosen, rejected, strict=True)]
    np.testing.assert_array_equal(better, ~swapped)


def test_splits_differ_and_are_the_same_each_time(config):
    make = config(name="preferences", labels=())
    prints = [data.open_source(make, s).fingerprint for s in ("train", "test", "train")]
    assert prints[0] == prints[2] != prints[1]
    # Known bytes: other numbers on another machine would be another data set.
    assert prints[0].startswith(PREFERENCES)
    assert data.open_source(config(name="preferences", labels=(), num_examples=100), "train").num_examples == 100
    with pytest.raises(InputError, match="'valid'; allowed: test, train"):
        data.open_source(make, "valid")


PREFERENCES = "1463b546"

PROMPT = [5, 4, 1]
CHOSEN = np.array([[*PROMPT, 4, 5, 0], [*PROMPT, 4, 5, 6]])
REJECTED = np.array([[*PROMPT, 5, 4, 0], [*PROMPT, 4, 0, 0]])


def put(x, row, *values):
    x = x.copy()
    x[row] = values
    return x


def test_files(config, tmp_path):
    np.savez(tmp_path / "train.npz", chosen=CHOSEN.astype(np.uint16), rejected=REJECTED)
    source = data.open_source(config(name="preferences", labels=(), dir=str(tmp_path)), "train")
    made = source.fetch(np.arange(2))
    np.testing.assert_array_equal(made["chosen"], CHOSEN)
    np.testing.assert_array_equal(made["rejected"], REJECTED)
    assert source.fields["chosen"] == ((6,), "int32")


@pytest.mark.parametrize(
    ("chosen", "rejected", "words"),
    [
        (CHOSEN, put(REJECTED, 1, 5, 4, 1, 0, 0, 0), r"record 1: found no response in rejected; allowed: .* first 1"),
        (put(CHOSEN, 0, 5, 4, 1, 0, 0, 0), REJECTED, "record 0: found no response in chosen"),
        (CHOSEN, put(REJECTED, 1, *CHOSEN[1]), "record 1: found equal responses"),
        (CHOSEN, put(REJECTED, 0, 5, 5, 1, 4, 4, 0), "record 0: found two prompts"),
        (CHOSEN, put(REJECTED, 0, 5, 5, 5, 4, 4, 0), "record 0: found no separator in rejected"),
        (CHOSEN, put(REJECTED, 1, 5, 4, 1, -4, 4, 0), "record 1: found an id below 0 in rejected"),
        (put(CHOSEN, 1, *PROMPT, 4, 0, 6), REJECTED, "record 1: found 0 before a token in chosen; allowed: 0, padding"),
        (CHOSEN, REJECTED[:1], "record 1: found 2 chosen and 1 rejected; allowed: two responses"),
        (CHOSEN, REJECTED[:, :5], "record 0: found 6 places in chosen and 5 in rejected; allowed: one length"),
        (CHOSEN.astype(float), REJECTED, r"chosen: found float64 of shape \(2, 6\); allowed: ids"),
        (CHOSEN[0], REJECTED, r"chosen: found int64 of shape \(6,\)"),
        (CHOSEN.astype(object), REJECTED, "found pickled objects"),
    ],
)
def test_no_preference(chosen, rejected, words, config, tmp_path):
    np.savez(tmp_path / "train.npz", chosen=chosen, rejected=rejected)
    with pytest.raises(InputError, match=words) as error:
        data.open_source(config(name="preferences", labels=(), dir=str(tmp_path)), "train")
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_other_files(config, tmp_path):
    def refused(words, split="train"):
        with pytest.raises(InputError, match=words):
            data.open_source(config(name="preferences", labels=(), dir=str(tmp_path)), split)

    refused("no .npz file")
    np.savez(tmp_path / "train.npz", chosen=CHOSEN)
    refused("found no array 'rejected'; allowed: chosen, rejected; there: chosen")
    refused("'test'; allowed: train", split="test")
    (tmp_path / "train.npz").write_bytes(b"PK\x03\x04 no")
    refused("found an unreadable file|found pickled")
