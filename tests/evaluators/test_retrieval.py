import sys

import numpy as np
import pytest

from hcl_jax.errors import InputError
from hcl_jax.evaluators.items import digests, numbered
from hcl_jax.evaluators.result import Splits
from hcl_jax.evaluators.retrieval import chance_recall, recall_at, recall_at_k, recall_of_items, retrieval


def pairs(seed, n, d=8, noise=0.8):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, d)).astype(np.float32)
    return a, (a + noise * rng.normal(size=(n, d))).astype(np.float32)


def ranks_by_loops(queries, keys, query_ids, key_ids):
    """Rank of the first right key, wrong ones of equal similarity before it, in float64."""
    cosine = lambda u, v: float(u @ v / np.sqrt((u @ u) * (v @ v)))  # noqa: E731
    out = []
    for q, i in zip(queries.astype(np.float64), query_ids, strict=True):
        pairs = [(cosine(q, k), j == i) for k, j in zip(keys.astype(np.float64), key_ids, strict=True) if j >= 0]
        if i < 0 or not any(right for _, right in pairs):
            continue
        best = max(s for s, right in pairs if right)
        out.append(1 + sum(s >= best for s, right in pairs if not right))
    return np.array(out)


def check(found, ranks, ks):
    assert found.n == len(ranks) and found.median_rank == np.median(ranks)
    for k in ks:
        p = np.mean(ranks <= k)
        assert found.recall[k] == pytest.approx(p)
        assert found.standard_error[k] == pytest.approx(np.sqrt(p * (1 - p) / len(ranks)))


def test_recall_equals_loops():
    a, b = pairs(0, 60)
    ids = np.arange(60)
    check(recall_at(a, b, ids, ids, (1, 5, 10)), ranks_by_loops(a, b, ids, ids), (1, 5, 10))


def test_repeated_absent_and_unanswered_ids():
    rng = np.random.default_rng(3)
    a, b = pairs(1, 90)[0], pairs(2, 70)[1]
    a_ids, b_ids = 10**12 + rng.integers(0, 25, 90), 10**12 + rng.integers(5, 30, 70)
    a_ids[::7], b_ids[::5] = -1, -1
    expected = ranks_by_loops(a, b, a_ids, b_ids)
    assert 0 < len(expected) < 90
    check(recall_at(a, b, a_ids, b_ids, (1, 3)), expected, (1, 3))


@pytest.mark.slow(one=True)
def test_more_rows_than_a_tile():
    a, b = pairs(4, 1100)
    ids = np.arange(1100) % 1000
    check(recall_at(a, b, ids, ids, (1, 5)), ranks_by_loops(a, b, ids, ids), (1, 5))


def test_items_equal_loops(monkeypatch):
    """Pictures with several captions and captions of several pictures, by the pairs that there are; in tiles of 7."""
    rng = np.random.default_rng(5)
    rows = rng.integers(0, (20, 25), (90, 2))
    pictures, captions = (pairs(seed, 25)[0] for seed in (6, 7))
    captions[:20] += pictures[:20]
    right = {tuple(pair) for pair in rows.tolist()}
    a, b = (np.unique(x) for x in rows.T)
    cosine = pictures @ captions.T / np.linalg.norm(pictures, axis=1)[:, None] / np.linalg.norm(captions, axis=1)
    ranks = []
    for i in a:
        best = max(cosine[i, j] for j in b if (i, j) in right)
        ranks.append(1 + sum(cosine[i, j] >= best for j in b if (i, j) not in right))
    monkeypatch.setattr(sys.modules[recall_of_items.__module__], "TILE", 7 * len(b))
    absent = np.full((2, 2), -1)
    embedded = [np.concatenate([x[r], x[:2]]) for x, r in ((pictures, rows[:, 0]), (captions, rows[:, 1]))]
    found = recall_of_items(*embedded, *np.concatenate([rows, absent]).T, (1, 5))
    check(found, np.array(ranks), (1, 5))
    counts = np.array([sum((i, j) in right for j in b) for i in a])
    assert found.keys == len(b) and found.chance == {k: chance_recall(counts, len(b), k) for k in (1, 5)}


