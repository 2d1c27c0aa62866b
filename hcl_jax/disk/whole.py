"""The one writer of files on a disk: whole or not at all, and there after a power cut. Standard library only."""

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import IO


def write(place: str | os.PathLike, data: bytes | str) -> None:
    """Writes a file, whole or not at all; it outlives a power cut."""
    with replacing(place) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replacing(place: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A file beside `place`, which takes its name when the block has ended without an error.

    Its own name is no one else's: of two that write at once, on one machine or two, one whole file stays. What a kill
    leaves ends with `.part`; `clear` removes it.

    Raises:
      OSError: of the file system; the file that was there before stays.
    """
    place = pathlib.Path(place)
    part = place.with_name(f"{place.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, place)
    except BaseException:
        part.unlink(missing_ok=True)  # room on a full disk
        raise
    with contextlib.suppress(OSError):  # a file system that cannot; the file itself is there
        flush(place.parent)


def clear(folder: str | os.PathLike) -> None:
    """Removes what killed writers left in a folder, of which the caller is the only writer."""
    for part in pathlib.Path(folder).glob("*.part"):
        if part.is_file():
            part.unlink(missing_ok=True)


def flush(path: str | os.PathLike) -> None:
    """Writes a file, or the entries of a folder, through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
