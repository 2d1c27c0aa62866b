"""Every shape of learning in docs/core.md: 20 steps in float64 on 1 and 8 devices, and stopped and resumed.

Recipes shrunk in width; data that needs no download. Losses and parameters are equal to 1e-9 over the devices, and the
run that was saved after 10 steps and restored ends with the same bits.
"""

import jax
import numpy as np
import pytest

from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.config import validate
from hcl_jax.encoders import ENCODERS, HEADS
from hcl_jax.losses import LOSSES
from hcl_jax.parallel import mesh as meshes
from hcl_jax.parallel import sharding
from hcl_jax.run import Parts, build
from hcl_jax.views import VIEWS
from hcl_jax.workdir.checkpoint import Checkpoints

STEPS = 20
CONV = {"towers.image.encoder.widths": "(4, 8)"}
HEAD = {"towers.image.heads.z.hidden": "8", "towers.image.heads.z.features": "4"}
GIN = {"towers.graph.encoder.hidden": "8", "towers.graph.encoder.depth": "2"}
GRAPH_HEAD = {"towers.graph.heads.z.hidden": "8", "towers.graph.heads.z.features": "8"}
SHAPES = {
    # Wide and slow: where a channel of the predictor dies, its ReLU decides by the last bit.
    "byol:digits": {
        "towers.image.encoder.widths": "(16, 32)",
        "towers.image.heads.z.hidden": "32",
        "towers.image.heads.z.features": "16",
        "towers.image.heads.p.hidden": "32",
        "optimizer.learning_rate": "5e-4",
    },
    "moco:digits": {**CONV, **HEAD, "towers.image.memory.queue.size": "64"},
    "swav:fashion_mnist": {**CONV, **HEAD, "towers.image.heads.prototypes.features": "8"},
    "dino:digits": {**CONV},
    "multi_task:uncertainty": {**CONV, **HEAD, "data.labelled": "0.5"},
    "second_stage:frozen_tower": {**CONV},
    "nmtune:paper": {},
    "grace:blocks": {"towers.graph.encoder.widths": "(8, 8)", **GRAPH_HEAD},
    # Of a bias before a norm the gradient is rounding alone, which Adam with its own eps makes a number of.
    "graphcl:motifs": {**GIN, **GRAPH_HEAD, "optimizer.eps": "1e-6"},
    "joao:motifs": {**GIN, **GRAPH_HEAD},
    "ts2vec:ItalyPowerDemand": {
        "towers.series.encoder.features": "8",
        "towers.series.encoder.hidden": "4",
        "towers.series.encoder.depth": "3",
    },
    "dpo:preferences": {},
}


def shrunk(recipe, mesh):
    config = configs.load(recipe)
    fields = {
        "train.steps": str(STEPS),
        "optimizer.warmup_epochs": "0",
        "train.param_dtype": "float64",
        "train.compute_dtype": "float64",
        "init_from.path": "",
        "mesh.data": str(mesh),
        **({} if config.data.order == "whole" else {"data.batch_size": "16"}),
        **SHAPES[recipe],
    }
    for field, text in fields.items():
        configs.override(config, field, text)
    config = configs.complete(config)
    validate.check(config, encoders=ENCODERS, heads=HEADS, losses=LOSSES, views=VIEWS)
    return config


def opened(config):
    if config.data.name in ("fashion_mnist", "npz"):
        return data.random_like(config.data, config.views)
    if config.data.name == "ItalyPowerDemand":
        pytest.importorskip("aeon")
    return data.open_source(config.data, "train")


def begin(recipe, mesh, source):
    """A run and its step, which compiles once."""
    config = shrunk(recipe, mesh)
    run = build(config, Parts(), source, meshes.make_mesh(config.mesh))
    return run, run.step()


def advance(begun, state, batches):
    run, step = begun
    losses, size = [], run.config.data.batch_size
    for batch in batches:
        state, metrics = step(state, sharding.to_global(batch, run.batch_sharding, np.arange(size), size))
        losses.append(float(metrics["loss"]))
    return state, np.array(losses)


def bits(state):
    return [
        np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(state)
    ]


@pytest.mark.slow
@pytest.mark.seconds(240)  # two programs of 20 steps, one of them on eight devices
@pytest.mark.parametrize("recipe", SHAPES)
def test_a_shape_is_equal_on_every_mesh_and_after_a_stop(recipe, tmp_path):
    with jax.enable_x64(True):
        config = shrunk(recipe, 1)
        source, size = opened(config), config.data.batch_size
        settings = {"seed": config.seed, "batch_size": size, "rows": np.arange(size), "order": config.data.order}
        batches = list(data.batches(source, config.views, start=0, stop=STEPS, **settings))

        begun = begin(recipe, 1, source)
        run, first = begun[0], begun[0].init()
        start = jax.tree.map(np.asarray, first._replace(key=0))
        half, losses = advance(begun, first, batches[:10])
        checkpoints = Checkpoints(tmp_path, keep=1, meta=run.meta(source))
        checkpoints.save(10, half)
        whole, rest = advance(begun, half, batches[10:])
        expected = np.concatenate([losses, rest])
        assert np.isfinite(expected).all() and np.ptp(expected) > 1e-3, "steps that change nothing are equal anywhere"

        checkpoints.wait()
        again, after = advance(begun, checkpoints.restore(run.abstract, run.shardings), batches[10:])
        checkpoints.close()
        np.testing.assert_array_equal(after, rest)
        for a, b in zip(bits(whole), bits(again), strict=True):
            np.testing.assert_array_equal(a, b)

        other = begin(recipe, 8, source)
        state = other[0].init()
        for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(state._replace(key=0)), strict=True):
            np.testing.assert_array_equal(np.asarray(b), a)
        state, got = advance(other, state, batches)
        np.testing.assert_allclose(got, expected, rtol=1e-9)
        for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(state.params), strict=True):
            np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=1e-7, atol=1e-9)
