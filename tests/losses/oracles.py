"""The losses once more, as loops over rows in NumPy float64: nothing shared with the code under test, and no jax."""

import math

import numpy as np


def _unit(x):
    return [row / math.sqrt(max(float(row @ row), 1e-12)) for row in np.asarray(x, np.float64)]


def _defaults(n, ids, row_weights):
    ids = list(range(n)) if ids is None else [int(i) for i in ids]
    row_weights = [1.0] * n if row_weights is None else [float(w) for w in row_weights]
    return ids, row_weights


def _log_sum_exp(values):
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values))


def _mean_rows(values, ids, row_weights):
    total, count = 0.0, 0
    for value, row_id, weight in zip(values, ids, row_weights, strict=True):
        if row_id != -1:
            total += weight * value
            count += 1
    return total / count if count else 0.0


def sup_con(*views, temperature, base_temperature=None, ids=None, row_weights=None, denominator="all"):
    n = len(views[0])
    ids, row_weights = _defaults(n, ids, row_weights)
    rows = [(row_id, u) for view in views for row_id, u in zip(ids, _unit(view), strict=True)]
    per_row = []
    for i, (id_i, u_i) in enumerate(rows):
        logits, positives = [], []
        for k, (id_k, u_k) in enumerate(rows):
            if k == i or id_k == -1 or id_i == -1:
                continue
            s = float(u_i @ u_k) / temperature
            if id_k == id_i:
                positives.append(s)
            if denominator == "all" or id_k != id_i:
                logits.append(s)
        per_row.append(_log_sum_exp(logits) - sum(positives) / len(positives) if positives and logits else 0.0)
    per_example = [sum(per_row[v * n + i] for v in range(len(views))) / len(views) for i in range(n)]
    factor = 1.0 if base_temperature is None else temperature / base_temperature
    return factor * _mean_rows(per_example, ids, row_weights)


def nt_xent(za, zb, *, temperature, ids=None, row_weights=None, convention="mean", denominator="all"):
    factor = {"mean": 1.0, "sum_of_halves": 2.0}[convention]
    return factor * sup_con(za, zb, temperature=temperature, ids=ids, row_weights=row_weights, denominator=denominator)


def info_nce(
    query,
    key,
    negatives=None,
    *,
    temperature,
    ids=None,
    row_weights=None,
    convention="mean",
    in_batch=None,
    decoupled=False,
):
    n = len(query)
    ids, row_weights = _defaults(n, ids, row_weights)
    in_batch = negatives is None if in_batch is None else in_batch
    q, k = _unit(query), _unit(key)
    extra = [] if negatives is None else [m for m in _unit(negatives) if m.any()]
    values = []
    for i in range(n):
        logits, positives = [], []
        for j in range(n):
            s = float(q[i] @ k[j]) / temperature
            if ids[i] == -1 or ids[j] == -1 or not (in_batch or i == j):
                continue
            if ids[i] == ids[j]:
                positives.append(s)
            if ids[i] != ids[j] or not decoupled:
                logits.append(s)
        logits += [float(q[i] @ m) / temperature for m in extra]
        values.append(_log_sum_exp(logits) - sum(positives) / len(positives) if positives and logits else 0.0)
    factor = 2 * temperature if convention == "two_tau" else 1.0
    return factor * _mean_rows(values, ids, row_weights)


def clip(image, text, *, scale, ids=None, row_weights=None):
    settings = {"temperature": 1 / scale, "ids": ids, "row_weights": row_weights}
    return (info_nce(image, text, **settings) + info_nce(text, image, **settings)) / 2


def siglip(image, text, *, scale, bias, ids=None, row_weights=None):
    n = len(image)
    ids, row_weights = _defaults(n, ids, row_weights)
    x, t = _unit(image), _unit(text)
    values = []
    for i in range(n):
        total = 0.0
        for j in range(n):
            if ids[i] == -1 or ids[j] == -1:
                continue
            y = 1.0 if ids[i] == ids[j] else -1.0
            total -= math.log(1 / (1 + math.exp(-y * (scale * float(x[i] @ t[j]) + bias))))
        values.append(total)
    return _mean_rows(values, ids, row_weights)


