"""Heads that run once over the views of all sizes, and targets that drop nothing or move ahead of the step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from worlds import batch_of, bind, two_views

from hcl_jax.core import grad_cache, model, statistics, towers
from hcl_jax.errors import InputError


def two_sizes(rows=8, **fields):
    """Two large pictures and one small, which share the heads' BatchNorm; the loss reads all three."""
    c = two_views(rows, **fields)
    c.views = {v: {"kind": "image", "field": "image", "ops": ()} for v in ("a", "small", "b")}
    c.towers.image.views, c.towers.image.heads_batching = ("a", "small", "b"), "together"
    c.towers.image.encoder = {"name": "convnet", "widths": (4,)}
    c.towers.image.heads.z = {"name": "projector", "hidden": 6, "features": 5, "last_batch_norm": False}
    inputs = ("a.z", "b.z", "small.z")
    c.objectives = {"swap": {"loss": "swav", "inputs": inputs, "temperature": 0.5, "epsilon": 0.5}}
    return c


def pictures(c, seed=0, absent=()):
    batch = batch_of(c, seed, absent)
    batch["views"]["small"]["image"] = batch["views"]["small"]["image"][:, :4, :4]
    return batch


@functools.cache
def applied(together, absent):
    c = two_sizes()
    batch = pictures(c, absent=("small",) if absent else ())
    bound = bind(c)[1]
    tower = bound.towers["image"]._replace(heads_together=together)
    params, stats = jax.jit(lambda key: towers.init(tower, key, batch["views"]))(jax.random.key(0))
    run = jax.jit(
        lambda p, s: towers.apply(tower, p, s, batch["views"], present=batch["present"], keys=None, train=True)
    )
    return batch, params, *run(params, stats)


