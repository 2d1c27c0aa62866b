import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from hcl_jax.errors import InputError
from hcl_jax.evaluators.label_efficiency import area_under_curve, label_draws, label_efficiency, labels_needed


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x[:1200].astype(np.float32), y[:1200], x[1200:].astype(np.float32), y[1200:]


def test_draws_are_stratified_and_without_replacement():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 4], [30, 12, 50]))
    rows = label_draws(labels, 10, 6)
    assert rows.shape == (6, 30)
    for draw in rows:
        assert len(set(draw)) == 30
        np.testing.assert_array_equal(np.bincount(labels[draw])[[0, 1, 4]], [10, 10, 10])
    assert len({tuple(sorted(draw)) for draw in rows}) == 6


def test_draws_depend_on_labels_and_seed_alone_and_are_nested():
    labels = np.arange(200) % 4
    np.testing.assert_array_equal(label_draws(labels, 5, 3), label_draws(labels, 5, 7)[:3])
    assert (label_draws(labels, 5, 3) != label_draws(labels, 5, 3, seed=1)).any()
    for few, many in zip(label_draws(labels, 2, 3), label_draws(labels, 9, 3), strict=True):
        assert set(few) < set(many)


@pytest.mark.slow(one=True)
def test_accuracies_equal_scikit_learn(digits):
    """Each draw by hand: standardise by the whole pool, fit with C = 1, score."""
    x, y, test_x, test_y = digits
    found = label_efficiency(x, y, test_x, test_y, per_class=(1, 10), draws=3)
    pool = x.astype(np.float64)
    scale = np.where(pool.std(axis=0) > 0, pool.std(axis=0), 1)
    standard = lambda v: (v - pool.mean(axis=0)) / scale  # noqa: E731
    for n, got in found.items():
        expected = []
        for rows in label_draws(y, n, 3):
            model = LogisticRegression(C=1.0, tol=1e-8, max_iter=10000).fit(standard(pool[rows]), y[rows])
            expected.append(model.score(standard(test_x.astype(np.float64)), test_y))
        np.testing.assert_allclose(got.accuracies, expected, atol=0.006)
        assert got.mean == pytest.approx(np.mean(got.accuracies))
        assert got.standard_error == pytest.approx(np.std(got.accuracies, ddof=1) / np.sqrt(3))
        assert (got.draws, got.n) == (3, len(test_y))
    assert found[10].mean > found[1].mean


@pytest.mark.slow
def test_more_dimensions_than_rows_equal_scikit_learn(digits):
    x, y, test_x, test_y = digits
    w = np.random.default_rng(0).normal(size=(64, 150)).astype(np.float32) / 20
    a, b = np.maximum(x @ w, 0), np.maximum(test_x @ w, 0)
    found = label_efficiency(a, y, b, test_y, per_class=(5,), draws=2)[5]
    mean, scale = a.mean(axis=0), np.where(a.std(axis=0) > 0, a.std(axis=0), 1)
    for accuracy, rows in zip(found.accuracies, label_draws(y, 5, 2), strict=True):
        model = LogisticRegression(C=1.0, tol=1e-8, max_iter=10000).fit((a[rows] - mean) / scale, y[rows])
        assert accuracy == pytest.approx(model.score((b - mean) / scale, test_y), abs=0.006)


@pytest.mark.slow
def test_feature_sets_are_paired(digits):
    """The same features, scaled: the same rows are drawn, so every draw agrees, not only the mean."""
    x, y, test_x, test_y = digits
    one = label_efficiency(x, y, test_x, test_y, per_class=(2,), draws=4)[2]
    two = label_efficiency(4 * x, y, 4 * test_x, test_y, per_class=(2,), draws=4)[2]
    np.testing.assert_allclose(one.accuracies, two.accuracies, atol=1e-9)
    assert len(set(one.accuracies)) > 1


