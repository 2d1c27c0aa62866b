"""Cached gradients: the step is the plain step with the same bn_groups, in the memory of a sub-batch.

float64: 1e-10 of the largest entry after one and after three steps. float32: 1e-6 after one step. SGD throughout: Adam
divides by the size of a gradient, which is rounding alone for a bias in front of batch norm.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import refused
from worlds import batch_of as pictures
from worlds import bind, two_views

from hcl_jax.core import grad_cache, model
from hcl_jax.core.optim import make_optimizer
from hcl_jax.core.step import train_step
from hcl_jax.errors import InputError
from hcl_jax.parallel import mesh as meshes
from hcl_jax.parallel import sharding
from hcl_jax.parallel.vmapped_seeds import over_seeds

ROWS = 16


def sgd(c, dtype="float64"):
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.momentum = "sgd", 0.1, 0.9
    c.optimizer.warmup_steps, c.optimizer.schedule = 0, "constant"
    c.train.param_dtype = c.train.compute_dtype = dtype
    return c


def everything(dtype="float64", rows=ROWS, groups=8):
    """Pictures with batch norm, a target, a queue and a centre; text with dropout; three objectives, two learned
    temperatures; with `ABSENT`, rows without a picture or a text."""
    c = sgd(two_views(rows), dtype)
    c.views.t = {"kind": "text", "field": "text", "ops": ()}
    image = c.towers.image
    image.heads.p = {"name": "predictor", "reads": "z", "hidden": 8}
    image.target = {"momentum": 0.9, "heads": ("z",)}
    image.memory = {
        "queue": {"kind": "fifo", "reads": "b.target.z", "size": 3 * rows},
        "centre": {"kind": "mean_ema", "reads": ("a.z", "a.target.z"), "momentum": 0.9},
    }
    image.bn_groups = groups
    encoder = {"name": "text_transformer", "vocab_size": 20, "width": 8, "depth": 1, "heads": 2, "dropout": 0.3}
    c.towers.text = {"views": ("t",), "encoder": encoder, "heads": {"z": {"name": "linear", "features": 8}}}
    temperature = {"learn": "exp", "init": 0.2}
    c.objectives = {
        "queue": {
            "loss": "info_nce",
            "inputs": ("a.z", "b.target.z", "image.memory.queue"),
            "temperature": temperature,
        },
        "byol": {"loss": "negative_cosine", "inputs": ("a.p", "b.target.z"), "weight": 0.5},
        "text": {"loss": "clip", "inputs": ("a.z", "t.z"), "scale": {"learn": "exp", "init": 5.0, "max": 100.0}},
    }
    return c


ABSENT = ("b", "t")


def batch_of(c, seed=0, absent=()):
    """Random pictures and tokens; absent views lack about a third of the rows, b those of the first group too."""
    batch = pictures(c, seed, absent)
    if "t" in c.views:
        tokens = np.random.default_rng(seed).integers(1, 20, (c.data.batch_size, 6)).astype(np.int32)
        batch["views"]["t"] = {"tokens": tokens}
    if "b" in absent:
        batch["present"]["b"][:2] = False
    return batch


def start(c, batch, num_shards=1):
    """(state, jitted step, put) on `num_shards` devices."""
    c, bound = bind(c)
    bound = bound._replace(num_shards=num_shards)
    mesh = meshes.make_mesh({"data": num_shards, "fsdp": 1, "tensor": 1})
    shapes = jax.eval_shape(functools.partial(model.init, bound, optax.identity()), batch, 0)
    tx = make_optimizer(c.optimizer, shapes.params, steps=20, batch_size=ROWS, steps_per_epoch=10)
    make = functools.partial(model.init, bound, tx)
    shardings = sharding.state_shardings(jax.eval_shape(make, batch, 0), mesh, sharding.DEFAULT_RULES)
    state = jax.jit(make, static_argnums=1, out_shardings=shardings)(batch, 0)
    whole = jax.NamedSharding(mesh, jax.P())
    step = jax.jit(functools.partial(train_step, bound, tx), out_shardings=(shardings, whole))
    shard = sharding.batch_sharding(mesh)
    return state, step, lambda b: sharding.to_global(b, shard, np.arange(c.data.batch_size), c.data.batch_size)


def steps(c, cache, count=1, absent=(), num_shards=1):
    """What each of `count` steps leaves, and the metrics of all."""
    c.train.cache = cache
    state, step, put = start(c, batch_of(c, 0, absent), num_shards)
    out = []
    for i in range(count):
        state, metrics = step(state, put(batch_of(c, i, absent)))
        out.append((named(state), metrics))
    return out


def named(state):
    return {k: getattr(state, k) for k in ("params", "target", "model_state", "memory", "opt_state")}


def error(got, expected, floor=1e-3):
    """The largest difference of two trees, leaf by leaf relative to the leaf's largest entry, and where it is. (Leaves
    below `floor` of the tree's largest entry are held to that: a bias in front of batch norm is rounding alone.)"""
    got, expected = (sharding.flat_paths(t) for t in (got, expected))
    assert got.keys() == expected.keys()
    one = {k: np.asarray(x, np.float64) for k, x in expected.items()}
    largest = max(np.abs(x).max() for x in one.values())
    of = {
        k: np.abs(np.asarray(got[k], np.float64) - x).max() / max(np.abs(x).max(), floor * largest, 1e-300)
        for k, x in one.items()
    }
    worst = max(of, key=of.get)
    return of[worst], worst


