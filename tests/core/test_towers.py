"""Towers: what is frozen stands still, and views whose rows refer to rows go through the encoder apart."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from worlds import batch_of, bind, two_views

from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.core import model, towers
from hcl_jax.data.source import Arrays, from_arrays
from hcl_jax.encoders import Rows
from hcl_jax.errors import InputError
from hcl_jax.parallel import mesh as meshes
from hcl_jax.run import Parts, build, global_batches


def made_of(config, batch):
    """The tower `image` of a config with random running statistics: (tower, params, stats)."""
    _, bound = bind(config)
    tower = bound.towers["image"]
    params, stats = jax.jit(lambda key: towers.init(tower, key, batch["views"]))(jax.random.key(0))
    random = np.random.default_rng(0)
    # Means below 0 and variances from 0.5 to 1, so that rectifiers let something through.
    stats = jax.tree.map(lambda x: jnp.asarray(x - 0.5 * random.random(x.shape), x.dtype), stats)
    return tower, params, stats


def pictures(n):
    return Arrays(
        fields={"image": np.random.default_rng(0).random((n, 8, 8, 1)).astype(np.float32)},
        labels={"label": (np.arange(n) % 3).astype(np.int32)},
        classes={"label": 3},
        licence="",
        citation="",
    )


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def differ(a, b):
    return any((np.asarray(x) != np.asarray(y)).any() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


@pytest.mark.slow
def test_a_frozen_encoder_is_in_evaluation_mode_and_its_heads_are_not():
    c = two_views(batch_size=6)
    c.towers.image = {**c.towers.image.to_dict(), "frozen": True, "encoder": {"name": "mlp", "widths": (8, 8)}}
    batch = batch_of(c)
    tower, params, stats = made_of(c, batch)

    def apply(params, train):
        return towers.apply(tower, params, stats, batch["views"], present={}, keys=None, train=train)

    @jax.jit
    def everything(params):
        variables = {"params": params["encoder"], "batch_stats": stats["encoder"]}
        alone = {v: tower.encoder.apply(variables, batch["views"][v], Rows()) for v in "ab"}
        gradient = jax.grad(lambda p: jnp.sum((x := apply(p, True)[0])["a"]["z"] * x["b"]["z"][::-1]))(params)
        return alone, apply(params, True), apply(params, False), gradient

    alone, (outputs, after), (evaluated, still), gradient = everything(params)
    for view in "ab":
        np.testing.assert_allclose(outputs[view]["h"], alone[view], rtol=1e-5)
    same(after["encoder"], stats["encoder"])
    same(still, stats)
    assert differ(after["heads"], stats["heads"])
    assert np.std(outputs["a"]["h"], 0).max() > 0.01
    assert differ(outputs["a"]["z"], evaluated["a"]["z"]), "the head has the statistics of the batch"
    same(gradient["encoder"], jax.tree.map(jnp.zeros_like, params["encoder"]))
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradient["heads"]))


def two_towers():
    """Two towers on a picture each; the one that is frozen is under weight decay."""
    c = two_views(batch_size=8)
    spec = {**c.towers.image.to_dict(), "encoder": {"name": "mlp", "widths": (8,)}}
    c.towers = {"still": {**spec, "views": ("a",), "frozen": True}, "moving": {**spec, "views": ("b",)}}
    c.optimizer.weight_decay, c.optimizer.exclude = 0.5, ()
    c.optimizer.warmup_steps, c.optimizer.learning_rate = 0, 0.1
    c.mesh.data = 1
    c = configs.complete(c)
    source = from_arrays("pictures", pictures(16), c.data, "train")
    return build(c, Parts(), source, meshes.make_mesh(c.mesh)), source


@pytest.mark.slow(one=True)
def test_a_frozen_encoder_is_left_bit_equal():
    """Parameters, statistics and the optimizer, with weight decay and momentum; its head and the other tower move."""
    run, source = two_towers()
    state = run.init()
    before, step = jax.device_get(state._replace(key=0)), run.step()
    for batch in global_batches(run, source, 0, 3):
        state, metrics = step(state, batch)
    after = jax.device_get(state._replace(key=0))
    assert np.isfinite(float(metrics["loss"]))
    for part in ("params", "model_state"):
        old, new = getattr(before, part), getattr(after, part)
        same(new["still"]["encoder"], old["still"]["encoder"])
        for name, half in (("still", "heads"), ("moving", "encoder"), ("moving", "heads")):
            for a, b in zip(*(jax.tree.leaves(x[name][half]) for x in (old, new)), strict=True):
                assert (a != b).any(), (part, name, half)
    kept = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)]
    assert any("moving" in p and "encoder" in p for p in kept) and any("still" in p and "heads" in p for p in kept)
    assert not any("still" in p and "encoder" in p for p in kept), "what is frozen has no moments"


def graph(n, seed, many):
    """The nodes of one graph as rows, or a graph of 3 nodes in each row."""
    random = np.random.default_rng(seed)
    if many:
        x = {"nodes": random.normal(size=(n, 3, 4)), "edges": random.integers(0, 3, (n, 5, 2))}
        x["node_mask"] = np.ones((n, 3), bool)
    else:
        x = {"nodes": random.normal(size=(n, 4)), "edges": random.integers(0, n, (n, 2, 2))}
    x["edge_mask"] = random.random(x["edges"].shape[:2]) < 0.8
    return {k: v if v.dtype == bool else v.astype(np.int32 if k == "edges" else np.float32) for k, v in x.items()}


@pytest.mark.parametrize("many", [False, True], ids=["one graph", "many graphs"])
def test_views_whose_rows_refer_to_rows_go_apart(many):
    """Side by side the nodes of two views of one graph would be numbered anew; graphs in rows may share a batch."""
    batch = {"views": {v: graph(6, i, many) for i, v in enumerate("ab")}}
    c = two_views(batch_size=6)
    for view in "ab":
        c.views[view] = {"kind": "graph", "field": "graph", "ops": ()}
    c.towers.image.encoder = {"name": "gin", "hidden": 8, "depth": 1}
    tower, params, stats = made_of(c, batch)
    assert tower.joint

    @jax.jit
    def everything(params):
        def apply(tower):
            return towers.apply(tower, params, stats, batch["views"], present={}, keys=None, train=True)[0]

        variables = {"params": params["encoder"], "batch_stats": stats["encoder"]}
        alone = {v: tower.encoder.apply(variables, batch["views"][v], Rows(train=True), mutable=True)[0] for v in "ab"}
        return apply(tower), apply(tower._replace(joint=False)), alone

    joint, per_view, alone = everything(params)
    for view in "ab":
        np.testing.assert_allclose(per_view[view]["h"], alone[view]["h"], rtol=1e-5, atol=1e-6)
        if many:
            assert np.abs(joint[view]["h"] - alone[view]["h"]).max() > 1e-3, "one batch, one mean"
        else:
            np.testing.assert_allclose(joint[view]["h"], alone[view]["h"], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_frozen_tower_whose_encoder_has_no_parameters_trains_its_heads():
    c = configs.load("second_stage:linear")
    c.towers.head.frozen, c.data.batch_size, c.train.steps = True, 16, 2
    c = configs.complete(c)
    source = data.random_like(c.data, c.views)
    run = build(c, Parts(), source, meshes.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}))
    state = run.init()
    before = jax.tree.map(np.asarray, state.params["head"]["heads"])
    for batch in global_batches(run, source, 0, 2):
        state, metrics = run.step()(state, batch)
    assert np.isfinite(metrics["loss"])
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state.params["head"]["heads"]), strict=True):
        assert np.any(a != b)


def teacher(**evaluate):
    """A target of the encoder and of z, not of p; what an evaluation reads of it."""
    c = two_views(4)
    c.towers.image.encoder = {"name": "mlp", "widths": (6,)}
    c.towers.image.heads.p = {"name": "predictor", "reads": "z", "hidden": 4}
    c.towers.image.target = {"momentum": 0.5, "heads": ("z",)}
    view = {"kind": "image", "field": "image", "ops": (), "tower": "image"}
    c.evaluate.views = {"image": {**view, "output": evaluate.pop("output", "h")}}
    c.evaluate.weights = "target"
    return c


def test_an_encoder_for_another_kind_of_view_is_told_what_the_view_has():
    tower = SimpleNamespace(encoder=SimpleNamespace(reads=("tokens",)), views=("a", "b"))
    views = {"a": {"image": 1}, "b": {"tokens": 2, "image": 3}}
    assert towers._inputs(tower, views) == {"a": {"image": 1}, "b": {"tokens": 2}}


def test_evaluation_may_read_the_target_in_the_place_of_its_tower():
    batch, (_, bound) = batch_of(teacher()), bind(teacher())
    state = model.init(bound, optax.identity(), batch, 0)
    moved = jax.tree.map(lambda x: x + 1, state.target)
    params, stats = model.read_of_targets(bound, state._replace(target=moved))
    for read, of_tower, part in ((params, state.params, "params"), (stats, state.model_state, "batch_stats")):
        copy = moved["image"][part]
        same(read["image"]["encoder"], copy["encoder"])
        same(read["image"]["heads"]["z"], copy["heads"]["z"])
        same(read["image"]["heads"]["p"], of_tower["image"]["heads"]["p"])
    assert state.params["image"]["heads"].keys() == params["image"]["heads"].keys()
    assert differ(params["image"]["encoder"], state.params["image"]["encoder"])


def test_what_a_target_has_not_is_not_evaluated():
    with pytest.raises(InputError, match=r"config.evaluate.views.image.output: found 'p'; allowed: .*h, z"):
        bind(teacher(output="p"))
    c = teacher()
    c.towers.image.target = None
    with pytest.raises(InputError, match="config.evaluate.weights: found 'target'; allowed: tower: no tower"):
        bind(c)
