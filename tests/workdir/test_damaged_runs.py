"""Whole runs whose folder was damaged, changed by hand, or is hostile: one line, and nothing lost or overwritten."""

import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
from refusals import refused
from safetensors.numpy import save_file
from test_end_to_end import SMALL, lines

from hcl_jax import config as configs
from hcl_jax import data, evaluation, workdir
from hcl_jax.embed import main as embed
from hcl_jax.errors import InputError
from hcl_jax.main import main
from hcl_jax.workdir import manifest
from hcl_jax.workdir.init_from import init_from
from tests.workdir.test_checkpoint import delete, empty, link, names, steps, tree, truncate

pytestmark = pytest.mark.slow  # all share a run

STEPS = "--config.train.steps=6"


@pytest.fixture(scope="module")
def finished(shared_run):
    assert steps(shared_run) == [2, 4, 6]
    return shared_run


@pytest.fixture
def work(finished, tmp_path):
    """A copy that a test may damage."""
    return pathlib.Path(shutil.copytree(finished, tmp_path / "w"))


def flip(path, away=None, seed=0):
    random = np.random.default_rng(seed)
    bad = bytearray(path.read_bytes())
    bad[random.integers(len(bad))] ^= int(random.integers(1, 256))
    path.write_bytes(bad)


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_goes_on_from_the_step_before(finished, work, capsys, seed):
    """R17, through the command line: the flipped byte is named, and the run ends with the bits that it had."""
    files = names(work, 6)
    name = files[np.random.default_rng(seed).integers(len(files))] if seed else manifest.MANIFEST
    flip(work / "checkpoints" / "6" / name, seed=seed)
    assert main([f"--workdir={work}"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and f"{work}/checkpoints/6: {name}" in said.out and "resumed at step 4 of 6" in said.out
    assert (work / "quarantine" / "6").is_dir() and steps(work) == [2, 4, 6]
    assert [x["step"] for x in lines(work)] == [1, 2, 3, 4, 5, 6]
    assert [x["loss"] for x in lines(work)] == [x["loss"] for x in lines(finished)]


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("damage", [flip, truncate, empty, delete, link])
def test_every_checkpoint_damaged(work, capsys, tmp_path, damage):
    """R19: status 2, one line, and the folder as it was."""
    for i, step in enumerate(steps(work)):
        damage(work / "checkpoints" / str(step) / names(work, step)[i], tmp_path / f"away{i}")
    before = tree(work)
    text = refused(capsys, f"--workdir={work}")
    assert f"{work}/checkpoints/6: found " in text and "and 2 older ones; allowed: a whole checkpoint" in text
    assert {k: v for k, v in tree(work).items() if k != "lock"} == before


@pytest.mark.slow(one=True)
@pytest.mark.parametrize(
    ("flag", "was", "now"),
    [
        ("data.batch_size", "16", "32"),
        ("seed", "0", "1"),
        ("data.num_examples", "96", "64"),
        ("towers.image.heads.z.hidden", "16", "32"),
        ("optimizer.learning_rate", "0.002", "0.003"),
        ("train.steps", "6 or more", "1"),
    ],
)
def test_another_run_is_refused(work, capsys, flag, was, now):
    """R28: with both values."""
    before = tree(work)
    text = refused(capsys, *SMALL, STEPS, f"--config.{flag}={now}", f"--workdir={work}")
    assert f"config.{flag}: found {now}; allowed: {was}, as {work}/config.json has it" in text
    assert tree(work) == before


def edit(work, field, value):
    path = work / "config.json"
    plain = json.loads(path.read_text())
    *above, last = field.split(".")
    at = plain
    for part in above:
        at = at[int(part) if isinstance(at, list) else part]
    old, at[last] = at[last], value
    path.write_text(json.dumps(plain))
    return old


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("seed", 3, "0"),
        ("data.num_examples", 64, "96"),
        ("towers.image.heads.z.features", 32, "64"),
        ("train.steps", 4, "6 or more"),
    ],
)
def test_a_config_json_edited_by_hand_is_refused(work, capsys, field, value, allowed):
    """R28: each step has the config that it was made with."""
    edit(work, field, value)
    before = tree(work)
    text = refused(capsys, f"--workdir={work}")
    assert f"config.{field}: found {value}; allowed: {allowed}, as checkpoint 6 has it; or another --workdir" in text
    assert {k: v for k, v in tree(work).items() if k != "lock"} == before


@pytest.mark.slow(one=True)
def test_any_field_edited_by_hand_is_named(finished):
    """R28: every field that is not open."""
    frozen = configs.complete(workdir.resume_config(finished))
    closed = [k for k in configs.flatten(frozen.to_dict()) if not k.startswith(configs.OPEN_FIELDS)]
    assert len(closed) > 60
    for field in closed:
        plain = json.loads(configs.to_json(frozen))
        *above, last = re.findall(r"[^.\[\]]+", field)  # views.a.ops[0].op
        at = plain
        for part in above:
            at = at[int(part) if isinstance(at, list) else part]
        at[last] = other = -7 if isinstance(at[last], int | float) else "another"
        line = rf"config\.{re.escape(field)}: found {other!r}; allowed: .*, as checkpoint 6 has it"
        with pytest.raises(InputError, match=line):
            workdir.allowed(frozen, configs.complete(plain), "checkpoint 6")


HOSTILE = "__import__('os').system('touch pwned')"


