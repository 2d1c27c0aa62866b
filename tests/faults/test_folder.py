"""One run a folder, and a clock that nobody trusts."""

import os
import signal

import pytest
from faults import runs


@pytest.mark.slow
def test_a_second_run_on_one_folder_is_refused(tmp_path, one, cache):
    """R37: status 2 and one line with the holder's number; the holder, which slept meanwhile, ends as if alone."""
    first = runs.start(tmp_path / "w", *runs.ONE_FLAGS, **runs.ONE, cache=cache)
    first.wait_for_step(50)
    first.signal(signal.SIGSTOP)
    before = sorted(p.name for p in (tmp_path / "w").iterdir())
    second = runs.start(tmp_path / "w", *runs.ONE_FLAGS, **runs.ONE, cache=cache)
    assert second.end() == [2], second.said()
    (said,) = [line for line in second.said().splitlines() if line.startswith("hcl_jax: ")]
    assert f"in use by process {first.processes[0].pid} on host" in said
    assert sorted(p.name for p in (tmp_path / "w").iterdir()) == before
    first.signal(signal.SIGCONT)
    assert first.end() == [0], first.said()
    runs.same(tmp_path / "w", one)


# In front of everything else; what reads the clock through datetime sees the files' times move instead.
YESTERDAY = """
import time
now, now_ns = time.time, time.time_ns
time.time = lambda: now() - 86400.0
time.time_ns = lambda: now_ns() - 86400 * 10**9
"""


@pytest.mark.faults
def test_a_clock_that_was_set_back(tmp_path, one, cache):
    """R38: what is on disk comes from tomorrow, and a resumed run whose clock is a day behind takes the newest step."""
    folder = tmp_path / "w"
    run = runs.start(folder, *runs.ONE_FLAGS, **runs.ONE, cache=cache)
    run.wait_for_step(170)
    run.kill()
    newest = runs.saved(folder)[-1]
    for i, step in enumerate(runs.saved(folder)):  # and the older a step the younger its files
        for path in (folder / "checkpoints" / str(step), *(folder / "checkpoints" / str(step)).rglob("*")):
            at = path.stat().st_mtime + 86400 * (9 - i)
            os.utime(path, (at, at))
    resumed = runs.finish(folder, *runs.ONE_FLAGS, **runs.ONE, cache=cache, before=YESTERDAY)
    assert f"resumed at step {newest} of 400" in resumed.said()
    runs.same(folder, one)
