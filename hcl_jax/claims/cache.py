"""Folders that one command at a time works in."""

import contextlib
import fcntl
import gc
import pathlib
from collections.abc import Iterator

import jax

from hcl_jax.errors import InputError


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[None]:
    """Holds a folder for this process; the system lets go of it when the process ends, however it ends.

    Raises:
      InputError: another process holds it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f"{folder.name}.lock"), "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            allowed = "one command at a time: wait for it, or another --cache"
            raise InputError(str(folder), "another command at work on it", allowed) from None
        yield


def forget() -> None:
    """Lets go of compiled programs: a claim compiles dozens, each with buffers of its own."""
    jax.clear_caches()
    gc.collect()
