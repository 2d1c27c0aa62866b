"""Folders that are odd: each is refused or taken with one line, and nothing of a run is lost."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from refusals import refused

from hcl_jax.core.state import REMEMBERED, TrainState
from hcl_jax.errors import InputError
from hcl_jax.main import main
from hcl_jax.workdir import manifest
from hcl_jax.workdir.checkpoint import Checkpoints
from hcl_jax.workdir.lock import Lock
from hcl_jax.workdir.metrics import Log
from hcl_jax.workdir.terminal import Terminal

SMALL = [
    "--config=simclr:digits", "--config.data.num_examples=96", "--config.data.batch_size=16",
    "--config.towers.image.encoder.widths=(8,)", "--config.towers.image.heads.z.hidden=16", "--config.mesh.data=1",
    "--config.evaluate.views={}", "--config.log.every=1", "--config.checkpoint.every=2",
    "--config.log.tensorboard=false", "--config.optimizer.warmup_epochs=0",
]  # fmt: skip


def state(step):
    zero = jnp.zeros((), jnp.int32)
    params, none = {"w": jnp.full(3, float(step))}, jnp.full((REMEMBERED,), -1, jnp.int32)
    return TrainState(zero + step, params, {}, {}, {}, {}, jax.random.key(0), zero, zero, none)


def saved(folder, *steps, **options):
    checkpoints = Checkpoints(folder, keep=9, meta={}, **options)
    for step in steps:
        checkpoints.save(step, state(step))
    checkpoints.close()
    return Checkpoints(folder, keep=9, meta={}, **options)


def shardings():
    return jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), jax.eval_shape(lambda: state(0)))


def test_a_path_of_which_orbax_makes_a_pattern(capsys, tmp_path):
    assert "[" in refused(capsys, *SMALL, f"--workdir={tmp_path / 'lr[0.1]' / 'w'}")
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_orbax_left_in_parts_gets_no_seal(tmp_path):
    folder = tmp_path / "lr[0.1]"
    checkpoints = Checkpoints(folder, keep=2, meta={})
    with pytest.raises(InputError, match="a save that failed"):
        checkpoints.save(1, state(1))
        checkpoints.close()
    assert not (folder / "checkpoints" / "1").exists()


@pytest.mark.slow(one=True)
def test_a_trial_leaves_a_run_alone(capsys, tmp_path):
    assert main([*SMALL, "--config.train.steps=1", f"--workdir={tmp_path / 'w'}"]) == 0
    capsys.readouterr()
    before = (tmp_path / "w" / "config.json").read_text()
    assert "--steps=1" in refused(capsys, "--steps=1", f"--workdir={tmp_path / 'w'}")
    assert (tmp_path / "w" / "config.json").read_text() == before


def test_checkpoints_that_are_a_file(capsys, tmp_path):
    (tmp_path / "checkpoints").write_text("")
    assert "a file" in refused(capsys, *SMALL, f"--workdir={tmp_path}")


@pytest.mark.slow
@pytest.mark.parametrize("limits", [None, 3, {"heartbeat": "x"}, {"barrier": None}])
def test_limits_that_are_none(limits, capsys, tmp_path):
    assert main([*SMALL, "--config.train.steps=2", f"--workdir={tmp_path}"]) == 0
    capsys.readouterr()
    frozen = json.loads((tmp_path / "config.json").read_text())
    frozen["limits"] = {**frozen["limits"], **limits} if isinstance(limits, dict) else limits
    (tmp_path / "config.json").write_text(json.dumps(frozen))
    assert "limits" in refused(capsys, f"--workdir={tmp_path}")


def test_names_that_are_no_steps(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    for name in ("007", "９", "2.bak", "notes"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert checkpoints.newest() == 2
    assert not (tmp_path / "quarantine").exists()


def test_what_file_managers_leave_is_passed_over(tmp_path):
    saved(tmp_path, 1)
    step = tmp_path / "checkpoints" / "1"
    for name in (".DS_Store", "state/._d", ".nfs000012"):
        (step / name).write_text("x")
    assert manifest.verify(step) is None
    (step / "extra").write_text("x")
    assert "extra" in manifest.verify(step)


def test_a_step_sealed_anew_under_another_number(tmp_path):
    saved(tmp_path, 4)
    copy = tmp_path / "checkpoints" / "7"
    shutil.copytree(tmp_path / "checkpoints" / "4", copy)
    (copy / manifest.MANIFEST).unlink()
    manifest.write(copy, {"step": 7})
    checkpoints = Checkpoints(tmp_path, keep=9, meta={})
    assert checkpoints.newest() == 7
    with pytest.raises(InputError, match="the state of step 4"):
        checkpoints.restore(jax.eval_shape(lambda: state(0)), shardings())


def test_a_quarantine_that_is_a_file(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    (tmp_path / "checkpoints" / "2" / "_CHECKPOINT_METADATA").unlink()
    (tmp_path / "quarantine").write_text("")
    with pytest.raises(InputError, match="it stays"):
        checkpoints.newest()


def test_checkpoints_on_another_disk_by_a_link(tmp_path):
    (tmp_path / "disk" / "c").mkdir(parents=True)
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "checkpoints").symlink_to(tmp_path / "disk" / "c")
    checkpoints = saved(tmp_path / "w", 1, 2)
    (tmp_path / "disk" / "c" / "2" / "_CHECKPOINT_METADATA").unlink()
    assert checkpoints.newest() == 1
    assert (tmp_path / "disk" / "quarantine" / "2").is_dir()


def test_a_last_save_that_fails_is_not_gone_on_from(tmp_path):
    checkpoints = saved(tmp_path, 1, on_error="go_on")
    shutil.rmtree(tmp_path / "checkpoints" / "1")
    with pytest.raises(InputError, match="a last save that failed"):
        checkpoints.finish(1)


@pytest.mark.parametrize("made", ["link", "fifo", "folder"])
def test_a_lock_that_is_no_file(made, tmp_path):
    path = tmp_path / "lock"
    {"link": lambda: path.symlink_to("/nowhere/x"), "fifo": lambda: os.mkfifo(path), "folder": path.mkdir}[made]()
    with pytest.raises(InputError, match="lock"), Lock(tmp_path):
        pass


def open_log(folder, start=0):
    return Log(folder, start=start, steps=9, config={}, trackers={}, terminal=Terminal(bar=False), saves=3)


def test_a_line_whose_writing_is_stopped_leaves_the_one_before(tmp_path, monkeypatch):
    log = open_log(tmp_path)
    log.write(1, {"loss": 1.0})

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("hcl_jax.workdir.writers.json.dumps", stopped)
        log.write(1, {"eval": 1.0})
    log.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": 1.0}


def test_numbers_without_their_checkpoints_are_kept(tmp_path):
    log = open_log(tmp_path)
    for step in (1, 2, 3):
        log.write(step, {"loss": float(step)})
    log.close()
    log = open_log(tmp_path)
    log.close()
    assert "no checkpoint is there" in log.history.notes[0]
    assert len((tmp_path / "metrics.jsonl.old").read_text().splitlines()) == 3


def test_lines_that_a_hand_made_something_else(tmp_path):
    bad = ['{"step": 2, "loss": null}', '{"step": 3, "loss": [1]}', "[" * 100_000, '{"step": 4, "loss": "abc"}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(['{"step": 1, "loss": "nan"}', *bad, '{"step": 5, "loss": 1.0}']))
    log = open_log(tmp_path, start=6)
    log.close()
    assert [line["step"] for line in log.history.lines] == [1, 5]


@pytest.mark.slow
def test_a_reader_that_goes_away_does_not_end_a_run(tmp_path):
    command = [sys.executable, "-m", "hcl_jax.main", *SMALL, "--config.train.steps=40", f"--workdir={tmp_path / 'w'}"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with child.stderr:
        child.stdout.readline()
        child.stdout.close()
        error = child.stderr.read()
    assert child.wait() == 0, error
    assert "Traceback" not in error
    steps = [json.loads(x)["step"] for x in pathlib.Path(tmp_path / "w" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 41))
