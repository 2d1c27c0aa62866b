"""The one place where what a reader of a user's file raises becomes a line. Standard library only."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from hcl_jax.errors import InputError


@contextlib.contextmanager
def readable(where: str | os.PathLike, allowed: str, found: str = "an unreadable file") -> Iterator[None]:
    """Turns whatever a reader raises of a file into an InputError with one line; keep what is ours out of the block.

    A list of the kinds that a library raises is never whole: a number of 5,000 digits is a ValueError of Python itself,
    deep nesting a RecursionError, a lost share an OSError, and for a damaged file libraries raise struct.error,
    MemoryError, NotImplementedError (zipfile), and others with each release.

    Args:
      where: the field or the file.
      allowed: what may be there.
      found: what is said of it before the library's own words, such as "no JSON"; "" for these alone.

    Raises:
      InputError: for any Exception but an InputError, which says more.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        said = (getattr(error, "strerror", None) or str(error)).strip().partition("\n")[0][:200]
        if isinstance(error, OSError):  # what cannot be opened may well be of its kind
            found = "an unreadable file" if found.startswith("no ") else found
        elif isinstance(error, RecursionError):
            said = "nested too deep"
        else:
            said = ": ".join(filter(None, (type(error).__name__, said)))
        raise InputError(str(where), f"{found} ({said})" if found else said, allowed) from None


def is_file(place: Any, where: str | os.PathLike, allowed: str) -> bool:
    """Whether there is such a file; a share that has gone away is no absence, but a line."""
    with readable(where, allowed):
        return place.is_file()


def text_of(place: Any, allowed: str) -> str:
    """The text of a file. Raises InputError where it cannot be read, or is no text."""
    with readable(place, allowed, "no text"):
        return place.read_text(encoding="utf-8")