@pytest.mark.slow
def test_same_twice_and_one_draw_has_no_error(digits):
    x, y, test_x, test_y = digits
    one = label_efficiency(x, y, test_x, test_y, per_class=(3,), draws=1)[3]
    assert np.isnan(one.standard_error)
    assert one.mean == label_efficiency(x, y, test_x, test_y, per_class=(3,), draws=1)[3].mean


@pytest.mark.slow
def test_unlabelled_rows_are_never_drawn(digits):
    x, y, test_x, test_y = digits
    hidden = np.where(np.arange(len(y)) % 2 == 0, y, -1)
    one = label_efficiency(x, hidden, test_x, test_y, per_class=(4,), draws=2)[4]
    two = label_efficiency(x[::2], y[::2], test_x, test_y, per_class=(4,), draws=2)[4]
    np.testing.assert_array_equal(one.accuracies, two.accuracies)


def test_bad_input():
    labels = np.array([0, 0, 0, 1, 1])
    x = np.random.default_rng(0).normal(size=(5, 2))
    with pytest.raises(InputError, match="labels per class: found 3; allowed: 1 to 2, the rows of class 1"):
        label_efficiency(x, labels, x, labels, per_class=(3,))
    with pytest.raises(InputError, match="labels per class: found 0"):
        label_draws(labels, 0, 2)
    with pytest.raises(InputError, match="draws: found 0"):
        label_draws(labels, 1, 0)
    with pytest.raises(InputError, match="only class 1 in 5 rows"):
        label_efficiency(x, np.ones(5, int), x, labels)


def test_labels_needed_by_hand():
    curve = {100: 0.9, 1: 0.3, 10: 0.5}  # in any order
    assert labels_needed(curve, 0.5) == pytest.approx(10)
    assert labels_needed(curve, 0.4) == pytest.approx(10**0.5)  # half way between log 1 and log 10
    assert labels_needed(curve, 0.6) == pytest.approx(10**1.25)
    assert labels_needed(curve, 0.9) == pytest.approx(100)
    assert labels_needed(curve, 0.91) == float("inf")
    assert labels_needed(curve, 0.2) == labels_needed(curve, 0.3) == 1  # fewer may do


def test_labels_needed_is_the_first_crossing():
    falls_again = {1: 0.2, 10: 0.8, 100: 0.4, 1000: 0.9}
    assert labels_needed(falls_again, 0.5) == pytest.approx(10**0.5)
    assert labels_needed(falls_again, 0.85) == pytest.approx(10**2.9)  # from the point before, not from the best
    assert labels_needed({5: 0.7, 50: 0.7}, 0.7) == 5


def test_area_under_the_curve_by_hand():
    assert area_under_curve({1: 0.3, 10: 0.5, 100: 0.9}) == pytest.approx((0.4 + 0.7) / 2)
    assert area_under_curve({1: 0.3, 10: 0.5, 1000: 0.9}) == pytest.approx((0.4 + 2 * 0.7) / 3)
    assert area_under_curve({2: 0.6, 8: 0.6, 4: 0.6}) == pytest.approx(0.6)
    assert area_under_curve({7: 0.4}) == 0.4
    whole = np.linspace(np.log(3), np.log(300), 2001)
    line = {float(np.exp(v)): float(v**2) for v in whole}
    expected = (whole[-1] ** 3 - whole[0] ** 3) / 3 / (whole[-1] - whole[0])
    assert area_under_curve(line) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("curve", "words"),
    [({}, "curve: found no point"), ({0: 0.5}, "curve: found 0: 0.5"), ({1: float("nan")}, "curve: found 1: nan")],
)
def test_bad_curves(curve, words):
    for measure in (area_under_curve, lambda c: labels_needed(c, 0.5)):
        with pytest.raises(InputError, match="^" + words):
            measure(curve)
    with pytest.raises(InputError, match="^target: found nan"):
        labels_needed({1: 0.5}, float("nan"))
