"""No unit: what is done with x and with c x is the same for c from 1e-15 to 1e15, and not finite beyond, or right."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcl_jax.evaluators.knn import knn_predict
from hcl_jax.evaluators.neighbours import unit_rows
from hcl_jax.losses import masking
from hcl_jax.losses.spread import spread
from hcl_jax.views.lazy import tf
from hcl_jax.views.series import z_normalise


def z_normalised(x):
    return z_normalise(tf.constant(x), None).numpy()


pytestmark = pytest.mark.seconds(90)  # a thousand examples
seeds = st.integers(0, 2**32 - 1)
inside = st.floats(-15, 15).map(lambda e: np.float32(10.0**e))
beyond = st.floats(15, 37).map(lambda e: np.float32(10.0**e)) | st.floats(-30, -15).map(lambda e: np.float32(10.0**e))
LABELS = np.arange(12) % 3
unit_length, spread_of = jax.jit(masking.unit_length), jax.jit(spread)


def rows(seed):
    """Rows [12, 6] of lengths from 0.01 to 100, one of them zero, one twice."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((12, 6)) * 10 ** random.uniform(-2, 2, (12, 1))
    x[3], x[5] = 0, x[4]
    return x.astype(np.float32)


def same_or_not_finite(got, expected, limit=1e-5):
    got, expected = np.asarray(got), np.asarray(expected)
    assert (np.abs(got - expected) < limit)[np.isfinite(got)].all()


@given(seeds, inside)
def test_unit_length(seed, c):
    x = rows(seed)
    for function in (unit_length, unit_rows):
        unit = np.asarray(function(x))
        np.testing.assert_allclose(function(x * c), unit, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(unit, axis=1), np.arange(12) != 3, atol=1e-6)


@given(seeds, inside)
def test_spread(seed, c):
    x = rows(seed)
    np.testing.assert_allclose(spread_of(x * c), spread_of(x), rtol=1e-5)


@given(seeds, inside, inside)
def test_neighbours(seed, c, d):
    """Of a bank in one unit and queries in another; distances that are no tie."""
    x, y = np.random.default_rng(seed).standard_normal((2, 12, 6)).astype(np.float32)
    got = knn_predict(x * c, LABELS, y * d, k=1)
    np.testing.assert_array_equal(got, knn_predict(x, LABELS, y, k=1))


@given(seeds, inside, st.booleans())
def test_z_normalise(seed, c, gaps):
    """Mean 0 and deviation 1 over what is there, and 0 for a constant channel, in any unit."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((3, 16, 2)) * 10 ** random.uniform(-2, 2, (3, 1, 2))
    x[1, :, 0] = 0.1
    if gaps:
        x[random.random(x.shape) < 0.3] = np.nan
        x[:, 0] = 0.1
    x = x.astype(np.float32)
    y, scaled = (z_normalised(v) for v in (x, x * c))
    np.testing.assert_allclose(scaled, y, atol=1e-4)
    varied = np.nanmax(x, axis=1) > np.nanmin(x, axis=1)
    np.testing.assert_allclose(np.nanstd(y, axis=1), varied, atol=1e-3)
    np.testing.assert_allclose(np.nanmean(y, axis=1), 0, atol=1e-3)


@given(seeds, beyond)
def test_beyond_nothing_is_wrong(seed, c):
    x = np.random.default_rng(seed).standard_normal((12, 6)).astype(np.float32)
    with np.errstate(over="ignore"):
        far = x * c
    same_or_not_finite(unit_length(far), unit_length(x))
    same_or_not_finite(spread_of(far), spread_of(x))
    same_or_not_finite(unit_rows(far), unit_rows(x))
    same_or_not_finite(z_normalised(far[:, :, None]), z_normalised(x[:, :, None]), 1e-4)
