"""The order of records: every epoch a permutation, epochs unrelated, examples without a view fixed."""

import numpy as np
import pytest

from hcl_jax.data import order
from hcl_jax.views import hashing
from hcl_jax.views.lazy import tf

MASK = (1 << 64) - 1


def epochs(n, count, seed=0):
    return order.records(tf.range(n * count, dtype=tf.int64), n, seed).numpy().reshape(count, n)


def splitmix(z):
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_mix_is_splitmix64():
    values = [0, 1, 2**32, 2**63 + 5, MASK]
    np.testing.assert_array_equal(
        hashing.mix(tf.constant(values, tf.uint64)).numpy(), np.array([splitmix(v) for v in values], np.uint64)
    )


@pytest.mark.parametrize("n", [1, 2, 3, 7, 16, 17, 100, 1437])
def test_every_epoch_is_a_permutation(n):
    for epoch in epochs(n, 3):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(n))


def test_order_depends_on_seed_and_epoch():
    first, second = epochs(100, 2)
    assert (first != second).any() and (first != epochs(100, 1, seed=1)[0]).any()
    np.testing.assert_array_equal(first, epochs(100, 1)[0])


def test_a_batch_may_hold_places_of_two_epochs():
    whole = epochs(10, 2).ravel()
    np.testing.assert_array_equal(order.records(tf.range(7, 13, dtype=tf.int64), 10, 0), whole[7:13])


@pytest.mark.parametrize("n", [1437, 50_000, 65_536])
def test_epochs_are_unrelated(n):
    # With the op's default rounds the orders of two epochs of 65,536 records correlate by 1.0, of 50,000 by 0.75.
    made = epochs(n, 6)
    limit = 5 / n**0.5
    correlations = np.corrcoef(made)[np.triu_indices(6, 1)]
    assert np.abs(correlations).max() < limit
    assert max(abs(np.corrcoef(e[:-1], e[1:])[0, 1]) for e in made) < limit
    for epoch in made:  # chi-square of place by record in tenths, 81 degrees of freedom: above 150 once in 10**5
        table = np.zeros((10, 10))
        np.add.at(table, (np.arange(n) * 10 // n, epoch * 10 // n), 1)
        assert ((table - n / 100) ** 2 / (n / 100)).sum() < 150


def test_lacks_is_fixed_by_seed_view_and_record():
    index = tf.range(20_000, dtype=tf.int64)
    first = order.lacks(index, 0.3, 0, "a").numpy()
    assert abs(first.mean() - 0.3) < 0.015
    np.testing.assert_array_equal(first[::-1], order.lacks(index[::-1], 0.3, 0, "a"))
    for other in (order.lacks(index, 0.3, 0, "b"), order.lacks(index, 0.3, 1, "a")):
        both = (first & other.numpy()).mean()
        assert abs(both - 0.09) < 0.01  # independent
    assert not (first & ~order.lacks(index, 0.5, 0, "a").numpy()).any()  # a larger fraction holds the smaller
    assert not order.lacks(index, 0.0, 0, "a").numpy().any() and order.lacks(index, 1.0, 0, "a").numpy().all()
