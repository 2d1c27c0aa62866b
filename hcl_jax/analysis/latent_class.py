"""The latent-class account of contrastive learning, computed on a finite world where every expectation is a sum.

A class c has probability rho_c, and its rows are equally probable. A positive pair are two draws of one class, a
negative is a draw of a class that is drawn anew, and may be the same one: a collision. Then

  L_un   = E loss(f(x) . (f(x+) - f(x-)))                     one negative
         = (1 - tau) L_other + tau L_same                     tau = sum_c rho_c^2, the probability of a collision
  L_mean = E loss(f(x) . (mu_c - mu_c'))                      two different classes and the classifier of their means

L_mean is at most L_other and L_same at least 1, so

  L_mean <= (L_un - tau) / (1 - tau)

for a convex loss of 1 at 0: the inequality holds for every f, not only on average over data sets.
"""

import math
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Integer, Num

from hcl_jax.errors import InputError
from hcl_jax.evaluators.rows import Labelled, labelled
from hcl_jax.evaluators.svm import part_of

LOSSES = {
    "hinge": lambda v: np.maximum(0, 1 - v),
    "logistic": lambda v: np.logaddexp(0, -v) / math.log(2),
}
MOST = 2**24  # numbers of one block of pairs: 128 MiB


class LatentClass(NamedTuple):
    """What the account says of features.

    Attributes:
      rho: [C] probability of each class.
      tau: of a collision, sum_c rho_c^2.
      tau_k: that at least one of k negatives collides, 1 - sum_c rho_c (1 - rho_c)^k, for the k asked for.
      unsupervised: L_un.
      same, other: L_un given a collision, and given none.
      mean_classifier: L_mean.
      bound: (L_un - tau) / (1 - tau), never below mean_classifier.
      intraclass: s(f) = E_{c ~ rho^2} sqrt(|Sigma_c|_2) E_{x in c} |f(x)|.
      spectral_norms: [C] the largest eigenvalue of each class's covariance.
    """

    rho: np.ndarray
    tau: float
    tau_k: float
    unsupervised: float
    same: float
    other: float
    mean_classifier: float
    bound: float
    intraclass: float
    spectral_norms: np.ndarray


def latent_class_report(
    features: Num[ArrayLike, "n d"],
    labels: Integer[ArrayLike, " n"],
    *,
    loss: str = "logistic",
    k: int = 1,
    most: int | None = None,
    seed: int = 0,
) -> LatentClass:
    """Both sides of the bound, and what stands between them, on the rows that are given.

    Time: sum_c n_c^2 N triples; 1,437 rows of ten classes are 3e8 of them, ten seconds; it grows as N^3. `most` takes a
    part of larger sets, and the account is then that of the world of the part.

    Args:
      features: [N, D], as they are: lengths matter (divide by them first for unit rows).
      labels: int [N]; -1 = left out. rho is their frequency.
      loss: "hinge", max(0, 1 - v), or "logistic", log2(1 + exp(-v)).
      k: negatives, for tau_k alone.
      most: rows; of more a random part is read, in which each class keeps its share, and one with a share
        below half a row may vanish. None: all rows.
      seed: of that part.

    Returns:
      LatentClass.

    Raises:
      InputError: shapes or values that do not fit, fewer than two classes, an unknown loss, k or most below 1.

    Example:
      >>> report = latent_class_report(np.eye(2), np.array([0, 1]))
      >>> print(report.tau, round(report.unsupervised, 4))  # 1 / 2, and (log2(1 + 1 / e) + 1) / 2
      0.5 0.726
      >>> print(round(report.mean_classifier, 4), round(report.bound, 4))  # log2(1 + 1 / e): points meet the bound
      0.4519 0.4519

    Reference: Arora et al. 2019, arXiv 1902.09229, lemma 4.3, theorem 4.1 and section 5.1.
    """
    if loss not in LOSSES:
        raise InputError("loss", repr(loss), ", ".join(map(repr, LOSSES)))
    for name, value in (("k", k), ("most", 1 if most is None else most)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(name, repr(value), "a whole number from 1")
    rows = labelled(features, labels, "latent class")
    if most is not None:
        rows = Labelled(*(x[part_of(rows.labels, most, seed)] for x in rows))
    known, y, counts = np.unique(rows.labels, return_inverse=True, return_counts=True)
    if len(known) < 2:
        raise InputError("latent class labels", f"only class {known[0]}", "at least two classes")
    rho = counts / counts.sum()
    classes = [rows.features[y == c] for c in range(len(known))]
    means = np.stack([x.mean(0, dtype=np.float64) for x in classes])
    pairs = _of_pairs(classes, loss)
    tau = float(np.sum(rho**2))
    joint = rho[:, None] * rho[None, :]
    same = float(np.sum(np.diag(joint * pairs)) / tau)
    other = float((np.sum(joint * pairs) - np.sum(np.diag(joint * pairs))) / (1 - tau))
    unsupervised = float(np.sum(joint * pairs))
    scores = [x.astype(np.float64) @ means.T for x in classes]
    of_means = np.stack([LOSSES[loss](s[:, [c]] - s).mean(0) for c, s in enumerate(scores)])
    mean_classifier = float((np.sum(joint * of_means) - np.sum(np.diag(joint * of_means))) / (1 - tau))
    norms = np.array([_largest_variance(x.astype(np.float64)) for x in classes])
    lengths = np.array([np.linalg.norm(x.astype(np.float64), axis=1).mean() for x in classes])
    return LatentClass(
        rho=rho,
        tau=tau,
        tau_k=float(1 - np.sum(rho * (1 - rho) ** k)),
        unsupervised=unsupervised,
        same=same,
        other=other,
        mean_classifier=mean_classifier,
        bound=(unsupervised - tau) / (1 - tau),
        intraclass=float(np.sum(rho**2 * np.sqrt(norms) * lengths) / tau),
        spectral_norms=norms,
    )


def _of_pairs(classes: list[np.ndarray], loss: str) -> np.ndarray:
    """[C, C]: mean loss with the positive pair of class c and the negative of class c'.

    NumPy, a row at a time: subsets differ in shape, and each shape would be a program of its own under jit.
    """
    rows = np.concatenate(classes).astype(np.float64)
    sizes = np.array([len(x) for x in classes])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    out = np.zeros((len(classes), len(classes)))
    for c, x in enumerate(classes):
        step = max(1, MOST // len(rows))
        for i in range(starts[c], starts[c] + len(x)):
            products = rows @ rows[i]
            own = products[starts[c] : starts[c] + len(x)]
            for j in range(0, len(x), step):
                each = LOSSES[loss](own[j : j + step, None] - products[None, :])
                out[c] += np.add.reduceat(each.sum(axis=0), starts)
        out[c] /= len(x) ** 2 * sizes
    return out


def _largest_variance(x: np.ndarray) -> float:
    centred = x - x.mean(0)
    return float(np.linalg.norm(centred, 2) ** 2 / len(x)) if len(x) else 0.0
