"""The contrastive loss is the loss of the mean classifier up to constants, from above and from below.

Features have unit length, a class c has probability pi_c, s are products divided by the temperature t, b = 1 / t:

  R_cont = E[log(e^{s(x, x+)} + sum_{k <= K} e^{s(x, x_k)}) - s(x, x+)]     x, x+ of class c, x_k of any class
  R_mean = E[log sum_d e^{s(x, mu_d)} - s(x, mu_c)]                         mu_d the mean of class d

  R_cont + lower <= R_mean <= R_cont + upper
  upper = log(max(pi) C^2 cosh(b)^2 / K)
  lower = H(pi) + log K - 2 log(K + 1) - 2 log cosh(b)

Proof. E s(x, x+) = E s(x, mu_c): only the logarithms differ, A of R_cont and B of R_mean. Let m = E s(x, x_k) =
E sum_d pi_d s(x, mu_d). For s in -b..b Kantorovich's inequality says mean(e^s) mean(e^-s) <= cosh(b)^2.
  A >= E log sum_k e^{s_k} >= log K + m                  without the positive; Jensen
  B <= m + log(max(pi) C^2 cosh(b)^2)                    for -sum_d pi_d s_d <= log sum_d pi_d e^{-s_d}, by Jensen
  A <= E[2 log((K + 1) cosh(b)) - log sum_k e^{-s_k}] <= 2 log((K + 1) cosh(b)) - log K + m
  B >= H(pi) + m                                         Jensen for log sum_d pi_d (e^{s_d} / pi_d)
"""

import math
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Integer, Num

from hcl_jax.errors import InputError
from hcl_jax.evaluators.accuracy import draws_error
from hcl_jax.evaluators.rows import labelled

DRAWS = 100


class TwoSided(NamedTuple):
    """The loss of the mean classifier between its bounds, in nats.

    Attributes:
      lower: contrastive + the lower constant; it may be negative, and then says nothing.
      mean_supervised: R_mean, cross-entropy over all classes, exact.
      upper: contrastive + the upper constant.
      contrastive: R_cont.
      standard_error: of contrastive, lower and upper, over draws; 0 where the sum is exact.
    """

    lower: float
    mean_supervised: float
    upper: float
    contrastive: float
    standard_error: float


def gaps(rho: Float[np.ndarray, " c"], negatives: int, temperature: float = 1.0) -> tuple[float, float]:
    """The two constants: R_mean - R_cont lies between them for every f of unit length.

    upper - lower = 2 log((K + 1) / K) + 4 log cosh(1 / t) for equal classes: it falls with K to the second term.

    Args:
      rho: [C] probability of each class, each above 0.
      negatives: K.
      temperature: t.

    Returns:
      (lower, upper).

    Example:
      >>> lower, upper = gaps(np.array([0.5, 0.5]), negatives=1)
      >>> print(round(lower, 4), round(upper, 4))  # log 2 + 2 log cosh 1, below and above
      -1.5607 1.5607

    Reference: Bao, Nagano and Nozawa 2022, arXiv 2110.02501; the constants are those of their code
    (scripts/plot_k_msuploss.py, lb_intercept and ub_intercept), the proof is above.
    """
    b, k = 1 / temperature, negatives
    log_cosh = b + math.log1p(math.exp(-2 * b)) - math.log(2)
    lower = -float(np.sum(rho * np.log(rho))) + math.log(k) - 2 * math.log(k + 1) - 2 * log_cosh
    upper = math.log(float(np.max(rho)) * len(rho) ** 2 / k) + 2 * log_cosh
    return lower, upper


