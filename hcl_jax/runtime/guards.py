"""What watches over a run from outside of its steps: may it write, is it stuck, has it been told to end."""

from typing import NamedTuple

from hcl_jax.errors import InputError
from hcl_jax.runtime.preemption import Interruption
from hcl_jax.runtime.watchdog import Watchdog
from hcl_jax.workdir.lease import Lease
from hcl_jax.workdir.lock import Lock


class Guards(NamedTuple):
    """Host objects that never enter jitted code.

    Attributes:
      stopping: whether the run has been told to end.
      watch: ends a process that is stuck.
      phase: seconds that what is no step may take.
      lock: holds the workdir; None in processes that write nothing there.
    """

    stopping: Interruption
    watch: Watchdog
    phase: float = 0.0
    lock: Lock | Lease | None = None

    def hold(self) -> None:
        """Raises InputError when another run has taken the workdir while this one slept."""
        if self.lock is not None and self.lock.lost:
            raise InputError(str(self.lock.path), f"a lock of {self.lock.lost}", "that of this run, which ends here")
