"""A run that the first worker makes, and the others wait for."""

import os
import pathlib
from collections.abc import Callable

import filelock


def once(tmp_path_factory, name: str, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """The folder of a finished run that `make(folder)` trains, shared by all workers of this run of the tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with filelock.FileLock(f"{folder}.lock"):
        if not (folder / "card.json").exists():  # the last that a run writes
            make(folder)
    return folder
