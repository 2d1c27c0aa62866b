"""The latent-class report on random finite worlds, where each expectation is a loop."""

import itertools

import jax
import numpy as np
import pytest

from hcl_jax.analysis.latent_class import latent_class_report
from hcl_jax.errors import InputError
from hcl_jax.evaluators.svm import part_of

PLAIN = {"hinge": lambda v: max(0.0, 1 - v), "logistic": lambda v: np.log2(1 + np.exp(-v))}


def world(seed: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A few rows of three classes of different sizes."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([4, 7, 9], rng.integers(1, 6, 3))
    centres = spread * rng.normal(size=(10, 3))
    return (centres[labels] + rng.normal(size=(len(labels), 3))).astype(np.float32), labels


def by_loops(x, labels, loss):
    """L_un, its two parts and L_mean by definition: draws enumerated with their probabilities."""
    f, known = PLAIN[loss], np.unique(labels)
    rows = {c: [i for i, y in enumerate(labels) if y == c] for c in known}
    rho = {c: len(rows[c]) / len(labels) for c in known}
    mean = {c: x[rows[c]].astype(np.float64).mean(0) for c in known}
    total = same = other = classifier = tau = 0.0
    for c, d in itertools.product(known, known):
        p = rho[c] * rho[d]
        losses = [
            f(float(x[i].astype(np.float64) @ (x[j].astype(np.float64) - x[k])))
            for i, j, k in itertools.product(rows[c], rows[c], rows[d])
        ]
        total += p * np.mean(losses)
        if c == d:
            tau, same = tau + p, same + p * np.mean(losses)
        else:
            other += p * np.mean(losses)
            classifier += p * np.mean([f(float(x[i] @ (mean[c] - mean[d]))) for i in rows[c]])
    return total, same / tau, other / (1 - tau), classifier / (1 - tau), tau


@pytest.mark.parametrize("loss", ["hinge", "logistic"])
@pytest.mark.parametrize("seed", range(5))
def test_against_loops(seed, loss):
    x, labels = world(seed)
    found = latent_class_report(x, labels, loss=loss, k=3)
    total, same, other, classifier, tau = by_loops(x, labels, loss)
    assert found.unsupervised == pytest.approx(total, rel=1e-5)
    assert (found.same, found.other) == pytest.approx((same, other), rel=1e-5)
    assert found.mean_classifier == pytest.approx(classifier, rel=1e-5)
    assert found.tau == pytest.approx(tau)
    assert found.tau_k == pytest.approx(1 - sum(p * (1 - p) ** 3 for p in found.rho))


@pytest.mark.parametrize("loss", ["hinge", "logistic"])
def test_identity_and_bound_hold_in_every_world(loss):
    for seed in range(30):
        found = latent_class_report(*world(seed, spread=0.1 * seed), loss=loss)
        parts = (1 - found.tau) * found.other + found.tau * found.same
        assert found.unsupervised == pytest.approx(parts, rel=1e-6)
        assert found.same >= 1 - 1e-6
        assert found.mean_classifier <= found.other + 1e-6
        assert found.mean_classifier <= found.bound + 1e-6


def test_points_have_no_intraclass_deviation():
    x = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    found = latent_class_report(x, np.repeat([0, 1, 2], 4), loss="hinge")
    assert found.intraclass == pytest.approx(0, abs=1e-6) and found.same == pytest.approx(1)
    assert found.mean_classifier == pytest.approx(0) and found.bound == pytest.approx(0, abs=1e-6)


def test_intraclass_term_by_hand():
    x = np.array([[1, 1], [1, -1], [-1, 2], [-1, -2]], np.float32)
    found = latent_class_report(x, np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(found.spectral_norms, [1, 4])
    assert found.intraclass == pytest.approx((1 * np.sqrt(2) + 2 * np.sqrt(5)) / 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"loss": "square"}, "loss: found 'square'"), ({"k": 0}, "k: found 0"), ({}, "latent class labels: found only")],
)
def test_bad_input(settings, words):
    labels = np.array([1, 1, 1]) if not settings else np.array([0, 1, 1])
    with pytest.raises(InputError, match="^" + words):
        latent_class_report(np.ones((3, 2), np.float32), labels, **settings)


def unequal_world(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three classes of 1, 2 and 5 rows in some order: always the same shapes, so few programs."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 2, 3], rng.permutation([1, 2, 5]))
    spread = rng.choice([0.0, 1.0, 4.0])
    return (spread * rng.normal(size=(4, 3))[labels] + rng.normal(size=(8, 3))).astype(np.float32), labels


@pytest.mark.parametrize("loss", ["hinge", "logistic"])
def test_float64_equals_the_loops_to_the_last_digits(loss):
    with jax.enable_x64(True):
        for seed in range(10):
            x, labels = unequal_world(seed)
            found = latent_class_report(x, labels, loss=loss)
            total, same, other, classifier, tau = by_loops(x.astype(np.float64), labels, loss)
            assert (found.unsupervised, found.same, found.other) == pytest.approx((total, same, other), rel=1e-10)
            assert (found.mean_classifier, found.tau) == pytest.approx((classifier, tau), rel=1e-10)
            # Its parts, added up again, and those of the loops.
            assert found.unsupervised == pytest.approx((1 - tau) * other + tau * same, rel=1e-10)
            assert found.bound == pytest.approx((total - tau) / (1 - tau), rel=1e-10)


@pytest.mark.parametrize("loss", ["hinge", "logistic"])
def test_the_bound_holds_in_a_hundred_unequal_worlds(loss):
    for seed in range(100):
        x, labels = unequal_world(seed)
        found = latent_class_report(x, labels, loss=loss)
        assert sorted(found.rho) == pytest.approx([1 / 8, 2 / 8, 5 / 8])
        assert found.mean_classifier <= found.bound + 1e-6 * abs(found.bound)


def test_tau_k_by_every_draw_of_classes():
    x, labels = unequal_world(0)
    for k in (1, 2, 4):
        found = latent_class_report(x, labels, k=k)
        probability = 0.0
        for c, *negatives in itertools.product(range(3), repeat=k + 1):
            if c in negatives:
                probability += np.prod(found.rho[[c, *negatives]])
        assert found.tau_k == pytest.approx(probability, rel=1e-12)
        assert (k == 1) == (found.tau_k == pytest.approx(found.tau, rel=1e-12))


def test_most_takes_a_part_in_which_classes_keep_their_share():
    x, labels = np.random.default_rng(0).normal(size=(80, 2)), np.repeat([0, 1, 2], [40, 20, 20])
    found = latent_class_report(x, labels, loss="hinge", most=8)
    np.testing.assert_allclose(found.rho, [1 / 2, 1 / 4, 1 / 4])
    assert found.unsupervised != latent_class_report(x, labels, loss="hinge", most=8, seed=1).unsupervised
    part = part_of(labels, 8, 0)
    again = latent_class_report(x[part], labels[part], loss="hinge", most=8)
    assert found.unsupervised == again.unsupervised
    with pytest.raises(InputError, match="^most: found 0"):
        latent_class_report(x, labels, most=0)
