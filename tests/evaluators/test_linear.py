import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from hcl_jax.errors import InputError
from hcl_jax.evaluators import softmax
from hcl_jax.evaluators.linear import STRENGTHS, fit, held_out_fifth, linear_probe, predict


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    x, order = x.astype(np.float32), np.random.default_rng(0).permutation(len(y))
    x, y = x[order], y[order]
    return x[:1200], y[:1200], x[1200:], y[1200:]


def reference(x, y, l2):
    """scikit-learn in float64 on standardised features; its C is 1 / (l2 n)."""
    scaler = StandardScaler().fit(x.astype(np.float64))
    model = LogisticRegression(C=1 / (l2 * len(y)), tol=1e-9, max_iter=20000)
    return scaler, model.fit(scaler.transform(x.astype(np.float64)), y)


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1 / 1200])
def test_fit_equals_scikit_learn(digits, l2):
    x, y, test_x, test_y = digits
    probe = fit(x, y, l2, tolerance=1e-5)
    scaler, model = reference(x, y, l2)
    np.testing.assert_allclose(probe.weights, model.coef_, atol=2e-3 * np.abs(model.coef_).max())
    # A constant may be added to all biases: nothing penalises it.
    bias = probe.bias - probe.bias.mean()
    np.testing.assert_allclose(bias, model.intercept_ - model.intercept_.mean(), atol=2e-2)
    ours = np.mean(predict(probe, test_x) == test_y)
    assert ours == pytest.approx(model.score(scaler.transform(test_x.astype(np.float64)), test_y), abs=0.004)


@pytest.mark.slow
def test_default_strength_is_c_of_one(digits):
    x, y, test_x, test_y = digits
    probe = fit(x[:300], y[:300])
    assert probe.l2 == pytest.approx(1 / 300)
    scaler, model = reference(x[:300], y[:300], 1 / 300)
    np.testing.assert_allclose(probe.weights, model.coef_, atol=1e-2 * np.abs(model.coef_).max())


@pytest.mark.slow
def test_default_tolerance_is_near_the_optimum(digits):
    x, y, _, _ = digits
    for l2 in (1e-1, 1e-3, 1e-4):
        assert fit(x, y, l2).loss == pytest.approx(fit(x, y, l2, tolerance=1e-6, max_iterations=3000).loss, rel=2e-3)


@pytest.mark.slow(one=True)
def test_fewer_rows_than_dimensions():
    """The problem within the span of the rows has the optimum of the whole one; repeated rows are no trouble."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 200)).astype(np.float32)
    y = np.arange(40) % 3
    x[:, 0] += y
    x[39], x[38] = x[36], x[35]
    probe = fit(x, y, 0.05, tolerance=1e-5)
    _, model = reference(x, y, 0.05)
    np.testing.assert_allclose(probe.weights, model.coef_, atol=2e-3 * np.abs(model.coef_).max())


def test_row_space_is_an_orthonormal_basis():
    x = np.random.default_rng(0).normal(size=(30, 100)).astype(np.float32)
    z, q = jax.device_get(softmax.row_space(x))
    np.testing.assert_allclose(q.T @ q, np.eye(30), atol=5e-5)
    np.testing.assert_allclose(z @ q.T, x, atol=1e-4)


@pytest.mark.slow
def test_correlated_and_badly_scaled_features():
    """Columns that differ by factors of 10^6 and are nearly multiples of each other still reach the optimum."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(400, 3))
    x = base @ rng.normal(size=(3, 30)) + 0.01 * rng.normal(size=(400, 30))
    x = (x * 10.0 ** rng.integers(-3, 4, 30)[None, :]).astype(np.float32)
    y = (base @ rng.normal(size=(3, 4)) + rng.gumbel(size=(400, 4))).argmax(axis=1)
    probe = fit(x, y, 1e-3, tolerance=1e-5)
    scaler, model = reference(x, y, 1e-3)
    p = model.predict_proba(scaler.transform(x.astype(np.float64)))
    best = -np.log(p[np.arange(400), y]).mean() + 0.5e-3 * np.sum(model.coef_**2)
    assert probe.loss == pytest.approx(best, rel=1e-4)
    assert probe.iterations < 120


@pytest.mark.slow
def test_constant_columns_get_no_weight(digits):
    x, y, _, _ = digits
    assert (x.std(axis=0) == 0).any()
    padded = np.concatenate([x[:300], np.full((300, 2), [0.1, 1e4], np.float32)], axis=1)
    probe = fit(padded, y[:300], 1e-2)
    assert np.abs(probe.weights[:, -2:]).max() < 1e-3


def test_labels_need_not_be_contiguous(digits):
    x, y, test_x, test_y = digits
    plain = linear_probe(x[:300], y[:300], test_x, test_y, l2=0.01)
    odd = linear_probe(x[:300], 7 + 3 * y[:300], test_x, 7 + 3 * test_y, l2=0.01)
    assert odd.accuracy == plain.accuracy
    assert set(predict(odd.probe, test_x)) <= set(7 + 3 * np.arange(10))


@pytest.mark.slow
def test_a_test_class_that_training_lacks_is_wrong(digits):
    x, y, test_x, test_y = digits
    keep = y != 9
    found = linear_probe(x[keep], y[keep], test_x, test_y, l2=0.01)
    assert not found.correct[test_y == 9].any() and found.correct.mean() > 0.8


