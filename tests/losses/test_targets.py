"""What makes targets and weights for losses: quality weights and the instance graph, against loops, on any devices."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from hcl_jax import losses
from hcl_jax.losses import instance_graph, multi_positive, nt_xent, quality_weights
from tests.losses import oracles
from tests.losses.cases import IDS, A, B, N, normal

FAST = {"xla_backend_optimization_level": 0}
QUALITY = normal(30, N)


def run(f, *arrays, devices: int = 1, **settings):
    """f compiled, its arrays sharded by rows."""
    axis = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices], axis_types=axis)
    placed = [jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))) for x in arrays]
    return jax.device_get(jax.jit(functools.partial(f, **settings), compiler_options=FAST)(*placed))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("ids", [None, IDS])
def test_quality_weights_against_a_loop(ids, devices):
    keep = [i for i in range(N) if ids is None or ids[i] != -1]
    total = sum(math.exp(0.7 * QUALITY[i]) for i in keep)
    expected = [len(keep) * math.exp(0.7 * q) / total if i in keep else 0.0 for i, q in enumerate(QUALITY)]
    weights = run(quality_weights, QUALITY.copy(), devices=devices, gamma=0.7, ids=ids)
    np.testing.assert_allclose(weights, expected, rtol=1e-12)
    assert weights[keep].mean() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("rows", [1, 7, 49, 1000])
def test_quality_that_does_not_matter_gives_ones(rows):
    """Exactly, so that a run with gamma = 0 is the run without weights; n / n would not be for all n."""
    weights = run(quality_weights, normal(31, rows).astype(np.float32), gamma=0.0)
    assert weights.dtype == np.float32 and (weights == 1).all()


def test_quality_weights_are_data():
    """No gradient; ignored rows may hold anything; large qualities don't overflow; nobody valid is nobody weighted."""
    gradient = jax.grad(lambda q: jnp.sum(quality_weights(q) ** 2))(jnp.asarray(QUALITY))
    assert not gradient.any()
    odd = np.array([1e4, np.nan, -1e4, 1e4], np.float32)
    np.testing.assert_array_equal(run(quality_weights, odd, ids=np.array([0, -1, 1, 2])), [1.5, 0, 0, 1.5])
    assert not run(quality_weights, odd, ids=np.full(4, -1)).any()
    weights = run(quality_weights, QUALITY.copy())
    weighted = run(nt_xent, A.copy(), B.copy(), temperature=0.2, row_weights=weights)
    assert weighted == pytest.approx(oracles.nt_xent(A, B, temperature=0.2, row_weights=weights), rel=1e-10)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("ids", [None, IDS])
@pytest.mark.parametrize("k", [0, 1, 3])
def test_instance_graph_against_the_matrix(k, ids, devices):
    positives, weights = run(instance_graph, A.copy(), devices=devices, k=k, ids=ids)
    assert positives.shape == weights.shape == (N, k + 1)
    made = np.zeros((N, N))
    for i, (row, share) in enumerate(zip(positives, weights, strict=True)):
        for j, w in zip(row, share, strict=True):
            assert (j >= 0) or w == 0
            made[i, max(j, 0)] += w
    np.testing.assert_allclose(made, oracles.instance_graph(A, k=k, ids=ids), rtol=1e-10, atol=1e-12)
    if k == 3 and ids is None:
        assert ((weights > 0).sum(1) > 1).any()  # it is a graph


@pytest.mark.parametrize("k", [1, 3])
def test_more_neighbours_than_rows(k):
    """Missing neighbours are -1 and weigh nothing; a batch with nobody in it has no positives."""
    ids = np.where(np.arange(N) < 2, np.arange(N), -1)
    positives, weights = run(instance_graph, np.abs(A), k=k, ids=ids)
    np.testing.assert_array_equal(positives[:2, :2], [[0, 1], [1, 0]])
    assert (positives[:2, 2:] == -1).all() and (positives[2:] == -1).all()
    np.testing.assert_allclose(weights.sum(1), ids != -1)
    positives, weights = run(instance_graph, A.copy(), k=k, ids=np.full(N, -1))
    assert (positives == -1).all() and not weights.any()


def test_positives_that_are_not_there():
    """None listed, all listed ignored, or all weights 0: 0 and no gradient. A row out of range is NaN, no wrong row."""
    loss = functools.partial(multi_positive, temperature=0.2, ids=np.where(np.arange(N) == 1, -1, np.arange(N)))
    step = jax.jit(jax.value_and_grad(loss), compiler_options=FAST)
    nobody, ignored, last = (np.full((N, 1), j) for j in (-1, 1, N))
    for positives, weights in ((nobody, np.ones((N, 1))), (ignored, np.ones((N, 1))), (nobody + 1, np.zeros((N, 1)))):
        value, gradient = step(A.copy(), B.copy(), positives, weights)
        assert value == 0 and not gradient.any()
    assert np.isnan(step(A.copy(), B.copy(), last, np.ones((N, 1)))[0])


def test_public_names():
    """What the package names it has, every loss among it."""
    assert set(losses.LOSSES) | {"LOSSES", "MEASURES", "WEIGHTS", "sinkhorn", "quality_weights"} <= set(losses.__all__)
    tables = {"COUNTS", "LOSSES", "MEASURES", "WEIGHTS"}
    assert all(callable(getattr(losses, name)) for name in set(losses.__all__) - tables)
    assert all(getattr(losses, name) is loss for name, loss in losses.LOSSES.items())
