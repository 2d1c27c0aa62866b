"""Every loss that compares rows, every way to run it, on every number of devices: one number and one gradient."""

import jax
import numpy as np
import pytest

from tests.losses.cases import ONE_EACH, WITH_ENGINE, evaluate

# Compilation takes the time: all cases where one device goes through tiles, one case of each loss on several devices.
# What an engine does with masks, ids and uneven rows on 1, 2, 4 and 8 is in tests/similarity/test_engines.py.
ONE_OF_EACH = tuple(name for name in WITH_ENGINE if name in ONE_EACH)
# Sums over a row and over both, over positives and negatives alone, sigmoids, and the nearest row.
SOME = ("nt_xent", "clip", "debiased", "siglip", "triplet")
RUNS = {
    "streamed in tiles": ("streamed in tiles", None, WITH_ENGINE),
    "ring of 8": ("ring", 8, SOME),
    "gathered over 4": ("gathered", 4, SOME),
    "streamed, rows on 2": ("streamed", 2, SOME),
}


def assert_equal(found, wanted, share: float, name: str) -> None:
    """Value and every gradient within a share of the largest entry."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        scale = max(float(np.abs(b).max()), 1e-3)
        np.testing.assert_allclose(a, b, rtol=0, atol=share * scale, err_msg=name)


@pytest.mark.slow
@pytest.mark.seconds(240)  # up to all losses in one program
@pytest.mark.parametrize("run", RUNS)
def test_float64_equals_dense(run):
    way, devices, names = RUNS[run]
    reference = evaluate(np.float64)  # dense, on one device, equal to the oracles in test_values.py
    found = evaluate(np.float64, devices, names, way)
    assert len(names) >= 14 or names == SOME
    for name in names:
        assert_equal(found[name], reference[name], 1e-10, name)


@pytest.mark.slow
def test_float32_is_near():
    reference = evaluate(np.float64)
    for name, found in evaluate(np.float32, None, ONE_OF_EACH, "streamed in tiles").items():
        assert_equal(found, reference[name], 1e-5, name)
