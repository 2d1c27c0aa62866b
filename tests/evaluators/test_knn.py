import numpy as np
import pytest

from hcl_jax.errors import InputError
from hcl_jax.evaluators import neighbours
from hcl_jax.evaluators.knn import knn_accuracy, knn_predict
from hcl_jax.evaluators.one_nn import one_nn_accuracy, one_nn_predict


def clusters(seed, n, d=12, classes=4, noise=1.5):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, d))
    labels = rng.integers(0, classes, n)
    return (centres[labels] + noise * rng.normal(size=(n, d))).astype(np.float32), labels


def knn_by_loops(bank, bank_labels, queries, k, temperature):
    """One query, one neighbour at a time, in float64."""
    out = []
    for q in queries.astype(np.float64):
        similarity = []
        for j, b in enumerate(bank.astype(np.float64)):
            similarity.append((-(q @ b) / np.sqrt((q @ q) * (b @ b)), j))
        votes = {}
        for negative, j in sorted(similarity)[: min(k, len(bank))]:
            votes[bank_labels[j]] = votes.get(bank_labels[j], 0.0) + np.exp(-negative / temperature)
        out.append(min(votes, key=lambda c: (-votes[c], c)))
    return np.array(out)


@pytest.mark.parametrize("k,temperature", [(1, 0.07), (20, 0.07), (200, 0.1), (5, 0.5)])
def test_knn_equals_loops(k, temperature):
    bank, bank_labels = clusters(0, 230)
    queries, _ = clusters(1, 60)
    found = knn_predict(bank, bank_labels, queries, k=k, temperature=temperature)
    np.testing.assert_array_equal(found, knn_by_loops(bank, bank_labels, queries, k, temperature))


def test_more_rows_than_a_tile():
    bank, queries = (
        np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32) for seed, n in ((0, 2500), (1, 1100))
    )
    offset = -0.5 * np.sum(bank**2, axis=1)
    scores, rows = neighbours.nearest_rows(queries, bank, 7, offset)
    wanted = queries.astype(np.float64) @ bank.astype(np.float64).T + offset
    np.testing.assert_allclose(scores, -np.sort(-wanted, axis=1)[:, :7], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(wanted, rows, axis=1), scores, rtol=1e-5, atol=1e-5)


def test_k_is_clipped_to_the_bank():
    bank, bank_labels = clusters(0, 9)
    queries, _ = clusters(1, 20)
    np.testing.assert_array_equal(
        knn_predict(bank, bank_labels, queries, k=200), knn_predict(bank, bank_labels, queries, k=9)
    )


def test_equal_similarities_keep_the_lower_row_and_equal_votes_the_lower_class():
    query = np.array([[1.0, 0.0]], np.float32)
    bank = np.array([[0.0, 1.0], [2.0, 0.0], [3.0, 0.0]], np.float32)
    assert knn_predict(bank, np.array([0, 2, 1]), query, k=1) == [2]
    assert knn_predict(bank, np.array([0, 2, 1]), query, k=2) == [1]


def test_small_temperature_does_not_overflow():
    bank, bank_labels = clusters(0, 100)
    queries, _ = clusters(1, 30)
    found = knn_predict(bank, bank_labels, queries, k=10, temperature=1e-4)
    np.testing.assert_array_equal(found, knn_predict(bank, bank_labels, queries, k=1))


def test_rows_of_zeros_are_no_error():
    bank, bank_labels = clusters(0, 50)
    bank[3] = 0
    assert knn_predict(bank, bank_labels, np.zeros((2, 12), np.float32), k=5).shape == (2,)


def test_unlabelled_rows_are_left_out():
    bank, bank_labels = clusters(0, 80)
    queries, labels = clusters(1, 40)
    whole = knn_accuracy(bank[:50], bank_labels[:50], queries[:30], labels[:30], k=5)
    bank_labels[50:], labels[30:] = -1, -1
    found = knn_accuracy(bank, bank_labels, queries, labels, k=5)
    assert found == whole and found.n == 30
    p = found.value
    assert found.standard_error == pytest.approx(np.sqrt(p * (1 - p) / 30))


@pytest.mark.parametrize("changed", [{"k": 0}, {"temperature": 0.0}, {"temperature": float("nan")}])
def test_bad_parameters(changed):
    x, y = clusters(0, 10)
    with pytest.raises(InputError, match="found .*; allowed"):
        knn_accuracy(x, y, x, y, **changed)


def test_one_nn_equals_loops():
    bank, bank_labels = clusters(0, 150)
    queries, _ = clusters(1, 70)
    expected = []
    for q in queries.astype(np.float64):
        distances = [np.sum((q - b) ** 2) for b in bank.astype(np.float64)]
        expected.append(bank_labels[int(np.argmin(distances))])
    np.testing.assert_array_equal(one_nn_predict(bank, bank_labels, queries), expected)


def test_one_nn_far_from_the_origin():
    """Without centring, float32 products of values near 1,000 cannot see distances of 0.1."""
    bank, labels = clusters(0, 100)
    queries, _ = clusters(1, 40)
    near = one_nn_predict(bank, labels, queries)
    np.testing.assert_array_equal(one_nn_predict(bank + 1000, labels, queries + 1000), near)


def test_one_nn_is_not_scale_free_as_cosine_is():
    bank = np.array([[1.0, 0.0], [10.0, 0.1]], np.float32)
    query = np.array([[1.0, 0.1]], np.float32)
    assert one_nn_accuracy(bank, np.array([0, 1]), query, np.array([0])).value == 1.0
    # By direction both bank rows are about as near; the second is nearer.
    assert knn_accuracy(bank, np.array([0, 1]), query, np.array([1]), k=1).value == 1.0
