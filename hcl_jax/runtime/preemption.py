"""SIGTERM and the first Ctrl-C ask a run to save and end; all processes of it end after the same step."""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator

from jax._src import distributed  # the preemption service has no public name in jax 0.10
from jax.experimental import multihost_utils

from hcl_jax.runtime import processes


class Stop(Exception):
    """The run has been asked to end."""


class Interruption:
    """Asks the coordination service whether a process has been asked to end.

    The service's own thread receives the signal, also during a compilation or a save, and every process stops at the
    same tick. The service runs once jax.distributed has been initialized, which main.py does for one process too;
    without it SIGTERM ends a process at once.
    """

    stopped = False  # whether a run of this process has ended before its last step
    pressed = False  # Ctrl-C in the only process: the service would print a line of its own about a SIGTERM

    def __init__(self) -> None:
        self._tick, self._has_service = 0, distributed.global_state.preemption_sync_manager is not None
        self.reached = False

    def due(self) -> bool:
        """Whether to end now. Every process asks the same number of times, at the same places."""
        if self._has_service and not self.reached:
            self._tick += 1
            self.reached = Interruption.pressed or multihost_utils.reached_preemption_sync_point(self._tick)
            Interruption.stopped = Interruption.stopped or self.reached
        return self.reached

    def check(self) -> None:
        """Raises Stop when it is time to end."""
        if self.due():
            raise Stop


def status_of_end() -> int:
    """The exit status of a run that has ended and saved: 0, or that of HCL_JAX_STOPPED if it was asked to end.

    A scheduler that sends SIGTERM and starts the run elsewhere must not consider it done.
    """
    status = os.environ.get("HCL_JAX_STOPPED", "")
    return int(status) if Interruption.stopped and status.isdecimal() else 0


@contextlib.contextmanager
def peers_needed(trained: Callable[[], bool]) -> Iterator[None]:
    """What fails in the runtime of a run of several processes ends this one as a crash does (status 134).

    The usual cause is a lost peer. A Python error would wait for that peer at exit, and launch.restart would not start
    this process again. The block holds all that waits for peers: steps are queued, so a lost one shows where their
    numbers are read, in a comparison of replicas, an evaluation, or the barriers of a save.

    Args:
      trained: whether a step has been taken, in this process or before a resume. Until then errors of the runtime are
        raised unchanged: a program that this machine cannot run would be started again and again.
    """
    try:
        yield
    except Exception as error:
        if not trained() or not processes.is_of_a_peer(error):
            raise
        traceback.print_exc()
        line = (
            "hcl_jax: a step, or what follows it, failed, as when another process is gone; ending to be started again"
        )
        print(line, file=sys.stderr)
        sys.stderr.flush()
        os.abort()


class CtrlC:
    """Whether the user has pressed Ctrl-C."""

    pressed = False


@contextlib.contextmanager
def ctrl_c_saves() -> Iterator[CtrlC]:
    """The first Ctrl-C in this block acts on all processes as SIGTERM does; the second ends this one at once.

    SIGUSR1 counts as SIGTERM: mpirun forwards it, but follows a SIGTERM with SIGKILL after a second.
    """
    ctrl_c = CtrlC()

    def ask(*_: object) -> None:
        if ctrl_c.pressed:
            raise KeyboardInterrupt
        ctrl_c.pressed = True
        print("hcl_jax: saving and stopping; Ctrl-C again stops at once", file=sys.stderr, flush=True)
        if processes.count() == 1:
            Interruption.pressed = True
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    if distributed.global_state.preemption_sync_manager is None:
        yield ctrl_c
        return
    handlers = {signal.SIGINT: ask, signal.SIGUSR1: lambda *_: os.kill(os.getpid(), signal.SIGTERM)}
    old = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield ctrl_c
    finally:
        Interruption.pressed = False
        for number, handler in old.items():
            signal.signal(number, handler)
