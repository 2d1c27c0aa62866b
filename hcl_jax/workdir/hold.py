"""Which process may write in a run's folder: the first one takes its lock for all of them."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

from hcl_jax.runtime import processes
from hcl_jax.workdir import files
from hcl_jax.workdir.lease import Lease
from hcl_jax.workdir.lock import Lock


@contextlib.contextmanager
def hold(workdir: str | pathlib.Path, seconds: float, say: Callable[[str], None]) -> Iterator[Lock | Lease | None]:
    """Holds a workdir while the block runs.

    Args:
      workdir: the run's folder, on a disk or on gs://.
      seconds: how long the other processes wait for the first.
      say: where a line about an earlier holder goes.

    Yields:
      The lock in the first process, None in the others.

    Raises:
      InputError: another run holds it; in all processes.
    """
    with contextlib.ExitStack() as stack:
        held: list[Lock | Lease] = []

        def take() -> str:
            lock: Lock | Lease = Lock(workdir) if files.is_disk(workdir) else Lease(workdir)
            stack.enter_context(lock)
            held.append(lock)
            return held[0].message

        message = processes.broadcast_from_first("the lock of the workdir", take, seconds)
        if message:
            say(message)
        yield held[0] if held else None
