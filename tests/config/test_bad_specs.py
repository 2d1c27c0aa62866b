"""Values of a wrong type inside a recipe, and runs that must be refused before their folder is touched."""

import json
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import refused
from worlds import batch_of, bind, two_views

from hcl_jax import config as configs
from hcl_jax.config import validate
from hcl_jax.core import memory_bank, model
from hcl_jax.core.state import REMEMBERED, TrainState
from hcl_jax.core.step import train_step
from hcl_jax.encoders import ENCODERS, HEADS
from hcl_jax.errors import InputError
from hcl_jax.losses import LOSSES
from hcl_jax.main import main
from hcl_jax.views import VIEWS
from hcl_jax.workdir.checkpoint import Checkpoints

PAIR = "'loss': 'nt_xent', 'inputs': ('a.z', 'b.z')"


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("towers.image.bn_groups", "x"),
        ("towers.image.bn_groups", "True"),
        ("towers.image.heads", "5"),
        ("towers.image.memory", "(1,)"),
        ("towers.image.target", "5"),
        ("towers.image.target", "{'momentum': 'a'}"),
        ("towers.image.target", "{'heads': 'z'}"),
        ("towers.image.views", "({},)"),
        ("towers.image.encoder.widths", "(8, 'a')"),
        ("towers.image.encoder.kernel", "x"),
        ("towers.image.memory", "{'q': {'kind': 'mean_ema', 'reads': 'a.z', 'momentum': 'x'}}"),
        ("towers.image.memory", "{'q': 5}"),
        ("views.a.missing", "a"),
        ("views.a.ops.0.scale", "('a', 'b')"),
        ("views.a.ops", "({'op': ['flip']},)"),
        ("views", "{'a.b': {}}"),
        ("objectives.contrast", f"{{{PAIR}, 'temperature': True}}"),
        ("objectives.contrast", f"{{{PAIR}, 'temperature': 1e999}}"),
        ("objectives.contrast", f"{{{PAIR}, 'temperature': {{'learn': 'exp', 'init': 'x'}}}}"),
        ("objectives.contrast", f"{{{PAIR}, 'temperature': {{'learn': 'exp', 'init': 1.0, 'max': 'x'}}}}"),
        ("objectives.contrast", "{'loss': 'vicreg', 'inputs': ('a.z', 'b.z'), 'invariance': 'x'}"),
        ("objectives.contrast", "{'loss': 'nt_xent', 'inputs': 5, 'temperature': 1.0}"),
        ("objectives.contrast", "{'loss': 'min_max', 'inputs': ('a.z', 'b.z'), 'distribution': 1.0}"),
        ("objectives.contrast.weight", "x"),
        ("objectives.contrast.engine", "nope"),
        ("evaluate.knn", "{'k': 2.5, 'temperature': 1.0}"),
        ("evaluate.knn", "{'k': 2, 'temperature': 'a'}"),
        ("evaluate.views", "{'image': 5}"),
        ("evaluate.recall_at", "('a',)"),
        ("evaluate.recall_at", "(True,)"),
        ("evaluate.per_class", "({(1, 2): 3},)"),
        ("data.shape", "('a',)"),
        ("train.epochs", "1e999"),
        ("seed", "{[]: 1}"),
    ],
)
def test_a_value_of_a_wrong_type_is_one_line(field, text):
    with pytest.raises(InputError) as error:
        config = configs.load("simclr:digits")
        configs.override(config, field, text)
        validate.check(configs.complete(config), encoders=ENCODERS, heads=HEADS, losses=LOSSES, views=VIEWS)
    assert error.value.where.removeprefix("--").startswith("config") and "\n" not in str(error.value)


def test_a_part_that_a_loss_does_not_read_is_refused():
    def plain(za, zb):
        return jnp.mean(za * zb)

    for field, name in (("row_weights", "labels.label"), ("pairs", "labels.label")):
        config = two_views()
        config.objectives = {"contrast": {"loss": "plain", "inputs": ("a.z", "b.z"), field: name}}
        with pytest.raises(InputError, match=field):
            validate.check(
                configs.complete(config), encoders=ENCODERS, heads=HEADS, losses={"plain": plain}, views=VIEWS
            )


def test_views_that_share_operations_do_not_share_overrides():
    config = configs.load("simclr:digits")
    configs.override(config, "views.a.ops.0.rotation", "3.0")
    assert (config.views.a.ops[0]["rotation"], config.views.b.ops[0]["rotation"]) == (3.0, 15.0)
    config = configs.load("three_views")
    configs.override(config, "towers.image.heads.z.features", "3")
    assert config.towers.text.heads.z.features == 128


@pytest.mark.parametrize("name", ["a.tokens", "views.a.nothing"])
def test_an_input_that_only_the_trace_can_miss_is_one_line(name):
    encoder = {"name": "mlp", "widths": (8,)}  # makes no tokens
    config = two_views(objectives__contrast__inputs=(name, "b.z"), towers__image__encoder=encoder)
    config, bound = bind(config)
    tx = optax.identity()
    with pytest.raises(InputError, match="not made"):
        jax.eval_shape(lambda b: train_step(bound, tx, model.init(bound, tx, b, 0), b), batch_of(config))


