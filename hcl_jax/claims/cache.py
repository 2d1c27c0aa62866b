"""Folders that one command at a time works in."""

import contextlib
import gc
import pathlib
from collections.abc import Iterator

import jax
from filelock import FileLock, Timeout

from hcl_jax.errors import InputError


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[None]:
    """Holds a folder for this process; the system releases it when the process ends, however it ends.

    Raises:
      InputError: another process holds it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(FileLock(folder.with_name(f"{folder.name}.lock"), blocking=False))
        except Timeout:
            allowed = "one command at a time: wait for it, or another --cache"
            raise InputError(str(folder), "another command at work on it", allowed) from None
        yield


def forget() -> None:
    """Lets go of compiled programs: a claim compiles dozens, each with buffers of its own."""
    jax.clear_caches()
    gc.collect()
