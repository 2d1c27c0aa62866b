"""Small configs and batches for tests of the core: no data, no TensorFlow."""

import functools
import json

import jax
import numpy as np
import optax

from hcl_jax import config as configs
from hcl_jax.config import validate
from hcl_jax.core import model, objectives
from hcl_jax.core.optim import make_optimizer
from hcl_jax.core.step import train_step
from hcl_jax.encoders import ENCODERS, HEADS
from hcl_jax.losses import LOSSES, MEASURES
from hcl_jax.parallel import mesh as meshes
from hcl_jax.parallel import sharding
from hcl_jax.similarity import dense


def nothing(x, draws):
    """A view operation that leaves its input alone."""
    return x


VIEWS = {"nothing": nothing}
_started: dict = {}  # what start() returns: many tests take the same config, and compiling it costs the most


def two_views(batch_size=16, **fields):
    """SimCLR on 8 x 8 pictures with a small convolutional tower."""
    c = configs.defaults()
    c.data.batch_size, c.train.steps, c.optimizer.warmup_steps = batch_size, 20, 2
    c.views = {v: {"kind": "image", "field": "image", "ops": ()} for v in "ab"}
    c.towers = {
        "image": {
            "views": ("a", "b"),
            "encoder": {"name": "convnet", "widths": (8, 16)},
            "heads": {"z": {"name": "projector", "hidden": 16, "features": 8}},
        }
    }
    c.objectives = {"contrast": {"loss": "nt_xent", "inputs": ("a.z", "b.z"), "temperature": 0.5}}
    for name, value in fields.items():
        at = c
        *path, last = name.split("__")
        for part in path:
            at = at[part]
        at[last] = value
    return c


def batch_of(config, seed=0, absent=()):
    """Random pictures for the views of a config; `absent` views lack about a third of the rows."""
    random = np.random.default_rng(seed)
    rows = config.data.batch_size
    present = {v: random.random(rows) > 0.33 for v in absent}
    return {
        "index": np.arange(rows, dtype=np.int32),
        "labels": {"label": random.integers(0, 10, rows).astype(np.int32)},
        "present": present,
        "views": {v: {"image": random.random((rows, 8, 8, 1)).astype(np.float32)} for v in config.views},
    }


def bind(config, losses=LOSSES):
    """Checks and binds a config: (completed config, model)."""
    config = configs.complete(config)
    validate.check(config, encoders=ENCODERS, heads=HEADS, losses=losses, views=VIEWS)
    bound = model.build(
        config,
        encoders=ENCODERS,
        heads=HEADS,
        losses=losses,
        measures=MEASURES,
        engines=dict.fromkeys(config.objectives, dense()),
        steps=config.train.steps,
    )
    return config, bound


def start(config, batch, mesh_config=None, losses=LOSSES, options=None):
    """(state, jitted step, put) of a config on a mesh, compiled once for equal ones; `put` places a host batch."""
    shapes = jax.tree.map(lambda x: (x.shape, str(x.dtype)), batch)
    how = (mesh_config, id(losses), options, jax.config.jax_enable_x64)
    key = json.dumps([config.to_dict(), shapes, how], default=repr)
    if key not in _started:
        made = _start(config, batch, mesh_config, losses, options)
        _started[key] = (*made, losses)  # losses: an id in use is no other's
    return _started[key][:3]


def _start(config, batch, mesh_config, losses, options):
    config, bound = bind(config, losses)
    mesh = meshes.make_mesh({"data": 1, "fsdp": 1, "tensor": 1} if mesh_config is None else mesh_config)
    shapes = jax.eval_shape(functools.partial(model.init, bound, optax.identity(), batch), 0)
    tx = make_optimizer(
        config.optimizer,
        shapes.params,
        steps=config.train.steps,
        batch_size=config.data.batch_size,
        steps_per_epoch=10,
        limits=objectives.limits(bound.objectives),
    )
    make = functools.partial(model.init, bound, tx, batch)
    shardings = sharding.state_shardings(jax.eval_shape(make, 0), mesh, sharding.DEFAULT_RULES)
    state = jax.jit(make, static_argnums=0, out_shardings=shardings)(config.seed)
    whole = jax.NamedSharding(mesh, jax.P())
    step = jax.jit(functools.partial(train_step, bound, tx), out_shardings=(shardings, whole), compiler_options=options)
    rows = np.arange(config.data.batch_size)
    shard = sharding.batch_sharding(mesh)
    return state, step, lambda b: sharding.to_global(b, shard, rows, config.data.batch_size)


def run(config, steps=3, absent=(), mesh_config=None, options=None):
    """Losses of some steps on random batches, and the last state on the host; `options` are the compiler's."""
    state, step, put = start(config, batch_of(config, 0, absent), mesh_config, options=options)
    losses = []
    for i in range(steps):
        state, metrics = step(state, put(batch_of(config, i, absent)))
        losses.append(float(metrics["loss"]))
    return losses, state