def two_sided_bound(
    features: Num[ArrayLike, "n d"],
    labels: Integer[ArrayLike, " n"],
    *,
    negatives: int = 1,
    temperature: float = 1.0,
    draws: int | None = None,
    seed: int = 0,
) -> TwoSided:
    """R_cont + lower <= R_mean <= R_cont + upper on the rows that are given, each put to unit length.

    A finite world: the rows of a class are equally probable, x and x+ may be the same row, and a negative is any row.
    Time: sum_c n_c^2 N sums for the exact loss of one negative, N draws (K + 1) for draws. Float64.

    Args:
      features: [N, D].
      labels: int [N]; -1 = left out. Their frequency is the probability of a class.
      negatives: K.
      temperature: t; the constants grow as 4 / t.
      draws: for each row, of a positive and K negatives, at least 2; None: the exact sum for one negative, 100 draws
        for more.
      seed: of the draws; they are a function of (seed, row).

    Returns:
      TwoSided.

    Raises:
      InputError: shapes or values that do not fit, fewer than two classes, negatives below 1, draws below 2, a
        temperature that is not above 0.

    Example:
      >>> bound = two_sided_bound(np.eye(2), np.array([0, 1]))
      >>> print(round(bound.mean_supervised, 4))  # log(e + 1) - 1
      0.3133
      >>> bound.lower <= bound.mean_supervised <= bound.upper
      True

    Reference: Bao, Nagano and Nozawa 2022, arXiv 2110.02501, and the proof at the top of this file.
    """
    for name, value, least in (("negatives", negatives, 1), ("draws", DRAWS if draws is None else draws, 2)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise InputError(name, repr(value), f"a whole number from {least}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise InputError("temperature", temperature, "a finite number > 0")
    rows = labelled(features, labels, "two-sided")
    known, y, counts = np.unique(rows.labels, return_inverse=True, return_counts=True)
    if len(known) < 2:
        raise InputError("two-sided labels", f"only class {known[0]}", "at least two classes")
    u = rows.features.astype(np.float64)
    # A row of zeros stays one: the bounds need a length of one at most.
    u /= np.maximum(np.linalg.norm(u, axis=1, keepdims=True), 1e-300)
    rho = counts / counts.sum()
    of_means = u @ np.stack([u[y == c].mean(axis=0) for c in range(len(known))]).T / temperature
    own = of_means[np.arange(len(y)), y].mean()
    mean_supervised = float(np.mean(np.logaddexp.reduce(of_means, axis=1)) - own)
    if draws is None and negatives == 1:
        logarithm, error = _exact(u, y, temperature), 0.0
    else:
        by_draw = _drawn(u, y, negatives, temperature, DRAWS if draws is None else draws, seed)
        logarithm, error = float(by_draw.mean()), draws_error(by_draw)
    contrastive = float(logarithm - own)
    lower, upper = gaps(rho, negatives, temperature)
    return TwoSided(contrastive + lower, mean_supervised, contrastive + upper, contrastive, error)


def _exact(u: np.ndarray, y: np.ndarray, temperature: float) -> float:
    """E log(e^{s(x, x+)} + e^{s(x, x-)}), one row's positives and negatives at a time."""
    total = 0.0
    for i, c in enumerate(y):
        s = u @ u[i] / temperature
        total += float(np.mean(np.logaddexp(s[y == c][:, None], s[None, :])))
    return total / len(u)


def _drawn(u: np.ndarray, y: np.ndarray, negatives: int, temperature: float, draws: int, seed: int) -> np.ndarray:
    """[draws]: E log(e^{s(x, x+)} + sum_k e^{s(x, x_k)}) with one positive and K negatives for each row x."""
    total = np.zeros(draws)
    members = [np.flatnonzero(y == c) for c in range(y.max() + 1)]
    for i, c in enumerate(y):
        rng = np.random.default_rng((seed, i))
        s = u @ u[i] / temperature
        positive = s[members[c][rng.integers(len(members[c]), size=draws)]]
        negative = s[rng.integers(len(u), size=(draws, negatives))]
        top = np.maximum(positive, negative.max(axis=1))  # no overflow, and no logarithm of zero at a low temperature
        total += top + np.log(np.exp(positive - top) + np.exp(negative - top[:, None]).sum(axis=1))
    return total / len(u)
