"""What the data tests share: a data config, plain views, and where real data may lie."""

import os
import pathlib

import numpy as np
import pytest

from hcl_jax.config import defaults
from hcl_jax.data.source import Arrays, from_arrays

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def config():
    """make(**fields): `config.data` with these fields changed."""

    def make(**fields):
        data = defaults().data
        data.update(fields)
        return data

    return make


@pytest.fixture
def view():
    """make(field, *ops, **more): the spec of a view."""

    def make(field="image", *ops, kind="image", draws="a", missing=0.0):
        return {"kind": kind, "field": field, "ops": ops, "draws": draws, "missing": missing}

    return make


@pytest.fixture
def counting(config):
    """make(n): n records whose 2 x 2 picture and label say their number."""

    def make(n, present=None, **fields):
        number = np.arange(n)
        arrays = Arrays(
            fields={"image": np.broadcast_to(number[:, None, None, None] % 256, (n, 2, 2, 1)).astype(np.uint8)},
            labels={"label": number.astype(np.int32)},
            classes={"label": n},
            licence="",
            citation="",
            present={} if present is None else {"image": present},
        )
        return from_arrays("counting", arrays, config(**fields), "train")

    return make


@pytest.fixture
def real_data():
    """find(file): the path of a real file, or a skipped test."""

    def find(file):
        folder = pathlib.Path(os.environ.get("HCL_JAX_DATA", ROOT.parent / "shared" / "data"))
        if not (folder / file).exists():
            pytest.skip(f"no {file} in HCL_JAX_DATA or ../shared/data")
        return str(folder / file)

    return find
