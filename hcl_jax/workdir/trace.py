"""A trace of ten steps for a profiler, in the run's folder."""

from collections.abc import Callable
from typing import Any

import jax

from hcl_jax.workdir import files


def trace_ten_steps(
    folder: files.Path, start: int, steps: int, say: Callable[[str], None]
) -> Callable[[int, Any], None]:
    """A hook of the loop, hook(steps done, state), that traces the sixth to the fifteenth step of this process.

    Args:
      folder: of the run; the trace goes to `profile` in it.
      start: the step that the process goes on from.
      steps: the run's last step.
      say: where it says that there is no trace: of a workdir that is not on a disk.
    """
    begin, end = start + 5, min(start + 15, steps)
    on_disk = files.is_disk(folder)
    if not on_disk:
        say("--profile: no trace, which needs a workdir on a disk")

    def hook(done: int, state: Any) -> None:
        if not on_disk:
            return
        if done == begin < end:
            jax.profiler.start_trace(str(folder / "profile"))
        elif done == end > begin:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()

    return hook
