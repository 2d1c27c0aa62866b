"""Calls that are measured side by side: each in a process of its own, and the processes take turns.

Memory is then of one call alone, a call that fails or hangs takes no other with it, and what the machine does besides
hits all alike.
"""

import importlib.util
import multiprocessing
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

MIB = 2**20
START_SECONDS = 300  # to import, make inputs and compile

Built = tuple[Callable[[], Any], int | None]  # a call, and the compiled temp bytes where there are such


def working(pipe: Any, build: Callable[[], Built]) -> None:
    """Builds a call and makes it each time it is told to; answers with a dict."""
    try:
        call, temp = build()
        pipe.send({"temp": temp})
        while told := pipe.recv():
            before = resident(reset=True)
            began = time.perf_counter()
            out = call()
            seconds = time.perf_counter() - began
            peak = resident("VmHWM")
            answer: dict[str, Any] = {"seconds": seconds, "growth": peak - before if peak and before else None}
            if told == "first":
                answer["out"] = tuple(np.asarray(leaf) for leaf in leaves(out))
            pipe.send(answer)
    except (EOFError, KeyboardInterrupt):
        pass
    except Exception as error:  # a peer may fail in any way: its row says how
        pipe.send({"failed": f"{type(error).__name__}: {error}".splitlines()[0][:160]})


def leaves(out: Any) -> list[Any]:
    """Arrays of nested tuples."""
    return [leaf for part in out for leaf in leaves(part)] if isinstance(out, tuple | list) else [out]


def resident(line: str = "VmRSS", reset: bool = False, process: str = "self") -> int | None:
    """Bytes of a process in memory, or the peak of it ("VmHWM"), which `reset` brings down; None if unknown."""
    try:
        if reset:
            pathlib.Path(f"/proc/{process}/clear_refs").write_text("5")
        text = pathlib.Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    return next((int(row.split()[1]) * 1024 for row in text.splitlines() if row.startswith(f"{line}:")), None)


def available() -> float:
    """Bytes of memory that are free to take."""
    try:
        text = pathlib.Path("/proc/meminfo").read_text()
    except OSError:
        return float("inf")
    return next(int(row.split()[1]) * 1024 for row in text.splitlines() if row.startswith("MemAvailable:"))


class Worker:
    """The parent's end of a process; `skipped` says why there is none any more.

    Args:
      name: of its row.
      build: () -> (call() -> outputs, compiled temp bytes or None), done in the process; it must pickle.
      needs: a module, or "".
      needed: bytes that a call is known to take; what the compiler says is looked at besides.
      limit: seconds of a call.
    """

    def __init__(self, name: str, build: Callable[[], Built], needs: str, needed: float, limit: float):
        self.name, self.limit, self.skipped = name, limit, ""
        self.temp: int | None = None
        self.first: dict[str, Any] = {}
        self.seconds: list[float] = []
        self._process = None
        if needs and importlib.util.find_spec(needs) is None:
            self.skipped = "not installed: pip install '.[peers]'"
        elif not self._too_much(needed):
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=working, args=(theirs, build), daemon=True)
            self._process.start()
            theirs.close()
            self.temp = self._answer(START_SECONDS, "to start and compile").get("temp")
            self._too_much(self.temp or 0)

    def call(self, told: str = "again") -> None:
        """One call, timed over there."""
        if self.skipped or self._process is None:
            return
        self._pipe.send(told)
        answer = self._answer(self.limit, "a call (--limit-seconds)")
        if told == "first":
            self.first = answer
        elif answer:
            self.seconds.append(answer["seconds"])

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def _too_much(self, needed: float) -> bool:
        free = available()
        if needed > 0.9 * free:
            self._skip(f"needs {needed / MIB:,.0f} MiB, {free / MIB:,.0f} are available")
        return bool(self.skipped)

    def _answer(self, seconds: float, what: str) -> dict[str, Any]:
        try:
            answer = self._pipe.recv() if self._pipe.poll(seconds) else {"failed": f"more than {seconds:g} s {what}"}
        except (EOFError, OSError):
            answer = {"failed": "its process died, most likely for want of memory"}
        if "failed" in answer:
            self._skip(answer["failed"])
            return {}
        return answer

    def _skip(self, why: str) -> None:
        self.skipped = why
        self.close()


def take_turns(workers: list[Worker], repeats: int) -> None:
    """Calls each worker in turn, `repeats` times."""
    for _ in range(repeats):
        for worker in workers:
            worker.call()
