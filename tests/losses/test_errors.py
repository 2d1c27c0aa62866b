"""Wrong arguments are refused where the loss is traced, by the argument's name."""

import jax
import numpy as np
import pytest

from hcl_jax.losses import (
    LOSSES,
    MEASURES,
    clip,
    cross_entropy,
    info_nce,
    mean_squared_error,
    multi_view,
    negative_cosine,
    nt_xent,
    siglip,
    sup_con,
    vicreg,
)
from tests.losses.cases import A, B, C

WEIGHTS = np.ones(3)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: nt_xent(A, B, temperature=0.0), ("temperature", "0.0", "above 0")),
        (lambda: nt_xent(A, B, temperature=-1), ("temperature", "-1")),
        (lambda: nt_xent(A, B, temperature=float("nan")), ("temperature", "nan")),
        (lambda: nt_xent(A, B, temperature=np.float32(0)), ("temperature",)),
        (lambda: nt_xent(A, B, temperature=np.ones(2)), ("temperature", "(2,)", "one number")),
        (lambda: info_nce(A, B, temperature=0), ("temperature",)),
        (lambda: sup_con(A, temperature=0), ("temperature",)),
        (lambda: sup_con(A, temperature=1, base_temperature=0), ("base_temperature",)),
        (lambda: multi_view(A, B, temperature=0), ("temperature",)),
        (lambda: clip(A, B, scale=0), ("scale",)),
        (lambda: siglip(A, B, scale=-10, bias=0), ("scale",)),
        (lambda: siglip(A, B, scale=10, bias=np.zeros(2)), ("bias", "(2,)")),
        (lambda: vicreg(A, B, epsilon=0), ("epsilon",)),
        (lambda: nt_xent(A, B[:5], temperature=1), ("zb", "(5, 4)", "(8, 4)", "za")),
        (lambda: nt_xent(A[0], B[0], temperature=1), ("za", "(4,)", "two axes")),
        (lambda: clip(A, B[:, :3], scale=1), ("text", "(8, 3)", "(8, 4)", "image")),
        (lambda: info_nce(A, B, C[:, :2], temperature=1), ("negatives", "(8, 2)", "4")),
        (lambda: info_nce(A, B, in_batch=False, temperature=1), ("in_batch",)),
        (lambda: negative_cosine(A, B, C), ("inputs", "3 arrays", "even")),
        (lambda: sup_con(temperature=1), ("views",)),
        (lambda: multi_view(A, temperature=1), ("views", "two")),
        (lambda: multi_view(A, B, temperature=1, present=(None,)), ("present", "1 masks", "2")),
        (lambda: multi_view(A, B, temperature=1, present=(None, WEIGHTS)), ("present[1]", "(3,)", "(8,)")),
        (lambda: multi_view(A, B, temperature=1, graph="star"), ("graph", "star", "core", "full")),
        (lambda: nt_xent(A, B, temperature=1, convention="sum"), ("convention", "sum", "mean", "sum_of_halves")),
        (lambda: nt_xent(A, B, temperature=1, ids=np.zeros(3, int)), ("ids", "(3,)", "(8,)")),
        (lambda: nt_xent(A, B, temperature=1, ids=np.zeros(8)), ("ids", "float", "integer")),
        (lambda: nt_xent(A, B, temperature=1, row_weights=WEIGHTS), ("row_weights", "(3,)", "(8,)")),
        (lambda: cross_entropy(A, np.zeros(3, int)), ("labels", "(3,)", "(8, 4)")),
        (lambda: cross_entropy(A, np.zeros(8)), ("labels", "float", "integer")),
        (lambda: cross_entropy(A, np.zeros(8, int), smoothing=2), ("smoothing", "2")),
        (lambda: mean_squared_error(A, B[:2]), ("target", "(2, 4)", "(8, 4)")),
        (lambda: mean_squared_error(A, B, np.ones((8, 3))), ("mask", "(8, 3)", "(8, 4)")),
    ],
)
def test_refused(call, words):
    with pytest.raises(ValueError) as error:
        jax.eval_shape(call)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_measured_names_are_losses():
    assert set(MEASURES) <= set(LOSSES)


def test_unsigned_and_numpy_ids_are_taken():
    """A label of uint8 has no -1; comparing it with one must neither wrap nor raise."""
    ids = np.array([0, 255, 0, 1, 1, 255, 2, 2], np.uint8)
    value = sup_con(A.astype(np.float32), temperature=0.1, ids=ids)
    assert float(value) == float(sup_con(A.astype(np.float32), temperature=0.1, ids=ids.astype(np.int32)))