def assert_close(got, expected, tolerance, floor=1e-3):
    for i, (one, other) in enumerate(zip(got, expected, strict=True)):
        for name in other[0]:
            if jax.tree.leaves(other[0][name]):
                far, where = error(one[0][name], other[0][name], floor)
                assert far <= tolerance, f"step {i}: {name}: {where}: {far:.2e}"
        far, where = error(one[1], other[1], floor)
        assert far <= tolerance, f"step {i}: {where}: {far:.2e}"


@functools.cache
def plain(count=3):
    with jax.enable_x64(True):
        made = steps(everything(), 1, count, ABSENT)
    assert error(made[-1][0]["params"], made[0][0]["params"])[0] > 1e-3, "steps that change nothing are equal anywhere"
    return made


@pytest.mark.slow(one=True)
@pytest.mark.parametrize(("cache", "num_shards"), [(4, 1), (2, 8)])
def test_float64_steps_are_those_of_the_plain_step(cache, num_shards):
    with jax.enable_x64(True):
        assert_close(steps(everything(), cache, 3, ABSENT, num_shards), plain(), 1e-10)


def small(rows=ROWS, **fields):
    """A multilayer perceptron with batch norm on two views: compiles fast."""
    c = sgd(two_views(rows, **fields))
    c.towers.image.encoder = {"name": "mlp", "widths": (8,)}
    c.towers.image.bn_groups = 8
    return c


def other_sizes(c):
    c.views.small = {"kind": "image", "field": "image", "ops": ()}
    c.towers.image.views = ("a", "b", "small")
    c.towers.image.encoder = {"name": "convnet", "widths": (4,)}
    c.objectives.local = {"loss": "nt_xent", "inputs": ("a.z", "small.z"), "temperature": 0.5}


def per_view(c):
    c.towers.image.batching = "per_view"


def own_statistics(c):
    c.towers.image.target = {"momentum": 0.9, "heads": ("z",), "stats": "own"}
    c.towers.image.batching = "per_view"
    c.objectives.contrast.inputs = ("a.z", "b.target.z")
    c.objectives.contrast.loss = "info_nce"


def frozen(c):
    c.towers.image.frozen, c.towers.image.bn_groups = True, 1
    c.towers.image.heads = {"z": {"name": "linear", "features": 8}}


