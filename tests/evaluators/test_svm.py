"""Support vector machines against the published protocols, the dual problem, and loops over folds."""

import math
import sys

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import SVC

from hcl_jax.errors import InputError
from hcl_jax.evaluators.knn import knn_accuracy
from hcl_jax.evaluators.linear import linear_probe
from hcl_jax.evaluators.paired import evaluate_features
from hcl_jax.evaluators.svm import _fit, fold_of, over_folds, part_of, svm_cross_validation, svm_probe


def rings(n, seed=0, classes=3):
    """Classes by distance from the origin: no line separates them. float32 [n, 2], int [n]."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    angle = rng.uniform(0, 2 * np.pi, n)
    radius = 1.0 + labels + rng.normal(size=n) / 3
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).astype(np.float32), labels


@pytest.mark.slow
def test_probe_is_the_published_grid_search():
    x, y = rings(150)
    found = svm_probe(x[:90], y[:90], x[90:], y[90:])
    grid = {"C": [0.0001, 0.001, 0.01, 0.1, 1, 10, 100, 1000, 10000, np.inf]}
    search = GridSearchCV(SVC(C=np.inf, gamma="scale"), grid, cv=5).fit(x[:90], y[:90])
    assert found.c == (search.best_params_["C"],) and 0 < found.c[0] < math.inf
    assert found.accuracy.value == search.best_estimator_.score(x[90:], y[90:]) > 0.75
    np.testing.assert_array_equal(found.correct, search.predict(x[90:]) == y[90:])
    assert found.accuracy.n == 60 and found.accuracy.standard_error > 0
    line = linear_probe(x[:90], y[:90], x[90:], y[90:])
    assert found.accuracy.value > line.accuracy.value + 0.2


@pytest.mark.parametrize("n, classes", [(49, 3), (60, 15)])
def test_few_rows_have_no_slack(n, classes):
    """Below 50 rows, or five a class: C is infinite, and every training row of a separable set is right."""
    x, y = rings(n, classes=classes)
    found = svm_probe(x, y, x, y)
    assert found.c == (math.inf,) and found.accuracy.value == 1.0


def test_probe_solves_the_dual_problem():
    """Two classes: the decisions are those of projected gradient ascent on the dual, in plain NumPy."""
    x, y = rings(60, classes=2)
    machine, _ = _fit(x, y, (10.0,))
    wide = x.astype(np.float64)
    gamma = 1 / (2 * wide.var())
    kernel = np.exp(-gamma * ((wide[:, None] - wide[None]) ** 2).sum(2))
    sign = 2.0 * y - 1
    q = kernel * np.outer(sign, sign)
    low, high = np.zeros(60), np.full(60, 10.0)
    a = np.zeros(60)
    for _ in range(200_000):
        # The most violating pair is moved along the equality constraint sum a y = 0.
        slope = -sign * (q @ a - 1)
        up = ((sign > 0) & (a < high)) | ((sign < 0) & (a > low))
        down = ((sign > 0) & (a > low)) | ((sign < 0) & (a < high))
        i, j = np.flatnonzero(up)[slope[up].argmax()], np.flatnonzero(down)[slope[down].argmin()]
        if slope[i] - slope[j] < 1e-8:
            break
        move = (slope[i] - slope[j]) / (kernel[i, i] + kernel[j, j] - 2 * kernel[i, j])
        room_i = high[i] - a[i] if sign[i] > 0 else a[i]
        room_j = a[j] if sign[j] > 0 else high[j] - a[j]
        move = min(move, room_i, room_j)
        a[i], a[j] = a[i] + sign[i] * move, a[j] - sign[j] * move
    decision = kernel @ (a * sign) + (slope[i] + slope[j]) / 2
    np.testing.assert_allclose(machine.decision_function(x), decision, atol=5e-3)


def test_equal_rows_are_chance_and_end():
    """A collapsed encoder: libsvm went on without end at the largest penalties."""
    y = np.arange(90) % 3
    assert svm_probe(np.ones((90, 5)), y, np.ones((90, 5)), y).accuracy.value == pytest.approx(1 / 3)


def test_unlabelled_and_unknown_rows():
    x, y = rings(90)
    hidden = np.where(np.arange(60) % 3 == 2, -1, y[:60])
    found = svm_probe(x[:60], hidden, x[60:], y[60:])
    assert not found.correct[y[60:] == 2].any() and found.accuracy.n == 30
    keep = hidden >= 0
    assert found.accuracy == svm_probe(x[:60][keep], hidden[keep], x[60:], y[60:]).accuracy
    assert svm_probe(x[:60], y[:60], x[60:], np.where(np.arange(30) < 6, -1, y[60:])).accuracy.n == 24


def test_large_sets_are_fitted_on_a_part(monkeypatch):
    monkeypatch.setattr(sys.modules["hcl_jax.evaluators.svm"], "LARGEST", 50)
    x, y = rings(200)
    part = part_of(y[:150], 50, 3)
    found, alone = svm_probe(x[:150], y[:150], x[150:], y[150:], seed=3), svm_probe(x[part], y[part], x[150:], y[150:])
    assert found.c == alone.c and found.accuracy == alone.accuracy


def test_part_keeps_the_shares_of_the_classes():
    y = np.repeat([0, 1, 2, 3], [1000, 500, 20, 1])
    for seed in (0, 1):
        part = part_of(y, 152, seed)
        assert len(np.unique(part)) == 152 and (np.diff(part) > 0).all()
        assert np.abs(np.bincount(y[part], minlength=4) - np.array([100, 50, 2, 0.1])).max() <= 1
    np.testing.assert_array_equal(part_of(y, 152, 1), part)
    assert (part_of(y, 152, 0) != part).any()
    np.testing.assert_array_equal(part_of(y, 5000, 0), np.arange(len(y)))


def test_cross_validation_is_the_published_protocol():
    x, y = rings(120)
    found = svm_cross_validation(x, y, folds=4, seed=7)
    values, chosen = [], []
    for train, test in StratifiedKFold(4, shuffle=True, random_state=7).split(x, y):
        search = GridSearchCV(SVC(), {"C": [0.001, 0.01, 0.1, 1, 10, 100, 1000]}, cv=5, scoring="accuracy")
        search.fit(x[train], y[train])
        values.append(search.score(x[test], y[test]))
        chosen.append(search.best_params_["C"])
        np.testing.assert_array_equal(found.correct[test], search.predict(x[test]) == y[test])
    assert found.accuracy.value == pytest.approx(np.mean(values), rel=1e-12)
    assert found.accuracy.standard_error == pytest.approx(np.std(values, ddof=1) / 2, rel=1e-12)
    assert found.c == tuple(chosen) and found.accuracy.n == 120
    assert svm_cross_validation(x, y, folds=4, seed=8).accuracy != found.accuracy


def test_folds():
    y = np.repeat([0, 1, 2], [40, 21, 3])
    fold = fold_of(y, 5, 1)
    for c, least in ((0, 8), (1, 4), (2, 0)):
        counts = np.bincount(fold[y == c], minlength=5)
        assert counts.min() >= least and counts.max() <= least + 1
    np.testing.assert_array_equal(fold_of(y, 5, 1), fold)
    assert (fold_of(y, 5, 2) != fold).any()
    correct = np.arange(64) % 3 == 0
    wanted = [correct[fold == f].mean() for f in range(5)]
    assert over_folds(correct, fold) == (
        pytest.approx(np.mean(wanted)),
        pytest.approx(np.std(wanted, ddof=1) / np.sqrt(5)),
        64,
    )


def test_small_classes_and_collapsed_features_do_not_fail():
    """No warning, no endless fit: three rows of a class in five folds, and features that are all equal."""
    x, y = rings(66)
    y = np.where((y == 2) & (np.arange(66) > 9), 0, y)
    assert svm_probe(x, y, x, y).accuracy.n == 66
    assert svm_cross_validation(x, y, 6).accuracy.n == 66
    same = svm_cross_validation(np.ones((66, 4)), y, 6)
    assert same.accuracy.value == pytest.approx(np.mean(y == 0), abs=0.02)


@pytest.mark.slow
def test_compare_cross_validates():
    x, y = rings(90)
    noisy = x + np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    labels = np.where(np.arange(90) < 6, -1, y)
    spec = {"svm": True, "folds": 3, "seed": 5, "knn": {"k": 5, "temperature": 0.1}, "nearest_neighbour": True}
    sets = {"": (x, None), "untrained": (noisy, None), "raw": (noisy, None)}
    found = evaluate_features(sets, labels, None, spec)
    assert (found["n"], found["train/n"]) == (84, 84)
    x, noisy, y = x[6:], noisy[6:], y[6:]
    ours, theirs = svm_cross_validation(x, y, 3, 5), svm_cross_validation(noisy, y, 3, 5)
    assert found["svm_accuracy"] == ours.accuracy.value and found["svm_accuracy_se"] == ours.accuracy.standard_error
    assert found["untrained/svm_accuracy"] == found["raw/svm_accuracy"] == theirs.accuracy.value
    gain = ours.correct.astype(float) - theirs.correct
    assert found["gain_over_untrained/svm_accuracy"] == pytest.approx(gain.mean()) and gain.mean() > 0
    assert found["gain_over_untrained/svm_accuracy_se"] == pytest.approx(gain.std() / np.sqrt(84))
    fold = fold_of(y, 3, 5)
    parts = [(x[fold != f], y[fold != f], x[fold == f], y[fold == f]) for f in range(3)]
    lines = [linear_probe(*part, seed=5).accuracy.value for part in parts]
    assert found["linear_accuracy"] == pytest.approx(np.mean(lines))
    rows = evaluate_features({"": (x, None)}, y, None, {**spec, "svm": False, "scaling": "rows"})
    assert rows["linear_accuracy"] == pytest.approx(
        np.mean([linear_probe(*part, seed=5, scaling="rows").accuracy.value for part in parts])
    )
    near = [knn_accuracy(*part, k=5, temperature=0.1).value for part in parts]
    assert found["knn_accuracy"] == pytest.approx(np.mean(near))
    assert found["knn_accuracy_se"] == pytest.approx(np.std(near, ddof=1) / np.sqrt(3))
    assert "raw/one_nn_accuracy" in found and "gain_over_raw/linear_accuracy" in found
    assert not any("labels_" in key or "linear_l2" in key for key in found)


def test_compare_with_a_test_split():
    x, y = rings(120)
    spec = {"svm": True, "knn": None, "linear": False, "per_class": ()}
    found = evaluate_features({"": (x[:80], x[80:]), "raw": (-x[:80], -x[80:])}, y[:80], y[80:], spec)
    ours = svm_probe(x[:80], y[:80], x[80:], y[80:]).accuracy
    assert (found["svm_accuracy"], found["svm_accuracy_se"]) == ours[:2]
    assert found["gain_over_raw/svm_accuracy"] == found["gain_over_raw/svm_accuracy_se"] == 0
    with pytest.raises(InputError, match="features: found no test rows; allowed: test rows, or evaluate folds above 0"):
        evaluate_features({"": (x, None)}, y, None, spec)


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda x, y: svm_probe(x, y * 0, x, y), "train labels: found only class 0 in 30 rows"),
        (lambda x, y: svm_probe(x[:, :1], y, x, y), "test features: found 2 dimensions"),
        (lambda x, y: svm_probe(x * np.nan, y, x, y), "train features: found 30 of 30 rows"),
        (lambda x, y: svm_cross_validation(x, y, 1), "evaluate folds: found 1; allowed: a whole number from 2 to 10"),
        (lambda x, y: svm_cross_validation(x, y, 11), "evaluate folds: found 11"),
        (lambda x, y: svm_cross_validation(x, y, 2.5), "evaluate folds: found 2.5"),
        (
            lambda x, y: svm_cross_validation(x, (np.arange(30) == 3) * 1, 3),
            "train labels: found classes of 29, 1",
        ),
    ],
)
def test_refused(call, match):
    with pytest.raises(InputError, match=f"^{match}"):
        call(*rings(30))