def test_a_centre_moves_in_bfloat16():
    slot = memory_bank.init_mean(2, jnp.bfloat16)
    rows = jnp.ones((4, 2), jnp.bfloat16)
    for _ in range(2000):
        slot = memory_bank.write_mean(slot, rows, None, 0.999)
    np.testing.assert_allclose(slot["rows"], 1 - 0.999**2000, rtol=1e-3)


def state(step):
    zero = jnp.zeros((), jnp.int32)
    params, none = {"w": jnp.ones(3)}, jnp.full((REMEMBERED,), -1, jnp.int32)
    return TrainState(zero + step, params, {}, {}, {}, {}, jax.random.key(0), zero, zero, none)


def test_checkpoints_leave_nothing_before_the_first_save(tmp_path):
    checkpoints = Checkpoints(tmp_path / "w", keep=2, meta={})
    assert checkpoints.latest() is None and not (tmp_path / "w").exists()
    with pytest.raises(InputError, match="no finished checkpoint"):
        checkpoints.restore(state(0), None)
    checkpoints.save(1, state(1))
    checkpoints.close()
    assert Checkpoints(tmp_path / "w", keep=2, meta={}).latest() == 1


def test_reading_checkpoints_keeps_one_that_is_being_written(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, meta={})
    checkpoints.save(1, state(1))
    checkpoints.close()
    half = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    half.mkdir()
    Checkpoints(tmp_path, keep=1, meta={}, read_only=True).close()
    assert half.is_dir()


SMALL = [
    "--config=simclr:digits",
    "--config.data.num_examples=96",
    "--config.data.batch_size=16",
    "--config.mesh.data=1",
    "--config.towers.image.encoder.widths=(8,)",
    "--config.towers.image.heads.z.hidden=16",
    "--config.evaluate.linear=false",
    "--config.evaluate.baselines=false",
    "--config.evaluate.per_class=()",
]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--config.evaluate.views.image.field=nope"], "config.evaluate.views.image.field"),
        (["--config.evaluate.retrieval=(('image.h','image.z'),)"], "config.evaluate.evaluators.retrieval.views"),
        (["--steps=0"], "--steps"),
        (["--steps=-1"], "--steps"),
    ],
)
def test_what_only_the_end_would_miss_is_refused_at_the_start(flags, said, capsys, tmp_path):
    assert said in refused(capsys, *SMALL, *flags, f"--workdir={tmp_path / 'w'}")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_workdir_name_is_refused(capsys):
    assert "--workdir" in refused(capsys, *SMALL, "--workdir=")


@pytest.mark.slow
def test_a_refused_start_leaves_a_run_as_it_is(capsys, tmp_path):
    folder = tmp_path / "w"
    assert main([*SMALL, "--config.train.epochs=1", f"--workdir={folder}"]) == 0
    config, card = (folder / "config.json").read_bytes(), json.loads((folder / "card.json").read_text())
    assert card["steps"] == 6
    for steps in (2, 8):
        assert f"--steps={steps}" in refused(capsys, f"--workdir={folder}", f"--steps={steps}")
    shorter = [*SMALL, "--config.train.epochs=1", "--config.train.steps=4", f"--workdir={folder}"]
    assert "at least 6" in refused(capsys, *shorter)
    assert (folder / "config.json").read_bytes() == config
    (folder / "config.json").write_bytes(b"\xff\xfe")
    assert "no text" in refused(capsys, f"--workdir={folder}")


@pytest.mark.slow
def test_minutes_of_a_killed_part_are_counted(tmp_path):
    folder = tmp_path / "w"
    flags = [*SMALL, "--config.checkpoint.every=2", "--config.log.every=2", f"--workdir={folder}"]
    assert main([*flags, "--config.train.steps=2"]) == 0
    (folder / "card.json").unlink()
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert 0 < lines[0]["minutes"] <= lines[-1]["minutes"]
    lines[-1]["minutes"] = 100.0
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main([*flags, "--config.train.steps=4"]) == 0
    assert 100 < json.loads((folder / "card.json").read_text())["minutes"] < 110


def test_a_launcher_that_is_told_to_end_takes_its_processes_along(tmp_path):
    mark = tmp_path / "alive"
    child = f"import time, pathlib\nwhile True:\n    pathlib.Path({str(mark)!r}).touch(); time.sleep(0.05)"
    command = [sys.executable, "-m", "launch.local", "--processes=1", "--", sys.executable, "-c", child]
    launcher = subprocess.Popen(command, cwd=pathlib.Path(__file__).parents[2])
    for _ in range(400):
        if mark.exists():
            break
        time.sleep(0.05)
    launcher.terminate()
    assert launcher.wait(60) == 128 + 15
    mark.unlink()
    time.sleep(0.5)
    assert not mark.exists()
