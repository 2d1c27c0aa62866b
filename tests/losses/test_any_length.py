"""Unit length knows no unit: losses, collapse, neighbours and queues are those of c x for c from 1e-15 to 1e15."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax.core.memory_bank import init_fifo, write_fifo
from hcl_jax.evaluators.knn import knn_predict
from hcl_jax.evaluators.neighbours import unit_rows
from hcl_jax.losses import clip, nt_xent, triplet
from hcl_jax.losses.masking import unit_length
from hcl_jax.losses.spread import spread

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.standard_normal((2, 12, 6)).astype(np.float32)
SCALES = [np.float32(c) for c in (1e-15, 1e-8, 1e-6, 1e8, 1e15)]


@pytest.mark.parametrize("c", SCALES)
def test_losses_and_spread(c):
    for loss in (
        lambda a, b: nt_xent(a, b, temperature=0.1),
        lambda a, b: clip(a, b, scale=10.0),
        triplet,
        lambda a, b: spread(a) + spread(b),
    ):
        assert float(loss(X * c, Y * c)) == pytest.approx(float(loss(X, Y)), rel=1e-5)


@pytest.mark.parametrize("c", SCALES)
def test_neighbours_and_queues(c):
    np.testing.assert_allclose(unit_rows(X * c), unit_rows(X), rtol=1e-5, atol=1e-7)
    labels = np.arange(12) % 3
    np.testing.assert_array_equal(knn_predict(X * c, labels, Y * c, k=3), knn_predict(X, labels, Y, k=3))
    slot = init_fifo(jax.random.key(0), 24, 6, jnp.float32)
    got, expected = (write_fifo(slot, jnp.asarray(x), None)["rows"] for x in (X * c, X))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def test_rows_of_ordinary_length_have_the_bits_of_the_plain_formula():
    x = jnp.asarray(np.concatenate([X, 1e-4 * X, 1e6 * X]))
    plain = x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))
    np.testing.assert_array_equal(unit_length(x), plain)
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(unit_length(x))))(x)
    wanted = jax.grad(
        lambda x: jnp.sum(jnp.sin(x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))))
    )(x)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-6, atol=1e-9)


def test_zero_stays_zero_and_a_tiny_row_has_a_gradient_that_a_step_survives():
    rows = jnp.asarray(np.stack([np.zeros(6, np.float32), X[0] * np.float32(1e-30)]))
    unit = unit_length(rows)
    assert not unit[0].any() and float(jnp.linalg.norm(unit[1])) == pytest.approx(1, rel=1e-5)
    gradient = jax.grad(lambda x: jnp.sum(unit_length(x) @ jnp.ones(6)))(rows)
    assert np.isfinite(gradient).all() and 0 < np.abs(gradient).max() <= 1.1e6
    assert np.isnan(unit_length(jnp.full((1, 6), 1e30))).all(), "beyond the squares of float32: no number, not zero"
