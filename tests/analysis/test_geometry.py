"""Tolerance, deviations, alignment and uniformity against loops."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax.analysis.geometry import alignment, deviations, spread, tolerance, uniformity
from hcl_jax.losses import align_uniform

Z = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
OTHER = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
LABELS = np.array([3, 0, 3, -1, 0, 5, 3, 0, 8], np.int32)


@pytest.mark.slow(one=True)
def test_tolerance_against_loops():
    u = Z / np.linalg.norm(Z, axis=1, keepdims=True)
    pairs = [
        float(u[i] @ u[j]) for i, j in itertools.permutations(range(9), 2) if LABELS[i] == LABELS[j] and LABELS[i] != -1
    ]
    assert float(tolerance(jnp.asarray(Z), jnp.asarray(LABELS))) == pytest.approx(np.mean(pairs), rel=1e-5)


@pytest.mark.slow
def test_ends_of_tolerance():
    assert float(tolerance(jnp.ones((5, 3)), jnp.zeros(5, jnp.int32))) == pytest.approx(1)
    assert float(tolerance(jnp.ones((5, 3)), jnp.arange(5))) == 0
    assert float(tolerance(jnp.ones((5, 3)), jnp.full(5, -1))) == 0


def test_deviations_are_those_of_unit_rows():
    valid = LABELS != -1
    u = (Z / np.linalg.norm(Z, axis=1, keepdims=True))[valid]
    found = deviations(jnp.asarray(Z), jnp.asarray(LABELS))
    np.testing.assert_allclose(found, u.std(0), rtol=1e-5)
    assert float(spread(jnp.asarray(Z), jnp.asarray(LABELS))) == pytest.approx(2 * u.std(0).mean(), rel=1e-5)
    assert not deviations(jnp.ones((5, 3))).any()


@pytest.mark.slow
def test_parts_of_the_loss():
    a, b = jnp.asarray(Z), jnp.asarray(OTHER)
    both = alignment(a, b) + 0.5 * (uniformity(a) + uniformity(b))
    assert float(align_uniform(a, b)) == pytest.approx(float(both), rel=1e-6)
    assert float(uniformity(jnp.ones((6, 3)))) == pytest.approx(0, abs=1e-6)
