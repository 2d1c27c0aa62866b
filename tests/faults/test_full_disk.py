"""R21: a disk that takes no more, as a limit on the size of a file, which holds for one process and can be lifted."""

import pathlib
import resource
import signal

import pytest
from faults import runs

QUICK = (*runs.QUIET, "--config.log.tensorboard=true", "--config.train.steps=60000", "--config.checkpoint.every=100")
pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs the limits of another process: Linux"),
]


def limit(run, size):
    """No file of the run's process may grow past `size` bytes; -1 lifts that."""
    pid = run.processes[0].pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def spoken(run):
    """Lines without those of the steps and the table."""
    return [x for x in run.said().splitlines() if x.startswith(("hcl_jax:", str(run.folder), "Traceback"))]


def files_past(folder):
    return max(p.stat().st_size for p in (folder / "checkpoints").rglob("*") if p.is_file())


@pytest.fixture
def begun(tmp_path, cache):
    """A run that has saved, or said a step, when `there` says so of its folder."""

    def begin(*flags, there="checkpoints/*00"):
        folder = tmp_path / "w"
        run = runs.start(folder, *QUICK, *flags, cache=cache)
        run.wait_for(lambda: any(p.is_dir() or p.stat().st_size for p in folder.glob(there)))
        return run

    return begin


def test_a_full_disk_ends_the_run(begun):
    """The checkpoint does not fit: status 2, one line, the steps before whole; the run goes on when there is room."""
    run = begun("--config.log.every=100000")
    limit(run, files_past(run.folder) // 2)
    assert run.end() == [2], run.everything()
    said = spoken(run)
    assert len(said) == 1 and "found a save that failed" in said[0] and "is whole" in said[0], run.everything()
    assert "Error" not in run.said().replace(said[0], ""), run.everything()
    last = runs.saved(run.folder)[-1]
    assert f"step {last} is whole" in said[0] and runs.unfinished(run.folder) == []
    run = runs.start(run.folder, *QUICK, "--config.log.every=100000", f"--config.train.steps={60000}")
    run.wait_for(lambda: f"resumed at step {last} of" in run.said())
    run.wait_for(lambda: runs.saved(run.folder)[-1] > last)
    run.signal(signal.SIGTERM)
    assert run.end() == [0], run.everything()


def test_a_full_disk_is_passed_over(begun):
    """With checkpoint.on_error=go_on: a line for each save that failed, and the next one when there is room again."""
    run = begun("--config.log.every=100000", "--config.checkpoint.on_error=go_on")
    limit(run, files_past(run.folder) // 2)
    run.wait_for(lambda: "the run goes on to its next save" in run.said())
    before = runs.saved(run.folder)[-1]
    limit(run, -1)
    run.wait_for(lambda: runs.saved(run.folder)[-1] > before + 100)
    run.signal(signal.SIGTERM)
    assert run.end() == [0], run.everything()
    assert runs.unfinished(run.folder) == [] and "Traceback" not in run.said()


def test_metrics_that_do_not_fit(begun):
    """The numbers are no less than the checkpoints: one line, and nothing hangs. Going on: test_lost_room.py."""
    run = begun("--config.checkpoint.on_error=stop", "--config.checkpoint.every=100000", there="metrics.jsonl")
    size = (run.folder / "metrics.jsonl").stat().st_size
    limit(run, size + 2000)
    assert run.end(60) == [2], run.everything()
    said = spoken(run)
    assert len(said) == 1 and "File too large" in said[0], run.everything()
    assert "Traceback" not in run.said()
    assert isinstance(pathlib.Path(run.folder / "metrics.jsonl").read_text(), str)
    runs.saved(run.folder)
