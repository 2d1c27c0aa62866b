import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from hcl_jax.errors import InputError
from hcl_jax.evaluators.accuracy import accuracy, draws_error, paired_gain
from hcl_jax.evaluators.collapse import spread
from hcl_jax.evaluators.knn import knn_accuracy
from hcl_jax.evaluators.label_efficiency import label_efficiency
from hcl_jax.evaluators.linear import linear_probe
from hcl_jax.evaluators.one_nn import one_nn_accuracy
from hcl_jax.evaluators.paired import SPEC, evaluate_features
from hcl_jax.evaluators.raw import raw_features

pytestmark = pytest.mark.slow  # all share a run

SMALL = {"knn": {"k": 5, "temperature": 0.1}, "per_class": (1, 4, 1000), "draws": 3, "nearest_neighbour": True}


@pytest.fixture(scope="module")
def sets():
    rng = np.random.default_rng(0)
    labels = np.arange(180) % 3
    x = rng.normal(size=(180, 6)).astype(np.float32)
    x[:, 0] += 1.5 * labels
    noisy = (x + rng.normal(size=x.shape)).astype(np.float32)
    features = {
        "": (x[:120], x[120:]),
        "untrained": (noisy[:120], noisy[120:]),
        "raw": (noisy[:120, :4], noisy[120:, :4]),
    }
    return features, labels[:120], labels[120:]


@pytest.fixture(scope="module")
def results(sets):
    return evaluate_features(*sets, SMALL)


def test_keys(results):
    one = {"knn_accuracy", "linear_accuracy", "labels_1/accuracy", "labels_4/accuracy"}
    gains = {"linear_accuracy", "labels_1/accuracy", "labels_4/accuracy"}
    expected = {"n", "train/n", "raw/one_nn_accuracy", "raw/one_nn_accuracy_se", "spread", "untrained/spread"}
    for prefix in ("", "untrained/", "raw/"):
        expected |= {f"{prefix}{key}{end}" for key in one for end in ("", "_se")}
        expected |= {f"{prefix}linear_l2", f"{prefix}labels_1/draws", f"{prefix}labels_4/draws"}
    for name in ("untrained", "raw"):
        expected |= {f"gain_over_{name}/{key}{end}" for key in gains for end in ("", "_se")}
    assert set(results) == expected
    assert all(isinstance(value, int | float) and np.isfinite(value) for value in results.values())
    assert (results["n"], results["train/n"]) == (60, 120)


@pytest.mark.slow(one=True)
def test_values_are_those_of_the_evaluators(sets, results):
    features, train_labels, test_labels = sets
    for name, prefix in (("", ""), ("raw", "raw/")):
        args = features[name][0], train_labels, features[name][1], test_labels
        knn = knn_accuracy(*args, k=5, temperature=0.1)
        probe = linear_probe(*args)
        few = label_efficiency(*args, per_class=(4,), draws=3)[4]
        assert results[f"{prefix}knn_accuracy"] == knn.value
        assert results[f"{prefix}linear_accuracy"] == probe.accuracy.value
        assert results[f"{prefix}linear_l2"] == probe.l2
        assert results[f"{prefix}labels_4/accuracy"] == few.mean
        assert results[f"{prefix}labels_4/accuracy_se"] == few.standard_error
    assert results["raw/one_nn_accuracy"] == one_nn_accuracy(*args).value


def test_gains_are_paired_differences(sets, results):
    features, train_labels, test_labels = sets
    few, right = {}, {}
    for name in ("", "untrained"):
        args = features[name][0], train_labels, features[name][1], test_labels
        few[name] = label_efficiency(*args, per_class=(1,), draws=3)[1].accuracies
        right[name] = linear_probe(*args).correct.astype(float)
    by_draw, by_row = few[""] - few["untrained"], right[""] - right["untrained"]
    assert results["gain_over_untrained/labels_1/accuracy"] == pytest.approx(by_draw.mean())
    assert results["gain_over_untrained/labels_1/accuracy_se"] == pytest.approx(by_draw.std(ddof=1) / np.sqrt(3))
    assert results["gain_over_untrained/linear_accuracy"] == pytest.approx(by_row.mean())
    assert results["gain_over_untrained/linear_accuracy_se"] == pytest.approx(by_row.std() / np.sqrt(60))
    assert results["gain_over_untrained/linear_accuracy"] > 0


def test_online_equals_offline(sets, results):
    """Sharded over a mesh, alone, or from the host: the same numbers, to the bit."""
    features, train_labels, test_labels = sets
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.NamedSharding(mesh, jax.P("data"))
    online = {"": tuple(jax.device_put(x, sharded) for x in features[""])}
    found = evaluate_features(online, jax.device_put(train_labels, sharded), test_labels, SMALL)
    assert found.items() <= results.items()
    assert evaluate_features(*sets, SMALL) == results


def test_a_recipe_is_a_spec(sets, results):
    spec = ConfigDict({**SMALL, "every": 0, "views": {}, "recall_at": (1, 5)}).lock()
    assert evaluate_features(*sets, spec) == results


