"""Files that lie about their size, ask for too much memory or are damaged in any way: one line, in little memory."""

import gzip
import io
import json
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.data.generated import read_settings
from hcl_jax.data.npz import read_npz
from hcl_jax.disk.reading import readable
from hcl_jax.errors import InputError


def opened(name, folder, **fields):
    config = configs.defaults().data
    for field, value in {"name": name, "dir": str(folder), **fields}.items():
        config[field] = value
    return data.open_source(config, "train")


def npy(shape, descr="'|u1'", body=b"", version=1):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(header)) + header + body


def zipped(content, method=zipfile.ZIP_STORED, name="image.npy"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, content)
    return bytearray(file.getvalue())


def changed(made, local, central, value):
    """The two headers of the only member, each changed at its place."""
    for start, place in ((made.index(b"PK\3\4"), local), (made.index(b"PK\1\2"), central)):
        made[start + place : start + place + len(value)] = value
    return made


GOOD = npy("(4, 8, 8)", body=bytes(256))
HUGE = struct.pack("<I", 2**32 - 2)
FILES = {
    "10^30": (zipped(npy(f"({10**30}, 8, 8)", body=b"1")), r"1 bytes for uint8 of shape \[10\^30, 8, 8\]"),
    "5000 digits": (zipped(npy(f"({'1' * 5000}, 8)")), "no plain array .ValueError"),
    "4 GB in few bytes": (changed(zipped(GOOD), 22, 24, HUGE), "4294967294 bytes in 3"),
    "a small file that claims more": (zipped(npy("(100000, 8, 8)", body=bytes(9))), "9 bytes for uint8 of shape"),
    "objects": (zipped(npy("(4,)", "'|O'")), "found pickled objects"),
    "negative": (zipped(npy("(-4, 8, 8)")), r"the shape \[-4, 8, 8\]"),
    "deep": (zipped(npy("(" * 3000 + ")" * 3000)), "no plain array"),
    "another member": (zipped(b"text", name="image"), "no plain array"),
    "no dtype": (zipped(npy("(4,)", "'<q17'")), "no plain array .ValueError"),
    "version 9": (zipped(npy("(4,)", version=9)), "no plain array .ValueError|version 9.0"),
    "encrypted": (changed(zipped(GOOD), 6, 8, b"\1"), "an encrypted file"),
    "unknown method": (changed(zipped(GOOD), 8, 10, b"\x63"), "unreadable file .NotImplementedError"),
    "cut": (zipped(GOOD)[:-30], "unreadable file .BadZipFile"),
    "other bytes": (zipped(GOOD).replace(bytes(200), bytes(199) + b"1"), "BadZipFile: Bad CRC"),
    "no deflate": (changed(zipped(GOOD), 8, 10, b"\x08"), "BadZipFile: Bad CRC"),
    "empty": (b"", "unreadable file .BadZipFile"),
    "a single array": (GOOD, "one array without a name"),
}


@pytest.mark.parametrize("case", FILES)
def test_an_npz_that_lies_or_is_damaged_is_one_line(tmp_path, case):
    content, line = FILES[case]
    (tmp_path / "train.npz").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(InputError, match=line) as error:
        opened("npz", tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value) and len(str(error.value)) < 600
    assert most < 10_000_000


