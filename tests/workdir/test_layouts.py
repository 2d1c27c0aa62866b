"""A run that was begun before the state had its layout of today goes on, with the numbers that it would have had."""

import json
import pathlib
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from refusals import refused

from hcl_jax import config as configs
from hcl_jax import data, workdir
from hcl_jax.core.state import LAYOUT, REMEMBERED
from hcl_jax.errors import InputError
from hcl_jax.main import main
from hcl_jax.parallel import mesh as meshes
from hcl_jax.parallel import sharding
from hcl_jax.run import Parts, build
from hcl_jax.workdir import layouts, manifest
from hcl_jax.workdir.checkpoint import Checkpoints

FIRST = pathlib.Path(__file__).parents[1] / "golden" / "layout1"  # its README says how it was made


@pytest.fixture
def old(tmp_path):
    """A copy of a run of layout 1, killed after three of six steps."""
    return pathlib.Path(shutil.copytree(FIRST, tmp_path / "w"))


@pytest.fixture(scope="module")
def run():
    """(the run as it is built today, its source, its step)."""
    config = configs.complete(workdir.resume_config(FIRST))
    source = data.open_source(config.data, "train")
    made = build(config, Parts(), source, meshes.make_mesh(config.mesh))
    return made, source, made.step()


def advance(run, state, start):
    """(losses, state) of the steps from `start` to the last."""
    made, source, step = run
    size, losses = made.config.data.batch_size, []
    settings = {"seed": made.config.seed, "batch_size": size, "rows": np.arange(size)}
    for batch in data.batches(source, made.config.views, start=start, stop=made.steps, **settings):
        state, metrics = step(state, sharding.to_global(batch, made.batch_sharding, np.arange(size), size))
        losses.append(float(metrics["loss"]))
    return losses, state


def opened(folder, run, said=None):
    say = (said if said is not None else []).append
    return Checkpoints(folder, keep=2, meta=run[0].meta(run[1]), say=say)


def leaves(state):
    return [np.asarray(x) for x in jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))]


def losses_of(folder):
    return {x["step"]: x["loss"] for x in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())}


