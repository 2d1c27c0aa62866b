"""Contrastive top-1 against loops, and that it is called as its loss is."""

import functools
import inspect

import jax
import numpy as np
import pytest

from hcl_jax.core.objectives import known_to
from hcl_jax.losses import LOSSES, MEASURES
from tests.losses.cases import CASES, IDS, PRESENT, QUEUE, A, C, N, normal, paired
from tests.losses.oracles import nearest_is_positive

TOP1 = {name: by["contrastive_top1"] for name, by in MEASURES.items() if "contrastive_top1" in by}


def top1(name: str, *arrays, **settings) -> float:
    """Compiled as one program: operation by operation takes longer the first time."""
    f = paired(name, TOP1) if len(arrays) == 2 else TOP1[name]
    return float(jax.jit(functools.partial(f, **settings))(*arrays))


B = A + 1.2 * normal(8, *A.shape)  # near its pair: some rows hit, some miss


def share(hits: list[bool]) -> float:
    return sum(hits) / len(hits)


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("ids", [np.arange(N, dtype=np.int32), IDS])
def test_against_loops(ids):
    there, back = nearest_is_positive(A, B, ids, ids), nearest_is_positive(B, A, ids, ids)
    assert 0 < share(there) < 1
    for name in ("clip", "siglip", "multi_view", "moco_v3"):
        assert top1(name, A, B, ids=ids) == pytest.approx((share(there) + share(back)) / 2)
    assert top1("info_nce", A, B, ids=ids) == pytest.approx(share(there))
    assert top1("moco_v3", A, B, A, B, ids=ids) == pytest.approx(share(there))
    both = np.concatenate([A, B])
    twice = np.concatenate([ids, ids])
    expected = share(nearest_is_positive(both, both, twice, twice, same=True))
    for name in ("nt_xent", "decoupled", "decoupled_weighted", "debiased", "hard_negative"):
        assert top1(name, A, B, ids=ids) == pytest.approx(expected)


def test_triplets():
    """From the batch: nearer to the own positive than to any row of another id. Given: nearer than to that."""
    hits = [
        nearest_is_positive(A[i : i + 1], np.r_[B[i : i + 1], np.delete(B, i, 0)], [0], [0] + [1] * (N - 1))[0]
        for i in range(N)
    ]
    assert 0 < share(hits) < 1
    assert top1("triplet", A, B) == pytest.approx(share(hits))
    given = [nearest_is_positive(A[i : i + 1], np.r_[B[i : i + 1], C[i : i + 1]], [0], [0, 1])[0] for i in range(N)]
    assert top1("triplet", A, B, C) == pytest.approx(share(given))


def test_ranked_pairs():
    accuracy = jax.jit(MEASURES["bpr"]["accuracy"])
    valid = IDS != -1
    assert float(accuracy(A, B, ids=IDS)) == pytest.approx(np.mean((A > B)[valid]))
    assert float(accuracy(A[:, 0], A[:, 0])) == 0


def test_queue():
    own, filled = np.arange(N), QUEUE[QUEUE.any(1)]
    strangers = np.full(len(filled), 100)
    pair = [nearest_is_positive(A[i : i + 1], np.r_[B[i : i + 1], filled], [0], np.r_[0, strangers])[0] for i in own]
    assert top1("info_nce", A, B, QUEUE) == pytest.approx(share(pair))
    both = nearest_is_positive(A, np.r_[B, filled], own, np.r_[own, strangers])
    assert top1("info_nce", A, B, QUEUE, in_batch=True) == pytest.approx(share(both))


def test_missing_views():
    views = (A, B, C)
    shares = []
    for a, b in ((0, 1), (0, 2), (1, 2)):
        masks = [np.ones(N, bool) if m is None else m for m in (PRESENT[a], PRESENT[b])]
        ids = np.where(masks[0] & masks[1], np.arange(N), -1)
        shares += [share(nearest_is_positive(views[i], views[j], ids, ids)) for i, j in ((a, b), (b, a))]
    assert top1("multi_view", *views, present=PRESENT) == pytest.approx(np.mean(shares))
    nobody = (None, None, np.zeros(N, bool))
    assert top1("multi_view", *views, present=nobody) == pytest.approx(top1("clip", A, B))


@pytest.mark.parametrize("name", TOP1)
def test_ends(name):
    """1 for equal views of distinct rows; 0, not 1, for a collapsed encoder; 0 without a row."""
    z, same = np.eye(N, dtype=np.float32), np.ones((N, 4), np.float32)
    assert top1(name, z, z) == 1
    assert top1(name, same, same) == 0
    assert top1(name, z, z, ids=np.full(N, -1, np.int32)) == 0


@pytest.mark.parametrize("name", TOP1)
def test_called_with_what_the_loss_gets(name):
    """The same inputs, and no keyword that the loss has not; without a gradient."""
    assert inspect.signature(TOP1[name]).parameters.keys() <= inspect.signature(LOSSES[name]).parameters.keys()
    case = next(case for case in CASES.values() if case.name == name)
    keywords = known_to(TOP1[name], {**case.learned, **case.fixed})
    share_of = jax.jit(jax.value_and_grad(lambda x: TOP1[name](x, *case.arrays[1:], **keywords)))
    value, gradient = share_of(case.arrays[0])
    assert 0 <= float(value) <= 1
    assert not gradient.any()
