"""Whole runs through the command line: train, resume, evaluate offline, refuse."""

import json
import os
import pathlib
import re
import runpy
import shutil
import stat

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from refusals import refused

from hcl_jax import evaluation
from hcl_jax.main import main
from hcl_jax.workdir import check as workdir_check
from hcl_jax.workdir import resume_config

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = [
    "--config=simclr:digits",
    "--config.data.num_examples=96",
    "--config.data.batch_size=16",
    "--config.mesh.data=2",
    "--config.towers.image.encoder.widths=(8,16)",
    "--config.towers.image.heads.z.hidden=16",
    "--config.log.every=1",
    "--config.checkpoint.every=2",
    "--config.evaluate.draws=2",
    "--config.evaluate.per_class=(1,)",
    "--config.evaluate.linear=false",
    "--config.optimizer.warmup_epochs=0",
]


def run(*flags):
    return main([*SMALL, *map(str, flags)])


def lines(folder):
    return [json.loads(line) for line in (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(shared_run, tmp_path_factory):
    """A copy, since some tests go on with it."""
    return pathlib.Path(shutil.copytree(shared_run, tmp_path_factory.mktemp("run") / "whole"))


@pytest.mark.slow(one=True)
def test_a_run_leaves_its_folder(finished):
    assert [x["step"] for x in lines(finished)] == [1, 2, 3, 4, 5, 6]
    card = json.loads((finished / "card.json").read_text())
    assert card["results"]["eval/image/knn_accuracy"] == lines(finished)[-1]["eval/image/knn_accuracy"]
    assert card["data"]["train"]["examples"] == 96 and card["data"]["test"]["licence"]
    assert card["steps"] == 6 and card["devices"]["mesh"] == {"data": 2, "fsdp": 1, "tensor": 1}
    assert {"loss", "loss/contrast", "contrastive_top1/contrast", "examples_per_second", "input_wait_fraction"} <= set(
        lines(finished)[0]
    )
    for name in ("untrained", "raw"):
        assert f"eval/image/{name}/knn_accuracy" in card["results"]


@pytest.mark.slow
def test_a_run_in_two_parts_has_the_numbers_of_the_whole(finished, tmp_path):
    folder = tmp_path / "parts"
    assert run("--config.train.steps=4", "--config.optimizer.schedule=constant", f"--workdir={folder}") == 0
    assert run("--config.train.steps=6", "--config.optimizer.schedule=constant", f"--workdir={folder}") == 0
    whole = tmp_path / "whole"
    assert run("--config.train.steps=6", "--config.optimizer.schedule=constant", f"--workdir={whole}") == 0
    a, b = lines(folder), lines(whole)
    assert [x["step"] for x in a] == [x["step"] for x in b] == [1, 2, 3, 4, 5, 6]
    assert [x["loss"] for x in a] == [x["loss"] for x in b]
    assert a[-1]["eval/image/knn_accuracy"] == b[-1]["eval/image/knn_accuracy"]


@pytest.mark.slow(one=True)
def test_the_workdir_alone_goes_on(finished, capsys):
    before = lines(finished)
    assert main([f"--workdir={finished}"]) == 0
    assert "resumed at step 6 of 6" in capsys.readouterr().out
    assert [{k: v for k, v in x.items()} for x in lines(finished)] == before


def test_a_field_younger_than_the_run_has_its_default(finished, tmp_path):
    frozen = json.loads((finished / "config.json").read_text())
    del frozen["optimizer"]["nesterov"]
    (tmp_path / "config.json").write_text(json.dumps(frozen))
    assert resume_config(tmp_path).optimizer.nesterov is False
    assert workdir_check(finished, resume_config(tmp_path)) == {}


@pytest.mark.slow(one=True)
def test_offline_evaluation_gives_the_online_numbers(finished, capsys):
    assert evaluation.main([f"--workdir={finished}", "--json"]) == 0
    offline = json.loads(capsys.readouterr().out)
    online = json.loads((finished / "card.json").read_text())["results"]
    assert offline == online


@pytest.mark.slow
def test_online_evaluation_shares_the_line_of_its_step(tmp_path):
    assert run("--config.train.steps=4", "--config.evaluate.every=2", f"--workdir={tmp_path / 'w'}") == 0
    assert [x["step"] for x in lines(tmp_path / "w")] == [1, 2, 3, 4]
    assert ["eval/image/knn_accuracy" in x for x in lines(tmp_path / "w")] == [False, True, False, True]


def saved_params(folder):
    with ocp.CheckpointManager((folder / "checkpoints").absolute()) as manager:
        wanted = ocp.args.Composite(state=ocp.args.StandardRestore())
        return manager.restore(manager.latest_step(), args=wanted)["state"]["params"]["image"]


@pytest.mark.slow
def test_weights_of_another_run_start_this_one(finished, tmp_path):
    fields = {"init_from.path": str(finished), "init_from.include": ("^image/encoder",), "init_from.frozen": True}
    flags = [f"--config.{k}={v}" for k, v in fields.items()]
    assert run("--config.train.steps=2", *flags, f"--workdir={tmp_path / 'w'}") == 0
    old, new = saved_params(finished), saved_params(tmp_path / "w")
    for a, b in zip(jax.tree.leaves(old["encoder"]), jax.tree.leaves(new["encoder"]), strict=True):
        np.testing.assert_array_equal(a, b)
    heads = zip(jax.tree.leaves(old["heads"]), jax.tree.leaves(new["heads"]), strict=True)
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in heads)


@pytest.mark.slow(one=True)
def test_steps_need_no_data_and_no_workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["towers.image.encoder.widths=(8,)", "towers.text.encoder.width=16", "towers.text.encoder.depth=1"]
    flags = [f"--config.{f}" for f in ["data.batch_size=8", *small]]
    assert main(["--config=clip:emoji", "--steps=1", *flags]) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_profile_writes_a_trace(tmp_path):
    assert run("--config.train.steps=8", "--profile", f"--workdir={tmp_path / 'w'}", "--config.evaluate.views={}") == 0
    assert list((tmp_path / "w" / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--config=simclt"], "simclr"),
        (["--config=simclr:digitz"], "digits"),
        (["--config=nope.py"], "no file nope.py"),
        (["--config=simclr", "--config.data.batchsize=4"], "batch_size"),
        (["--config=simclr", "--config.data.name=folder"], "data.dir"),
        (["--config=simclr", "--config.data.name=cifr10"], "cifar10"),
        (["--config=simclr", "--config.data.batch_size=12", "--config.mesh.data=8"], "batch_size"),
        (["--config=simclr", "--config.mesh.data=16"], "mesh.data"),
        (["--config=simclr", "--config.objectives.contrast.temperature=-1"], "temperature"),
        (["--config=simclr", "--config.objectives.contrast.inputs=('a.z','q.z')"], "q.z"),
        (["--config=simclr:fashion_mnist", "--config.data.dir=nowhere"], "nowhere"),
        (["--config=clip:emoji", "--config.data.dir=nowhere"], "nowhere"),
    ],
    ids=lambda f: " ".join(f)[9:] if isinstance(f, list) else None,
)
def test_bad_input_is_one_line_and_writes_nothing(flags, said, capsys, tmp_path):
    text = refused(capsys, *flags, f"--workdir={tmp_path / 'w'}")
    assert said in text
    assert list(tmp_path.iterdir()) == []


def test_an_empty_data_folder(capsys, tmp_path):
    (tmp_path / "data").mkdir()
    source = ["--config.data.name=folder", f"--config.data.dir={tmp_path / 'data'}"]
    text = refused(capsys, "--config=simclr:cifar10", *source, f"--workdir={tmp_path / 'w'}")
    assert str(tmp_path / "data") in text and not (tmp_path / "w").exists()


def test_a_workdir_that_is_a_file(capsys, tmp_path):
    (tmp_path / "w").write_text("")
    assert "a file" in refused(capsys, *SMALL, f"--workdir={tmp_path / 'w'}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_workdir_that_cannot_be_written(capsys, tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert "cannot be written" in refused(capsys, *SMALL, f"--workdir={tmp_path / 'w'}")
    tmp_path.chmod(stat.S_IRWXU)


@pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="needs a folder that not even root may write: Linux's /proc"
)
def test_a_workdir_where_not_even_root_may_write(capsys):
    assert "cannot be written" in refused(capsys, *SMALL, "--workdir=/proc/hcl_jax_run")


def test_a_workdir_of_another_run(finished, capsys):
    flags = [*SMALL, "--config.train.steps=6", f"--workdir={finished}"]
    text = refused(capsys, *flags, "--config.optimizer.learning_rate=0.5")
    assert "config.optimizer.learning_rate" in text and "0.5" in text and "0.002" in text
    assert "config.train.steps" in refused(capsys, *SMALL, "--config.train.steps=5", f"--workdir={finished}")


@pytest.mark.slow
def test_open_fields_may_differ(finished, capsys):
    assert run("--config.train.steps=6", "--config.mesh.data=4", "--config.log.every=3", f"--workdir={finished}") == 0
    assert "config.mesh.data: 2 -> 4" in capsys.readouterr().out


def test_an_empty_workdir_without_config(capsys, tmp_path):
    assert "no config.json" in refused(capsys, f"--workdir={tmp_path}")


@pytest.mark.parametrize("flags", [["--confg=simclr"], ["--config"], ["--steps=many"], ["--config.seed"]])
def test_unknown_flags_exit_with_2(flags, capsys):
    with pytest.raises(SystemExit) as error:
        main(["--config=simclr", *flags])
    assert error.value.code == 2


def test_ctrl_c_says_how_to_go_on(capsys, tmp_path, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("hcl_jax.train.train_and_evaluate", stopped)
    assert run(f"--workdir={tmp_path / 'w'}") == 130
    assert f"--workdir={tmp_path / 'w'} goes on" in capsys.readouterr().err


def test_help_exits_with_0(capsys):
    with pytest.raises(SystemExit) as error:
        main(["--help"])
    assert error.value.code == 0 and "--workdir" in capsys.readouterr().out


@pytest.mark.slow(one=True)
def test_parts_of_ones_own(tmp_path, monkeypatch):
    """The README's script with an encoder, a loss, a view and an evaluator of one's own, shrunk, to its card."""
    text = (ROOT / "README.md").read_text()
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class Mine" in b)
    small = """config = load("simclr:digits")
config.data.num_examples, config.data.batch_size, config.train.steps, config.mesh.data = 64, 16, 2, 1
del config.evaluate.evaluators.few_labels, config.evaluate.evaluators.linear
"""
    assert block.count('config = load("simclr:digits")\n') == 1
    (tmp_path / "mine.py").write_text(block.replace('config = load("simclr:digits")\n', small))
    monkeypatch.chdir(tmp_path)
    runpy.run_path("mine.py")
    results = json.loads((tmp_path / "runs" / "mine" / "card.json").read_text())["results"]
    assert results["eval/image/length"] > 0 and results["eval/image/untrained/length"] > 0
