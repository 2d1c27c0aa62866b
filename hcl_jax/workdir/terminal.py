"""What a run says on the terminal: lines of text, and its progress as a bar or as lines."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from tqdm import tqdm


class Terminal:
    """Standard output of a run, from before its log is open.

    Args:
      bar: a progress bar, or plain lines; None asks whether standard error is a terminal.
      quiet: say nothing, as processes other than the first do.
    """

    def __init__(self, bar: bool | None = None, quiet: bool = False):
        self._quiet, self._shown = quiet, sys.stderr.isatty() if bar is None else bar
        self._bar: tqdm | None = None
        self._steps = 0
        self._first: tuple[int, float] | None = None  # the step of the first line of progress, and when it came

    def begin(self, start: int, steps: int) -> None:
        """The run goes from step `start` to `steps`: the bar opens there."""
        self._steps, self._first = steps, None
        if self._shown and not self._quiet:
            self._bar = tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True)

    def progress(self, step: int, loss: float, rate: float, also: Mapping[str, str] = MappingProxyType({})) -> None:
        """Moves the bar, or prints a plain line; `rate` in examples a second, `also` word -> number."""
        if self._bar is not None:
            self._bar.set_postfix({"loss": f"{loss:.4f}", **also, "examples/s": f"{rate:.0f}"}, refresh=False)
            self._bar.update(step - self._bar.n)
        else:
            now, left = time.monotonic(), ""
            if self._first is None:  # whose time is mostly that of the compiler
                self._first = step, now
            elif step > self._first[0]:
                each = (now - self._first[1]) / (step - self._first[0])
                left = f"  {_clock(each * (self._steps - step))} left"
            speed = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
            more = "".join(f"{word} {number}  " for word, number in also.items())
            self.say(f"step {step}/{self._steps}  loss {loss:.4f}  {more}{speed} examples/s{left}")

    def at(self, text: str) -> None:
        """Where something long is, in the place of the numbers beside the bar, or as a line."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        else:
            self.say(text)

    def say(self, text: str) -> None:
        """A message of its own line, above the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        elif not self._quiet:
            try:
                print(text, flush=True)
            except BrokenPipeError:  # the reader has gone: the run matters more
                self._quiet = True
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    @contextlib.contextmanager
    def while_silent(self, text: str, seconds: float = 5.0) -> Iterator[None]:
        """Says `text` once what is done inside has taken `seconds`: silence looks like a hang."""
        timer = threading.Timer(seconds, self.say, (text,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()


@contextlib.contextmanager
def repeated(tell: Callable[[float], None], seconds: float = 10.0) -> Iterator[None]:
    """Calls tell(seconds so far) again and again from a thread while what is inside lasts: never where it is short."""
    ended, began = threading.Event(), time.monotonic()

    def loop() -> None:
        while not ended.wait(seconds):
            tell(time.monotonic() - began)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
