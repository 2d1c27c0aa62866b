"""A disk that is really full, and a folder that is taken away, while a run trains."""

import json
import shutil
import subprocess

import pytest
from faults import runs
from refusals import refused
from test_end_to_end import SMALL

from hcl_jax import train
from hcl_jax.main import main
from hcl_jax.workdir.checkpoint import Checkpoints

QUIET = [*SMALL, *runs.QUIET, "--config.train.steps=12", "--config.checkpoint.every=3"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 8 MB; skipped where this user may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip(f"may not mount a file system: {made.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def at(monkeypatch, events):
    """Calls `events[n]` before step n is made; each save has ended then, well or not."""
    real = train.global_batches

    def batches(run, source, start, stop, bad):
        for step, batch in enumerate(real(run, source, start, stop, bad), start + 1):
            if step in events:
                events[step]()
            yield batch

    begun = Checkpoints.save

    def save(checkpoints, *state):
        begun(checkpoints, *state)
        checkpoints.wait()

    monkeypatch.setattr(train, "global_batches", batches)
    monkeypatch.setattr(Checkpoints, "save", save)


def fill(place):
    """Takes the last byte."""
    with (place / "filler").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 9, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def test_a_disk_that_is_really_full(small_disk, monkeypatch, capsys):
    """F3: with go_on the run goes on; lines wait until there is room, and none is missing."""
    at(monkeypatch, {5: lambda: fill(small_disk), 9: (small_disk / "filler").unlink})
    flags = ["--config.checkpoint.on_error=go_on", "--config.log.tensorboard=true", f"--workdir={small_disk / 'w'}"]
    assert main([*QUIET, *flags]) == 0
    said = capsys.readouterr().out
    assert "metrics.jsonl: no room" in said and "there is room again, and no line is missing" in said
    assert "a save that failed ([Errno 28]" in said and "step 3 is whole; the run goes on to its next save" in said
    steps = [json.loads(line)["step"] for line in (small_disk / "w" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 13))
    assert runs.saved(small_disk / "w")[-1] == 12


def test_lines_that_never_find_room(small_disk, monkeypatch, capsys):
    """F3: what is lost in the end is said, with status 2."""
    at(monkeypatch, {11: lambda: fill(small_disk)})
    flags = ["--config.checkpoint.on_error=go_on", f"--workdir={small_disk / 'w'}", "--config.log.tensorboard=false"]
    said = refused(capsys, *QUIET, *flags)
    assert "a last save that failed" in said or "no room for its last lines" in said


@pytest.mark.parametrize("what", ["w", "w/metrics.jsonl"])
def test_what_is_removed_is_missed(tmp_path, monkeypatch, capsys, what):
    """F7: at the next line, one line and status 2; nothing is called saved."""

    def remove():
        place = tmp_path / what
        shutil.rmtree(place) if place.is_dir() else place.unlink()

    at(monkeypatch, {8: remove})
    assert main([*QUIET, f"--workdir={tmp_path / 'w'}"]) == 2
    said = capsys.readouterr()
    (line,) = said.err.strip().splitlines()
    assert "metrics.jsonl: found no such file any more" in line
    assert "is saved" not in said.out + said.err
