"""Checkpoints: bits that come back on any mesh, damage that is found and passed by, what is kept, what is refused."""

import functools
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from worlds import batch_of, bind, two_views

from hcl_jax.core import model
from hcl_jax.core.optim import make_optimizer
from hcl_jax.errors import CorruptState, InputError
from hcl_jax.parallel import mesh as meshes
from hcl_jax.parallel import sharding
from hcl_jax.workdir import manifest
from hcl_jax.workdir.checkpoint import TEMPORARY, Checkpoints
from hcl_jax.workdir.metrics import Log
from hcl_jax.workdir.terminal import Terminal

META = {"seed": 0, "batch_size": 16, "examples": 96, "fingerprint": "abc"}
MESHES = [
    {"data": 4, "fsdp": 1},
    {"data": 2, "fsdp": 1},
    {"data": 1, "fsdp": 1},
    {"data": 4, "fsdp": 2},
    {"data": 1, "fsdp": 8},
    {"data": 2, "fsdp": 2, "tensor": 2},
]
EIGHT = {"data": 8, "fsdp": 1}


def recipe(widths=(4, 8)):
    """With everything that changes between steps: a target, a queue, a learned temperature, Adam's moments."""
    c = two_views(towers__image__encoder={"name": "convnet", "widths": widths})
    c.towers.image.target = {"momentum": 0.9, "heads": ("z",)}
    c.towers.image.memory = {"queue": {"kind": "fifo", "reads": "b.target.z", "size": 32}}
    inputs = ("a.z", "b.target.z", "image.memory.queue")
    c.objectives = {"contrast": {"loss": "info_nce", "inputs": inputs, "temperature": 0.5}}
    return c


@functools.cache
def maker(widths=(4, 8)):
    """key -> state, as a run of the recipe makes it; nothing is computed here."""
    c = recipe(widths)
    config, bound = bind(c)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype), batch_of(c))
    shapes = jax.eval_shape(functools.partial(model.init, bound, optax.identity(), batch), 0)
    tx = make_optimizer(config.optimizer, shapes.params, steps=20, batch_size=16, steps_per_epoch=10)
    return functools.partial(model.init, bound, tx, batch)


def like(mesh_config=EIGHT, widths=(4, 8)):
    """(abstract state, its shardings on a mesh)."""
    abstract = jax.eval_shape(maker(widths), 0)
    return abstract, sharding.state_shardings(abstract, meshes.make_mesh(mesh_config), sharding.DEFAULT_RULES)


def state_of(step, mesh_config=EIGHT, widths=(4, 8)):
    """A state of random bits, other ones at each step."""
    random = np.random.default_rng(step)
    abstract, shardings = like(mesh_config, widths)

    def one(x, at):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.device_put(jax.random.key(step), at)
        whole = np.issubdtype(x.dtype, np.integer)
        made = random.integers(0, 9, x.shape) if whole else random.normal(size=x.shape)
        return jax.device_put(np.asarray(made, x.dtype), at)

    state = jax.tree.map(one, abstract, shardings)
    return state._replace(step=jax.device_put(np.int32(step), shardings.step))


def bits(state):
    """{path: (dtype, bytes)}."""
    return {
        path: (str(x.dtype), np.asarray(jax.random.key_data(x) if path == "key" else x).tobytes())
        for path, x in sharding.flat_paths(state).items()
    }


def opened(work, said=None, **fields):
    fields = {"keep": 3, "meta": META, "say": (said if said is not None else []).append, **fields}
    return Checkpoints(work, **fields)


def save(work, *steps, mesh_config=EIGHT, **fields):
    checkpoints = opened(work, **fields)
    for step in steps:
        checkpoints.save(step, state_of(step, mesh_config))
    checkpoints.close()


def steps(work):
    return sorted(int(p.name) for p in (work / "checkpoints").iterdir())


