"""Blocks of positives and negatives: enumerated, and between the mean classifier and single rows."""

import itertools

import numpy as np
import pytest

from hcl_jax.analysis.block import block_loss
from hcl_jax.analysis.latent_class import latent_class_report
from hcl_jax.errors import InputError

PLAIN = {"hinge": lambda v: max(0.0, 1 - v), "logistic": lambda v: np.log2(1 + np.exp(-v))}


def world(seed: int):
    rng = np.random.default_rng(seed)
    labels = np.array([4, 9, 4, 9, 9, 7])
    return (rng.normal(size=(10, 3))[labels] + rng.normal(size=(6, 3))).astype(np.float32), labels


def by_loops(x, labels, block, loss):
    """Every draw of x, of b positives, of a class and of b negatives in it."""
    x, n = x.astype(np.float64), len(labels)
    rows = {c: [i for i in range(n) if labels[i] == c] for c in set(labels.tolist())}
    total = 0.0
    for i, d in itertools.product(range(n), rows):
        own = rows[int(labels[i])]
        losses = [
            PLAIN[loss](float(x[i] @ (x[list(a)].mean(0) - x[list(b)].mean(0))))
            for a in itertools.product(own, repeat=block)
            for b in itertools.product(rows[d], repeat=block)
        ]
        total += len(rows[d]) / n**2 * np.mean(losses)
    return total


@pytest.mark.parametrize("loss", ["hinge", "logistic"])
@pytest.mark.parametrize("block", [1, 2])
def test_against_every_draw(block, loss):
    for seed in range(3):
        x, labels = world(seed)
        found = block_loss(x, labels, block=block, loss=loss, draws=3000)
        assert abs(found.unsupervised - by_loops(x, labels, block, loss)) < 5 * found.standard_error < 0.2
        tau = (4 + 9 + 1) / 36
        assert found.bound == pytest.approx((found.unsupervised - tau) / (1 - tau))
    assert found == block_loss(x, labels, block=block, loss=loss, draws=3000)


def test_larger_blocks_come_down_to_the_mean_classifier():
    x, labels = world(0)
    report = latent_class_report(x, labels)
    values = [block_loss(x, labels, block=b, draws=2000) for b in (1, 4, 64)]
    assert values[0].unsupervised == pytest.approx(report.unsupervised, abs=5 * values[0].standard_error)
    assert values[0].unsupervised > values[1].unsupervised > values[2].unsupervised
    error = 5 * values[2].standard_error / (1 - report.tau)
    assert report.mean_classifier - error <= values[2].bound < report.bound
    assert values[2].bound == pytest.approx(report.mean_classifier, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"block": 0}, "block: found 0"),
        ({"draws": 1}, "draws: found 1; allowed: a whole number from 2"),
        ({"loss": "square"}, "loss: found 'square'"),
        ({"labels": np.ones(3, int)}, "block labels: found only class 1"),
    ],
)
def test_bad_input(settings, words):
    with pytest.raises(InputError, match="^" + words):
        block_loss(**({"features": np.ones((3, 2)), "labels": np.array([0, 1, 1]), "block": 2} | settings))
