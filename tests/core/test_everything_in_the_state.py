"""Everything that changes between steps is in the state: a run with all of it, stopped and resumed at every step."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax import train
from hcl_jax.config import defaults
from hcl_jax.run import global_batches
from hcl_jax.workdir.checkpoint import Checkpoints

STEPS, KILLED = 14, 7


def recipe(every=1):
    """Three views, a tower with dropout, a target, a queue, a centre and prototypes; learned numbers; two
    accumulated batches; batch norm; a weight average."""
    c = defaults()
    c.seed, c.data.name, c.data.num_examples, c.data.batch_size = 5, "digits", 48, 16
    noise = ({"op": "noise", "std": 0.1},)
    c.views = {name: {"kind": "image", "field": "image", "ops": noise} for name in "abc"}
    c.views.c["missing"] = 0.25
    c.towers = {
        "image": {
            "views": ("a", "b"),
            "encoder": {"name": "convnet", "widths": (4, 8)},
            "heads": {
                "z": {"name": "projector", "hidden": 8, "features": 4},
                "p": {"name": "predictor", "reads": "z", "hidden": 4},
                "prototypes": {"name": "prototypes", "reads": "z", "features": 6},
            },
            "target": {"momentum": 0.9, "heads": ("z",)},
            "memory": {
                "queue": {"kind": "fifo", "reads": "b.target.z", "size": 48},
                "centre": {"kind": "mean_ema", "reads": "a.target.z", "momentum": 0.9},
            },
        },
        "other": {
            "views": ("c",),
            "encoder": {"name": "vit", "variant": "s", "patch": 4, "width": 8, "depth": 1, "heads": 2, "dropout": 0.2},
            "heads": {"z": {"name": "linear", "features": 4}},
        },
    }
    c.objectives = {
        "queue": {
            "loss": "info_nce",
            "inputs": ("a.z", "b.target.z", "image.memory.queue"),
            "temperature": {"learn": "exp", "init": 0.2},
        },
        "byol": {"loss": "byol", "inputs": ("a.p", "b.target.z", "b.p", "a.target.z"), "weight": 0.5},
        "swap": {"loss": "swav", "inputs": ("a.prototypes", "b.prototypes"), "weight": 0.2},
        "third": {"loss": "clip", "inputs": ("a.z", "c.z"), "scale": {"learn": "exp", "init": 5.0, "max": 100.0}},
    }
    c.optimizer.average, c.optimizer.clip, c.optimizer.warmup_steps = 0.9, 1.0, 3
    c.optimizer.learning_rate, c.optimizer.unit_norm = 1e-2, ("heads/prototypes/kernel$",)
    c.train.steps, c.train.accumulate, c.mesh.data = STEPS, 2, 2
    c.log.every, c.log.tensorboard = 1, False
    c.checkpoint.every, c.checkpoint.keep = every, STEPS
    return c


def digest(state):
    found = hashlib.sha256()
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        x = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        x = np.asarray(jax.device_get(x))
        found.update(f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape}".encode() + x.tobytes())
    return found.hexdigest()


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = {"examples_per_second", "input_wait_fraction", "minutes"}
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, digest of the last state, run, compiled step, source) of the run that nobody stopped."""
    folder, kept, real, batches = tmp_path_factory.mktemp("whole") / "w", {}, train.loop, train.global_batches

    def loop(session, compiled, *rest):
        kept["run"], kept["compiled"] = session.run, compiled
        return real(session, compiled, *rest)

    def remember(run, source, *rest):
        kept["source"] = source
        return batches(run, source, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "loop", loop)
        patch.setattr(train, "global_batches", remember)
        state = train.train_and_evaluate(recipe(), folder)
    return folder, digest(state), kept["run"], kept["compiled"], kept["source"]


@pytest.mark.slow
def test_a_run_that_was_killed_ends_as_the_one_that_was_not(whole, tmp_path, monkeypatch):
    """R2, of all that a state can hold: killed after seven steps, of which six are saved; lines and leaves equal."""
    folder, expected, *_ = whole
    real = train.global_batches

    def dies(*rest):
        for i, batch in enumerate(real(*rest)):
            if i == KILLED:
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "global_batches", dies)
        train.train_and_evaluate(recipe(every=3), tmp_path / "w")
    assert [line["step"] for line in losses(tmp_path / "w")][-1] in (KILLED - 1, KILLED)
    state = train.train_and_evaluate(recipe(every=3), tmp_path / "w")
    assert digest(state) == expected
    assert losses(tmp_path / "w") == losses(folder)
    assert [line["step"] for line in losses(folder)] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_a_run_goes_on_from_every_step(whole):
    """R2, R15: each of the checkpoints 1..13 restored, and run to the end."""
    folder, expected, run, compiled, source = whole
    batches = list(global_batches(run, source, 0, STEPS))
    wanted = [line["loss"] for line in losses(folder)]
    checkpoints = Checkpoints(folder, keep=1, meta=run.meta(source), read_only=True)
    digests = set()
    for start in range(1, STEPS):
        state, got = checkpoints.restore(run.abstract, run.shardings, start), []
        digests.add(digest(state))
        for batch in batches[start:]:
            state, metrics = compiled(state, batch)
            got.append(float(metrics["loss"]))
        assert got == wanted[start:], start
        assert digest(state) == expected, start
    checkpoints.close()
    assert len(digests) == STEPS - 1, "every step changes the state"


@pytest.mark.slow
def test_a_step_keeps_nothing_to_itself(whole):
    """The same step twice from the same state and batch, another one between: the same bits; and traced again after the
    run, the same program."""
    folder, expected, run, compiled, source = whole
    batches = list(global_batches(run, source, 0, 2))
    checkpoints = Checkpoints(folder, keep=1, meta=run.meta(source), read_only=True)

    def once():
        state, metrics = compiled(checkpoints.restore(run.abstract, run.shardings, 1), batches[1])
        return digest(state), jax.device_get(metrics)

    first = once()
    compiled(checkpoints.restore(run.abstract, run.shardings, STEPS - 1), batches[0])
    second = once()
    checkpoints.close()
    assert first[0] == second[0] and first[1].keys() == second[1].keys()
    assert all(np.asarray(first[1][k]).tobytes() == np.asarray(second[1][k]).tobytes() for k in first[1])
    texts = [run.step().lower(run.abstract, run.abstract_batch).as_text() for _ in range(2)]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_each_part_of_the_state_is_needed(whole):
    """The tests above can fail: a state with one part of the step before ends elsewhere."""
    folder, expected, run, compiled, source = whole
    batches = list(global_batches(run, source, 0, STEPS))
    checkpoints = Checkpoints(folder, keep=1, meta=run.meta(source), read_only=True)
    for part in ("step", "params", "target", "model_state", "memory", "opt_state"):
        before = checkpoints.restore(run.abstract, run.shardings, STEPS - 3)
        state = checkpoints.restore(run.abstract, run.shardings, STEPS - 2)
        state = state._replace(**{part: getattr(before, part)})
        for batch in batches[-2:]:
            state, _ = compiled(state, batch)
        assert digest(state) != expected, part
    checkpoints.close()
