"""The one place where what a reader of a user's file raises becomes a line. Standard library only."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from hcl_jax.errors import InputError


@contextlib.contextmanager
def readable(where: str | os.PathLike, allowed: str, kind: str = "what can be read") -> Iterator[None]:
    """Turns whatever a reader raises of a file into an InputError with one line.

    A list of the kinds that a library raises is never whole: a number of 5,000 digits is a ValueError of Python itself,
    deep nesting a RecursionError, a lost share an OSError, a value of another type an AttributeError.

    Args:
      where: the field or the file.
      allowed: what may be there.
      kind: what it is not: "JSON", "TOML".
    """
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(str(where), f"an unreadable file ({error.strerror or error})", allowed) from None
    except Exception as error:
        text = str(error).strip().partition("\n")[0][:200]
        why = "nested too deep" if isinstance(error, RecursionError) else text or type(error).__name__
        raise InputError(str(where), f"no {kind} ({why})", allowed) from None


def is_file(place: Any, where: str | os.PathLike, allowed: str) -> bool:
    """Whether there is such a file; a share that has gone away is no absence, but a line."""
    with readable(where, allowed):
        return place.is_file()


def text_of(place: Any, allowed: str) -> str:
    """The text of a file. Raises InputError where it cannot be read, or is no text."""
    with readable(place, allowed, "text"):
        return place.read_text(encoding="utf-8")