def test_items_of_their_own_are_rows():
    """Where no row repeats, items change no number; nor do they where they are not asked for."""
    splits = [Splits(None, x) for x in pairs(0, 40)]
    plain = retrieval(*splits, ks=(1, 5))
    items = tuple(np.random.default_rng(0).permutation(40) for _ in range(2))
    assert retrieval(*splits, ks=(1, 5), items=items) == plain == retrieval(*splits, ks=(1, 5), unique=False, items=())


def test_equal_inputs_are_one_item():
    """Whatever the view holds; a different bit in any part makes another item."""
    x = np.arange(12, dtype=np.float32).reshape(4, 3)[[0, 1, 0, 0]]
    mask = np.ones((4, 2), bool)
    mask[3, 1] = False
    items = numbered(digests({"series": x, "mask": mask}))
    assert items[0] == items[2] and len(set(items.tolist())) == 3


def test_collapsed_embeddings_do_not_score():
    z = np.zeros((30, 4), np.float32)
    z[:, 0] = 1
    found = recall_at(z, z, np.arange(30), np.arange(30), (1, 29, 30))
    assert found.recall == {1: 0.0, 29: 0.0, 30: 1.0}


def test_chance_by_simulation():
    rng = np.random.default_rng(0)
    key_ids = rng.integers(0, 12, 40)
    query_ids = np.unique(key_ids)
    right = np.array([np.sum(key_ids == i) for i in query_ids])
    for k in (1, 5, 20):
        hits = []
        for _ in range(4000):
            first = set(key_ids[rng.permutation(40)[:k]])
            hits.append(np.mean([i in first for i in query_ids]))
        assert chance_recall(right, 40, k) == pytest.approx(np.mean(hits), abs=5 * np.std(hits) / np.sqrt(4000) + 1e-9)


def test_chance_closed_form():
    assert chance_recall(np.ones(7), 200, 5) == pytest.approx(5 / 200)
    assert chance_recall(np.array([40]), 40, 1) == 1.0
    assert chance_recall(np.array([1]), 3, 10) == 1.0


def test_random_embeddings_are_at_chance():
    rng = np.random.default_rng(0)
    found = recall_at(
        rng.normal(size=(2000, 6)), rng.normal(size=(2000, 6)), np.arange(2000), np.arange(2000), (10, 100)
    )
    for k in (10, 100):
        assert found.chance[k] == pytest.approx(k / 2000)
        assert abs(found.recall[k] - found.chance[k]) < 4 * np.sqrt(found.chance[k] / 2000)


def test_metrics_both_ways():
    a, b = pairs(0, 50)
    found = recall_at_k(a, b, ks=(1, 5), names=("image", "text"))
    ids = np.arange(50)
    assert set(found) == {
        *(
            f"{way}/recall_{k}{end}"
            for way in ("image_to_text", "text_to_image")
            for k in (1, 5)
            for end in ("", "_se")
        ),
        *(f"chance/{way}/recall_{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5)),
        *(f"{way}/{name}" for way in ("image_to_text", "text_to_image") for name in ("n", "median_rank")),
    }
    assert found["text_to_image/recall_1"] == np.mean(ranks_by_loops(b, a, ids, ids) <= 1)
    assert found["chance/image_to_text/recall_5"] == pytest.approx(0.1)


def test_bad_input():
    a, b = pairs(0, 10)
    ids = np.arange(10)
    with pytest.raises(InputError, match="no query with a right key"):
        recall_at(a, b, ids, ids + 10)
    with pytest.raises(InputError, match="keys: found 7 dimensions; allowed: 8"):
        recall_at(a, b[:, :7], ids, ids)
    with pytest.raises(InputError, match=r"key ids: found shape \[9\]"):
        recall_at(a, b, ids, ids[:9])
    with pytest.raises(InputError, match="recall k"):
        recall_at(a, b, ids, ids, (0,))
    with pytest.raises(InputError, match="no row with both items"):
        recall_of_items(a, b, np.where(ids < 5, ids, -1), np.where(ids < 5, -1, ids))
