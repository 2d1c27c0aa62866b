"""The signals that tell a launcher to end, heard instead of obeyed."""

import contextlib
import signal
from collections.abc import Iterator

ASKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextlib.contextmanager
def hearing(heard: list[int]) -> Iterator[None]:
    """Appends SIGTERM, Ctrl-C and SIGHUP to `heard` as they come.

    What nohup or a shell's `&` have this process ignore stays ignored, SIGHUP or Ctrl-C: the terminal goes, the
    launcher stays and cleans up later. SIGTERM is always meant.
    """
    before = {}
    for number in ASKED:
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, lambda n, _: heard.append(n))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
