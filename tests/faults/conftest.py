"""The runs that nobody disturbs, with which the others are compared."""

import os
import pathlib

import filelock
import pytest
from faults import runs


@pytest.fixture(autouse=True)
def none_left():
    yield
    runs.kill_left()


@pytest.fixture(scope="session")
def cache():
    """The compiled programs of this run of the tests: what is tested here is not compilation."""
    return os.environ["JAX_COMPILATION_CACHE_DIR"]


def shared(tmp_path_factory, name: str, finish) -> pathlib.Path:
    """A run that the first worker makes, and the others wait for."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with filelock.FileLock(f"{folder}.lock"):
        if not (folder / "card.json").exists():  # the last that a run writes
            finish(folder)
    return folder


@pytest.fixture(scope="session")
def one(tmp_path_factory, cache):
    """400 steps, one process with eight devices."""
    return shared(tmp_path_factory, "one", lambda folder: runs.finish(folder, *runs.ONE_FLAGS, **runs.ONE, cache=cache))


@pytest.fixture(scope="session")
def two(tmp_path_factory, cache):
    """40 steps, two processes with four devices each."""
    return shared(tmp_path_factory, "two", lambda folder: runs.finish(folder, *runs.TWO_FLAGS, **runs.TWO, cache=cache))
