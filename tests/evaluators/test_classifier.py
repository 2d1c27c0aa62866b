"""Classifiers that are kept: the probe's own logits, and a Gaussian about each class mean."""

import numpy as np
import pytest

from hcl_jax.errors import InputError
from hcl_jax.evaluators.classifier import Classifier, probabilities, read
from hcl_jax.evaluators.linear import fit, linear, logits
from hcl_jax.evaluators.result import Splits


@pytest.fixture(scope="module")
def kept():
    rng = np.random.default_rng(0)
    labels = np.array([3, 5, 5, 9] * 10 + [-1])
    features = (rng.normal(size=(41, 4)) * [1, 5, 0.2, 1] + 7 + labels[:, None]).astype(np.float32)
    both = Splits(features, features), Splits(labels, labels)
    return features, labels, linear(*both, l2=0.1).kept, fit(features, labels, 0.1)


def test_the_linear_one_has_the_probes_logits(kept):
    features, _, arrays, probe = kept
    odds = np.exp(logits(probe, features).astype(np.float64))
    expected = odds / odds.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities(Classifier(**arrays), features), expected, rtol=1e-3, atol=1e-5)
    assert arrays["classes"].tolist() == [3, 5, 9]


def test_the_nearest_mean(kept):
    features, labels, arrays, _ = kept
    x = features.astype(np.float64)
    means = [x[labels == c].mean(axis=0) for c in (3, 5, 9)]
    square = sum(((x[labels == c] - m) ** 2).sum() for c, m in zip((3, 5, 9), means, strict=True)) / (40 * 4)
    density = np.exp([[-((f - m) ** 2).sum() / (2 * square) for m in means] for f in x])
    found = probabilities(Classifier(**arrays), features, "nearest")
    np.testing.assert_allclose(found, density / density.sum(axis=1, keepdims=True), rtol=1e-3, atol=1e-6)


def test_a_file_without_it_and_an_unknown_method(kept):
    features, _, arrays, _ = kept
    file = {f"a.h.label.0.{k}": v for k, v in arrays.items()}
    assert read(file, "a.h.label.1") is None
    np.testing.assert_array_equal(read(file, "a.h.label.0").means, arrays["means"])
    with pytest.raises(InputError, match="method: found 'svm'; allowed: linear, nearest"):
        probabilities(Classifier(**arrays), features, "svm")


def test_a_probe_of_unit_rows_is_not_kept(kept):
    features, labels, _, _ = kept
    assert linear(Splits(features, features), Splits(labels, labels), l2=0.1, scaling="rows").kept == {}
