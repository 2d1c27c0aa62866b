"""BatchNorm statistics made for given weights, against NumPy."""

import functools

import jax
import numpy as np
import optax
import pytest
from worlds import batch_of, bind, two_views

from hcl_jax.core import model, statistics


@pytest.mark.parametrize(("accumulate", "cache", "groups"), [(1, 1, 1), (2, 2, 4)])
def test_the_exact_mean_of_batches(accumulate, cache, groups):
    """Of two views side by side, one of which some rows lack, and of groups and batches without a row."""
    c = two_views(16, train__accumulate=accumulate, train__cache=cache)
    c.towers.image.encoder = {"name": "mlp", "widths": (8,)}
    c.towers.image.bn_groups, c.towers.image.heads.z = groups, {"name": "linear", "features": 4}
    batches = [batch_of(c, seed, absent=("a", "b")) for seed in range(3)]
    for view in "ab":
        batches[1]["present"][view][:] = False  # a batch without a row counts for nothing
    _, bound = bind(c)
    state = model.init(bound, optax.identity(), batches[0], 0)
    add, made = jax.jit(functools.partial(statistics.add, bound)), (state.model_state, statistics.init(bound))
    for batch in batches:
        made = add(state.params, made, batch, state.key)

    kernel = np.asarray(state.params["image"]["encoder"]["dense1"]["kernel"], np.float64)
    passes = []
    for batch in batches:
        for j in range(accumulate):
            rows = np.stack([batch["views"][v]["image"].reshape(16, -1)[j::accumulate] for v in "ab"], 1)
            there = np.stack([batch["present"][v][j::accumulate] for v in "ab"], 1)
            of_groups = [
                x[mask] @ kernel
                for x, mask in zip(np.split(rows.astype(np.float64), groups), np.split(there, groups), strict=True)
                if mask.any()
            ]
            if of_groups:
                passes.append(
                    [np.mean([f(x) for x in of_groups], 0) for f in (lambda x: x.mean(0), lambda x: x.var(0))]
                )
    mean, var = np.mean(passes, 0)
    norm = made[0]["image"]["encoder"]["norm1"]
    np.testing.assert_allclose(norm["mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm["var"], var, rtol=1e-5, atol=1e-6)
