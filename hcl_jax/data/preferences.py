"""Preferences between two responses to one prompt: made here from a rule, or read from an .npz.

A record is two sequences of token ids: `prompt separator response padding`, 0 padding and 1 the separator.
"""

from typing import Any

import numpy as np

from hcl_jax.data.casts import whole_numbers
from hcl_jax.data.npz import read_npz
from hcl_jax.data.source import Arrays, folder_of, split_file, unknown_split
from hcl_jax.errors import InputError

PADDING, SEPARATOR, FIRST = 0, 1, 2
LETTERS = 16  # ids FIRST .. FIRST + LETTERS - 1
SHORTEST, LONGEST = 4, 6  # letters of a prompt
WRONG = 0.1  # share of the preferences that are the wrong way round
RECORDS = {"train": 8192, "test": 2048}
KEYS = ("chosen", "rejected")


def preferences(data: Any, split: str) -> Arrays:
    """chosen and rejected int32 [N, T]: of `<data.dir>/<split>.npz`, or without a folder made from a rule.

    The rule: the response to a prompt is its letters in order. The chosen response has no or one wrong letter, the
    rejected one or two more; a tenth of the pairs is the wrong way round, so a judge who knows the rule agrees with 90
    % of them and no judge can do better. The test split is noisy in the same way.
    """
    if data.dir:
        path = split_file(folder_of(data, "<split>.npz with chosen and rejected"), split, (".npz",))
        return _arrays(*_read(path, data.max_array_bytes), "", "")
    if split not in RECORDS:
        raise unknown_split(split, tuple(RECORDS), data.name)
    chosen, rejected, _ = made(np.random.default_rng([7, list(RECORDS).index(split)]), RECORDS[split])
    return _arrays(chosen, rejected, "public domain", "made by hcl_jax.data.preferences")


def made(rng: np.random.Generator, records: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs by the rule.

    Args:
      rng: where the numbers come from.
      records: N.

    Returns:
      (chosen int32 [N, 2 LONGEST + 1], rejected, bool [N] of those that are the wrong way round).
    """
    place = np.arange(LONGEST)[None, :]
    length = rng.integers(SHORTEST, LONGEST + 1, (records, 1))
    prompt = rng.integers(FIRST, FIRST + LETTERS, (records, LONGEST))
    # Places past the end sort behind every letter.
    right = np.sort(np.where(place < length, prompt, FIRST + LETTERS), axis=1)
    few = rng.integers(0, 2, (records, 1))
    more = few + rng.integers(1, 3, (records, 1))
    better, worse = (_with_errors(rng, right, length, errors) for errors in (few, more))
    swapped = rng.random(records) < WRONG
    rows = []
    for a, b in ((better, worse), (worse, better)):
        rows.append(_sequence(prompt, np.where(swapped[:, None], b, a), length))
    return rows[0], rows[1], swapped


def _with_errors(rng: np.random.Generator, right: np.ndarray, length: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """`right` [N, LONGEST] with that many letters [N, 1] changed to others."""
    place = np.arange(LONGEST)[None, :]
    order = np.argsort(np.where(place < length, rng.random(right.shape), 2.0), axis=1)
    changed = np.argsort(order, axis=1) < errors
    other = FIRST + (right - FIRST + rng.integers(1, LETTERS, right.shape)) % LETTERS
    return np.where(changed, other, right)


def _sequence(prompt: np.ndarray, response: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Prompt, separator, response, padding: int32 [N, 2 LONGEST + 1]."""
    place = np.arange(2 * LONGEST + 1)[None, :]
    before = np.take_along_axis(prompt, np.minimum(place, LONGEST - 1), axis=1)
    behind = np.take_along_axis(response, np.clip(place - length - 1, 0, LONGEST - 1), axis=1)
    row = np.where(place < length, before, np.where(place == length, SEPARATOR, behind))
    return np.where(place > 2 * length, PADDING, row).astype(np.int32)


def _arrays(chosen: np.ndarray, rejected: np.ndarray, licence: str, citation: str) -> Arrays:
    return Arrays({"chosen": chosen, "rejected": rejected}, {}, {}, licence, citation)


def _read(path: str, max_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    arrays = read_npz(path, KEYS, max_bytes)
    for key in KEYS:
        value = arrays[key]
        if value.ndim != 2 or value.dtype.kind not in "ui":
            raise InputError(f"{path}: {key}", f"{value.dtype} of shape {value.shape}", "ids, whole numbers [N, T]")
    chosen, rejected = (whole_numbers(f"{path}: {k}", arrays[k]) for k in KEYS)
    check(path, chosen, rejected)
    return chosen, rejected


def check(where: str, chosen: np.ndarray, rejected: np.ndarray) -> None:
    """Refuses what is no preference.

    Args:
      where: the file, for messages.
      chosen, rejected: whole numbers [N, T].

    Raises:
      InputError: arrays of different size, an id below 0, a record without a separator or with an empty response,
        with padding before its end, with two prompts, or with equal responses. It names the first such record, counted
        from 0.
    """
    if len(chosen) != len(rejected):
        record = min(len(chosen), len(rejected))
        found = f"{len(chosen)} chosen and {len(rejected)} rejected"
        raise InputError(f"{where} record {record}", found, "two responses to every prompt")
    if chosen.shape != rejected.shape:
        found = f"{chosen.shape[1]} places in chosen and {rejected.shape[1]} in rejected"
        raise InputError(f"{where} record 0", found, "one length, padded with 0 at the end")
    behind = {k: _behind(x) for k, x in zip(KEYS, (chosen, rejected), strict=True)}
    faults = []
    for key, x in zip(KEYS, (chosen, rejected), strict=True):
        faults += [
            ((x < 0).any(1), f"an id below 0 in {key}", "ids of at least 0"),
            (~(x == SEPARATOR).any(1), f"no separator in {key}", f"prompt, {SEPARATOR}, response, padding"),
            (~(behind[key] & (x != PADDING)).any(1), f"no response in {key}", f"a token behind the first {SEPARATOR}"),
            # A 0 inside a response counts in no sum over its tokens.
            (
                ((x[:, :-1] == PADDING) & (x[:, 1:] != PADDING)).any(1),
                f"{PADDING} before a token in {key}",
                f"{PADDING}, padding, at the end alone",
            ),
        ]
    faults += [
        ((np.where(behind["chosen"], 0, chosen) != np.where(behind["rejected"], 0, rejected)).any(1),
         "two prompts", "the same tokens up to the separator"),
        ((chosen == rejected).all(1), "equal responses", "a response that is chosen and another that is rejected"),
    ]  # fmt: skip
    for bad, found, allowed in faults:
        if bad.any():
            raise InputError(f"{where} record {int(np.argmax(bad))}", found, allowed)


def _behind(x: np.ndarray) -> np.ndarray:
    """Places behind the first separator, bool [N, T]."""
    return (np.cumsum(x == SEPARATOR, axis=1) - (x == SEPARATOR)) > 0
