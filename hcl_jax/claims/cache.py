"""Files that are there whole or not at all, and folders that one command at a time works in."""

import contextlib
import fcntl
import gc
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from hcl_jax.errors import InputError


def atomic(path: pathlib.Path, data: str | bytes) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(data.encode() if isinstance(data, str) else data)
    os.replace(part, path)


def read_json(path: pathlib.Path, *fields: str) -> dict[str, Any] | None:
    """The object of a file that `atomic` wrote; None when it is not there, or damaged, or lacks a field."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and value and all(f in value for f in fields) else None


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
