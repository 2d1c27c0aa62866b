"""A stuck process reports its stacks and ends, so that it can be restarted: heartbeats miss it, its peers wait.

Two nets. A thread notices that no step has ended within the limit, writes one line and the stacks of all threads, and
aborts (status 134). If no thread can run, since native code holds the interpreter's lock, an alarm of the system writes
the stacks a little later and ends the process (status 142). launch.restart restarts it after either. (The timer of
faulthandler would end with status 1, as a Python error does, and takes 43 us to start again; the alarm takes 0.7.)

Times are those of the monotonic clock. A process that was stopped (Ctrl-Z) for longer than the limit counts as stuck.
"""

import contextlib
import faulthandler
import math
import os
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator

STDERR = 2  # the descriptor: a stuck thread may hold the lock of sys.stderr
MARGIN = 5.0  # seconds between the first net and the second
POLL = 1.0  # a beat does not wake the thread: it looks this often
GAPS = 50


class Watchdog:
    """Ends the process when no step has ended for max(factor x median of the last 50 gaps, least) seconds.

        with Watchdog(least=300.0) as watch:
            for step in range(start, steps):
                ...
                watch.beat(step + 1)

    Until the first beat there is no limit (a compile), unless `allow` sets one. A beat means that a step has ended: one
    after the dispatch of a step would only measure how fast steps are queued. A beat takes 5 us.

    Args:
      least: seconds, more than a step takes. 0 or less disables the watchdog.
      factor: times the usual gap.
    """

    def __init__(self, least: float = 300.0, factor: float = 10.0):
        self._least, self._factor = least, factor
        self._gaps: deque[float] = deque(maxlen=GAPS)
        self._allowed: list[float] = []  # of the phases under way
        self._step: int | None = None
        self._last = self._deadline = math.inf  # of the last beat, and when the process counts as stuck
        self._counts = False  # whether the gap up to the next beat is one of steps
        self._alarm = False
        self._ended = threading.Event()

    def __enter__(self) -> "Watchdog":
        if self._least > 0:
            # Another user of the alarm keeps it; only the main thread may handle signals.
            if threading.current_thread() is threading.main_thread():
                self._alarm = signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
            if self._alarm:
                faulthandler.register(signal.SIGALRM, file=STDERR, all_threads=True, chain=True)
            self._last = time.monotonic()
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.unregister(signal.SIGALRM)
            self._alarm = False

    @property
    def limit(self) -> float:
        """Seconds that a step may take now."""
        usual = statistics.median(self._gaps) if self._gaps else 0.0
        return max(self._factor * usual, self._least, *self._allowed)

    def beat(self, step: int | None = None, *, allow: float = 0.0) -> None:
        """Step number `step` has ended. With `allow` the next may take that long, and its gap is not counted."""
        now = time.monotonic()
        if self._counts:
            self._gaps.append(now - self._last)
        self._step = step if step is not None else (self._step or 0) + 1
        self._arm(now, allow)
        self._counts = allow <= 0

    @contextlib.contextmanager
    def allow(self, seconds: float) -> Iterator[None]:
        """A phase between steps (evaluation, restore, compile) that may take this long; math.inf: no limit."""
        self._allowed.append(seconds)
        self._arm(time.monotonic())
        try:
            yield
        finally:
            self._allowed.remove(seconds)
            self._arm(time.monotonic(), started=self._step is not None)
            self._counts = False

    def _arm(self, now: float, more: float = 0.0, started: bool = True) -> None:
        limit = max(self.limit, more) if started or self._allowed else math.inf
        self._last, self._deadline = now, now + limit
        if self._alarm and not self._ended.is_set():
            # 0 stops the alarm, and the system takes no more than a 32-bit number of seconds.
            signal.setitimer(signal.ITIMER_REAL, limit + MARGIN if limit < 2**30 else 0)

    def _watch(self) -> None:
        while not self._ended.wait(min(max(self._deadline - time.monotonic(), 0.0), POLL)):
            if time.monotonic() >= self._deadline and not self._ended.is_set():
                seconds = time.monotonic() - self._last
                after = "before the first step" if self._step is None else f"after step {self._step}"
                line = f"watchdog: {seconds:.0f} seconds without a step {after}; the stacks of all threads:"
                os.write(STDERR, f"\nhcl_jax: {line}\n".encode())
                faulthandler.dump_traceback(file=STDERR, all_threads=True)
                os.abort()