@pytest.mark.parametrize("absent", [False, True])
def test_one_batch_norm_over_the_crops_of_all_sizes(absent):
    batch, params, outputs, stats = applied(True, absent)
    h = np.concatenate([np.asarray(outputs[v]["h"], np.float64) for v in ("a", "small", "b")])
    there = np.ones((3, 8), bool)
    if absent:
        there[1] = batch["present"]["small"]
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), params["heads"]["z"])
    y = h @ head["dense1"]["kernel"]
    mean, var = y[there.ravel()].mean(0), y[there.ravel()].var(0)
    y = np.maximum((y - mean) / np.sqrt(var + 1e-5) * head["norm1"]["scale"] + head["norm1"]["bias"], 0)
    z = (y @ head["dense2"]["kernel"]).reshape(3, 8, 5)
    for i, view in enumerate(("a", "small", "b")):
        np.testing.assert_allclose(outputs[view]["z"], z[i], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats["heads"]["z"]["norm1"]["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)
    apart = applied(False, absent)[2]
    np.testing.assert_array_equal(apart["a"]["h"], outputs["a"]["h"])
    assert np.abs(apart["a"]["z"] - outputs["a"]["z"]).max() > 1e-2, "by size the statistics are others"


def test_outputs_of_several_shapes_do_not_go_together():
    c = two_sizes()
    c.towers.image.heads.z.reads = "tokens"
    batch, (_, bound) = pictures(c), bind(c)
    with pytest.raises(InputError, match=r"heads_batching: found together, with tokens of .*small") as error:
        jax.eval_shape(
            lambda: model.forward(
                bound, s := model.init(bound, optax.identity(), batch, 0), s.params, batch, None, s.memory
            )
        )
    assert "one shape" in str(error.value)


@pytest.mark.slow
def test_cached_gradients_are_those_of_the_whole_batch():
    c = two_sizes(train__cache=2)
    c.towers.image.bn_groups = 4
    c.train.param_dtype = c.train.compute_dtype = "float64"
    with jax.enable_x64(True):
        batch, bound = pictures(c), bind(c)[1]
        state = model.init(bound, optax.identity(), batch, 0)
        keys = model.row_keys(state.key, bound, batch)
        plain = jax.value_and_grad(lambda p: model.forward(bound, state, p, batch, keys, state.memory), has_aux=True)
        (loss, aux), grads = jax.jit(plain)(state.params)
        (cached, of_chunks), found = jax.jit(lambda p: grad_cache.gradient(bound, p, state, batch, keys))(state.params)
    np.testing.assert_allclose(cached, loss, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-8)
    for a, b in zip(jax.tree.leaves(aux.model_state), jax.tree.leaves(of_chunks.model_state), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-8)


def test_cached_gradients_refuse_views_that_may_be_absent():
    c = two_sizes(train__cache=2)
    c.towers.image.bn_groups = 4
    batch, bound = pictures(c, absent=("small",)), bind(c)[1]
    with pytest.raises(InputError, match=r"heads_batching: found together; allowed: encoder, where train.cache"):
        jax.eval_shape(
            lambda: grad_cache.gradient(
                bound, (s := model.init(bound, optax.identity(), batch, 0)).params, s, batch, None
            )
        )


@pytest.mark.slow
def test_statistics_of_given_weights_are_means_of_the_passes():
    """Two passes of the encoder in a batch and one of the heads: each mean is over its own."""
    c = two_sizes()
    batches, bound = [pictures(c, seed) for seed in range(2)], bind(c)[1]
    state = model.init(bound, optax.identity(), batches[0], 0)
    add, made = jax.jit(functools.partial(statistics.add, bound)), (state.model_state, statistics.init(bound))
    for batch in batches:
        made = add(state.params, made, batch, state.key)
    tower = bound.towers["image"]
    made_of = functools.partial(towers.apply, tower, state.params["image"], state.model_state["image"])
    # With momentum 0 a pass leaves its own statistics.
    alone = jax.jit(lambda views: made_of(views, present={}, keys=None, train=True, momentum=0.0)[1])
    heads, encoder = [], []
    for batch in batches:
        heads.append(alone(batch["views"])["heads"])
        encoder += [alone({v: batch["views"][v] for v in group})["encoder"] for group in (("a", "b"), ("small",))]
    for found, of_passes in ((made[0]["image"]["heads"], heads), (made[0]["image"]["encoder"], encoder)):
        wanted = jax.tree.map(lambda *x: np.mean(x, 0), *of_passes)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, wanted)


def test_a_target_that_drops_nothing():
    c = two_views(4)
    encoder = {"name": "text_transformer", "vocab_size": 20, "width": 8, "depth": 1, "heads": 2, "dropout": 0.5}
    c.towers.image.encoder = encoder
    c.towers.image.heads.z = {"name": "linear", "features": 4}
    c.towers.image.target = {"momentum": 0.9, "heads": ("z",)}
    batch = batch_of(c)
    tokens = jnp.asarray(np.random.default_rng(0).integers(1, 20, (4, 6)), "int32")
    batch["views"] = {v: {"tokens": tokens} for v in "ab"}
    bound = bind(c)[1]
    tower = bound.towers["image"]
    params, _ = jax.jit(lambda key: towers.init(tower, key, batch["views"]))(jax.random.key(0))
    copy = {"params": params, "batch_stats": {"encoder": {}, "heads": {"z": {}}}}
    keys = model.row_keys(jax.random.key(1), bound, batch)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def run(drop, train):
        t = tower._replace(target={**tower.target, "drop": drop})
        return model.run_target(t, copy, batch["views"], keys=keys, present={}, train=train)[0]["a"]["z"]

    np.testing.assert_array_equal(run(False, True), run(True, False))
    assert np.abs(run(True, True) - run(True, False)).max() > 1e-3


def test_momentum_of_a_target_that_moves_before_the_step():
    """MoCo v3: m of step t = 1 - (1 - m0) (1 + cos(pi t / T)) / 2 moves the keys that step t meets."""
    spec = {"momentum": 0.9, "schedule": "cosine"}
    for k in (0, 3, 19, 25):
        for moves, t in (("after", k), ("before", k + 1)):
            wanted = 1 - 0.1 * (1 + np.cos(np.pi * min(t / 20, 1))) / 2
            found = towers.target_momentum({**spec, "moves": moves}, jnp.asarray(k), 20)
            np.testing.assert_allclose(found, wanted, rtol=1e-6)
    constant = {"momentum": 0.9, "schedule": "constant", "moves": "before"}
    np.testing.assert_allclose(towers.target_momentum(constant, jnp.asarray(3), 20), 0.9)
