"""Measures of the singular spectrum: closed forms, NumPy's decomposition, finite gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax.analysis.spectrum import (
    effective_rank,
    largest_singular_value_ratio,
    singular_value_entropy,
    singular_values,
)
from hcl_jax.errors import InputError

SHAPES = [(20, 6), (6, 20), (9, 9)]


def numpy_values(x: np.ndarray, centring: str) -> np.ndarray:
    if centring == "columns":
        x = x - x.mean(0)
    if centring == "rows":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        x = x - x.mean(1, keepdims=True)
    return np.linalg.svd(x, compute_uv=False)


@pytest.mark.parametrize("centring", ["none", "columns", "rows"])
@pytest.mark.parametrize("shape", SHAPES)
def test_against_numpy(shape, centring):
    x = np.random.default_rng(0).normal(size=shape) * 3 + 1
    expected = numpy_values(x, centring)
    p = expected / expected.sum()
    p = p[p > 1e-7]
    with jax.enable_x64(True):
        z = jnp.asarray(x)
        np.testing.assert_allclose(singular_values(z, centring=centring), expected, rtol=1e-6, atol=1e-6)
        assert float(singular_value_entropy(z, centring=centring)) == pytest.approx(-np.sum(p * np.log(p)), rel=1e-6)
        assert float(largest_singular_value_ratio(z, centring=centring)) == pytest.approx(-np.log(p[0]), rel=1e-6)
        assert float(effective_rank(z, centring=centring)) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-6)


@pytest.mark.parametrize("shape", [(12, 5), (5, 12)])
def test_equal_singular_values_give_log_d(shape):
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 5)))
    x = jnp.asarray(7 * (q if shape == (12, 5) else q.T), jnp.float32)
    for measure in (singular_value_entropy, largest_singular_value_ratio):
        assert float(measure(x, centring="none")) == pytest.approx(np.log(5), abs=1e-5)
    assert float(effective_rank(x)) == pytest.approx(5, abs=1e-4)


@pytest.mark.parametrize("length", [1e-18, 1.0, 1e18])
def test_rank_one_gives_zero(length):
    rng = np.random.default_rng(2)
    x = jnp.asarray(length * np.outer(rng.normal(size=30), rng.normal(size=8)), jnp.float32)
    for measure in (singular_value_entropy, largest_singular_value_ratio):
        assert float(measure(x, centring="none")) == pytest.approx(0, abs=1e-5)
    assert float(effective_rank(x)) == pytest.approx(1, abs=1e-5)


MEASURES = jax.jit(
    lambda z: tuple(m(z, centring="none") for m in (singular_value_entropy, largest_singular_value_ratio))
)


@pytest.mark.parametrize("shape", [(12, 5), (5, 12)])
def test_closed_forms_in_float64(shape):
    """Equal singular values: log D; rank one: 0; p = (1/2, 1/4, 1/4): 1.5 log 2 and log 2."""
    rng = np.random.default_rng(5)
    left, right = (np.linalg.qr(rng.normal(size=(n, 5)))[0] for n in shape)
    with jax.enable_x64(True):
        for values, expected in [
            (np.full(5, 7.0), (np.log(5), np.log(5))),
            (np.array([3.0, 0, 0, 0, 0]), (0, 0)),
            (np.array([2.0, 1, 1, 0, 0]), (1.5 * np.log(2), np.log(2))),
        ]:
            np.testing.assert_allclose(MEASURES((left * values[None, :]) @ right.T), expected, rtol=0, atol=1e-12)


def test_small_singular_values_count_in_float32():
    """1,000 rows of 256 features, sigma from 1 down to 1 / 256: none of them is taken for rounding."""
    rng = np.random.default_rng(5)
    u, v = (np.linalg.qr(rng.normal(size=(n, 256)))[0] for n in (1000, 256))
    sigma = 1 / np.arange(1, 257)
    found = singular_values(jnp.asarray((u * sigma) @ v.T, jnp.float32))
    np.testing.assert_allclose(found, sigma, rtol=2e-2)


@pytest.mark.parametrize("measure", [singular_value_entropy, largest_singular_value_ratio, effective_rank])
def test_what_is_no_number_gives_none(measure):
    assert np.isnan(measure(jnp.ones((6, 4)).at[2, 1].set(jnp.nan)))


@pytest.mark.parametrize("what", ["zeros", "rank one", "equal values", "random"])
def test_finite_gradients(what):
    rng = np.random.default_rng(3)
    x = {
        "zeros": np.zeros((6, 4)),
        "rank one": np.outer(rng.normal(size=6), rng.normal(size=4)),
        "equal values": np.eye(6, 4),
        "random": rng.normal(size=(6, 4)),
    }[what]
    for measure in (singular_value_entropy, largest_singular_value_ratio, effective_rank):
        value, gradient = jax.value_and_grad(measure)(jnp.asarray(x, jnp.float32))
        assert np.isfinite(value) and np.isfinite(gradient).all(), measure


@pytest.mark.parametrize("measure", [singular_value_entropy, largest_singular_value_ratio, effective_rank])
@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
def test_gradient_is_the_central_difference(measure, shape):
    x = np.random.default_rng(4).normal(size=shape)
    with jax.enable_x64(True):
        gradient = jax.grad(lambda z: measure(z, centring="none"))(jnp.asarray(x))
        value = jax.jit(lambda z: measure(z, centring="none"))
        for index in [(0, 0), (1, 2), (3, 3)]:
            step = np.zeros(shape)
            step[index] = 1e-6
            numeric = (float(value(jnp.asarray(x + step))) - float(value(jnp.asarray(x - step)))) / 2e-6
            assert float(gradient[index]) == pytest.approx(numeric, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(
    ("x", "centring", "words"),
    [
        (np.ones(3), "none", "features: found shape"),
        (np.ones((0, 3)), "none", "features: found shape"),
        (np.ones((2, 3)), "both", "centring"),
    ],
)
def test_bad_input(x, centring, words):
    with pytest.raises(InputError, match="^" + words):
        singular_values(jnp.asarray(x), centring=centring)
