"""A step that is no number changes nothing but the counts (R23), and so many of them in a row end the run (R24)."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from worlds import batch_of as pictures
from worlds import bind, start, two_views

from hcl_jax import config as configs
from hcl_jax import data, train
from hcl_jax.core import model
from hcl_jax.core.optim import make_optimizer
from hcl_jax.core.state import REMEMBERED
from hcl_jax.core.step import train_step
from hcl_jax.losses import LOSSES
from hcl_jax.main import main
from hcl_jax.parallel import mesh as meshes
from hcl_jax.parallel.vmapped_seeds import over_seeds
from hcl_jax.views import VIEWS
from hcl_jax.workdir.checkpoint import Checkpoints
from tests.core.test_grad_cache import batch_of
from tests.core.test_grad_cache import everything as pictures_and_text

KEPT = ("params", "target", "model_state", "memory", "opt_state", "key")
ROWS = 32
# Index of a row -> (what it adds to the loss, what it adds to the gradient of `number`).
MARKS = {1000: (np.nan, 0.0), 1001: (np.inf, 0.0), 1002: (0.0, np.inf), 1003: (0.0, np.nan)}


@jax.custom_vjp
def pushed(number, gradient):
    """0; its gradient by `number` is given."""
    return 0.0 * number


pushed.defvjp(lambda number, gradient: (0.0 * number, gradient), lambda gradient, g: (g * gradient, 0.0 * gradient))


def marked(z, index, *, number: float | jax.Array = 0.0, ids=None):
    """A small loss that a marked row spoils: its value alone, or the gradient of `number` alone."""
    loss, gradient = jnp.float32(0), jnp.float32(0)
    for mark, (value, slope) in MARKS.items():
        here = jnp.any(index == mark)
        loss, gradient = loss + jnp.where(here, value, 0.0), gradient + jnp.where(here, slope, 0.0)
    return 1e-3 * jnp.mean(z**2) + loss + pushed(number, gradient)


def everything(optimizer, **fields):
    """All that a state can hold: targets, a queue, centres, prototypes, learned numbers, dropout, a weight average, two
    towers, and a view `c` that nothing but a memory slot reads."""
    c = pictures_and_text("float32", rows=ROWS, groups=8)
    c.views.c = {"kind": "image", "field": "image", "ops": ()}
    image = c.towers.image
    image.views, image.batching = ("a", "b", "c"), "per_view"
    image.heads.prototypes = {"name": "prototypes", "reads": "z", "features": 6}
    image.memory.seen = {"kind": "fifo", "reads": "c.z", "size": 2 * ROWS}
    c.objectives.swap = {"loss": "swav", "inputs": ("a.prototypes", "b.prototypes"), "weight": 0.1}
    number = {"learn": "linear", "init": 1.0}
    c.objectives.marked = {"loss": "marked", "inputs": ("a.z", "index"), "number": number}
    c.optimizer.name, c.optimizer.learning_rate = optimizer, 1e-2
    c.optimizer.clip, c.optimizer.average, c.optimizer.unit_norm = 1.0, 0.9, ("heads/prototypes/kernel$",)
    for name, value in fields.items():
        c.train[name] = value
    return c


def spoil(view, value, rows=slice(3, 4)):
    def change(batch):
        batch["views"][view]["image"][rows, 2, 2] = value

    return change


def mark(number):
    def change(batch):
        batch["index"][5] = number

    return change


SPOILED = {
    "nan in a picture": spoil("a", np.nan),
    "inf in a picture": spoil("b", np.inf),
    "-inf in a picture": spoil("a", -np.inf),
    "nan in all rows of one device": spoil("b", np.nan, slice(20, 24)),
    "nan in what only a memory slot reads": spoil("c", np.nan),
    "inf in what only a memory slot reads": spoil("c", np.inf),
    "nan in the loss": mark(1000),
    "inf in the loss": mark(1001),
    "inf in one leaf of the gradient": mark(1002),
    "nan in one leaf of the gradient": mark(1003),
}


def bits(state, names=KEPT):
    """{path: bytes} of those fields: nan is equal to itself here, and -0 is not 0."""
    parts = {name: getattr(state, name) for name in names}
    parts = {k: jax.random.key_data(v) if k == "key" else v for k, v in parts.items()}
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(parts))
    return {jax.tree_util.keystr(path): np.asarray(x).tobytes() for path, x in leaves}


def changed(a, b):
    return [name for name in a if a[name] != b[name]]


@functools.cache
def world(optimizer, devices, **fields):
    """(state after one step, jitted step, put, config) of `everything`."""
    c = everything(optimizer, **fields)
    mesh = {"data": devices, "fsdp": 1, "tensor": 1}
    state, step, put = start(c, batch_of(c), mesh, losses={**LOSSES, "marked": marked})
    state, metrics = step(state, put(batch_of(c)))
    assert int(metrics["skipped"]) == 0
    return state, step, put, c


WORLDS = {
    "AdamW, clip, average, 8 devices, accumulate": lambda: world("adamw", 8, accumulate=2),
    "LARS, one device, cache": lambda: world("lars", 1, cache=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_what_is_no_number_changes_only_the_counts(name):
    """R23: batch, loss, one leaf of the gradient, the rows of one device; the step after is as if nothing had been."""
    before, step, put, c = WORLDS[name]()
    kept = bits(before)
    assert sum(f"['{part}']" in k for k in kept for part in ("memory", "target", "opt_state")) > 20
    expected, clean = step(before._replace(step=before.step + 1), put(batch_of(c, 2)))
    assert len(changed(kept, bits(expected))) > len(kept) / 2, "a good step changes the state"
    for what, change in SPOILED.items():
        bad = batch_of(c, 1)
        change(bad)
        after, metrics = step(before, put(bad))
        assert changed(kept, bits(after)) == [], what
        assert int(after.step) == int(before.step) + 1 == 2, what
        assert [int(x) for x in (after.skipped, after.skipped_total)] == [1, 1], what
        assert [int(metrics[k]) for k in ("skipped", "skipped_total")] == [1, 1], what
        assert after.skipped_steps.tolist() == [1] + [-1] * (REMEMBERED - 1), what
        healed, metrics = step(after, put(batch_of(c, 2)))
        assert changed(bits(expected), bits(healed)) == [], what
        assert float(metrics["loss"]) == float(clean["loss"])
        assert [int(x) for x in (healed.step, healed.skipped, healed.skipped_total)] == [3, 0, 1], what
        assert healed.skipped_steps.tolist() == after.skipped_steps.tolist(), what


@pytest.mark.slow
def test_the_last_sixteen_skipped_steps_are_known():
    """R23: the counts and the ring of step numbers against a list, over more than sixteen skipped steps."""
    state, step, put, c = WORLDS["AdamW, clip, average, 8 devices, accumulate"]()
    good, bad = put(batch_of(c, 1)), batch_of(c, 1)
    mark(1000)(bad)
    bad, numbers, row = put(bad), [], 0
    for i in range(1, 24):
        is_bad = i not in (4, 5, 9)
        state, metrics = step(state, bad if is_bad else good)
        numbers, row = ([i, *numbers], row + 1) if is_bad else (numbers, 0)
        assert int(state.step) == i + 1
        assert int(metrics["skipped"]) == int(state.skipped) == row
        assert int(metrics["skipped_total"]) == int(state.skipped_total) == len(numbers)
        assert state.skipped_steps.tolist() == (numbers + [-1] * REMEMBERED)[:REMEMBERED]
    assert len(numbers) == 20


@pytest.mark.slow
def test_one_of_several_seeds_skips_alone():
    """R23: the seed with the bad batch keeps its state, the other takes the step that it takes anyway."""
    c = two_views()
    c.optimizer.average, c.towers.image.target = 0.9, {"momentum": 0.9, "heads": ("z",)}
    config, bound = bind(c)
    batch = pictures(c)
    mesh = meshes.make_mesh({"data": 2, "fsdp": 1, "tensor": 1})
    shapes = jax.eval_shape(functools.partial(model.init, bound, optax.identity(), batch), 0)
    tx = make_optimizer(config.optimizer, shapes.params, steps=20, batch_size=16, steps_per_epoch=10)
    states = jax.jit(jax.vmap(functools.partial(model.init, bound, tx, batch)))(jnp.arange(2, dtype=jnp.uint32))
    step = jax.jit(over_seeds(functools.partial(train_step, bound, tx), mesh))

    def both(i, spoiled=False):
        batches = [pictures(c, i), pictures(c, 100 + i)]
        if spoiled:
            batches[0]["views"]["a"]["image"][3, 2, 2, 0] = np.nan
        return jax.tree.map(lambda *x: np.stack(x), *batches)

    def of(tree, i):
        return jax.tree.map(lambda x: x[i], tree)

    states, _ = step(states, both(0))
    clean, _ = step(states, both(1))
    after, metrics = step(states, both(1, spoiled=True))
    assert metrics["skipped"].tolist() == [1, 0] and after.step.tolist() == [2, 2]
    assert changed(bits(of(states, 0)), bits(of(after, 0))) == []
    assert changed(bits(of(clean, 1)), bits(of(after, 1))) == []
    assert len(changed(bits(of(clean, 0)), bits(of(after, 0)))) > 10
    assert after.skipped_steps[:, 0].tolist() == [1, -1]


TINY = {
    "data.num_examples": "48",
    "data.batch_size": "16",
    "mesh.data": "1",
    "towers.image.encoder": "{'name': 'mlp', 'widths': (8,)}",
    "towers.image.heads.z": "{'name': 'linear', 'features': 4}",
    "optimizer.warmup_epochs": "0",
    "log.every": "1",
    "log.tensorboard": "false",
    "log.collapse": "0",
    "evaluate.views": "{}",
    "checkpoint.keep": "20",
    "views.a.ops": "({'op': 'poison'},)",
}


@pytest.fixture
def poisoned(monkeypatch, tmp_path):
    """run(steps whose pictures are nan, counted from 1; fields) through the command line -> status; in tmp_path/w."""

    def run(bad, **fields):
        def poison(x, draws):
            import tensorflow as tf

            step = tf.cast(draws._step, tf.int64)
            hit = tf.reduce_any(tf.equal(step, tf.constant([n - 1 for n in bad], tf.int64)))
            return tf.where(hit, tf.constant(np.nan, x.dtype), x)

        given = functools.partial(TRAIN, views={**VIEWS, "poison": poison})
        monkeypatch.setattr("hcl_jax.train.train_and_evaluate", given)
        flags = {**TINY, **{k.replace("__", "."): v for k, v in fields.items()}}
        return main(
            ["--config=simclr:digits", *(f"--config.{k}={v}" for k, v in flags.items()), f"--workdir={tmp_path / 'w'}"]
        )

    return run


TRAIN = train.train_and_evaluate


def saved(folder):
    return sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdecimal())


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_so_many_bad_steps_in_a_row_end_the_run(poisoned, tmp_path, capsys):
    """R24: one line and status 1; nothing was saved since the first bad step; a restart stops at the same place."""
    limits = {"train__steps": 12, "train__max_skipped": 3, "checkpoint__every": 1}
    assert poisoned([2, 6, 7, 8], **limits) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and err.startswith("hcl_jax: 3 non-finite steps in a row up to step 8; ")
    warnings = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2 and "skipped_total 1, 1 since the last line (2)" in warnings[0]
    assert "step 6: skipped_total 2, 1 since the last line (6)" in warnings[1]
    assert saved(tmp_path / "w") == [1, 3, 4, 5]
    assert [(x["skipped"], x["skipped_total"]) for x in lines(tmp_path / "w")[4:]] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert [x["loss"] for x in lines(tmp_path / "w")[5:]] == ["nan"] * 3
    assert poisoned([2, 6, 7, 8], **limits) == 1
    out, err = capsys.readouterr()
    assert "resumed at step 5 of 12" in out and "3 non-finite steps in a row up to step 8" in err
    assert saved(tmp_path / "w") == [1, 3, 4, 5]


@pytest.mark.slow
def test_a_save_that_falls_on_bad_steps_is_owed(poisoned, tmp_path, capsys):
    """R24: fewer bad steps in a row than the limit: the run goes on, and saves at the next good step."""
    assert poisoned([4, 5], train__steps=10, train__max_skipped=3, checkpoint__every=4, log__every=5) == 0
    out = capsys.readouterr().out
    assert "step 5: skipped_total 2, 2 since the last line (4, 5)" in out
    assert saved(tmp_path / "w") == [6, 8, 10]
    config = configs.from_json((tmp_path / "w" / "config.json").read_text(), "config.json")
    assert config.train.max_skipped == 3
    source = data.open_source(config.data, "train")
    meta = {"seed": 0, "batch_size": 16, "examples": 48, "fingerprint": source.fingerprint}
    checkpoints = Checkpoints(tmp_path / "w", keep=1, meta=meta, read_only=True)
    assert checkpoints.newest() == 10 and checkpoints.recorded(10)["config"]["train"]["steps"] == 10
    checkpoints.close()
