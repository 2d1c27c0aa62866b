"""Sinkhorn and SwAV: against the published listing, limits, ignored rows, devices, bad input."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from hcl_jax.losses.sinkhorn import sinkhorn
from hcl_jax.losses.swav import swav, swav_queue
from tests.losses import oracles
from tests.losses.cases import IDS, WEIGHTS, normal
from tests.losses.test_values import central_difference

N, K, V = 8, 5, 4
SCORES = np.tanh(normal(20, V, N, K))  # as cosines
FAST = {"xla_backend_optimization_level": 0}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def run(f, *arrays, **settings):
    return jax.device_get(jax.jit(functools.partial(f, **settings), compiler_options=FAST)(*arrays))


@pytest.mark.parametrize("settings", [{}, {"ids": IDS}, {"epsilon": 0.5, "iterations": 1}, {"iterations": 0}])
def test_sinkhorn_against_the_listing(settings):
    q = run(sinkhorn, SCORES[0].copy(), **settings)
    np.testing.assert_allclose(q, oracles.sinkhorn(SCORES[0], **settings), rtol=1e-9, atol=1e-12)
    valid = settings.get("ids", np.arange(N)) != -1
    np.testing.assert_allclose(q.sum(1), valid, rtol=1e-12)


def test_many_iterations_use_every_prototype_equally():
    q = run(sinkhorn, SCORES[0].copy(), iterations=2000)
    np.testing.assert_allclose(q.sum(0), N / K, rtol=1e-6)
    np.testing.assert_allclose(q.sum(1), 1, rtol=1e-12)
    # Nearly so after the usual three where epsilon is not small, and the softmax of each row is far off.
    off = [
        np.abs(run(sinkhorn, SCORES[0].copy(), epsilon=0.2, iterations=i).sum(0) / (N / K) - 1).max() for i in (3, 0)
    ]
    assert off[0] < 0.15 and off[1] > 0.5


def test_a_constant_added_to_a_prototype_changes_nothing():
    """What keeps SwAV from the trivial answer: one prototype for everything cannot win."""
    shifted = SCORES[0] + np.array([9.0, 0, 0, -3, 0])
    np.testing.assert_allclose(run(sinkhorn, shifted), run(sinkhorn, SCORES[0].copy()), atol=1e-9)
    np.testing.assert_allclose(run(sinkhorn, np.zeros((N, K))), 1 / K, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_overflow(dtype):
    """exp(100 / 0.05) is not a float32."""
    for x in (100 * SCORES[0], 1e4 * SCORES[0], np.zeros((N, K)), -1e4 * SCORES[0]):
        q = run(sinkhorn, jnp.asarray(x, dtype))
        assert q.dtype == np.float32 and np.isfinite(q).all()
        np.testing.assert_allclose(q.sum(1), 1, rtol=1e-5)
    assert not run(sinkhorn, jnp.asarray(SCORES[0], dtype), ids=np.full(N, -1)).any()


def test_an_ignored_row_enters_no_sum():
    keep = np.array([0, 1, 3, 4, 7])
    ids = np.where(np.isin(np.arange(N), keep), 0, -1)
    x = SCORES[0].copy()
    x[2], x[5] = np.nan, np.inf
    np.testing.assert_allclose(run(sinkhorn, x, ids=ids)[keep], run(sinkhorn, SCORES[0][keep]), rtol=1e-12)
    assert not run(sinkhorn, x, ids=ids)[[2, 5, 6]].any()


@pytest.mark.parametrize(
    "settings",
    [{}, {"ids": IDS, "row_weights": WEIGHTS}, {"crops": 1, "epsilon": 0.2, "iterations": 2}, {"crops": V}],
)
def test_value_and_gradient(settings):
    scores = [s.copy() for s in SCORES]
    step = jax.value_and_grad(lambda s, t: swav(*s, temperature=t, **settings), argnums=(0, 1))
    value, (gradients, slope) = run(step, scores, 0.1)
    assert value == pytest.approx(oracles.swav(*scores, **settings), rel=1e-10)

    # The assignments take no gradient: they stay as they are while a score moves.
    def oracle(temperature=0.1):
        return oracles.swav(*scores, temperature=temperature, assigned_by=tuple(SCORES), **settings)

    for i, (x, gradient) in enumerate(zip(scores, gradients, strict=True)):
        np.testing.assert_allclose(gradient, central_difference(oracle, x), rtol=1e-6, atol=1e-6)
        # A view that alone gives assignments predicts nothing.
        assert gradient.any() == (i > 0 or settings.get("crops") != 1)
    difference = (oracle(0.1 + 1e-6) - oracle(0.1 - 1e-6)) / 2e-6
    assert slope == pytest.approx(difference, rel=1e-6)


def test_limits():
    """Equal scores: uniform assignments and predictions, log K. Sure and equal views: 0."""
    assert run(swav, np.zeros((N, K)), np.zeros((N, K))) == pytest.approx(math.log(K))
    sure = 10 * np.eye(K)
    assert run(swav, sure, sure) == pytest.approx(0, abs=1e-9)
    # Which of the views comes first is nothing where all give assignments.
    first = run(swav, *SCORES[:3], crops=3)
    assert run(swav, *SCORES[[2, 0, 1]], crops=3) == pytest.approx(first, rel=1e-12)


def test_equal_on_eight_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    placed = [jax.device_put(s, NamedSharding(mesh, PartitionSpec("data"))) for s in SCORES]
    step = jax.value_and_grad(lambda s: swav(*s, ids=IDS, row_weights=WEIGHTS))
    one, eight = run(step, list(SCORES)), run(step, placed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), one, eight)


QUEUES = np.tanh(normal(23, 2, 6, K))


@pytest.mark.parametrize("ids", [None, IDS])
def test_a_queue_takes_part_in_the_assignments_alone(ids):
    """Against the listing over queue and batch; a queue with one empty row is no queue."""

    def oracle(queues):
        loss = 0.0
        for c in (0, 1):
            rows = np.concatenate([queues[c], SCORES[c]])
            of_rows = np.concatenate([np.zeros(6, int), np.arange(N) if ids is None else ids])
            q = oracles.sinkhorn(rows, ids=of_rows)[6:]
            for v in set(range(V)) - {c}:
                log_p = SCORES[v] / 0.1 - np.log(np.exp(SCORES[v] / 0.1).sum(1, keepdims=True))
                valid = np.ones(N, bool) if ids is None else ids != -1
                loss -= (q * log_p).sum(1)[valid].mean() / (2 * (V - 1))
        return loss

    assert run(swav_queue, *QUEUES, *SCORES, ids=ids) == pytest.approx(oracle(QUEUES), rel=1e-10)
    lacking = QUEUES.copy()
    lacking[:, 2] = 0
    assert run(swav_queue, *lacking, *SCORES, ids=ids) == pytest.approx(run(swav, *SCORES, ids=ids), rel=1e-12)
    slope = jax.jit(jax.grad(lambda q: swav_queue(q, *QUEUES[1:], *SCORES)))(QUEUES[0])
    np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: swav(SCORES[0]), ("scores", "1", "two or more")),
        (lambda: swav(SCORES[0], SCORES[1][:3]), ("scores[1]", "(3, 5)", "(8, 5)")),
        (lambda: swav_queue(*QUEUES[:, :, :3], *SCORES), ("queue_a", "(6, 3)", "[rows, 5]")),
        (lambda: swav(*SCORES, crops=5), ("crops", "5", "1 to 4")),
        (lambda: swav(*SCORES, crops=0), ("crops", "0")),
        (lambda: swav(*SCORES, temperature=0.0), ("temperature", "above 0")),
        (lambda: swav(*SCORES, epsilon=-1), ("epsilon", "-1")),
        (lambda: swav(*SCORES, iterations=-1), ("iterations", "-1")),
        (lambda: sinkhorn(SCORES[0], iterations=2.5), ("iterations", "2.5")),
        (lambda: sinkhorn(SCORES), ("scores", "(4, 8, 5)", "two axes")),
        (lambda: swav(*SCORES, ids=np.zeros(3, int)), ("ids", "(3,)")),
    ],
)
def test_refused(call, words):
    with pytest.raises(ValueError) as error:
        jax.eval_shape(call)
    assert all(word in str(error.value) for word in words), str(error.value)