def test_evaluators_can_be_switched_off(sets):
    features, train_labels, test_labels = sets
    spec = {"knn": None, "linear": False, "per_class": ()}
    assert set(evaluate_features({"": features[""]}, train_labels, test_labels, spec)) == {"spread", "n", "train/n"}
    one = evaluate_features(features, train_labels, test_labels, {**spec, "per_class": (4,), "draws": 1})
    assert "labels_4/accuracy" in one and not any("_se" in key or "gain" in key for key in one)
    assert set(SPEC) == {
        "knn",
        "linear",
        "svm",
        "folds",
        "l2",
        "per_class",
        "draws",
        "nearest_neighbour",
        "seed",
        "scaling",
    }


def test_unlabelled_rows_are_left_out(sets):
    features, train_labels, test_labels = sets
    half = {"": tuple(x[::2] for x in features[""])}
    hidden = np.where(np.arange(120) % 2 == 0, train_labels, -1), np.where(np.arange(60) % 2 == 0, test_labels, -1)
    found = evaluate_features({"": features[""]}, *hidden, SMALL)
    expected = evaluate_features(half, train_labels[::2], test_labels[::2], SMALL)
    found.pop("spread"), expected.pop("spread")
    assert found == expected


@pytest.mark.slow(one=True)
def test_bad_input(sets):
    features, train_labels, test_labels = sets
    with pytest.raises(InputError, match="no feature set"):
        evaluate_features({}, train_labels, test_labels)
    with pytest.raises(InputError, match=r"test labels: found shape \[59\]; allowed: \[60\]"):
        evaluate_features(features, train_labels, test_labels[:59])
    with pytest.raises(InputError, match="only class 1"):
        evaluate_features(features, np.ones(120, int), test_labels)


def test_standard_errors():
    found = accuracy(np.array([True, True, False, True]))
    assert found == (0.75, pytest.approx(np.sqrt(0.75 * 0.25 / 4)), 4)
    gain = paired_gain(np.array([True, True, False, True]), np.array([True, False, False, False]))
    assert gain == (0.5, pytest.approx(0.25), 4)
    assert paired_gain(np.ones(5, bool), np.ones(5, bool)).standard_error == 0.0
    assert draws_error(np.array([1.0, 2.0, 3.0])) == pytest.approx(1 / np.sqrt(3))


def test_paired_error_by_simulation():
    """The stated error is the spread of the gain over test sets."""
    rng = np.random.default_rng(0)
    gains, errors = [], []
    for _ in range(2000):
        u = rng.random(200)
        found = paired_gain(u < 0.8, (u < 0.7) & (rng.random(200) < 0.95))
        gains.append(found.value)
        errors.append(found.standard_error)
    assert np.std(gains) == pytest.approx(np.mean(errors), rel=0.08)


def test_spread():
    rng = np.random.default_rng(0)
    assert spread(rng.normal(size=(4000, 32))) == pytest.approx(1.0, abs=0.02)
    assert spread(np.ones((10, 8)) * np.arange(1, 11)[:, None]) == pytest.approx(0.0, abs=1e-6)
    half = rng.normal(size=(4000, 32)) * (np.arange(32) < 8)[None, :]
    assert spread(half) == pytest.approx(0.5, abs=0.02)  # a quarter of the dimensions, each with twice the deviation
    z = rng.normal(size=(50, 5)).astype(np.float32)
    rows = [row / np.sqrt(sum(v * v for v in row)) for row in z.astype(np.float64)]
    assert spread(z) == pytest.approx(np.sqrt(5) * np.mean([np.std([r[j] for r in rows]) for j in range(5)]), rel=1e-5)
    with pytest.raises(InputError, match="embeddings: found 1 of 50 rows"):
        spread(np.where(np.arange(50)[:, None] == 3, np.inf, z))


def test_raw_images_and_series_are_flattened():
    image = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    np.testing.assert_array_equal(raw_features({"image": image, "draws": {}}), image.reshape(2, -1))
    series = np.arange(2 * 5 * 2, dtype=np.float32).reshape(2, 5, 2)
    np.testing.assert_array_equal(raw_features({"series": series}), series.reshape(2, -1))


def test_raw_above_the_limit_are_block_means():
    image = np.random.default_rng(0).random((3, 7, 6, 2)).astype(np.float32)
    found = raw_features({"image": image}, limit=20)
    expected = [
        [image[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c].mean() for i in range(3) for j in range(3) for c in range(2)]
        for n in range(3)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    series = np.arange(12, dtype=np.float32).reshape(1, 12, 1)
    np.testing.assert_allclose(raw_features({"series": series}, limit=4), [[1.0, 4.0, 7.0, 10.0]])
    assert raw_features({"series": series}, limit=1).shape == (1, 1)
    assert raw_features({"series": np.zeros((2, 3, 9))}, limit=4).shape == (2, 9)  # channels are kept


def test_raw_tokens_are_counts():
    tokens = np.array([[5, 2, 5, 0, 0], [9, 9, 9, 8, 1], [0, 0, 0, 0, 0]])
    found = raw_features({"tokens": tokens}, buckets=8)
    expected = np.zeros((3, 8))
    for n, row in enumerate(tokens):
        for t in row:
            expected[n, t % 8] += t != 0
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(InputError, match="raw features: found a view of sound; allowed: image, series, tokens, feat"):
        raw_features({"sound": tokens})