def test_strength_is_chosen_without_the_test_rows(digits):
    x, y, test_x, test_y = digits
    found = linear_probe(x, y, test_x, test_y)
    assert found.l2 in STRENGTHS and found.held_out[found.l2] == max(found.held_out.values())
    assert found.accuracy.value > 0.93 and found.accuracy.n == len(test_y)
    other = linear_probe(x, y, test_x[:10], test_y[:10] * 0)
    assert other.l2 == found.l2 and other.held_out == found.held_out
    np.testing.assert_array_equal(other.probe.weights, found.probe.weights)


def test_held_out_accuracies_by_hand(digits):
    """The held-out scores are those of a classifier that never saw the fifth."""
    x, y, test_x, test_y = digits
    held = held_out_fifth(y)
    mean, scale = softmax.standardiser(x)
    x = (x - mean) / scale
    found = linear_probe(x, y, test_x, test_y)
    model = LogisticRegression(C=1 / (0.1 * np.sum(~held)), tol=1e-8, max_iter=20000).fit(x[~held], y[~held])
    assert found.held_out[0.1] == pytest.approx(model.score(x[held], y[held]), abs=0.009)


def test_held_out_fifth_is_stratified():
    y = np.repeat([3, 5, 9], [10, 25, 104])
    held = held_out_fifth(y)
    assert [int(held[y == c].sum()) for c in (3, 5, 9)] == [2, 5, 20]
    np.testing.assert_array_equal(held, held_out_fifth(y))
    assert (held != held_out_fifth(y, seed=1)).any()


@pytest.mark.slow
def test_few_rows_take_the_default_strength(digits):
    x, y, test_x, test_y = digits
    few = np.concatenate([np.flatnonzero(y == c)[:9] for c in range(10)])
    found = linear_probe(x[few], y[few], test_x, test_y)
    assert found.l2 == pytest.approx(1 / 90) and found.held_out == {}


def test_unlabelled_rows_are_left_out(digits):
    x, y, test_x, test_y = digits
    whole = linear_probe(x[:300], y[:300], test_x, test_y, l2=0.01)
    hidden = np.where(np.arange(1200) < 300, y, -1)
    found = linear_probe(x, hidden, test_x, test_y, l2=0.01)
    np.testing.assert_array_equal(found.probe.weights, whole.probe.weights)


def test_same_twice_and_from_any_array(digits):
    x, y, test_x, test_y = digits
    one = linear_probe(x[:300], y[:300], test_x, test_y)
    two = linear_probe(
        jax.device_put(x[:300]), y[:300].astype(np.int32), test_x.astype(np.float64), jax.device_put(test_y)
    )
    assert one.accuracy == two.accuracy
    np.testing.assert_array_equal(one.probe.weights, two.probe.weights)


def test_compiles_once_for_a_shape(digits):
    x, y, test_x, test_y = digits
    linear_probe(x[:300], y[:300], test_x, test_y)
    before = softmax.solve._cache_size()
    linear_probe(2 * x[:300], y[:300], test_x, test_y)
    linear_probe(x[:300], y[:300], test_x, test_y, l2=0.3)
    assert softmax.solve._cache_size() == before


@pytest.mark.slow
def test_no_implicit_transfers(digits):
    x, y, test_x, test_y = digits
    with jax.transfer_guard("disallow"):
        linear_probe(x[:300], y[:300], test_x, test_y)
        linear_probe(x[:40], y[:40], test_x, test_y)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"train_labels": np.zeros(20, int)}, r"train labels: found only class 0 in 20 rows; allowed: at least two"),
        ({"train_labels": np.arange(19)}, r"train labels: found shape \[19\]; allowed: \[20\]"),
        ({"train_labels": np.full(20, -1)}, r"train labels: found 20 rows, all -1"),
        ({"train_labels": np.full(20, -2)}, r"train labels: found label -2"),
        ({"train_labels": np.zeros(20)}, r"train labels: found dtype float64"),
        ({"train_features": np.zeros((20, 3, 1))}, r"train features: found shape \[20, 3, 1\]"),
        ({"train_features": np.full((20, 3), np.nan)}, r"train features: found 20 of 20 rows with values that are not"),
        ({"test_features": np.zeros((5, 4))}, r"test features: found 4 dimensions; allowed: 3"),
        ({"test_features": np.zeros((0, 3)), "test_labels": np.zeros(0, int)}, r"test features: found shape \[0, 3\]"),
        ({"l2": -1.0}, r"evaluate l2: found -1.0"),
    ],
)
def test_bad_input_names_the_array(change, message):
    rng = np.random.default_rng(0)
    given = {
        "train_features": rng.normal(size=(20, 3)),
        "train_labels": np.arange(20) % 2,
        "test_features": rng.normal(size=(5, 3)),
        "test_labels": np.arange(5) % 2,
        **change,
    }
    with pytest.raises(InputError, match=message):
        linear_probe(**given)


@pytest.mark.slow
def test_rows_at_unit_length_do_not_see_their_length():
    random = np.random.default_rng(0)
    x, y = random.standard_normal((200, 6)), random.integers(0, 2, 200)
    x[:, 0] += 2 * y
    long = x * random.uniform(0.1, 10, (200, 1))
    plain, scaled = (linear_probe(a[:100], y[:100], a[100:], y[100:], scaling="rows") for a in (x, long))
    np.testing.assert_array_equal(plain.correct, scaled.correct)
    assert plain.accuracy.value > 0.8
    with pytest.raises(InputError, match="evaluate.scaling: found 'row'; allowed: columns, rows"):
        linear_probe(x, y, x, y, scaling="row")
