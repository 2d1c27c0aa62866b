"""The runs that nobody disturbs, with which the others are compared."""

import os

import pytest
from faults import runs
from once import once


@pytest.fixture(autouse=True)
def none_left():
    yield
    runs.kill_left()


@pytest.fixture(scope="session")
def cache():
    """The compiled programs of this run of the tests: what is tested here is not compilation."""
    return os.environ["JAX_COMPILATION_CACHE_DIR"]


@pytest.fixture(scope="session")
def one(tmp_path_factory, cache):
    """400 steps, one process with eight devices."""
    return once(tmp_path_factory, "one", lambda folder: runs.finish(folder, *runs.ONE_FLAGS, **runs.ONE, cache=cache))


@pytest.fixture(scope="session")
def two(tmp_path_factory, cache):
    """40 steps, two processes with four devices each."""
    return once(tmp_path_factory, "two", lambda folder: runs.finish(folder, *runs.TWO_FLAGS, **runs.TWO, cache=cache))
