"""The one error that bad input raises: a line that names the field or file, what was found and what is allowed."""

import difflib
import errno
from collections.abc import Iterable

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # of an OSError: the disk takes no more


class InputError(ValueError):
    """Bad input: `where: found X; allowed: Y`. The command line prints it and exits with 2.

    Args:
      where: the config field or the file, as the user wrote it.
      found: what is there.
      allowed: what may be there.

    Attributes:
      shared: whether every process of the run has this error, so that one of them may speak for all.
    """

    shared = False

    def __init__(self, where: str, found: object, allowed: str):
        self.where, self.found, self.allowed = where, found, allowed
        super().__init__(" ".join(f"{where}: found {found}; allowed: {allowed}".split()))

    def below(self, where: str, allowed: str = "") -> "InputError":
        """The same error of something inside of `where`: "where: what it says". Raise it `from None`."""
        error = type(self)(f"{where}: {self.where}", self.found, allowed or self.allowed)
        error.shared = self.shared
        return error


class CorruptState(RuntimeError):
    """Devices hold different bits of what should be the same: the memory or a link of one of them is at fault."""


def nearest(name: str, known: Iterable[str], most: int = 8) -> str:
    """The known names nearest to `name` first, for an error text: "a, b, c (12 known)"."""
    known = sorted(str(k) for k in known)
    close = difflib.get_close_matches(str(name), known, n=most, cutoff=0.5)
    shown = close + [k for k in known if k not in close][: max(0, most - len(close))]
    more = f" ({len(known)} known)" if len(known) > len(shown) else ""
    return ", ".join(k or "''" for k in shown) + more if shown else "nothing"
