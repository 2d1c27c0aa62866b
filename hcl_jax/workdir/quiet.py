"""A failed save is reported in one line: what else Orbax's threads print about it is filtered out.

Each of them also passes its error to the next call of the manager, where checkpoint.py handles it.
"""

import logging
import sys
from typing import Any

LOGGERS = ("absl", "asyncio", "concurrent.futures")
_previous_hook: list[Any] = []


def silence_failed_saves() -> None:
    """Installs the filters, once a process; everything else is shown as before."""
    if _previous_hook:
        return
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_is_shown)
    _previous_hook.append(sys.unraisablehook)
    sys.unraisablehook = _unraisable


def _is_shown(record: logging.LogRecord) -> bool:
    """False for an error of Orbax, or of a thread that it left waiting."""
    return record.levelno < logging.ERROR or (record.name == "absl" and "orbax" not in record.pathname)


def _unraisable(event: Any) -> None:
    # TensorStore calls back into an event loop that ended with the failed save.
    if not (isinstance(event.exc_value, RuntimeError) and str(event.exc_value) == "Event loop is closed"):
        _previous_hook[0](event)
