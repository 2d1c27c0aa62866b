"""Numbers of each step beside its losses: rate, momentum, weights and norms, against closed forms and the state."""

import functools
import math

import jax
import numpy as np
import optax
import pytest
from worlds import batch_of, bind, two_views

from hcl_jax.core import model
from hcl_jax.core.optim import make_optimizer
from hcl_jax.core.step import train_step

STEPS, WARMUP, PEAK, SKIPPED = 20, 4, 0.05, 6
EACH = {"learning_rate", "parameter_norm", "update_norm", "gradient_norm"}


def warm_then_cosine(t):
    if t < WARMUP:
        return PEAK * t / WARMUP
    return PEAK * (1 + math.cos(math.pi * (t - WARMUP) / (STEPS - WARMUP))) / 2


def norm(tree):
    return math.sqrt(sum(float(np.sum(np.asarray(x, np.float64) ** 2)) for x in jax.tree.leaves(tree)))


@pytest.fixture(scope="module")
def told():
    """([metrics of each step], [parameters before and after it]) of two seeds side by side with accumulated and cached
    gradients. The second seed's batch of step SKIPPED is not a number, so that step changes nothing of it."""
    c = two_views(train__accumulate=2, train__cache=2)
    c.towers.image.encoder = {"name": "mlp", "widths": (8,), "batch_norm": False}
    c.towers.image.heads = {h: {"name": "linear", "reads": r, "features": 4} for h, r in (("z", "h"), ("p", "z"))}
    c.towers.image.target = {"momentum": 0.9, "heads": ("z",)}
    rising = {"schedule": "linear", "start": 0.0, "end": 2.0, "steps": 10}
    c.objectives = {
        "moving": {"loss": "byol", "inputs": ("a.p", "b.target.z"), "weight": rising},
        "learned": {"loss": "negative_cosine", "inputs": ("a.p", "b.z"), "weight": {"learn": "linear", "init": 0.5}},
        "fixed": {"loss": "negative_cosine", "inputs": ("a.p", "b.z"), "weight": 0.5},
    }
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.weight_decay = "adamw", PEAK, 0.1
    c.optimizer.warmup_steps, c.optimizer.schedule, c.optimizer.average = WARMUP, "cosine", 0.9
    c.optimizer.rules = (("/p/", 0.5),)
    config, bound = bind(c)
    batch = batch_of(c)
    shapes = jax.eval_shape(functools.partial(model.init, bound, optax.identity(), batch), 0)
    tx = make_optimizer(config.optimizer, shapes.params, steps=STEPS, batch_size=16, steps_per_epoch=10)
    state = jax.vmap(functools.partial(model.init, bound, tx, batch))(np.arange(2, dtype=np.uint32))
    step = jax.jit(jax.vmap(functools.partial(train_step, bound, tx)))
    metrics, params = [], [jax.device_get(state.params)]
    for i in range(STEPS):
        batches = jax.tree.map(lambda *x: np.stack(x), batch_of(c, i), batch_of(c, 100 + i))
        if i == SKIPPED:
            batches["views"]["a"]["image"][1] = np.nan
        state, found = step(state, batches)
        metrics.append(jax.device_get(found))
        params.append(jax.device_get(state.params))
    return metrics, params


def test_the_rate_is_that_of_the_update(told):
    """A rate of the step's own number, or of the state after the step, is off by one here; a skipped step does not
    count."""
    metrics, _ = told
    got = np.array([m["learning_rate"] for m in metrics])
    np.testing.assert_allclose(got[:, 0], [warm_then_cosine(t) for t in range(STEPS)], rtol=1e-5, atol=1e-9)
    after_a_skip = [warm_then_cosine(t - (t > SKIPPED)) for t in range(STEPS)]
    np.testing.assert_allclose(got[:, 1], after_a_skip, rtol=1e-5, atol=1e-9)
    assert got[0, 0] == 0 and got[WARMUP, 0] == np.float32(PEAK)


def test_norms_are_those_of_the_state(told):
    metrics, params = told
    for seed in range(2):
        for i, m in enumerate(metrics):
            before, after = (jax.tree.map(lambda x: np.float64(x[seed]), params[i + k]) for k in range(2))  # noqa: B023
            moved = norm(jax.tree.map(np.subtract, after, before))
            assert m["parameter_norm"][seed] == pytest.approx(norm(after), rel=1e-5)
            assert m["update_norm"][seed] == pytest.approx(moved, rel=1e-3, abs=1e-6)
    assert metrics[SKIPPED]["update_norm"][1] == 0 < metrics[SKIPPED]["update_norm"][0]
    assert not np.isfinite(metrics[SKIPPED]["gradient_norm"][1])
    assert metrics[SKIPPED]["parameter_norm"][1] == metrics[SKIPPED - 1]["parameter_norm"][1]
    assert all(np.isfinite(m["gradient_norm"]).all() for i, m in enumerate(metrics) if i != SKIPPED)


def test_momentum_and_weights_are_those_of_the_step(told):
    metrics, params = told
    for i, m in enumerate(metrics):
        momentum = 1 - 0.1 * (math.cos(math.pi * i / STEPS) + 1) / 2
        np.testing.assert_allclose(m["momentum/image"], momentum, rtol=1e-6)
        np.testing.assert_allclose(m["weight/moving"], min(i / 10, 1) * 2, rtol=1e-6)
        np.testing.assert_allclose(
            m["weight/learned"], np.exp(-params[i]["objectives"]["learned"]["weight"]), rtol=1e-6
        )
        assert "weight/fixed" not in m and EACH <= m.keys()
