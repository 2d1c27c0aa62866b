"""A slow peer is waited for; one that is stuck, gone or of another kind ends the run with a line that says so."""

import re
import shutil
import signal
import time

import pytest
from faults import runs


@pytest.mark.faults
def test_a_slow_peer_is_waited_for(tmp_path, two, cache):
    """One process stops for five seconds; nothing is lost and nothing else changes."""
    run = runs.start(tmp_path / "w", *runs.TWO_FLAGS, **runs.TWO, cache=cache)
    run.wait_for_step(8)
    run.signal(signal.SIGSTOP, 1)
    time.sleep(1)
    reached = run.step()
    time.sleep(4)
    assert run.step() <= reached + 1
    run.signal(signal.SIGCONT, 1)
    assert run.end() == [0, 0], run.everything()
    runs.same(tmp_path / "w", two)


@pytest.mark.slow
def test_a_stuck_peer_is_not_waited_for_for_ever(tmp_path, two, cache):
    """R9: one process stops for good; the other says where it stands and aborts soon after its limit."""
    limit = 20.0
    run = runs.start(tmp_path / "w", *runs.TWO_FLAGS, f"--config.limits.watchdog={limit}", **runs.TWO, cache=cache)
    run.wait_for_step(12)
    run.signal(signal.SIGSTOP, 1)
    began = time.monotonic()
    run.processes[0].wait(limit + 30)
    seconds = time.monotonic() - began
    run.kill(1)
    print(f"watchdog of {limit:.0f} s: aborted {seconds:.1f} s after the peer stopped")
    assert run.processes[0].returncode == -signal.SIGABRT, run.everything()
    assert "seconds without a step after step" in run.said() and "in loop" in run.said(), run.said()
    assert seconds < limit + 8
    assert runs.saved(tmp_path / "w")


GONE = """
import os, signal
from hcl_jax.runtime import distributed
join = distributed.join
def joined(*a, **k):
    join(*a, **k)
    os.kill(os.getpid(), signal.SIGKILL)
distributed.join = joined
"""
NEVER = "import time; time.sleep(60)"


@pytest.mark.parametrize(
    ("before", "said"),
    [
        pytest.param(GONE, "waited 15 s for process 1 about the run", marks=pytest.mark.slow, id="died"),
        # Who has not come nobody knows: it has no number yet.
        pytest.param(NEVER, "for all 2 processes to join", marks=pytest.mark.faults, id="never came"),
    ],
)
def test_a_peer_that_is_gone_before_the_first_step(tmp_path, cache, before, said):
    """A dead peer: one line says who is missing, not long after limits.barrier; no folder is made."""
    flags = (*runs.TWO_FLAGS, "--config.limits.barrier=15")
    began = time.monotonic()
    run = runs.start(tmp_path / "w", *flags, **runs.TWO, cache=cache, own={1: {"before": before}})
    run.processes[0].wait(90)
    seconds = time.monotonic() - began
    print(f"ended {seconds:.1f} s after the start with {run.processes[0].returncode}: {run.said()[-1500:]}")
    assert run.processes[0].returncode not in (0, 2) and seconds < 30
    (line,) = re.findall("^hcl_jax: .*", run.said(), re.MULTILINE)
    assert said in line
    assert not (tmp_path / "w").exists()


def another_source(tmp_path):
    """A copy of the package with one line changed, at the head of the path."""
    for name in ("hcl_jax", "configs"):
        shutil.copytree(runs.ROOT / name, tmp_path / "other" / name, ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "other" / "hcl_jax" / "workdir" / "meter.py"
    path.write_text(path.read_text().replace("1e-9", "1e-8"))
    return {"cwd": tmp_path / "other"}


def another_release(tmp_path):
    """Metadata of a release of Optax that there is not, at the head of the path."""
    folder = tmp_path / "site" / "optax-99.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: optax\nVersion: 99.0\n")
    return {"environment": {"PYTHONPATH": str(tmp_path / "site")}}


def another_config(tmp_path):
    return {"flags": ["--config.optimizer.learning_rate=0.5"]}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        pytest.param(
            another_config,
            r"process 1: .*optimizer\.learning_rate.* 0\.5.* 0\.002",
            marks=pytest.mark.faults,
            id="config",
        ),
        pytest.param(
            another_source,
            r"process 1: the source of hcl_jax.* [0-9a-f]{16}.* [0-9a-f]{16}",
            marks=pytest.mark.slow,
            id="source",
        ),
        pytest.param(
            another_release,
            r"process 1: the release of optax.* 99\.0.* \d+\.\d+",
            marks=pytest.mark.faults,
            id="release",
        ),
    ],
)
def test_processes_that_differ_are_refused(tmp_path, cache, other, said):
    """R31: before the first step, with status 2 in both and one line with the process, the field and both values."""
    run = runs.start(tmp_path / "w", *runs.TWO_FLAGS, **runs.TWO, cache=cache, own={1: other(tmp_path)})
    assert run.end() == [2, 2], run.everything()
    found = [line for line in (run.said(0) + run.said(1)).splitlines() if line.startswith("hcl_jax: ")]
    assert len(found) == 1 and re.search(said, found[0]), run.everything()
    assert not (tmp_path / "w").exists()
