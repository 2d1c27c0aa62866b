"""What a launcher leaves behind if it dies: DIR/left.json, and a lock that the kernel lets go of then."""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from hcl_jax.errors import InputError


@contextlib.contextmanager
def alone(folder: pathlib.Path, name: str) -> Iterator[None]:
    """Holds the folder of a launch, made when it is missing.

    Raises:
      InputError: another launcher on this machine holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a+")
    except OSError as error:
        raise InputError("--logs", f"{folder}, {error.strerror}", "a folder that this user may write") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            found = f"{name}, which process {file.read().strip() or 'of another launch'} is launching"
            raise InputError("--name", found, f"another name, or the end of that launcher ({folder}/lock)") from None
        except OSError:  # a file system without flock: the cloud still knows the name
            pass
        file.truncate(0)
        print(os.getpid(), file=file, flush=True)
        yield
        file.truncate(0)


def write(folder: pathlib.Path, note: dict[str, Any]) -> None:
    """Notes what will be there, before it is made; whole or not at all."""
    part = folder / "left.json.part"
    part.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    part.replace(folder / "left.json")


def read(folder: pathlib.Path) -> dict[str, Any] | None:
    """The note of a launcher that died, was told to --detach, or could not delete; None for none."""
    try:
        note = json.loads((folder / "left.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


def clear(folder: pathlib.Path) -> None:
    """Nothing is left that nobody looks after."""
    with contextlib.suppress(OSError):
        (folder / "left.json").unlink()
