"""The order of rows, views and classes changes nothing but the order of what comes out."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcl_jax.evaluators import knn_accuracy, one_nn_accuracy, recall_at_k, spread
from hcl_jax.losses import LOSSES

pytestmark = pytest.mark.seconds(90)  # a thousand examples
seeds = st.integers(0, 2**32 - 1)
N, D, CLASSES = 12, 6, 3


@jax.jit
def losses(a, b, c, ids):
    """One of each kind: views in pairs, several views, classes, statistics of the batch."""
    return {
        "nt_xent": LOSSES["nt_xent"](a, b, temperature=0.5),
        "clip": LOSSES["clip"](a, b, scale=2.0),
        "multi_view": LOSSES["multi_view"](a, b, c, temperature=0.5),
        "sup_con": LOSSES["sup_con"](a, b, temperature=0.5, ids=ids),
        "triplet": LOSSES["triplet"](a, b),
        "vicreg": LOSSES["vicreg"](a, b),
        "align_uniform": LOSSES["align_uniform"](a, b),
    }


def close(got, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@given(seeds)
def test_losses(seed):
    random = np.random.default_rng(seed)
    a, b, c = random.standard_normal((3, N, D)).astype(np.float32)
    ids = random.integers(-1, CLASSES, N).astype(np.int32)
    expected, order, renamed = losses(a, b, c, ids), random.permutation(N), random.permutation(CLASSES)
    close(losses(a[order], b[order], c[order], ids[order]), expected)
    # Views: of a triplet the first is the anchor.
    close(losses(b, a, c, ids), {k: v for k, v in expected.items() if k != "triplet"})
    close(losses(a, c, b, ids), {"multi_view": expected["multi_view"]})
    close(losses(a, b, c, np.where(ids < 0, ids, renamed[ids]).astype(np.int32)), {"sup_con": expected["sup_con"]})


@given(seeds)
def test_evaluators(seed):
    random = np.random.default_rng(seed)
    train, test = random.standard_normal((2, N, D)).astype(np.float32)
    labels = [random.integers(-1, CLASSES, N) for _ in range(2)]
    labels[0][0] = labels[1][0] = 0
    # Kept to one number of labelled rows: one program.
    labels = [np.where(np.arange(N) < 8, np.maximum(y, 0), -1) for y in labels]
    some, others, renamed = random.permutation(N), random.permutation(N), random.permutation(CLASSES)
    moved = [np.where(y < 0, y, renamed[y]) for y in labels]
    for function in (lambda *a: knn_accuracy(*a, k=1), one_nn_accuracy):
        expected = function(train, labels[0], test, labels[1])
        assert function(train[some], moved[0][some], test[others], moved[1][others]) == expected
    np.testing.assert_allclose(spread(test[others]), spread(test), rtol=1e-5)


@given(seeds)
def test_retrieval(seed):
    """Rows of both views together, or of one with their ids; a and b exchanged; ids by other names."""
    random = np.random.default_rng(seed)
    a, b = random.standard_normal((2, N, D)).astype(np.float32)
    ids, order, other, names = (
        random.permutation(N) % 9,
        *(random.permutation(N) for _ in range(2)),
        random.permutation(9),
    )
    expected = recall_at_k(a, b, ids, ks=(1, 5))
    moved = names[ids]
    close(recall_at_k(a[order], b[other], moved[order], moved[other], ks=(1, 5)), expected)
    swapped = recall_at_k(b, a, ids, ks=(1, 5), names=("b", "a"))
    close(swapped, expected)
