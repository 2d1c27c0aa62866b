"""A save that failed is told in one line: what Orbax's threads print besides is kept from the terminal.

Each of them also hands its error to the next call of the manager, where checkpoint.py takes it.
"""

import logging
import sys
from typing import Any

LOGGERS = ("absl", "asyncio", "concurrent.futures")
_hushed: list[Any] = []


def hush() -> None:
    """Once a process; what is not of a save is shown as before."""
    if _hushed:
        return
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_is_shown)
    _hushed.append(sys.unraisablehook)
    sys.unraisablehook = _unraisable


def _is_shown(record: logging.LogRecord) -> bool:
    """Whether a record is no error of Orbax, or of a thread that it left waiting."""
    return record.levelno < logging.ERROR or (record.name == "absl" and "orbax" not in record.pathname)


def _unraisable(found: Any) -> None:
    # TensorStore calls back into an event loop that went with the failed save.
    if not (isinstance(found.exc_value, RuntimeError) and str(found.exc_value) == "Event loop is closed"):
        _hushed[0](found)
