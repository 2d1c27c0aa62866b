"""The step: meshes, targets, memory, missing views, accumulation, learned hyper-parameters, refusal of NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from worlds import batch_of, run, start, two_views

from hcl_jax.core import towers

MESHES = [
    {"data": 1, "fsdp": 1, "tensor": 1},
    {"data": 2, "fsdp": 2, "tensor": 1},
    {"data": 4, "fsdp": 1, "tensor": 2},
    {"data": 1, "fsdp": 8, "tensor": 1},
]


def moco(**fields):
    """A target, a queue and a predictor: everything that a state can hold; and a loss over all pairs of rows."""
    c = two_views(**fields)
    c.towers.image.heads.p = {"name": "predictor", "reads": "z", "hidden": 8}
    c.towers.image.target = {"momentum": 0.9, "heads": ("z",)}
    c.towers.image.memory = {
        "queue": {"kind": "fifo", "reads": "b.target.z", "size": 48},
        "centre": {"kind": "mean_ema", "reads": "a.target.z", "momentum": 0.9},
    }
    c.objectives = {
        "contrast": c.objectives.contrast,
        "queue": {"loss": "info_nce", "inputs": ("a.z", "b.target.z", "image.memory.queue"), "temperature": 0.2},
        "byol": {"loss": "negative_cosine", "inputs": ("a.p", "b.target.z"), "weight": 0.5},
    }
    return c


def leaves(state):
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(state)
    ]


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("mesh", MESHES[1:], ids=str)
def test_first_steps_do_not_depend_on_the_mesh(mesh):
    expected, one = run(moco(), absent=("b",))
    got, many = run(moco(), absent=("b",), mesh_config=mesh)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    for a, b in zip(leaves(one.memory), leaves(many.memory), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.slow
def test_initial_numbers_do_not_depend_on_the_mesh():
    for mesh in MESHES:
        state, _, _ = start(moco(), batch_of(moco(), absent=("b",)), mesh)
        flat = leaves(state)
        if mesh == MESHES[0]:
            first = flat
        for a, b in zip(first, flat, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_an_added_head_leaves_the_other_parts_as_they_are():
    plain, more = two_views(), two_views()
    more.towers.image.heads.rotation = {"name": "linear", "features": 4}
    a, _, _ = start(plain, batch_of(plain))
    b, _, _ = start(more, batch_of(more))
    for x, y in zip(
        jax.tree.leaves(a.params["image"]["encoder"]), jax.tree.leaves(b.params["image"]["encoder"]), strict=True
    ):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow(one=True)
def test_target_follows_with_its_momentum_and_shares_nothing():
    c = moco()
    state, step, put = start(c, batch_of(c))
    after, _ = step(state, put(batch_of(c)))
    m = float(towers.target_momentum({"momentum": 0.9, "schedule": "cosine"}, jnp.int32(0), c.train.steps))
    assert m == pytest.approx(0.9)
    old, new = state.target["image"]["params"]["encoder"], after.params["image"]["encoder"]
    expected = jax.tree.map(lambda t, p: m * t + (1 - m) * p, old, new)
    for a, b in zip(
        jax.tree.leaves(expected), jax.tree.leaves(after.target["image"]["params"]["encoder"]), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert set(state.target["image"]["params"]["heads"]) == {"z"}


def test_cosine_momentum_reaches_one():
    spec = {"momentum": 0.996, "schedule": "cosine"}
    assert float(towers.target_momentum(spec, jnp.int32(100), 100)) == pytest.approx(1.0)
    half = 1 - 0.004 * (np.cos(np.pi / 2) + 1) / 2
    assert float(towers.target_momentum(spec, jnp.int32(50), 100)) == pytest.approx(half)


@pytest.mark.slow(one=True)
def test_the_queue_is_read_before_it_is_written():
    c = moco()
    state, step, put = start(c, batch_of(c))
    after, _ = step(state, put(batch_of(c)))
    before, queue = state.memory["image"]["queue"]["rows"], after.memory["image"]["queue"]["rows"]
    np.testing.assert_array_equal(before[16:], queue[16:])
    assert np.abs(np.asarray(before[:16] - queue[:16])).max() > 0.1
    assert int(after.memory["image"]["queue"]["next"]) == 16


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["joint", "per_view"])
def test_absent_rows_enter_nothing(batching):
    c = two_views(towers__image={**two_views().towers.image.to_dict(), "batching": batching})
    state, step, put = start(c, batch_of(c, 0, ("b",)))
    batch = batch_of(c, 0, ("b",))
    other = jax.tree.map(np.copy, batch)
    other["views"]["b"]["image"][~batch["present"]["b"]] = 7.0
    a, metrics_a = step(state, put(batch))
    b, metrics_b = step(state, put(other))
    assert float(metrics_a["loss"]) == float(metrics_b["loss"])
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow(one=True)
def test_accumulation_is_the_mean_over_the_sub_batches():
    c = two_views(
        optimizer__name="sgd", optimizer__learning_rate=0.1, optimizer__momentum=0.0, optimizer__weight_decay=0.0
    )
    c.optimizer.warmup_steps, c.optimizer.schedule = 0, "constant"
    batch = batch_of(c)
    halves = [jax.tree.map(lambda x, j=j: x[j::2], batch) for j in range(2)]
    small = two_views(batch_size=8, **{"optimizer__name": "sgd"})
    small.optimizer = c.optimizer
    steps = []
    for half in halves:
        state, step, put = start(small, half)
        after, metrics = step(state, put(half))
        steps.append((jax.tree.map(jnp.subtract, after.params, state.params), float(metrics["loss"])))
    c.train.accumulate = 2
    state, step, put = start(c, batch)
    after, metrics = step(state, put(batch))
    assert float(metrics["loss"]) == pytest.approx(np.mean([loss for _, loss in steps]), rel=1e-5)
    mean = jax.tree.map(lambda x, y: (x + y) / 2, steps[0][0], steps[1][0])
    for a, b in zip(
        jax.tree.leaves(mean), jax.tree.leaves(jax.tree.map(jnp.subtract, after.params, state.params)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_accumulated_memory_keeps_the_order_of_the_global_batch():
    c = moco()
    c.towers.image.bn_groups = 1
    c.towers.image.encoder = {"name": "mlp", "widths": (8,), "batch_norm": False}
    c.towers.image.heads = {
        "z": {"name": "linear", "features": 8},
        "p": {"name": "linear", "reads": "z", "features": 8},
    }
    queues = []
    for k in (1, 4):
        c.train.accumulate = k
        state, step, put = start(c, batch_of(c))
        after, _ = step(state, put(batch_of(c)))
        queues.append(np.asarray(after.memory["image"]["queue"]["rows"]))
    np.testing.assert_allclose(queues[0], queues[1], atol=1e-6)


@pytest.mark.slow
def test_a_learned_scale_moves_and_stays_below_its_maximum():
    c = two_views()
    scale = {"learn": "exp", "init": 9.99, "max": 10.0}
    c.objectives = {"contrast": {"loss": "clip", "inputs": ("a.z", "b.z"), "scale": scale}}
    c.optimizer.learning_rate, c.optimizer.warmup_steps = 0.5, 0
    state, step, put = start(c, batch_of(c))
    before = float(state.params["objectives"]["contrast"]["scale"])
    assert before == pytest.approx(np.log(9.99))
    for i in range(3):
        state, metrics = step(state, put(batch_of(c, i)))
        assert float(metrics["scale/contrast"]) <= 10.0 * (1 + 1e-6)
    assert float(state.params["objectives"]["contrast"]["scale"]) != before


@pytest.mark.slow
def test_weights_add_up_and_uncertainty_is_kendalls():
    c = two_views()
    c.towers.image.heads.c = {"name": "linear", "features": 10}
    c.objectives.classes = {"loss": "cross_entropy", "inputs": ("a.c", "labels.label"), "weight": 0.3}
    state, step, put = start(c, batch_of(c))
    _, m = step(state, put(batch_of(c)))
    assert float(m["loss"]) == pytest.approx(float(m["loss/contrast"]) + 0.3 * float(m["loss/classes"]), rel=1e-6)
    c.objectives.classes = {**c.objectives.classes.to_dict(), "weight": {"learn": "linear", "init": 0.7}}
    state, step, put = start(c, batch_of(c))
    _, m = step(state, put(batch_of(c)))
    weighed = np.exp(-0.7) * float(m["loss/classes"]) + 0.7
    assert float(m["loss"]) == pytest.approx(float(m["loss/contrast"]) + weighed, rel=1e-6)


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_non_finite_batch_changes_only_the_counts(value):
    c = moco()
    state, step, put = start(c, batch_of(c))
    state, _ = step(state, put(batch_of(c)))
    bad = batch_of(c, 1)
    bad["views"]["a"]["image"][3, 2, 2, 0] = value
    after, metrics = step(state, put(bad))
    assert int(metrics["skipped"]) == int(after.skipped) == 1
    assert int(after.step) == int(state.step) + 1
    for name in ("params", "target", "model_state", "memory", "opt_state"):
        for a, b in zip(leaves(getattr(state, name)), leaves(getattr(after, name)), strict=True):
            np.testing.assert_array_equal(a, b)
    healed, metrics = step(after, put(batch_of(c, 2)))
    assert int(metrics["skipped"]) == 0 and int(healed.step) == 3


@pytest.mark.slow(one=True)
def test_one_trace_for_all_steps():
    c = two_views()
    state, step, put = start(c, batch_of(c))
    for i in range(4):
        state, _ = step(state, put(batch_of(c, i)))
    assert step._cache_size() == 1


@pytest.mark.slow
def test_views_of_two_sizes_go_through_one_tower():
    c = two_views()
    c.views.small = {"kind": "image", "field": "image", "ops": ()}
    c.towers.image.views = ("a", "b", "small")
    c.objectives.local = {"loss": "nt_xent", "inputs": ("a.z", "small.z"), "temperature": 0.5}
    batch = batch_of(c)
    batch["views"]["small"]["image"] = batch["views"]["small"]["image"][:, :4, :4]
    state, step, put = start(c, batch)
    _, metrics = step(state, put(batch))
    assert np.isfinite(float(metrics["loss"]))