def accumulated(c):
    c.train.accumulate, c.towers.image.bn_groups = 2, 4


def uncertain(c):
    c.towers.image.heads.c = {"name": "linear", "features": 10}
    weight = {"learn": "linear", "init": 0.7}
    c.objectives.classes = {"loss": "cross_entropy", "inputs": ("a.c", "labels.label"), "weight": weight}


@pytest.mark.slow
@pytest.mark.parametrize("change", [other_sizes, per_view, own_statistics, frozen, accumulated, uncertain])
def test_shapes_of_learning(change):
    """`b` lacks all rows of the first group: where views go alone, that group enters no running statistic."""
    made = []
    with jax.enable_x64(True):
        for cache in (1, 4):
            c = small(train__cache=cache)
            change(c)
            batch = batch_of(c, 0, ("b",))
            if "small" in c.views:
                batch["views"]["small"]["image"] = batch["views"]["small"]["image"][:, :4, :4]
            state, step, put = start(c, batch)
            after, metrics = step(state, put(batch))
            made.append((named(after), metrics))
            assert error(named(after)["params"], named(state)["params"])[0] > 1e-3
    assert_close(made[1:], made[:1], 1e-10)
    if change is frozen:
        for a, b in zip(*(jax.tree.leaves(named(s)["model_state"]) for s in (state, after)), strict=True):
            np.testing.assert_array_equal(a, b)


@functools.cache
def narrow(cache, compute):
    # Groups of two rows, as above, have variances near zero: a last bit of float32 comes out 100 times as large.
    c = sgd(small(rows=64), "float32")
    c.towers.image.bn_groups, c.train.compute_dtype = 4, compute
    return steps(c, cache, 1, ("b",))


@pytest.mark.slow
def test_float32_step_is_that_of_the_plain_step():
    assert_close(narrow(4, "float32"), narrow(1, "float32"), 1e-6, floor=1)


@pytest.mark.slow
def test_bfloat16_step_is_as_near_as_bfloat16_is():
    """A kernel's gradient, a sum over rows, is rounded to bfloat16 once in the plain step and once a sub-batch here:
    neither is nearer to the float32 step. Activations too: XLA may sum a product of fewer rows in another order."""
    (cached_params, cached_metrics), (params, metrics) = (
        (m[0][0]["params"], m[0][1]) for m in (narrow(4, "bfloat16"), narrow(1, "bfloat16"))
    )
    assert float(cached_metrics["loss"]) == pytest.approx(float(metrics["loss"]), rel=2**-9)
    exact = narrow(1, "float32")[0][0]["params"]
    between, of_plain, of_cached = (
        error(cached_params, params, 1),
        error(params, exact, 1),
        error(cached_params, exact, 1),
    )
    print(f"bfloat16: cached to plain {between}, plain to float32 {of_plain}, cached to float32 {of_cached}")
    assert between[0] < 2**-7 and of_cached[0] < 1.5 * of_plain[0]


@pytest.mark.slow
def test_seeds_side_by_side():
    made = []
    with jax.enable_x64(True):
        for cache in (1, 4):
            c = small(train__cache=cache)
            batch = batch_of(c)
            completed, bound = bind(c)
            tx = optax.sgd(0.1)
            mesh = meshes.make_mesh({"data": 2})
            keys = jnp.arange(4, dtype=jnp.uint32)
            state = jax.jit(jax.vmap(functools.partial(model.init, bound, tx, batch)))(keys)
            every = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 4), batch)
            after, metrics = jax.jit(over_seeds(functools.partial(train_step, bound, tx), mesh))(state, every)
            assert np.ptp(metrics["loss"]) > 1e-3
            made.append(({"params": after.params, "model_state": after.model_state}, metrics))
    assert_close(made[1:], made[:1], 1e-10)


