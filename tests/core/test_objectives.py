"""Hyper-parameters that move, distributions that play against the towers, and the spread of outputs, against NumPy."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from worlds import batch_of, start, two_views

from hcl_jax.core import objectives
from hcl_jax.evaluators import collapse
from hcl_jax.losses import spread
from hcl_jax.similarity import dense


def scheduled(kind, step, a, b, n):
    share = min(step / n, 1)
    return a + (b - a) * (share if kind == "linear" else (1 - math.cos(math.pi * share)) / 2)


@pytest.mark.parametrize(("a", "b"), [(0.04, 0.07), (1.0, 0.0), (2, 2)])
@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_schedule_goes_from_start_to_end_and_stays_there(kind, a, b):
    spec = {"schedule": kind, "start": a, "end": b, "steps": 8}
    at = jax.jit(lambda step: objectives.value_of(spec, "temperature", {}, step))
    for step in (0, 1, 4, 7, 8, 9, 1000):
        assert float(at(jnp.int32(step))) == pytest.approx(scheduled(kind, step, a, b, 8), abs=1e-6)
    assert float(at(jnp.int32(0))) == pytest.approx(a) and float(at(jnp.int32(8))) == pytest.approx(b, abs=1e-7)


def test_a_schedule_that_holds_is_dinos_table_by_epoch():
    """numpy.linspace over 5 epochs of 3 steps, its end included, then the end: read once an epoch."""
    table = np.concatenate([np.linspace(0.04, 0.07, 5), np.full(4, 0.07)])
    spec = {"schedule": "linear", "start": 0.04, "end": 0.07, "steps": (5 - 1) * 3, "hold": 3}
    found = jax.jit(jax.vmap(lambda step: objectives.value_of(spec, "temperature", {}, step)))(jnp.arange(27))
    np.testing.assert_allclose(found, np.repeat(table, 3), rtol=1e-6)


def test_what_does_not_move_is_left_as_it_is():
    for value in (0.5, "all", None, (1, 2), True):
        assert objectives.value_of(value, "x", {}, jnp.int32(3)) is value


def test_a_loss_gets_the_number_of_the_step():
    """One objective by hand: its keyword, its weight and its metrics at each step."""
    got = []

    def loss(x, *, temperature, shape, fixed, ids):
        got.append(shape)
        return jnp.sum(x) * temperature * fixed

    spec = {
        "loss": "mine",
        "inputs": ("a.z",),
        "pairs": "index",
        "row_weights": None,
        "weight": {"schedule": "linear", "start": 0.0, "end": 1.0, "steps": 2},
        "temperature": {"schedule": "cosine", "start": 0.5, "end": 0.1, "steps": 4},
        "shape": {"learn": "simplex", "init": 4},
        "fixed": 3.0,
    }
    learned = objectives.init(spec, jnp.float32)
    assert {k: v.shape for k, v in learned.items()} == {"shape": (4,)}
    batch = {"index": jnp.arange(2), "present": {}, "labels": {}, "views": {}}
    made = {"batch": batch, "outputs": {"a": {"z": jnp.array([[1.0], [2.0]])}}, "target": {}, "memory": {}}
    for step in (0, 1, 3, 9):
        measures = {"seen": lambda x, temperature, **rest: temperature}
        value, metrics = objectives.evaluate(spec, loss, measures, learned, dense(), step=jnp.int32(step), **made)
        temperature = scheduled("cosine", step, 0.5, 0.1, 4)
        assert float(value) == pytest.approx(9 * temperature, rel=1e-6)
        assert set(metrics) == {"temperature", "shape_max", "seen"}, "a fixed number is no metric"
        assert float(metrics["temperature"]) == float(metrics["seen"]) == pytest.approx(temperature, rel=1e-6)
        total = objectives.weigh(spec, value, learned, jnp.int32(step))
        assert float(total) == pytest.approx(9 * temperature * min(step / 2, 1), rel=1e-6)
        np.testing.assert_allclose(got[-1], np.full(4, 0.25))
        assert float(metrics["shape_max"]) == 0.25


@pytest.mark.slow(one=True)
def test_schedules_read_the_step_of_the_state():
    c = two_views(batch_size=8)
    c.towers.image.encoder = {"name": "mlp", "widths": (8,)}
    fixed = c.objectives.contrast.to_dict()
    moving = {
        "temperature": {"schedule": "linear", "start": 1.0, "end": 0.2, "steps": 2},
        "weight": {"schedule": "cosine", "start": 0.0, "end": 2.0, "steps": 2},
    }
    c.objectives = {"moving": fixed | moving, "half_way": fixed | {"temperature": 0.6, "weight": 0.0}}
    state, step, put = start(c, batch_of(c))
    for i in range(4):
        state, m = step(state, put(batch_of(c, i)))
        m = {k: float(v) for k, v in m.items()}
        assert m["temperature/moving"] == pytest.approx(scheduled("linear", i, 1.0, 0.2, 2), rel=1e-6)
        assert m["loss"] == pytest.approx(scheduled("cosine", i, 0.0, 2.0, 2) * m["loss/moving"], rel=1e-6, abs=1e-7)
        assert (m["loss/moving"] == pytest.approx(m["loss/half_way"], rel=1e-6)) == (i == 1)
        assert "temperature/half_way" not in m and {"spread/a.z", "spread/b.z"} <= set(m)
    assert step._cache_size() == 1


def test_a_simplex_starts_uniform_and_sums_to_1():
    spec = {"distribution": {"learn": "simplex", "init": 5}, "gamma": {"learn": "linear", "init": 0.5}, "weight": 1.0}
    learned = objectives.init(spec, jnp.float32)
    np.testing.assert_array_equal(learned["distribution"], np.zeros(5))
    p = objectives.value_of(spec["distribution"], "distribution", learned, jnp.int32(0))
    np.testing.assert_allclose(p, np.full(5, 0.2), rtol=1e-6)
    x = np.random.default_rng(0).normal(size=5) * 30
    moved = objectives.value_of(spec["distribution"], "distribution", {"distribution": jnp.asarray(x)}, jnp.int32(0))
    e = np.exp(x - x.max())
    np.testing.assert_allclose(moved, e / e.sum(), rtol=1e-5, atol=1e-9)
    assert float(jnp.sum(moved)) == pytest.approx(1, abs=1e-6)


@pytest.mark.slow(one=True)
def test_a_distribution_with_a_negative_multiplier_ascends():
    """s_i <- s_i + lr p_i (L_i - sum_j p_j L_j): up the gradient of sum_i softmax(s)_i L_i."""
    c = two_views(batch_size=8)
    c.views.c = c.views.a
    c.towers.image.encoder, c.towers.image.views = {"name": "mlp", "widths": (8,)}, ("a", "b", "c")
    learned = {"learn": "simplex", "init": 3}
    inputs = ("a.z", "b.z", "c.z")
    game = {"loss": "min_max", "inputs": inputs, "temperature": 0.5, "gamma": 0.0, "distribution": learned}
    pairs = {x + y: (f"{x}.z", f"{y}.z") for x, y in itertools.combinations("abc", 2)}
    seen = {"loss": "nt_xent", "temperature": 0.5, "weight": 0.0}
    c.objectives = {"game": game, **{k: {**seen, "inputs": v} for k, v in pairs.items()}}
    c.optimizer.rules = (("^objectives/game/distribution$", -1.0),)
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.momentum = "sgd", 0.1, 0.0
    c.optimizer.warmup_steps, c.optimizer.schedule = 0, "constant"
    state, step, put = start(c, batch_of(c))
    s = np.zeros(3)
    for i in range(3):
        state, m = step(state, put(batch_of(c, i)))
        p, each = np.exp(s) / np.exp(s).sum(), np.array([float(m[f"loss/{k}"]) for k in pairs])
        assert float(m["distribution_max/game"]) == pytest.approx(p.max(), rel=1e-6)
        assert float(m["loss"]) == pytest.approx(p @ each, rel=1e-5)
        s = s + 0.1 * p * (each - p @ each)
        np.testing.assert_allclose(state.params["objectives"]["game"]["distribution"], s, rtol=1e-3, atol=1e-7)
    assert np.abs(s).max() > 1e-4


def spread_of(z, valid):
    return spread.spread(z, jnp.where(valid, 0, -1))


def spread_by_hand(z):
    z = np.asarray(z, np.float64)
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    return math.sqrt(z.shape[1]) * np.mean([np.std(column) for column in z.T])


def test_spread_is_that_of_the_rows_that_are_there():
    random = np.random.default_rng(0)
    z = (random.normal(size=(40, 6)) + [3, 0, 0, 0, 0, 0]).astype(np.float32)
    valid = random.random(40) > 0.4
    every = np.ones(40, bool)
    spread = jax.jit(spread_of)
    assert float(spread(z, every)) == pytest.approx(spread_by_hand(z), rel=1e-5)
    assert float(spread(z, every)) == pytest.approx(collapse.spread(z), rel=1e-5)
    assert float(spread(z, valid)) == pytest.approx(spread_by_hand(z[valid]), rel=1e-5)
    assert float(spread(z, valid)) == pytest.approx(collapse.spread(z[valid]), rel=1e-5)
    # What stands in an absent row is nothing, not even when it is not a number.
    assert float(spread(np.where(valid[:, None], z, np.nan), valid)) == float(spread(z, valid))
    assert float(spread(z * 100, every)) == pytest.approx(float(spread(z, every)), rel=1e-5)
    even = random.normal(size=(4000, 32)).astype(np.float32)
    assert float(spread(even, np.ones(4000, bool))) == pytest.approx(1, abs=0.02)


@pytest.mark.slow(one=True)
def test_spread_is_0_when_collapsed():
    line = np.arange(1, 9, dtype=np.float32)[:, None] * np.array([[0.3, -2.0, 1.0]], np.float32)
    for z, valid in (
        (line, np.ones(8, bool)),
        (np.zeros((8, 3), np.float32), np.ones(8, bool)),
        (np.random.default_rng(0).normal(size=(8, 3)), np.arange(8) == 3),
        (np.random.default_rng(0).normal(size=(8, 3)), np.zeros(8, bool)),
    ):
        assert float(spread_of(jnp.asarray(z), jnp.asarray(valid))) == pytest.approx(0, abs=1e-6)
    constant = jax.grad(lambda z: spread_of(z, jnp.ones(8, bool)))(jnp.asarray(line))
    np.testing.assert_array_equal(constant, 0)


def test_spread_is_measured_of_every_output_that_an_objective_reads():
    random = np.random.default_rng(1)
    outputs = {
        "a": {
            "z": random.normal(size=(6, 4)),
            "h": random.normal(size=(6, 3)),
            "tokens": random.normal(size=(6, 2, 4)),
        },
        "b": {"z": random.normal(size=(6, 4)), "p": random.normal(size=(6, 4))},
    }
    outputs = jax.tree.map(jnp.asarray, outputs)
    there = np.array([1, 1, 0, 1, 1, 0], bool)
    batch = {"index": jnp.array([0, 1, 2, 3, -1, -1]), "present": {"b": jnp.asarray(there)}}
    specs = {
        "one": {"inputs": ("a.z", "b.target.z", "image.memory.queue", "labels.label", "views.a.overlap")},
        "two": {"inputs": ("b.z", "a.z", "a.tokens", "index")},
    }
    found = objectives.spreads(specs, batch=batch, outputs=outputs)
    assert set(found) == {"spread/a.z", "spread/b.z"}
    assert float(found["spread/a.z"]) == pytest.approx(spread_by_hand(outputs["a"]["z"][:4]), rel=1e-5)
    assert float(found["spread/b.z"]) == pytest.approx(spread_by_hand(outputs["b"]["z"][there]), rel=1e-5)