def multi_view(*views, temperature, graph="full", present=None, ids=None, row_weights=None, convention="mean"):
    n = len(views[0])
    ids, row_weights = _defaults(n, ids, row_weights)
    present = [None] * len(views) if present is None else present
    present = [[True] * n if mask is None else list(mask) for mask in present]
    losses = []
    for a in range(len(views)):
        for b in range(a + 1, len(views)):
            if graph == "core" and a != 0:
                continue
            keep = [i for i in range(n) if present[a][i] and present[b][i]]
            chosen = {"ids": [ids[i] for i in keep], "row_weights": [row_weights[i] for i in keep]}
            losses.append(clip(views[a][keep], views[b][keep], scale=1 / temperature, **chosen) if keep else 0.0)
    return 2 * sum(losses) if convention == "sum" else sum(losses) / len(losses)


def negative_cosine(*pairs, stop_gradient=True, ids=None, row_weights=None):
    del stop_gradient
    ids, row_weights = _defaults(len(pairs[0]), ids, row_weights)
    total = 0.0
    for p, t in zip(pairs[::2], pairs[1::2], strict=True):
        total -= _mean_rows([float(a @ b) for a, b in zip(_unit(p), _unit(t), strict=True)], ids, row_weights)
    return total / (len(pairs) // 2)


def byol(*pairs, stop_gradient=True, ids=None, row_weights=None):
    del stop_gradient
    ids, row_weights = _defaults(len(pairs[0]), ids, row_weights)
    total = 0.0
    for p, t in zip(pairs[::2], pairs[1::2], strict=True):
        values = [float((a - b) @ (a - b)) for a, b in zip(_unit(p), _unit(t), strict=True)]
        total += _mean_rows(values, ids, row_weights)
    return total


def _repeated(z, ids, row_weights):
    """Valid rows, each as often as its (whole) weight says."""
    ids, row_weights = _defaults(len(z), ids, row_weights)
    kept = [i for i in range(len(z)) for _ in range(int(row_weights[i])) if ids[i] != -1]
    return np.asarray([z[i] for i in kept], np.float64)


def barlow_twins(za, zb, *, redundancy_weight=0.0051, scale=1.0, epsilon=1e-5, ids=None, row_weights=None):
    a, b = _repeated(za, ids, row_weights), _repeated(zb, ids, row_weights)
    n, d = a.shape
    loss = 0.0
    for i in range(d):
        for j in range(d):
            x, y = a[:, i] - sum(a[:, i]) / n, b[:, j] - sum(b[:, j]) / n
            c = sum(x * y) / n / math.sqrt(sum(x * x) / n + epsilon) / math.sqrt(sum(y * y) / n + epsilon)
            loss += (1 - c) ** 2 if i == j else redundancy_weight * c**2
    return scale * loss


def vicreg(
    za,
    zb,
    *,
    invariance=25.0,
    variance=25.0,
    covariance=1.0,
    target_std=1.0,
    epsilon=1e-4,
    convention="mean",
    ids=None,
    row_weights=None,
):
    a, b = _repeated(za, ids, row_weights), _repeated(zb, ids, row_weights)
    n, d = a.shape
    loss = invariance * sum((a[i, j] - b[i, j]) ** 2 for i in range(n) for j in range(d)) / (n * d)
    for z in (a, b):
        z = z - sum(z) / n
        for i in range(d):
            hinge = max(0.0, target_std - math.sqrt(sum(z[:, i] ** 2) / (n - 1) + epsilon))
            loss += variance * hinge / d * (0.5 if convention == "mean" else 1.0)
            for j in range(d):
                if i != j:
                    loss += covariance * (sum(z[:, i] * z[:, j]) / (n - 1)) ** 2 / d
    return loss


def align_uniform(za, zb, *, alpha=2.0, t=2.0, uniformity=1.0, ids=None, row_weights=None):
    n = len(za)
    ids, row_weights = _defaults(n, ids, row_weights)
    a, b = _unit(za), _unit(zb)
    loss = _mean_rows([float(np.linalg.norm(a[i] - b[i])) ** alpha for i in range(n)], ids, row_weights)
    for x in (a, b):
        pairs = [(i, j) for i in range(n) for j in range(i) if ids[i] != -1 and ids[j] != -1]
        energies = [math.exp(-t * float((x[i] - x[j]) @ (x[i] - x[j]))) for i, j in pairs]
        loss += uniformity / 2 * math.log(sum(energies) / len(energies))
    return loss


def cross_entropy(logits, labels, *, smoothing=0.0, ids=None, row_weights=None):
    ids, row_weights = _defaults(len(logits), ids, row_weights)
    k = logits.shape[-1]
    total, count = 0.0, 0
    for index in np.ndindex(*labels.shape):
        if labels[index] == -1 or ids[index[0]] == -1:
            continue
        x = [float(v) for v in logits[index]]
        for c in range(k):
            target = (1 - smoothing) * (c == labels[index]) + smoothing / k
            total += row_weights[index[0]] * target * (_log_sum_exp(x) - x[c])
        count += 1
    return total / count if count else 0.0


def mean_squared_error(prediction, target, mask=None, *, ids=None, row_weights=None):
    ids, row_weights = _defaults(len(prediction), ids, row_weights)
    total, count = 0.0, 0
    for index in np.ndindex(*prediction.shape):
        if ids[index[0]] == -1 or (mask is not None and not mask[index[: mask.ndim]]):
            continue
        total += row_weights[index[0]] * (prediction[index] - target[index]) ** 2
        count += 1
    return total / count if count else 0.0


def nearest_is_positive(queries, keys, query_ids, key_ids, same=False):
    """For each valid query: is its nearest key a positive (True) or a negative, or a tie of both (False)?"""
    queries, keys = _unit(queries), _unit(keys)
    hits = []
    for i, q in enumerate(queries):
        if query_ids[i] == -1:
            continue
        best = {True: -math.inf, False: -math.inf}
        for j, k in enumerate(keys):
            if key_ids[j] != -1 and not (same and i == j):
                positive = query_ids[i] == key_ids[j]
                best[positive] = max(best[positive], float(q @ k))
        hits.append(best[True] > best[False])
    return hits


def softmax(x, temperature=1.0):
    top = max(x)
    powers = [math.exp((float(v) - top) / temperature) for v in x]
    return [p / sum(powers) for p in powers]


def log_softmax(x, temperature=1.0):
    return [float(v) / temperature - _log_sum_exp([float(w) / temperature for w in x]) for v in x]


def sinkhorn(scores, *, epsilon=0.05, iterations=3, ids=None):
    """The listing of SwAV's appendix, on the plain exponentials."""
    n, k = scores.shape
    ids, _ = _defaults(n, ids, None)
    keep = [i for i in range(n) if ids[i] != -1]
    q = [[math.exp(float(scores[i, j]) / epsilon) for j in range(k)] for i in keep]
    total = sum(map(sum, q))
    q = [[v / total for v in row] for row in q]
    for _ in range(iterations):
        columns = [sum(row[j] for row in q) for j in range(k)]
        q = [[v / columns[j] / k for j, v in enumerate(row)] for row in q]
        q = [[v / sum(row) / len(keep) for v in row] for row in q]
    made = np.zeros((n, k))
    for i, row in zip(keep, q, strict=True):
        made[i] = [v / sum(row) for v in row]
    return made


def swav(*scores, temperature=0.1, epsilon=0.05, iterations=3, crops=2, ids=None, row_weights=None, assigned_by=None):
    """With `assigned_by`, the assignments come from these scores in place of the first ones."""
    ids, row_weights = _defaults(len(scores[0]), ids, row_weights)
    loss = 0.0
    for c in range(crops):
        q = sinkhorn((assigned_by or scores)[c], epsilon=epsilon, iterations=iterations, ids=ids)
        others = [s for v, s in enumerate(scores) if v != c]
        for s in others:
            values = [
                -sum(a * b for a, b in zip(x, log_softmax(y, temperature), strict=True))
                for x, y in zip(q, s, strict=True)
            ]
            loss += _mean_rows(values, ids, row_weights) / len(others) / crops
    return loss


def dino(
    centre,
    *outputs,
    teachers=2,
    student_temperature=0.1,
    teacher_temperature=0.04,
    ids=None,
    row_weights=None,
):
    ids, row_weights = _defaults(len(outputs[0]), ids, row_weights)
    terms = []
    for t in range(teachers):
        for s, student in enumerate(outputs[teachers:]):
            if s == t:
                continue
            values = []
            for g, x in zip(outputs[t], student, strict=True):
                p = softmax(g - centre, teacher_temperature)
                values.append(-sum(a * b for a, b in zip(p, log_softmax(x, student_temperature), strict=True)))
            terms.append(_mean_rows(values, ids, row_weights))
    return sum(terms) / len(terms)


def min_max(*views, distribution, temperature=0.2, gamma=0.1, denominator="all", ids=None, row_weights=None):
    settings = {"temperature": temperature, "denominator": denominator, "ids": ids, "row_weights": row_weights}
    pairs = [(i, j) for i in range(len(views)) for j in range(i + 1, len(views))]
    total = 0.0
    for p, (i, j) in zip(distribution, pairs, strict=True):
        total += p * nt_xent(views[i], views[j], **settings) - gamma / 2 * (p - 1 / len(pairs)) ** 2
    return total


def _log_probability(logits, tokens, response):
    places = [t for t in range(1, len(tokens)) if response[t] and tokens[t] != 0]
    return sum(log_softmax(logits[t - 1])[tokens[t]] for t in places) if places else None


def margins(wl, ll, wr, lr, wt, lt, wm, lm):
    """h of each pair, None for a pair of which a response is empty."""
    found = []
    for i in range(len(wl)):
        w, w_ref = _log_probability(wl[i], wt[i], wm[i]), _log_probability(wr[i], wt[i], wm[i])
        lose, lose_ref = _log_probability(ll[i], lt[i], lm[i]), _log_probability(lr[i], lt[i], lm[i])
        found.append(None if w is None or lose is None else (w - lose) - (w_ref - lose_ref))
    return found


def _mean_pairs(loss, arrays, ids, row_weights):
    ids, row_weights = _defaults(len(arrays[0]), ids, row_weights)
    h = margins(*arrays)
    ids = [-1 if x is None else i for x, i in zip(h, ids, strict=True)]
    return _mean_rows([0.0 if x is None else loss(x) for x in h], ids, row_weights)


def dpo(*arrays, beta=0.1, smoothing=0.0, ids=None, row_weights=None):
    def loss(h):
        return (1 - smoothing) * math.log1p(math.exp(-beta * h)) + smoothing * math.log1p(math.exp(beta * h))

    return _mean_pairs(loss, arrays, ids, row_weights)


def ipo(*arrays, beta=0.1, ids=None, row_weights=None):
    return _mean_pairs(lambda h: (h - 1 / (2 * beta)) ** 2, arrays, ids, row_weights)


def next_token(logits, tokens, response=None, *, smoothing=0.0, ids=None, row_weights=None):
    n, t, _ = logits.shape
    labels = np.full((n, t), -1)
    for i in range(n):
        for place in range(1, t):
            if tokens[i, place] != 0 and (response is None or response[i, place]):
                labels[i, place - 1] = tokens[i, place]
    return cross_entropy(logits, labels, smoothing=smoothing, ids=ids, row_weights=row_weights)


def moco_v3(qa, kb, qb, ka, *, temperature, ids=None, row_weights=None, convention="two_tau"):
    settings = {"temperature": temperature, "ids": ids, "row_weights": row_weights, "convention": convention}
    return info_nce(qa, kb, **settings) + info_nce(qb, ka, **settings)


def multi_positive(query, key, positives, weights=None, *, temperature, ids=None, row_weights=None):
    n = len(query)
    ids, row_weights = _defaults(n, ids, row_weights)
    q, k = _unit(query), _unit(key)
    values = []
    for i in range(n):
        logits = {j: float(q[i] @ k[j]) / temperature for j in range(n) if ids[i] != -1 and ids[j] != -1}
        listed = [(int(j), 1.0 if weights is None else float(weights[i, p])) for p, j in enumerate(positives[i])]
        listed = [(j, w) for j, w in listed if j >= 0 and j in logits]
        total = sum(w for _, w in listed)
        value = _log_sum_exp(list(logits.values())) if total else 0.0
        for j, w in listed:
            value -= w / total * logits[j] if total else 0.0
        values.append(value)
    return _mean_rows(values, ids, row_weights)


def instance_graph(z, *, k, ids=None):
    """The rows of D^-1/2 (A + I) D^-1/2, normalised, as the full N x N matrix; zeros for ignored rows."""
    n = len(z)
    ids, _ = _defaults(n, ids, None)
    u = _unit(z)
    graph = np.zeros((n, n))
    for i in range(n):
        if ids[i] == -1:
            continue
        graph[i, i] = 1.0
        others = sorted((-float(u[i] @ u[j]), j) for j in range(n) if j != i and ids[j] != -1)
        for minus, j in others[:k]:
            graph[i, j] = max(0.0, -minus)
    degree = [sum(row) or 1.0 for row in graph]
    made = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            made[i, j] = graph[i, j] / math.sqrt(degree[i] * degree[j])
        made[i] = made[i] / (sum(made[i]) or 1.0)
    return made


def decoupled(za, zb, *, temperature, ids=None, row_weights=None):
    return decoupled_weighted(za, zb, temperature=temperature, ids=ids, row_weights=row_weights, sigma=math.inf)


def decoupled_weighted(za, zb, *, temperature, sigma=0.5, ids=None, row_weights=None, held=None):
    """With `held`, the weights are those of these two arrays: no derivative passes through them."""
    n = len(za)
    ids, row_weights = _defaults(n, ids, row_weights)
    cosines = [float(x @ y) for x, y in zip(*map(_unit, held or (za, zb)), strict=True)]
    kept = [math.exp(c / sigma) for c, row_id in zip(cosines, ids, strict=True) if row_id != -1]
    w = [2 - math.exp(c / sigma) * len(kept) / sum(kept) for c in cosines] if kept else [1.0] * n
    views = [_unit(za), _unit(zb)]
    values = []
    for i in range(n):
        value = 0.0
        for mine in (0, 1):
            positives, negatives = [], []
            for other in (0, 1):
                for j in range(n):
                    if (mine, i) == (other, j) or -1 in (ids[i], ids[j]):
                        continue
                    s = float(views[mine][i] @ views[other][j]) / temperature
                    (positives if ids[i] == ids[j] else negatives).append(s)
            if positives and negatives:
                value += (_log_sum_exp(negatives) - w[i] * sum(positives) / len(positives)) / 2
        values.append(value)
    return _mean_rows(values, ids, row_weights)


def debiased(za, zb, *, temperature, tau_plus=0.1, ids=None, row_weights=None):
    return hard_negative(za, zb, temperature=temperature, tau_plus=tau_plus, beta=0.0, ids=ids, row_weights=row_weights)


def hard_negative(za, zb, *, temperature, tau_plus=0.1, beta=1.0, ids=None, row_weights=None):
    """The listing of the authors' code, on the plain exponentials, row by row."""
    n = len(za)
    ids, row_weights = _defaults(n, ids, row_weights)
    rows = [(row_id, u) for view in (za, zb) for row_id, u in zip(ids, _unit(view), strict=True)]
    per_row = []
    for i, (id_i, u_i) in enumerate(rows):
        pos, neg = [], []
        for k, (id_k, u_k) in enumerate(rows):
            if k != i and -1 not in (id_i, id_k):
                (pos if id_i == id_k else neg).append(math.exp(float(u_i @ u_k) / temperature))
        if not pos:
            per_row.append(0.0)
            continue
        ng = 0.0
        if neg:
            imp = [math.exp(beta * math.log(v)) for v in neg]
            reweighted = sum(a * b for a, b in zip(imp, neg, strict=True)) / (sum(imp) / len(imp))
            ng = (-tau_plus * len(neg) * sum(pos) / len(pos) + reweighted) / (1 - tau_plus)
            ng = max(ng, len(neg) * math.exp(-1 / temperature))
        per_row.append(math.log(sum(pos) + ng) - sum(math.log(v) for v in pos) / len(pos))
    return _mean_rows([(per_row[i] + per_row[n + i]) / 2 for i in range(n)], ids, row_weights)


def nnclr(za, pb, zb, pa, support, *, temperature, ids=None, row_weights=None, convention="mean"):
    memory = [s for s in _unit(support) if s.any()]
    if not memory:
        return 0.0
    total = 0.0
    for z, p in ((za, pb), (zb, pa)):
        nearest = []
        for u in _unit(z):
            distances = [float((u - s) @ (u - s)) for s in memory]
            nearest.append(memory[distances.index(min(distances))])
        settings = {"temperature": temperature, "ids": ids, "row_weights": row_weights}
        there = info_nce(nearest, p, **settings)
        total += there if convention == "mean" else (there + info_nce(p, nearest, **settings)) / 2
    return total / 2


def triplet(anchor, positive, negative=None, *, margin=0.2, ids=None, row_weights=None):
    n = len(anchor)
    ids, row_weights = _defaults(n, ids, row_weights)
    a, p = _unit(anchor), _unit(positive)
    values = []
    for i in range(n):
        if negative is None:
            others = [p[j] for j in range(n) if ids[j] not in (-1, ids[i])]
        else:
            others = [_unit(negative)[i]]
        distances = [float((a[i] - x) @ (a[i] - x)) for x in others]
        near = float((a[i] - p[i]) @ (a[i] - p[i]))
        values.append(max(0.0, near - min(distances) + margin) if distances else 0.0)
    return _mean_rows(values, ids, row_weights)