def tree(folder):
    """{name: bytes, or where a link goes, or None of a folder}."""
    return {
        p.relative_to(folder).as_posix(): os.readlink(p) if p.is_symlink() else p.read_bytes() if p.is_file() else None
        for p in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with steps 1 and 2."""
    work = tmp_path_factory.mktemp("saved") / "w"
    save(work, 1, 2)
    return work


@pytest.fixture
def pair(saved, tmp_path):
    """A copy of it that a test may damage."""
    return pathlib.Path(shutil.copytree(saved, tmp_path / "w"))


def names(work, step=2):
    folder = work / "checkpoints" / str(step)
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("mesh_config", MESHES, ids=str)
def test_what_eight_devices_saved_others_restore_and_back(saved, tmp_path, mesh_config):
    """R10: every leaf by its bits, dtype and sharding."""
    expected = bits(state_of(2))
    abstract, shardings = like(mesh_config)
    if mesh_config["fsdp"] > 1:
        assert any(not s.is_fully_replicated for s in jax.tree.leaves(shardings.params)), "nothing would be split"
    restored = opened(saved, read_only=True).restore(abstract, shardings)
    assert bits(restored) == expected
    for leaf, at in zip(jax.tree.leaves(restored), jax.tree.leaves(shardings), strict=True):
        assert leaf.sharding == at
    back = opened(tmp_path, check_replicas=True)
    back.save(2, restored)
    back.wait()
    again = back.restore(*like())
    back.close()
    assert bits(again) == expected
    for leaf, at in zip(jax.tree.leaves(again), jax.tree.leaves(like()[1]), strict=True):
        assert leaf.sharding == at


@pytest.mark.parametrize("mesh_config", [EIGHT, *MESHES], ids=str)
def test_a_run_begins_with_the_same_bits_on_every_mesh(mesh_config, begun):
    """R12."""
    abstract, shardings = like(mesh_config)
    assert bits(jax.jit(maker(), static_argnums=0, out_shardings=shardings)(3)) == begun


@pytest.fixture(scope="module")
def begun():
    whole = like({"data": 1, "fsdp": 1})[1]
    found = bits(jax.jit(maker(), static_argnums=0, out_shardings=whole)(3))
    assert found != bits(jax.jit(maker(), static_argnums=0, out_shardings=whole)(4)), "a seed that changes nothing"
    return found


@pytest.mark.parametrize(
    "trials", [pytest.param(20, marks=pytest.mark.slow(one=True)), pytest.param(200, marks=pytest.mark.faults)]
)
def test_flipped_bytes(pair, trials):
    """R17: one byte of a random file of the newest step, seeded trials: all found, the step before restored."""
    abstract, shardings = like()
    expected, folder = bits(state_of(1)), pair / "checkpoints" / "2"
    files, detected, hit = names(pair), 0, set()
    assert manifest.MANIFEST in files
    for trial in range(trials):
        random = np.random.default_rng(trial)
        name = files[random.integers(len(files))]
        whole = (folder / name).read_bytes()
        bad = bytearray(whole)
        bad[random.integers(len(bad))] ^= int(random.integers(1, 256))
        (folder / name).write_bytes(bad)
        hit.add(name)
        said = []
        checkpoints = opened(pair, said)
        restored = checkpoints.restore(abstract, shardings)
        checkpoints.close()
        assert bits(restored) == expected, (trial, name)
        assert steps(pair) == [1] and len(said) == 1 and name in said[0], (trial, name, said)
        assert (pair / "quarantine" / "2" / name).read_bytes() == bad
        detected += 1
        (pair / "quarantine" / "2").rename(folder)
        (folder / name).write_bytes(whole)
    assert detected == trials and (trials < 200 or hit == set(files))
    assert opened(pair).newest() == 2, "whole again"
    print(f"R17: {detected} of {trials} flipped bytes detected, the step before restored, in {len(files)} files")


def truncate(path, away):
    path.write_bytes(path.read_bytes()[:-1])


def delete(path, away):
    path.unlink()


def empty(path, away):
    path.write_bytes(b"")


def link(path, away):
    path.rename(away)
    path.symlink_to(away)


def folder_instead(path, away):
    path.unlink()
    path.mkdir()


def unreadable(path, away):
    path.chmod(0)


DAMAGES = [truncate, delete, empty, link, folder_instead, unreadable]


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_file_damaged(pair, tmp_path, damage, monkeypatch):
    """R18: found, named, moved aside, and the step before taken."""
    if damage is unreadable and os.geteuid() == 0:
        _deny_modes(monkeypatch)
    for name in names(pair):
        work = pathlib.Path(shutil.copytree(pair, tmp_path / "trial"))
        damage(work / "checkpoints" / "2" / name, tmp_path / "away")
        said = []
        assert opened(work, said).newest() == 1
        assert steps(work) == [1] and (work / "quarantine" / "2").is_dir()
        assert len(said) == 1 and "\n" not in said[0]
        assert name in said[0] or (damage is delete and name == manifest.MANIFEST and "MANIFEST.json" in said[0]), said
        shutil.rmtree(work)


def _deny_modes(monkeypatch):
    """Root may read a file without any permission; here it may not."""
    kind = manifest.epath.Path("/").__class__
    real = kind.open

    def denied(path, *args, **kwargs):
        if os.stat(path).st_mode & 0o777 == 0:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path, *args, **kwargs)

    def read(path):
        with path.open("rb") as file:
            return file.read()

    monkeypatch.setattr(kind, "open", denied)
    monkeypatch.setattr(kind, "read_bytes", read)


def test_an_added_file_and_a_renamed_step(pair):
    """R18."""
    (pair / "checkpoints" / "2").rename(pair / "checkpoints" / "7")
    (pair / "checkpoints" / "1" / "more").write_text("")
    with pytest.raises(InputError, match="7: found the seal of step 2, and 1 older ones"):
        opened(pair).newest()
    assert steps(pair) == [1, 7], "none is whole: nothing is moved"
    (pair / "checkpoints" / "1" / "more").unlink()
    said = []
    assert opened(pair, said).newest() == 1
    assert "the seal of step 2" in said[0] and (pair / "quarantine" / "7").is_dir()


def test_half_a_manifest_is_no_whole_step(pair):
    """R20: and what was begun and not finished is no step at all."""
    path = pair / "checkpoints" / "2" / manifest.MANIFEST
    path.write_bytes(path.read_bytes()[:100])
    shutil.copytree(pair / "checkpoints" / "1", pair / "checkpoints" / f"9{TEMPORARY}-sealing")
    said = []
    checkpoints = opened(pair, said)
    assert checkpoints.newest() == 1 and manifest.MANIFEST in said[0]
    checkpoints.save(3, state_of(3))
    checkpoints.close()
    assert steps(pair) == [1, 3], "what a killed save left is gone"


def test_the_same_step_twice_in_quarantine(pair):
    for name in ("2", "2-1"):
        (pair / "checkpoints" / "2" / "state" / "_METADATA").write_text("")
        checkpoints = opened(pair)
        assert checkpoints.newest() == 1
        checkpoints.save(2, state_of(2))
        checkpoints.close()
        assert (pair / "quarantine" / name).is_dir() and steps(pair) == [1, 2]


@pytest.mark.parametrize("damage", [truncate, empty, delete, link])
def test_every_step_damaged(pair, tmp_path, damage):
    """R19: one line, and not a byte is another than before."""
    for step in (1, 2):
        damage(pair / "checkpoints" / str(step) / names(pair, step)[-1], tmp_path / f"away{step}")
    before = tree(pair)
    for _ in range(2):
        with pytest.raises(InputError, match="2: found .*, and 1 older ones; allowed: a whole checkpoint") as error:
            opened(pair).restore(*like())
        assert "\n" not in str(error.value)
    assert tree(pair) == before


@pytest.mark.parametrize("order", ["backwards", "equal", "shuffled"])
def test_no_time_chooses(pair, order):
    """R38: the newest step is the one of the highest number, whatever the clock did."""
    save(pair, 10)
    every = sorted((pair / "checkpoints").rglob("*"))
    for i, path in enumerate(every):
        os.utime(path, (at := {"backwards": -i * 86400, "equal": 0, "shuffled": (i * 7919) % 1000}[order] + 1e9, at))
    os.utime(pair / "checkpoints" / "10", (0, 0))
    checkpoints = opened(pair)
    assert checkpoints.newest() == 10
    assert bits(checkpoints.restore(*like())) == bits(state_of(10))


def test_readers_move_nothing(pair):
    """A damaged newest step: the step before, with a line; asked for by its number, it is refused."""
    (pair / "checkpoints" / "2" / "state" / "_METADATA").write_text("")
    before, said = tree(pair), []
    reader = opened(pair, said, read_only=True)
    assert bits(reader.restore(*like())) == bits(state_of(1))
    assert len(said) == 1 and said[0].endswith("passed over") and "state/_METADATA" in said[0]
    reader.save(5, state_of(5))
    reader.close()
    with pytest.raises(InputError, match="checkpoints/2: found state/_METADATA of 0 bytes, not"):
        opened(pair, read_only=True).restore(*like(), step=2)
    with pytest.raises(InputError, match="found no finished checkpoint; allowed: the steps 1, 2"):
        opened(pair, read_only=True).restore(*like(), step=4)
    assert tree(pair) == before


@pytest.mark.parametrize("field", META)
def test_another_run_is_refused(saved, field):
    """R28: with both values."""
    other = {**META, field: META[field] * 2 if isinstance(META[field], str) else META[field] + 7}
    with pytest.raises(InputError) as error:
        opened(saved, meta=other, read_only=True).restore(*like())
    text = str(error.value)
    assert f"{field} {META[field]!r}" in text and f"{other[field]!r}, as this run has it" in text


def test_another_tokenizer_is_refused(saved):
    """Checkpoints of before tokenizers had a digest do not say which they were made with."""
    asked = {**META, "tokenizers": {"text.ops[0]": "abc"}}
    assert opened(saved, meta=asked, read_only=True).restore(*like()) is not None
    with pytest.raises(InputError, match="fingerprint 'abc'; allowed: 'abc, tokenizer"):
        opened(saved, meta={**META, "fingerprint": "abc, tokenizer 1"}, read_only=True).restore(*like())


def test_no_cast(saved):
    """R29: Orbax would give float32 as bfloat16 without a word."""
    abstract, shardings = like()

    def narrow(x):
        return jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) if x.dtype == jnp.float32 else x

    with pytest.raises(InputError, match=r"found .* float32\(.*; allowed: bfloat16\("):
        opened(saved, read_only=True).restore(jax.tree.map(narrow, abstract), shardings)


def test_another_model_is_refused(saved):
    """R28: wider, deeper, or without a part that was saved."""
    with pytest.raises(InputError, match=r"found .*stage2_.* float32\(8,\); allowed: float32\(16,\)"):
        opened(saved, read_only=True).restore(*like(widths=(4, 16)))
    with pytest.raises(InputError, match="found no leaf .*stage3.*; allowed: a checkpoint of this model"):
        opened(saved, read_only=True).restore(*like(widths=(4, 8, 8)))
    smaller = like(widths=(4,))
    with pytest.raises(InputError) as error:
        opened(saved, read_only=True).restore(*smaller)
    assert "\n" not in str(error.value)
    abstract, shardings = like()
    without = [x._replace(memory={"image": {}}) for x in (abstract, shardings)]
    with pytest.raises(InputError, match="memory/image/queue") as error:
        opened(saved, read_only=True).restore(*without)
    assert "\n" not in str(error.value)


def flipped(state, device):
    """The state with one bit of one leaf turned on one device."""
    kernel = state.params["image"]["encoder"]["stage1_conv"]["kernel"]
    parts = []
    for shard in kernel.addressable_shards:
        words = np.array(shard.data).view(np.uint32)
        words.flat[5] ^= np.uint32(1 if shard.device.id == device else 0)
        parts.append(jax.device_put(words.view(np.float32), shard.device))
    made = jax.make_array_from_single_device_arrays(kernel.shape, kernel.sharding, parts)
    params = jax.tree.map(lambda x: x, state.params)
    params["image"]["encoder"]["stage1_conv"]["kernel"] = made
    return state._replace(params=params)


def test_a_flipped_replica_is_not_saved(pair):
    """R30: the run ends before the save, with the device named; without the check it would be saved."""
    checkpoints, bad = opened(pair, check_replicas=True), flipped(state_of(3), 5)
    with pytest.raises(CorruptState, match="step 3: process 0 device 5: params/image/encoder/stage1_conv/kernel;"):
        checkpoints.save(3, bad)
    checkpoints.close()
    assert steps(pair) == [1, 2] and checkpoints.newest() == 2
    checkpoints = opened(pair)
    checkpoints.save(3, bad)
    checkpoints.close()
    assert steps(pair) == [1, 2, 3]


@pytest.mark.slow(one=True)
@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"keep": 1}, [10]),
        ({"keep": 2, "keep_every": 4}, [4, 8, 9, 10]),
        ({"keep": 1, "keep_best": 2}, [3, 5, 10]),
        ({"keep": 1, "keep_best": 2, "best_mode": "min"}, [4, 6, 10]),
        ({"keep": 2, "keep_best": 1, "keep_every": 5}, [3, 5, 9, 10]),
    ],
    ids=str,
)
def test_what_is_kept(tmp_path, fields, kept):
    """The last step's score comes after its save; NaN and missing scores are no scores."""
    scores = {1: float("nan"), 2: 0.5, 3: 0.9, 4: 0.1, 5: 0.7, 6: 0.2, 7: float("inf"), 9: 0.4}
    checkpoints, state = opened(tmp_path, **fields), state_of(0)
    for step in range(1, 11):
        checkpoints.save(step, state)
        if step in scores:
            checkpoints.scores[step] = scores[step]
    checkpoints.close()
    assert steps(tmp_path) == kept


@pytest.mark.slow(one=True)
def test_scores_of_before_are_read_again(tmp_path):
    """After a resume the best steps are those that metrics.jsonl says."""
    save(tmp_path, 1, 2, 3)
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "eval/knn": 0.5}\n{"step": 2, "eval/knn": 0.1}\n{"step": 3, "loss": 1.0, "eval/knn": "nan"}\n'
        '{"step": 4, "eval/knn": 0.99}\n'
    )
    log = Log(tmp_path, start=3, steps=5, config={}, terminal=Terminal(), trackers={})
    log.close()
    told = log.history.evaluations("eval/knn", 3)
    scores = dict(told["scores"])
    assert told["evaluated"] and {k: v for k, v in scores.items() if k < 3} == {1: 0.5, 2: 0.1} and np.isnan(scores[3])
    checkpoints = opened(tmp_path, keep=1, keep_best=1, scores=scores)
    for step in (4, 5):
        checkpoints.save(step, state_of(step))
    checkpoints.close()
    assert steps(tmp_path) == [1, 5]


def test_a_relative_workdir(tmp_path, monkeypatch):
    """R22: Orbax would refuse it at the first save."""
    monkeypatch.chdir(tmp_path)
    save(pathlib.Path("w"), 1)
    monkeypatch.chdir("/")
    assert opened(tmp_path / "w").newest() == 1
