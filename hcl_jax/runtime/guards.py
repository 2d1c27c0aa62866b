"""Guards of a run outside its steps: may it still write, is it stuck, has it been asked to end."""

from typing import NamedTuple

from hcl_jax.errors import InputError
from hcl_jax.runtime.preemption import Interruption
from hcl_jax.runtime.watchdog import Watchdog
from hcl_jax.workdir.lease import Lease
from hcl_jax.workdir.lock import Lock


class Guards(NamedTuple):
    """Host objects that never enter jitted code.

    Attributes:
      stopping: whether the run has been asked to end.
      watch: ends a stuck process.
      phase: seconds that a phase between steps (a save, an evaluation) may take.
      lock: owns the workdir; None in processes that write nothing there.
    """

    stopping: Interruption
    watch: Watchdog
    phase: float = 0.0
    lock: Lock | Lease | None = None

    def hold(self) -> None:
        """Raises InputError if another run has taken the workdir while this one was suspended."""
        if self.lock is not None and self.lock.lost:
            raise InputError(str(self.lock.path), f"a lock of {self.lock.lost}", "that of this run, which ends here")
