"""Processes that hold other data are refused before the first step, and the data are named."""

import numpy as np
import pytest
from faults import runs

from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.data.content import content_of, of_files


@pytest.mark.slow
def test_one_bit_of_one_record(tmp_path, cache):
    """F2: the same relative data.dir, one bit of one picture different: both end with 2, nothing is written."""
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 256, (96, 8, 8, 1), dtype=np.uint8), np.arange(96) % 10
    for i in range(2):
        folder = tmp_path / str(i) / "mine"
        folder.mkdir(parents=True)
        np.savez(folder / "test.npz", image=image, label=label)
        changed = image.copy()
        changed[41, 3, 5, 0] ^= i
        np.savez(folder / "train.npz", image=changed, label=label)
    flags = (*runs.TWO_FLAGS, "--config.data.name=npz", "--config.data.dir=mine")
    own = {i: {"cwd": tmp_path / str(i), "environment": {"PYTHONPATH": str(runs.ROOT)}} for i in range(2)}
    run = runs.start(tmp_path / "w", *flags, **runs.TWO, cache=cache, own=own)
    assert run.end() == [2, 2], run.everything()
    (said,) = [x for x in (run.said(0) + run.said(1)).splitlines() if x.startswith("hcl_jax: ")]
    assert "process 1: training data (npz), " in said and "of 96 records, as process 0 has it" in said
    assert not (tmp_path / "w").exists()


def opened(name, folder="", **fields):
    c = configs.defaults().data
    for key, value in {"name": name, "dir": str(folder), **fields}.items():
        c[key] = value
    return data.open_source(c, "train")


def pictures(folder, count, flip=None):
    """PNGs of noise, one bit of one pixel of picture `flip` different: names and sizes stay."""
    import tensorflow as tf

    for i in range(count):
        image = np.random.default_rng(i).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image[0, 0, 0] ^= i == flip
        path = folder / "train" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Uncompressed, so that sizes say nothing.
        path.write_bytes(tf.io.encode_png(image, compression=0).numpy())
    return folder


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_bit_of_a_picture_file(tmp_path, in_memory):
    """The fingerprint of a folder is of names and sizes, and stays; the content is that of every file."""
    a, b = (
        opened("folder", pictures(tmp_path / str(i), 8, flip), in_memory=in_memory) for i, flip in ((0, None), (1, 5))
    )
    again = opened("folder", tmp_path / "0", in_memory=in_memory)
    assert a.fingerprint == b.fingerprint
    assert content_of(a, 0) != content_of(b, 0) and content_of(a, 0) == content_of(again, 0)


def test_arrays_beyond_what_the_fingerprint_reads(monkeypatch, tmp_path):
    """Of large arrays 256 rows enter the fingerprint; every row enters the content."""
    monkeypatch.setattr("hcl_jax.data.source.WHOLE_BYTES", 1000)
    image = np.zeros((400, 4, 4, 1), np.uint8)
    found = []
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        image[2] = i  # between two of the evenly spaced rows
        np.savez(tmp_path / str(i) / "train.npz", image=image, label=np.arange(400) % 2)
        found.append(opened("npz", tmp_path / str(i)))
    assert found[0].fingerprint == found[1].fingerprint
    assert content_of(found[0], 0) != content_of(found[1], 0)


def test_samples_follow_the_seed(monkeypatch, tmp_path):
    """Of files beyond the limit a sample is read: heads, tails, and places that the seed draws."""
    monkeypatch.setattr("hcl_jax.data.content.WHOLE_BYTES", 1000)
    monkeypatch.setattr("hcl_jax.data.content.PIECE", 16)
    monkeypatch.setattr("hcl_jax.data.content.SAMPLED_FILES", 3)
    for i in range(6):
        (tmp_path / f"{i}").write_bytes(bytes([i]) * 500)
    files = [(str(tmp_path / f"{i}"), 500) for i in range(6)]
    digests = [of_files(files, seed) for seed in range(4)]
    assert len(set(digests)) > 1 and of_files(files, 0) == digests[0]
    for i in range(6):
        (tmp_path / f"{i}").write_bytes(bytes([i]) * 499 + b"x")  # the last byte of each
    assert all(of_files(files, seed) != digests[seed] for seed in range(4))


def test_a_source_that_knows_no_content_is_read(tmp_path):
    """A source of a user's own: its records are read by number."""
    digits = opened("digits", num_examples=64)._replace(content=None)

    def changed(index):
        record = digits.fetch(index)
        import tensorflow as tf

        return record | {"label": tf.where(index == 63, record["label"] + 1, record["label"])}

    assert content_of(digits, 0) != content_of(digits._replace(fetch=changed), 0)