@pytest.mark.slow(one=True)
@pytest.mark.parametrize(
    "field",
    ["data.name", "data.num_examples", "views.a.kind", "towers.image.encoder.name", "towers.image.views",
     "objectives.contrast.loss", "optimizer.name", "optimizer.schedule", "train.compute_dtype", "init_from.path",
     "objectives.contrast.temperature", "checkpoint.every", "mesh.data"],
)  # fmt: skip
def test_a_config_json_is_never_run(work, capsys, monkeypatch, tmp_path, field):
    """R34: text that a shell or Python would run is a wrong value, no more."""
    monkeypatch.chdir(tmp_path)
    edit(work, field, HOSTILE)
    before = tree(tmp_path)
    assert "found " in refused(capsys, f"--workdir={work}")
    assert evaluation.main([f"--workdir={work}"]) == 2 or field in ("init_from.path", "checkpoint.every")
    assert {k: v for k, v in tree(tmp_path).items() if k != "w/lock"} == before, "something was run, or written"


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00", '{"a": ' * 5000, HOSTILE, "{'seed': 0}"])
def test_a_config_json_that_is_none(work, capsys, text):
    """R34."""
    (work / "config.json").write_text(text)
    before = tree(work)
    assert "config.json" in refused(capsys, f"--workdir={work}")
    assert tree(work) == before


@pytest.mark.slow(one=True)
def test_a_pickle_is_never_loaded(tmp_path, capsys, monkeypatch):
    """R34: the npz source, and views made before."""
    monkeypatch.chdir(tmp_path)

    class Bomb:
        def __reduce__(self):
            import os

            return os.system, ("touch pwned",)

    bomb = np.array([Bomb()] * 4, dtype=object)
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "train.npz", features=bomb, label=np.arange(4))
    c = configs.defaults()
    c.data.name, c.data.dir = "npz", str(tmp_path / "data")
    with pytest.raises(InputError, match="pickled"):
        data.open_source(c.data, "train")
    assert not (tmp_path / "pwned").exists()


def test_a_checkpoint_with_a_link_is_refused(work, tmp_path):
    """R34: a seal that was made over a link does not vouch for it."""
    folder = work / "checkpoints" / "6"
    shutil.move(folder / "state", tmp_path / "state")
    (folder / "state").symlink_to(tmp_path / "state")
    said = []
    run, _, state = evaluation.restored(work, workdir.resume_config(work), say=said.append)
    assert int(state.step) == 4 and said == [f"{folder}: state, a link; passed over"]


GARBAGE = {
    "empty": b"",
    "short": b"\x08",
    "long header": (2**62).to_bytes(8, "little") + b"{}",
    "no json": (4).to_bytes(8, "little") + b"nope",
    "outside": (63).to_bytes(8, "little")
    + b'{"params/x": {"dtype": "F32", "shape": [4], "data_offsets": [0,99]}}'[:63],
    "pickle": b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.",
    "random": bytes(np.random.default_rng(0).integers(0, 256, 500, dtype=np.uint8)),
}


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("kind", GARBAGE)
def test_weights_that_are_garbage(tmp_path, kind):
    """R34: safetensors for init_from."""
    path = tmp_path / "w.safetensors"
    path.write_bytes(GARBAGE[kind])
    spec = configs.ConfigDict({**configs.defaults().init_from.to_dict(), "path": str(path)})
    with pytest.raises(InputError, match="config.init_from.path: found .*w.safetensors, which is damaged") as error:
        init_from(spec, None)
    assert "\n" not in str(error.value)


def test_cut_weights(tmp_path):
    """R34."""
    path = tmp_path / "w.safetensors"
    save_file({"params/x": np.zeros(100, np.float32)}, str(path))
    path.write_bytes(path.read_bytes()[:-5])
    spec = configs.ConfigDict({**configs.defaults().init_from.to_dict(), "path": str(path)})
    with pytest.raises(InputError, match="which is damaged"):
        init_from(spec, None)


def test_readers_take_the_step_before(finished, work, tmp_path, capsys):
    """init_from, embed and evaluation: a line, and nothing moved; a damaged step asked for by its number is refused."""
    flip(work / "checkpoints" / "6" / "state" / "manifest.ocdbt")
    before = tree(work)
    passed = f"{work}/checkpoints/6: state/manifest.ocdbt, which is damaged; passed over"

    assert evaluation.main([f"--workdir={finished}", "--step=4", "--json"]) == 0
    expected = capsys.readouterr().out
    assert evaluation.main([f"--workdir={work}", "--json"]) == 0
    said = capsys.readouterr()
    assert said.out == expected and passed in said.err.splitlines()
    assert evaluation.main([f"--workdir={work}", "--step=6"]) == 2
    assert capsys.readouterr().err.startswith(f"hcl_jax: {work}/checkpoints/6: found state/manifest.ocdbt, which is")

    flags = ["--split=test", f"--workdir={work}"]
    assert embed([*flags, f"--output={tmp_path / 'features'}"]) == 0
    said = capsys.readouterr()
    assert passed in said.out + said.err
    assert embed([*flags, "--step=6", f"--output={tmp_path / 'more'}"]) == 2
    assert not (tmp_path / "more").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1

    run, _, state = evaluation.restored(finished, workdir.resume_config(finished), step=4, say=print)
    spec = configs.ConfigDict({**configs.defaults().init_from.to_dict(), "path": str(work)})
    begun = init_from(spec, run.init())
    assert passed in capsys.readouterr().out
    for a, b in zip(jax.tree.leaves(begun.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert tree(work) == before


def test_a_relative_workdir(tmp_path, monkeypatch, capsys):
    """R22."""
    monkeypatch.chdir(tmp_path)
    flags = [*SMALL, "--config.train.steps=2", "--config.evaluate.views={}", "--workdir=below/w"]
    assert main(flags) == 0
    assert steps(tmp_path / "below" / "w") == [2]
    monkeypatch.chdir(tmp_path / "below")
    assert main(["--workdir=w"]) == 0
    assert "resumed at step 2 of 2" in capsys.readouterr().out
