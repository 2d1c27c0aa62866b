"""The classifier of class means against loops, and its two conventions where they differ."""

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from hcl_jax.analysis.mean_classifier import mean_classifier
from hcl_jax.errors import InputError
from hcl_jax.evaluators.accuracy import paired_gain


def world(seed: int = 0):
    rng = np.random.default_rng(seed)
    train, test = rng.choice([2, 5, 9], 40), rng.choice([2, 5, 9], 60)
    centres = rng.normal(size=(10, 4))
    draw = lambda y: (centres[y] + rng.normal(size=(len(y), 4)) + 0.5).astype(np.float32)  # noqa: E731
    return draw(train), train, draw(test), test


@pytest.mark.parametrize("convention", ["product", "nearest"])
def test_against_loops(convention):
    x, y, test_x, test_y = world()
    means = {c: sum(row.astype(np.float64) for row, own in zip(x, y, strict=True) if own == c) for c in (2, 5, 9)}
    means = {c: total / np.sum(y == c) for c, total in means.items()}
    guess = [
        max(means, key=lambda c: f @ means[c] if convention == "product" else -np.sum((f - means[c]) ** 2))
        for f in test_x.astype(np.float64)
    ]
    found = mean_classifier(x, y, test_x, test_y, convention=convention)
    np.testing.assert_array_equal(found.correct, np.array(guess) == test_y)
    np.testing.assert_allclose(found.means, list(means.values()), rtol=1e-10)
    np.testing.assert_array_equal(found.classes, [2, 5, 9])
    p = np.mean(found.correct)
    assert found.accuracy == pytest.approx((p, np.sqrt(p * (1 - p) / 60), 60))
    assert 0.4 < p < 1


def test_nearest_is_scikit_learns_centroid():
    x, y, test_x, test_y = world(3)
    model = NearestCentroid().fit(x, y)
    found = mean_classifier(x, y, test_x, test_y, convention="nearest")
    assert found.accuracy.value == pytest.approx(model.score(test_x, test_y))


def test_the_conventions_differ_by_the_length_of_the_means():
    """Means at 1 and 3 of a line: 1.2 is nearest to 1, and has the larger product with 3."""
    x, y = np.array([[1.0], [3.0]]), np.array([0, 1])
    points, truth = np.array([[1.2], [2.9]]), np.array([0, 1])
    product, nearest = (mean_classifier(x, y, points, truth, convention=c) for c in ("product", "nearest"))
    assert product.correct.tolist() == [False, True] and nearest.correct.tolist() == [True, True]
    assert paired_gain(nearest.correct, product.correct).value == 0.5


def test_a_move_of_all_features_changes_products_alone():
    x, y, test_x, test_y = world(1)
    one = {c: mean_classifier(x, y, test_x, test_y, convention=c).correct for c in ("product", "nearest")}
    two = {c: mean_classifier(x + 3, y, test_x + 3, test_y, convention=c).correct for c in ("product", "nearest")}
    np.testing.assert_array_equal(one["nearest"], two["nearest"])
    assert (one["product"] != two["product"]).any()


def test_rows_without_a_label_and_unknown_classes():
    x, y, test_x, test_y = world(2)
    hidden = np.where(np.arange(40) % 2 == 0, y, -1)
    one, two = mean_classifier(x, hidden, test_x, test_y), mean_classifier(x[::2], y[::2], test_x, test_y)
    np.testing.assert_array_equal(one.correct, two.correct)
    assert mean_classifier(x, y, test_x, np.full(60, 7)).accuracy.value == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"convention": "cosine"}, "convention: found 'cosine'; allowed: 'product', 'nearest'"),
        (
            {"train_labels": np.full(40, 2)},
            "train labels: found only class 2 in 40 rows; allowed: at least two classes",
        ),
        ({"train_labels": np.full(40, -1)}, "train labels: found 40 rows, all -1"),
        ({"test_features": np.ones((60, 3))}, "test features: found 3 dimensions; allowed: 4"),
    ],
)
def test_bad_input(change, words):
    names = ("train_features", "train_labels", "test_features", "test_labels")
    with pytest.raises(InputError, match="^" + words):
        mean_classifier(**(dict(zip(names, world(), strict=True)) | change))