def lines_of_old(tree):
    return {p.relative_to(tree): p.read_bytes() for p in sorted(tree.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_a_run_of_layout_1_goes_on(old, capsys):
    """Unsealed: the line says so. The same machine gives the same bits; this one may be another than the fixture's."""
    assert main([f"--workdir={old}"]) == 0
    said = capsys.readouterr().out
    assert f"{old}/checkpoints/3: written before checkpoints were sealed, so its bytes cannot be checked" in said
    assert "resumed at step 3 of 6" in said
    before, now = losses_of(FIRST), losses_of(old)
    assert sorted(now) == [1, 2, 3, 4, 5, 6] and [now[i] for i in (1, 2, 3)] == [before[i] for i in (1, 2, 3)]
    np.testing.assert_allclose([now[i] for i in (4, 5, 6)], [before[i] for i in (4, 5, 6)], rtol=1e-5)
    assert manifest.verify(old / "checkpoints" / "6") is None and not (old / "quarantine").exists()


@pytest.mark.slow(one=True)
def test_the_state_has_what_it_lacked(old, run):
    made = run[0]
    said = []
    state = opened(old, run, said).restore(made.abstract, made.shardings)
    assert said and int(state.step) == 3 and int(state.skipped) == 0
    assert int(state.skipped_total) == 0 and state.skipped_steps.shape == (REMEMBERED,)
    assert (np.asarray(state.skipped_steps) == -1).all()
    for leaf, like, at in zip(
        jax.tree.leaves(state), jax.tree.leaves(made.abstract), jax.tree.leaves(made.shardings), strict=True
    ):
        assert leaf.shape == like.shape and leaf.dtype == like.dtype and leaf.sharding == at


@pytest.mark.slow
def test_the_next_steps_are_those_of_a_run_that_was_not_stopped(tmp_path, run):
    """To the last bit: a state of today, written as layout 1 wrote it, and read again."""
    made, source, _ = run
    first = made.init()
    half_run = made._replace(steps=3), source, run[2]
    _, half = advance(half_run, first, 0)
    fields = layouts.before(1, half._asdict())
    assert set(half._fields) - set(fields) == {"skipped_total", "skipped_steps"}
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        meta = {**made.meta(source), "layout": 1}
        manager.save(3, args=ocp.args.Composite(state=ocp.args.StandardSave(fields), meta=ocp.args.JsonSave(meta)))
    losses, whole = advance(run, half, 3)
    again, resumed = advance(run, opened(tmp_path, run).restore(made.abstract, made.shardings), 3)
    assert again == losses and len(losses) == 3 and len(set(losses)) == 3
    for a, b in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


DAMAGES = {
    "meta/metadata cut": lambda step: (step / "meta" / "metadata").write_text('{"seed": 0, "lay'),
    "meta/metadata gone": lambda step: (step / "meta" / "metadata").unlink(),
    "no meta": lambda step: shutil.rmtree(step / "meta"),
    "state/_METADATA cut": lambda step: (step / "state" / "_METADATA").write_text('{"tree_meta'),
    "state/_METADATA gone": lambda step: (step / "state" / "_METADATA").unlink(),
    "state/manifest.ocdbt cut": lambda step: (step / "state" / "manifest.ocdbt").write_bytes(b"\x0c\xdb"),
    "state/manifest.ocdbt gone": lambda step: (step / "state" / "manifest.ocdbt").unlink(),
    "no data": lambda step: shutil.rmtree(step / "state" / "d"),
    "data cut": lambda step: [p.write_bytes(p.read_bytes()[:20]) for p in (step / "state").glob("**/d/*")],
    "no state": lambda step: shutil.rmtree(step / "state"),
    "empty": lambda step: [shutil.rmtree(p) if p.is_dir() else p.unlink() for p in step.iterdir()],
    "a link": lambda step: (step / "state" / "more").symlink_to("/etc/hostname"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_one_line(old, run, damage):
    """What is not sealed may be damaged in ways that only show when it is read; nothing is moved or written."""
    made = run[0]
    DAMAGES[damage](old / "checkpoints" / "3")
    before = lines_of_old(old)
    with pytest.raises(InputError, match=f"{old}/checkpoints/3: found ") as error:
        opened(old, run).restore(made.abstract, made.shardings)
    assert "\n" not in str(error.value)
    assert lines_of_old(old) == before


@pytest.mark.slow
def test_a_damaged_one_ends_the_run_with_one_line(old, capsys):
    (old / "checkpoints" / "3" / "state" / "manifest.ocdbt").unlink()
    before = lines_of_old(old)
    assert f"{old}/checkpoints/3: found" in refused(capsys, f"--workdir={old}")
    assert lines_of_old(old) == before


@pytest.mark.parametrize("layout", [LAYOUT + 1, 0, None, "2", True])
def test_an_unknown_layout_is_refused(tmp_path, run, layout):
    """A sealed checkpoint of a release to come, or of none."""
    made, source, _ = run
    checkpoints = Checkpoints(tmp_path, keep=1, meta=made.meta(source))
    checkpoints.meta["layout"] = layout
    checkpoints.save(1, made.init())
    checkpoints.close()
    with pytest.raises(InputError, match=f"a state of layout {layout!r}; allowed: at most {LAYOUT}"):
        opened(tmp_path, run).restore(made.abstract, made.shardings)


def test_each_layout_is_known_up_to_that_of_today():
    assert [x for x in range(10) if layouts.known(x)] == list(range(1, LAYOUT + 1))


ROOMS = FIRST.parent / "before_rooms"  # its README says how it was made


@pytest.mark.slow
def test_a_run_from_before_the_rooms_goes_on(tmp_path, capsys):
    """Lines that were written stay as they are, and the steps to come have the losses that the old code wrote."""
    work = pathlib.Path(shutil.copytree(ROOMS, tmp_path / "w"))
    old = (ROOMS / "metrics.jsonl").read_text().splitlines()
    (work / "metrics.jsonl").write_text("\n".join(old[:3]) + "\n")
    assert main([f"--workdir={work}"]) == 0
    assert "resumed at step 3 of 6" in capsys.readouterr().out
    new = (work / "metrics.jsonl").read_text().splitlines()
    assert new[:3] == old[:3] and len(new) == 6
    assert configs.differences(workdir.resume_config(ROOMS), workdir.resume_config(work)) == {}
    before, now = losses_of(ROOMS), losses_of(work)
    np.testing.assert_allclose([now[i] for i in (4, 5, 6)], [before[i] for i in (4, 5, 6)], rtol=1e-6)
    wanted, got = json.loads(old[5]), json.loads(new[5])
    names = [k for k in wanted if k.startswith("eval/")]
    assert len(names) > 5
    # A row of 360 may fall to the other side on another machine.
    np.testing.assert_allclose([got[k] for k in names], [wanted[k] for k in names], atol=0.006)
