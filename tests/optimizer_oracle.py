"""Parameters, gradients, and a loop over one array at a time that optimizers are held against."""

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from hcl_jax.core.optim import DEFAULT_EXCLUDE, make_optimizer

CONFIG = {
    "name": "sgd",
    "learning_rate": 0.1,
    "scaling": "none",
    "weight_decay": 0.0,
    "momentum": 0.9,
    "b1": 0.9,
    "b2": 0.999,
    "schedule": "constant",
    "warmup_steps": 0,
    "warmup_epochs": 0.0,
    "clip": 0.0,
    "average": 0.0,
    "exclude": DEFAULT_EXCLUDE,
    "rules": (),
}
RUN = {"steps": 10, "batch_size": 64, "steps_per_epoch": 5.0}
EXCLUDED = ("bias", "scale")


def numbers(seed: int, dtype=np.float64) -> dict:
    """Parameters, or gradients of them, of two layers and a norm."""
    rng = np.random.default_rng(seed)
    small = {"scale": (4,), "bias": (4,)}
    shapes = {"conv": {"kernel": (3, 3, 2, 4), "bias": (4,)}, "bn": small, "out": {"kernel": (4, 5)}}
    return jax.tree.map(lambda s: rng.normal(size=s).astype(dtype), shapes, is_leaf=lambda s: isinstance(s, tuple))


def run(changes: dict, params: dict, grads: list[dict], **run) -> tuple[dict, object]:
    """The parameters and state after the given gradients, by the code under test, jitted."""
    optimizer = make_optimizer(ConfigDict(CONFIG | changes), params, **(RUN | run))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for g in grads:
        params, state = step(params, state, g)
    return params, state


def by_hand(step, params: dict, grads: list[dict]) -> dict:
    """The parameters after the gradients, by an oracle `step(name, w, g, memory, t) -> w` for one array."""
    params, memory = {m: dict(leaves) for m, leaves in params.items()}, {}
    for t, g in enumerate(grads):
        for module, leaves in params.items():
            for name in leaves:
                slot = memory.setdefault((module, name), {})
                leaves[name] = step(name, leaves[name], g[module][name], slot, t)
    return params


def close(a: dict, b: dict, tolerance: float = 1e-12) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


GRADS = [numbers(i) for i in (1, 2, 3)]
