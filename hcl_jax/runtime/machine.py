"""What this machine gives to a process: cores, threads of XLA:CPU, memory."""

import os
import pathlib

import jax

# Where Linux says what a container may take; "max", or a number past the machine, is no limit.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
VARIABLES = ("PJRT_NPROC", "NPROC")  # read by XLA:CPU as it starts, the first that is a number


def usable_cores() -> int:
    """The cores that this process may run on, which a container or a job step may have made fewer."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """The threads of XLA:CPU. It splits sums over them, so that the last bits of a run follow from their number."""
    numbers = (os.environ.get(name, "").strip() for name in VARIABLES)
    return next((int(n) for n in numbers if n.isdecimal()), 0) or usable_cores()


def cpu_threads() -> int:
    """The number of threads that the last bits of a run follow from; 0 where the devices are no CPUs."""
    return threads() if jax.default_backend() == "cpu" else 0


def memory() -> int:
    """Bytes of memory that this process may take: the machine's, or its container's."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in LIMITS:
        try:
            text = pathlib.Path(name).read_text().strip()
        except OSError:
            continue
        found += [int(text)] if text.isdecimal() else []
    return min(found)
