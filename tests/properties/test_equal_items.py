"""Equal items count once in retrieval: rows that say again what is there change no number."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcl_jax.evaluators.items import digests, numbered
from hcl_jax.evaluators.result import Splits
from hcl_jax.evaluators.retrieval import chance_recall, recall_of_items, retrieval

pytestmark = pytest.mark.seconds(90)  # a thousand examples
seeds = st.integers(0, 2**32 - 1)
PICTURES, CAPTIONS, D = 6, 8, 5


def pairs(random):
    """Which caption belongs to which picture: each has one at least, some several; int [*, 2]."""
    rows = {(i % PICTURES, i) for i in range(CAPTIONS)}
    rows |= {tuple(pair) for pair in random.integers(0, (PICTURES, CAPTIONS), (random.integers(0, 5), 2)).tolist()}
    return np.array(sorted(rows))


@given(seeds)
def test_rows_that_repeat(seed):
    """In any number and order; inputs are compared, not record numbers."""
    random = np.random.default_rng(seed)
    pictures, captions = random.standard_normal((2, CAPTIONS, D)).astype(np.float32)
    rows = pairs(random)
    again = random.permutation(np.concatenate([rows, rows[random.integers(0, len(rows), random.integers(1, 20))]]))
    found = []
    for some in (rows, again):
        inputs = ({"image": pictures[some[:, 0]]}, {"tokens": some[:, 1:]})
        items = tuple(numbered(digests(view)) for view in inputs)
        a, b = (Splits(None, x[some[:, i]]) for i, x in enumerate((pictures, captions)))
        found.append(retrieval(a, b, ks=(1, 3), items=items))
    assert found[0] == found[1]


@given(seeds)
def test_a_model_that_knows_the_pairs_is_right(seed):
    """Every right caption nearer than every wrong one: recall 1, whatever repeats; chance is that of distinct items."""
    random = np.random.default_rng(seed)
    rows = pairs(random)
    rows = random.permutation(rows[random.integers(0, len(rows), 24)])
    right = np.zeros((PICTURES, CAPTIONS), bool)
    right[tuple(rows.T)] = True
    # A picture is its row of the table, and a caption its own axis: products are 1 over a length, and 0.
    found = recall_of_items(right[rows[:, 0]].astype(float), np.eye(CAPTIONS)[rows[:, 1]], *rows.T, (1, 2))
    assert found.recall[1] == 1.0 and found.n == len(set(rows[:, 0])) and found.keys == len(set(rows[:, 1]))
    counts = right[sorted(set(rows[:, 0]))].sum(1)
    assert found.chance == {k: chance_recall(counts, found.keys, k) for k in (1, 2)}
    assert (found.chance[1] - np.mean(counts / found.keys)) ** 2 < 1e-20
