"""The latent-class bound on subsets of the features: identity, inequality, how tight."""

import numpy as np

from hcl_jax.analysis.latent_class import latent_class_report
from hcl_jax.analysis.two_sided import two_sided_bound
from hcl_jax.claims.measures.reading import Arms, one, split
from hcl_jax.errors import InputError
from hcl_jax.evaluators.neighbours import unit_rows


def bound(
    arms: Arms, seed: int, *, run: str, view: str, subsets: int = 100, rows: int = 120, loss: str = "logistic"
) -> dict[str, object]:
    """Both sides of the bound on random subsets of rows and classes of unit features, exact sums on each.

    L_un is also summed straight over (x, x+ of its class, any x-), which knows nothing of the split into collisions.

    Returns:
      identity_error: largest relative |L_un - ((1 - tau) L_other + tau L_same)|; share_holds: of subsets with L_mean <=
      (L_un - tau) / (1 - tau); slack: mean of right less left; left and right as a curve; intraclass: mean s(f);
      share_two_sided: of subsets whose mean-supervised loss lies between both bounds of `two_sided_bound`; its width.

    Reference: Arora et al. 2019, arXiv 1902.09229, lemma 4.3 and theorem 4.1; Bao et al. 2022, arXiv 2110.02501.
    """
    if not (isinstance(subsets, int) and isinstance(rows, int)) or subsets < 1 or rows < 4:
        raise InputError("arguments", f"subsets {subsets!r}, rows {rows!r}", "whole numbers from 1 and from 4")
    test = split(one(arms, run).views, view, "test")
    x = unit_rows(test.features)
    rng = np.random.default_rng((seed, 7))
    error, left, right, intraclass, between, width = [], [], [], [], [], []
    for _ in range(subsets):
        chosen = _subset(test.labels, rows, rng)
        report = latent_class_report(x[chosen], test.labels[chosen], loss=loss)
        straight = _straight(x[chosen].astype(np.float64), test.labels[chosen], loss)
        split_sum = (1 - report.tau) * report.other + report.tau * report.same
        error.append(abs(straight - split_sum) / abs(straight))
        left.append(report.mean_classifier)
        right.append(report.bound)
        intraclass.append(report.intraclass)
        both = two_sided_bound(x[chosen], test.labels[chosen])
        between.append(both.lower <= both.mean_supervised <= both.upper)
        width.append(both.upper - both.lower)
    holds = np.array(left) <= np.array(right)
    return {
        "identity_error": float(max(error)),
        "share_holds": float(holds.mean()),
        "slack": float(np.mean(np.array(right) - np.array(left))),
        "intraclass": float(np.mean(intraclass)),
        "share_two_sided": float(np.mean(between)),
        "width_two_sided": float(np.mean(width)),
        "sides": {"x": left, "y": right},
    }


def _subset(labels: np.ndarray, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of two or more random classes, at most `rows`."""
    classes = np.unique(labels[labels >= 0])
    some = rng.choice(classes, rng.integers(2, len(classes) + 1), replace=False)
    at = np.flatnonzero(np.isin(labels, some))
    # One of each first: a class without a row would be another number of classes.
    first = np.array([rng.choice(np.flatnonzero(labels == c)) for c in some])
    rest = rng.permutation(np.setdiff1d(at, first))[: max(0, rows - len(first))]
    return np.concatenate([first, rest])


def _straight(x: np.ndarray, labels: np.ndarray, loss: str) -> float:
    """E loss(x . x+ - x . x-): x any row, x+ any row of its class, x- any row."""
    inner = x @ x.T
    total = 0.0
    for i in range(len(x)):
        gap = inner[i][labels == labels[i]][:, None] - inner[i][None, :]
        values = np.maximum(0, 1 - gap) if loss == "hinge" else np.logaddexp(0, -gap) / np.log(2)
        total += float(values.mean())
    return total / len(x)
