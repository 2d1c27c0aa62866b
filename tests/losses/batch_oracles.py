"""Oracles of losses on what a whole batch looks like: spectra, covariances, distances to all; and of ranked scores."""

import math

import numpy as np

from tests.losses.oracles import _defaults, _mean_rows, _repeated, _unit


def spectral(za, zb, *, mu=1.0, ids=None, row_weights=None):
    n = len(za)
    ids, row_weights = _defaults(n, ids, row_weights)

    def shortened(z):
        length = math.sqrt(float(z @ z))
        return z if mu is None or length <= math.sqrt(mu) else z / length * math.sqrt(mu)

    a, b = ([shortened(row) for row in z] for z in (za, zb))
    loss = _mean_rows([-2 * float(x @ y) for x, y in zip(a, b, strict=True)], ids, row_weights)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j and -1 not in (ids[i], ids[j])]
    if pairs:
        loss += sum(float(a[i] @ b[j]) ** 2 for i, j in pairs) / len(pairs)
    return loss if mu is None else loss / mu


def w_mse(za, zb, *, epsilon=1e-3, ids=None, row_weights=None):
    """Whitened by the inverse Cholesky factor that Gram-Schmidt makes, not by a library's."""
    ids, row_weights = _defaults(len(za), ids, row_weights)
    keep = [i for i, row_id in enumerate(ids) if row_id != -1]
    whitened = []
    for z in (za, zb):
        z = np.asarray(z, np.float64) - sum(z[i] for i in keep) / len(keep)
        d = z.shape[1]
        cov = sum(np.outer(z[i], z[i]) for i in keep) / (len(keep) - 1)
        c = (1 - epsilon) * cov * d / sum(cov[j, j] for j in range(d)) + epsilon * np.eye(d)
        lower = np.zeros((d, d))
        for i in range(d):
            for j in range(i + 1):
                rest = c[i, j] - sum(lower[i, m] * lower[j, m] for m in range(j))
                lower[i, j] = math.sqrt(rest) if i == j else rest / lower[j, j]
        made = []
        for row in z:
            v = np.zeros(d)
            for i in range(d):
                v[i] = (row[i] - sum(lower[i, m] * v[m] for m in range(i))) / lower[i, i]
            made.append(v)
        whitened.append(_unit(made))
    return _mean_rows([float((x - y) @ (x - y)) for x, y in zip(*whitened, strict=True)], ids, row_weights)


def koleo(z, *, epsilon=1e-8, ids=None, row_weights=None):
    n = len(z)
    ids, row_weights = _defaults(n, ids, row_weights)
    u = _unit(z)
    values = []
    for i in range(n):
        distances = [float(np.linalg.norm(u[i] - u[j])) for j in range(n) if j != i and ids[j] != -1]
        values.append(-math.log(max(min(distances), epsilon)) if distances else 0.0)
    return _mean_rows(values, ids, row_weights)


def consistency(z, features, *, reduction="row", ids=None, row_weights=None):
    ids, row_weights = _defaults(len(z), ids, row_weights)
    values = [float((u - v) @ (u - v)) for u, v in zip(_unit(z), _unit(features), strict=True)]
    return _mean_rows(values, ids, row_weights) / (len(z[0]) if reduction == "entry" else 1)


def covariance(z, *, ids=None, row_weights=None):
    c = np.cov(_repeated(z, ids, row_weights), rowvar=False)
    return sum(c[i, j] ** 2 for i in range(len(c)) for j in range(len(c)) if i != j) / len(c)


def dominant_singular_value(z, *, top=1, ids=None, row_weights=None):
    values = np.linalg.svd(_repeated(z, ids, row_weights), compute_uv=False)
    return -sum(values[:top]) / top / sum(values)


def bpr(positive_scores, negative_scores, *, ids=None, row_weights=None):
    ids, row_weights = _defaults(len(positive_scores), ids, row_weights)
    values = []
    for x, y in zip(positive_scores, negative_scores, strict=True):
        parts = [math.log1p(math.exp(-float(d))) for d in np.atleast_1d(x - y)]
        values.append(sum(parts) / len(parts))
    return _mean_rows(values, ids, row_weights)
