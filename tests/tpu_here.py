"""A TPU's compiler without a TPU: libtpu beside the tests' environment, so that no other process loads it.

make test-all LIBTPU=.venv/tpu puts it there first.
"""

import importlib.util
import os
import pathlib

import pytest

FOLDER = os.environ.get("LIBTPU", "")
MISSING = not (FOLDER and pathlib.Path(FOLDER, "libtpu").is_dir()) and importlib.util.find_spec("libtpu") is None
needed = pytest.mark.skipif(MISSING, reason="libtpu is not here: make test-all LIBTPU=.venv/tpu")


def environment() -> dict[str, str]:
    """For the process that compiles: finds libtpu, asks no network, looks for no accelerator, keeps no program."""
    path = [os.getcwd(), os.path.abspath(FOLDER) if FOLDER else "", os.environ.get("PYTHONPATH", "")]
    return {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")} | {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