def test_arrays_are_bounded_by_their_headers(tmp_path):
    np.savez_compressed(tmp_path / "train.npz", image=np.zeros((1000, 64, 64), np.uint8), label=np.arange(1000) % 2)
    line = "4096000 bytes of arrays; allowed: at most 4000000, config.data.max_array_bytes"
    with pytest.raises(InputError, match=line):
        opened("npz", tmp_path, max_array_bytes=4_000_000)
    assert opened("npz", tmp_path, max_array_bytes=4_104_000).num_examples == 1000
    assert set(read_npz(str(tmp_path / "train.npz"), ("label",), 8000)) == {"label"}  # of what is asked for


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_an_idx_file_is_bounded_by_its_header(tmp_path, ending):
    write = gzip.compress if ending else bytes
    header = struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1)
    (tmp_path / f"train-labels-idx1-ubyte{ending}").write_bytes(write(struct.pack(">HBBI", 0, 8, 1, 2) + b"\0\1"))
    images = tmp_path / f"train-images-idx3-ubyte{ending}"
    images.write_bytes(write(header))
    with pytest.raises(InputError, match="bytes of arrays; allowed: at most 4294967296, config.data.max_array_bytes"):
        opened("idx", tmp_path)
    images.write_bytes(write(struct.pack(">HBB3I", 0, 8, 3, 2, 2, 2) + bytes(30_000_000)))
    tracemalloc.start()
    with pytest.raises(InputError, match="more than 8 bytes of data; allowed: 1 bytes for each of"):
        opened("idx", tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def tu(folder, **files):
    made = {"A": "1, 2\n2, 1\n", "graph_indicator": "1\n1\n2\n", "graph_labels": "0\n1\n", **files}
    for name, text in made.items():
        (folder / f"DS_{name}.txt").write_text(text)
    return folder


def planetoid(folder, width):
    edges, index = np.array([[0, 1]]), np.arange(2)
    csr = {"indptr": np.arange(3), "indices": index, "values": np.ones(2), "shape": np.array([2, width])}
    split = {f"{s}_index": index for s in ("train", "validation", "test")}
    np.savez(folder / "a.npz", edges=edges, labels=index, **split, **{f"feature_{k}": v for k, v in csr.items()})
    return folder


@pytest.mark.parametrize(
    ("make", "fields", "line"),
    [
        (lambda d: tu(d, graph_indicator=f"1\n1\n{10**12}\n"), {}, "graph_indicator.txt: found graphs without a label"),
        (lambda d: tu(d, graph_indicator=f"1\n1\n{10**30}\n"), {}, "graph_indicator.txt: found an unreadable file"),
        (lambda d: tu(d, node_labels="1\n2\n3\n"), {"max_array_bytes": 30}, "node_labels.txt: found 36 bytes"),
        (lambda d: tu(d), {"max_array_bytes": 24}, "graphs as large as the largest: found 48 bytes"),
        (lambda d: planetoid(d, 10**13), {"name": "planetoid"}, "feature_shape: found 80000000000000 bytes"),
    ],
)
def test_graphs_are_bounded_before_memory_is_taken(tmp_path, make, fields, line):
    with pytest.raises(InputError, match=line):
        opened(**{"name": "tu", **fields}, folder=make(tmp_path))


def test_a_table_is_bounded(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\n" + "a,0\n" * 100)
    with pytest.raises(InputError, match="train.csv: found 411 bytes of arrays; allowed: at most 410"):
        opened("csv", tmp_path, max_array_bytes=410)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, '{"kind": NaN', "\xff"])
def test_settings_that_are_no_json_are_one_line(tmp_path, text):
    (tmp_path / "settings.json").write_text(text, "latin-1")
    with pytest.raises(InputError, match="settings.json: found no JSON"):
        read_settings(tmp_path)


def test_settings_of_wrong_types_are_named(tmp_path):
    good = {"kind": "image", "field": "image", "fingerprint": "0", "count": 1, "seed": 0, "ops": [], "source": "npz"}
    for name in ("kind", "field", "fingerprint", "count", "source"):
        (tmp_path / "settings.json").write_text(json.dumps({**good, name: [1]}))
        with pytest.raises(InputError, match=f"settings.json: {name}: found list; allowed: "):
            read_settings(tmp_path)
    (tmp_path / "settings.json").write_text(json.dumps(good))
    assert read_settings(tmp_path) == good


def test_whatever_a_reader_raises_is_one_line_but_for_what_ends_a_program():
    kinds = (OSError(116, "Stale file handle"), MemoryError(), RecursionError("deep\nand deeper"), struct.error("x"))
    for raised in kinds:
        with pytest.raises(InputError, match="^a file: found an unreadable file .*; allowed: whole$"):
            with readable("a file", "whole"):
                raise raised
    said = InputError("a file record 3", "x", "y")
    with pytest.raises(InputError) as error, readable("a file", "whole"):
        raise said
    assert error.value is said
    with pytest.raises(KeyboardInterrupt), readable("a file", "whole"):
        raise KeyboardInterrupt


def labels(folder, values, dtype=np.int64):
    values = np.array(values, dtype)
    for split in ("train", "test"):
        np.savez(folder / f"{split}.npz", features=np.ones((len(values), 2)), label=values)
    return folder


@pytest.mark.parametrize(
    ("values", "dtype", "said"),
    [
        (
            [*range(150), 255, 255],
            np.uint8,
            "2 of 152 records are 255, a class by its number, far above the others (to 149)",
        ),
        ([0, 1, 65535], np.int64, "1 of 3 records are 65535, a class by its number, far above the others (to 1)"),
        ([*range(256)], np.uint8, None),
        ([-1, 1, 1], np.int64, "-1 is read as unknown and not as a class: number classes -1, 1 or -1, 0, 1 from 0 on"),
        ([-1, 0, 1], np.int64, "-1 is read as unknown and not as a class: number classes -1, 1 or -1, 0, 1 from 0 on"),
        ([0, 1, 2], np.int64, None),
    ],
)
def test_labels_that_spell_ignored_or_a_class_otherwise_are_said(tmp_path, caplog, values, dtype, said):
    caplog.set_level("INFO", "hcl_jax")
    opened("npz", labels(tmp_path, values, dtype))
    lines = [r.getMessage() for r in caplog.records]
    assert any(f"npz train: label label: {said}" in line for line in lines) if said else not lines
