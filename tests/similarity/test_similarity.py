"""The row reductions of an engine, against loops over the whole matrix."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax.similarity import Dense, dense

R, K, D = 6, 9, 3
QUERY = np.random.default_rng(0).normal(size=(R, D)) * 2
KEY = np.random.default_rng(1).normal(size=(K, D))
QUERY_IDS = np.array([4, -1, 2, 2, 9, 5], np.int32)
KEY_IDS = np.array([2, 4, -1, 2, 7, 4, -1, 1, 5], np.int32)


def loops(query, key, query_ids, key_ids, same, over):
    """lse, positive sum, positive count, key count, best positive, best negative of each row."""
    out = []
    for i in range(len(query)):
        entering, positives, negatives = [], [], []
        for j in range(len(key)):
            if query_ids[i] == -1 or key_ids[j] == -1 or (same and i == j):
                continue
            s = float(query[i] @ key[j])
            (positives if query_ids[i] == key_ids[j] else negatives).append(s)
        entering = {"all": positives + negatives, "negatives": negatives, "positives": positives}[over]
        lowest = np.finfo(np.float64).min
        out.append(
            (
                math.log(sum(math.exp(s) for s in entering)) if entering else lowest,
                sum(positives),
                len(positives),
                len(entering),
                max(positives, default=lowest),
                max(negatives, default=lowest),
            )
        )
    return np.array(out).T


@pytest.mark.parametrize("over", ["all", "negatives", "positives"])
@pytest.mark.parametrize("same", [False, True])
def test_rows_against_loops(over, same):
    query, query_ids = (KEY, KEY_IDS) if same else (QUERY, QUERY_IDS)
    expected = loops(query, KEY, query_ids, KEY_IDS, same, over)
    ids = {"query_ids": query_ids, "key_ids": None if same else KEY_IDS}
    with jax.enable_x64(True):
        key = None if same else jnp.asarray(KEY)
        rows = dense().softmax_rows(jnp.asarray(query), key, over=over, **ids)
        best = dense().best_rows(jnp.asarray(query), key, **ids)
    for found, wanted in zip((*rows, *best), expected, strict=True):
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_sigmoid_rows_against_loops():
    bias, expected = -0.7, []
    for i in range(R):
        pairs = [j for j in range(K) if KEY_IDS[j] != -1 and QUERY_IDS[i] != -1]
        signs = [1 if KEY_IDS[j] == QUERY_IDS[i] else -1 for j in pairs]
        expected.append(
            sum(math.log1p(math.exp(-y * (float(QUERY[i] @ KEY[j]) + bias))) for y, j in zip(signs, pairs, strict=True))
        )
    with jax.enable_x64(True):
        found = dense().sigmoid_rows(
            jnp.asarray(QUERY), jnp.asarray(KEY), bias=jnp.asarray(bias), query_ids=QUERY_IDS, key_ids=KEY_IDS
        )
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.slow(one=True)
def test_excluded_logits_do_not_overflow():
    """The positive is 1e4 above the negatives: left out of the sum, it must not reach exp."""
    z = jnp.asarray([[100.0, 0.0], [100.0, 1.0], [0.0, 1.0]])
    ids = jnp.asarray([0, 0, 1])

    def total(z):
        return dense().softmax_rows(z, query_ids=ids, over="negatives").lse.sum()

    value, gradient = jax.value_and_grad(total)(z)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.slow(one=True)
def test_row_without_keys_has_no_gradient():
    def total(z):
        rows = dense().softmax_rows(z, query_ids=jnp.array([0]))
        return rows.lse.sum() + rows.positive_sum.sum()

    value, gradient = jax.value_and_grad(total)(jnp.ones((1, 2)))
    assert np.isfinite(value) and not gradient.any()


def test_an_engine_is_a_value():
    assert dense() == Dense("highest") and hash(dense()) == hash(Dense("highest")) and dense("default") != dense()


def test_products_ask_for_their_precision():
    def text(engine: Dense) -> str:
        ids = jnp.arange(R)
        reduce = lambda q: engine.softmax_rows(q, query_ids=ids).lse  # noqa: E731
        return str(jax.make_jaxpr(jax.grad(lambda q: reduce(q).sum()))(jnp.asarray(QUERY, jnp.float32)))

    products = text(dense()).count("dot_general")
    assert products >= 3 and text(dense()).count("Precision.HIGHEST") >= products
    assert "HIGHEST" not in text(dense("default"))