@pytest.mark.slow
def test_other_keys_in_the_second_pass_are_seen(monkeypatch):
    right = grad_cache._vjp_chunks

    def wrong(p, *rest):
        fold = jax.vmap(jax.random.fold_in, (0, None))
        return right(p._replace(rows=p.rows | {"keys": {v: fold(k, 1) for v, k in p.rows["keys"].items()}}), *rest)

    monkeypatch.setattr(grad_cache, "_vjp_chunks", wrong)
    with jax.enable_x64(True):
        got = steps(everything(), 2, 1, ABSENT)
    with pytest.raises(AssertionError, match="params"):
        assert_close(got, plain()[:1], 1e-10)
    assert float(got[0][1]["loss"]) == pytest.approx(float(plain()[0][1]["loss"]), rel=1e-10)


def compiled(batch_size, cache, num_shards=1, **fields):
    """The compiled step of a loss that is linear in the rows, as nt_xent is not."""
    c = sgd(two_views(batch_size, train__cache=cache, **fields), "float32")
    c.towers.image.bn_groups = cache * num_shards
    c.objectives.contrast = {"loss": "barlow_twins", "inputs": ("a.z", "b.z")}
    state, step, put = start(c, batch_of(c), num_shards)
    return step.lower(state, put(batch_of(c))).compile()


@pytest.mark.slow
def test_memory_is_that_of_a_sub_batch():
    """32 rows at a time, 16 times the rows: the cached outputs [1024, 8] of two views are all that grows."""
    few, many, plain_few, plain_many = (
        compiled(rows, cache).memory_analysis().temp_size_in_bytes
        for rows, cache in ((64, 2), (1024, 32), (64, 1), (1024, 1))
    )
    print(f"bytes: cached {few} -> {many}, plain {plain_few} -> {plain_many}")
    assert many < 1.3 * few + 2 * 1024 * 8 * 4
    assert plain_many > 8 * plain_few


@pytest.mark.slow
def test_no_row_leaves_its_device():
    text = compiled(64, 4, num_shards=4).as_text()
    assert "all-reduce" in text
    for word in ("all-gather", "all-to-all", "collective-permute"):
        assert word not in text, word


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--config.train.cache=0",), ("config.train.cache", "0", "a whole number >= 1")),
        (("--config.train.cache=3",), ("config.train.cache", "3", "divisor of the (accumulated) batch 256")),
        (("--config.train.accumulate=128", "--config.train.cache=4"), ("config.train.cache", "batch 2")),
        (("--config.train.cache=2.5",), ("train.cache", "a whole number")),
        (("--config.train.cache=2",), ("config.towers.image.bn_groups", "found 1", "multiple of train.cache 2")),
        (("--config.train.cache=4", "--config.towers.image.bn_groups=2"), ("image.bn_groups", "found 2", "cache 4")),
    ],
)
def test_what_cannot_be_cached_is_refused(tmp_path, capsys, flags, words):
    folder = tmp_path / "run"
    line = refused(capsys, "--config=simclr:digits", "--steps=2", f"--workdir={folder}", *flags)
    assert all(w in line for w in words), line
    assert not folder.exists()


def test_rows_that_refer_to_each_other_are_refused(tmp_path, capsys):
    line = refused(
        capsys, "--config=grace:blocks", "--steps=2", f"--workdir={tmp_path / 'run'}", "--config.train.cache=2"
    )
    assert "config.train.cache: found 2; allowed: 1, for data.order is whole" in line


def test_rows_that_the_devices_cannot_share_are_refused():
    c = two_views(ROWS, train__cache=4)
    c.towers.image.encoder = {"name": "mlp", "widths": (8,), "batch_norm": False}
    c.towers.image.heads = {"z": {"name": "linear", "features": 8}}
    state, step, put = start(c, batch_of(c), num_shards=8)
    with pytest.raises(InputError, match=r"config.train.cache: found 4; allowed: .*8"):
        step(state, put(batch_of(c)))
