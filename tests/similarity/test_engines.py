"""Every way to run the engine gives what the dense one gives: values, gradients and neighbours, on any mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax.errors import InputError
from hcl_jax.losses import clip, nt_xent, siglip
from hcl_jax.similarity import DEFAULT, Dense, Engine, auto, dense, gathered, ring, streamed
from hcl_jax.similarity.tiled import Tiled

R, K, D = 16, 24, 3
RANDOM = np.random.default_rng(0)
QUERY, KEY = RANDOM.normal(size=(R, D)), RANDOM.normal(size=(K, D))
QUERY_IDS, KEY_IDS = (RANDOM.integers(-1, 6, n).astype(np.int32) for n in (R, K))
APART_IDS = np.where(KEY_IDS == -1, -1, KEY_IDS + 100).astype(np.int32)  # ranges that no query's id is in
BY_QUERY, BY_KEY = RANDOM.normal(size=(4, R)), RANDOM.normal(size=(4, K))
OVERS = ("all", "negatives", "positives")
# In these all of OVERS: which keys a sum is over is the tile's affair, and compiles for half a minute.
WHOLE = ("streamed in tiles of 4", "ring of 4 in tiles of 2", "gathered over 8 in tiles of 2")


def mesh_of(devices: int) -> jax.sharding.Mesh:
    axis = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices], axis_types=axis)


def grid() -> jax.sharding.Mesh:
    """Rows over two axes, copies over the third."""
    return jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)


# name -> engine; 5 devices do not divide the rows, and an odd ring has no half-way hop. What `auto` chooses is below.
ENGINES = {
    "streamed": lambda: streamed(),
    "streamed in tiles of 4": lambda: streamed(tile=4),
    "ring of 2": lambda: ring(mesh_of(2), "data"),
    "ring of 4 in tiles of 2": lambda: ring(mesh_of(4), "data", tile=2),
    "ring of 5": lambda: ring(mesh_of(5), "data"),
    "ring of 8": lambda: ring(mesh_of(8), "data"),
    "ring over two axes of three": lambda: ring(grid(), ("data", "fsdp")),
    "gathered over 2": lambda: gathered(mesh_of(2), "data"),
    "gathered over 5": lambda: gathered(mesh_of(5), "data"),
    "gathered over 8 in tiles of 2": lambda: gathered(mesh_of(8), "data", tile=2),
    "gathered over two axes of three": lambda: gathered(grid(), ("data", "fsdp")),
}

QUICK = ("streamed in tiles of 4", "ring of 2")
EACH = [pytest.param(name, marks=pytest.mark.slow(one=name in QUICK)) for name in ENGINES]


def weighted(sums, weights) -> jax.Array:
    """One number out of all sums of all rows; the log-sum-exp over nothing is left out."""
    return sum(jnp.where(x > jnp.finfo(x.dtype).min, x, 0) @ w for x, w in zip(sums, weights, strict=True))


def everything(engine: Engine, arrays: dict, key_ids: np.ndarray, overs: tuple[str, ...]) -> jax.Array:
    """A number that every differentiable method adds to."""
    q, k, scale = arrays["query"] * arrays["scale"], arrays["key"], arrays["scale"]
    ids = {"query_ids": jnp.asarray(QUERY_IDS), "key_ids": jnp.asarray(key_ids)}
    by_query, by_key = jnp.asarray(BY_QUERY, q.dtype), jnp.asarray(BY_KEY, q.dtype)
    total = engine.sigmoid_rows(q, k, bias=scale / 10, **ids) @ by_query[0]
    for over in overs:
        total += weighted(engine.softmax_rows(q, k, over=over, **ids), by_query)
        total += weighted(engine.softmax_rows(q, query_ids=ids["query_ids"], over=over), by_query)
        mine, theirs = engine.softmax_both(q, k, a_ids=ids["query_ids"], b_ids=ids["key_ids"], over=over)
        total += weighted(mine, by_query) + weighted(theirs, by_key)
    return total


@functools.cache
def value_and_gradients(name: str, dtype: type, scale: float, apart: bool, overs: tuple[str, ...] = OVERS):
    engine = ENGINES[name]() if name in ENGINES else dense()
    with jax.enable_x64(dtype == np.float64):
        arrays = {"query": QUERY, "key": KEY, "scale": scale}
        arrays = {key: jnp.asarray(x, dtype) for key, x in arrays.items()}
        function = functools.partial(everything, engine, key_ids=APART_IDS if apart else KEY_IDS, overs=overs)
        return jax.device_get(jax.jit(jax.value_and_grad(function))(arrays))


def assert_near(found, wanted, share: float) -> None:
    """Within a share of the largest entry."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=share * np.abs(b).max())


@pytest.mark.parametrize("name", EACH)
def test_float64_equals_dense(name):
    overs = OVERS if name in WHOLE else ("negatives",)
    wanted = value_and_gradients("dense", np.float64, 1.0, False, overs)
    assert_near(value_and_gradients(name, np.float64, 1.0, False, overs), wanted, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["streamed in tiles of 4", "ring of 4 in tiles of 2", "ring of 5"],
)
def test_logits_beyond_exp_equal_dense(name):
    """Logits of +-3,000 overflow without each row's own maximum."""
    wanted = value_and_gradients("dense", np.float64, 300.0, False)
    assert_near(value_and_gradients(name, np.float64, 300.0, False), wanted, 1e-12)


@pytest.mark.slow
def test_tiles_without_positives_equal_dense():
    wanted = value_and_gradients("dense", np.float64, 1.0, True)
    assert_near(value_and_gradients("streamed in tiles of 4", np.float64, 1.0, True), wanted, 1e-12)


@pytest.mark.parametrize("engine", [dense(), streamed(tile=4)], ids=["dense", "streamed"])
def test_the_log_sum_exp_over_nothing_is_the_lowest_number(engine):
    """Not minus infinity, whose differences are nan; `weighted` above leaves such rows out."""
    q, k = jnp.asarray(QUERY, jnp.float32), jnp.asarray(KEY, jnp.float32)
    found = engine.softmax_rows(q, k, over="positives", query_ids=QUERY_IDS, key_ids=APART_IDS)
    np.testing.assert_array_equal(found.lse, np.finfo(np.float32).min)
    np.testing.assert_array_equal(found.positive_count, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["streamed in tiles of 4"])
def test_float32_is_near(name):
    for scale in (1.0, 300.0):
        found = value_and_gradients(name, np.float32, scale, False)
        assert found[0].dtype == np.float32
        assert_near(found, value_and_gradients("dense", np.float64, scale, False), 2e-5)


@pytest.mark.parametrize("name", EACH)
def test_best_and_nearest_equal_dense(name):
    def found(engine: Engine, q, k):
        ids = {"query_ids": jnp.asarray(QUERY_IDS), "key_ids": jnp.asarray(KEY_IDS)}
        own = jnp.arange(R)
        return (
            engine.best_rows(q, k, **ids),
            engine.best_rows(q, query_ids=ids["query_ids"]),
            engine.negatives_from(q, k, least=jnp.asarray(BY_QUERY[0]), **ids),
            engine.nearest(q, k, k=3, over="negatives", **ids)._replace(rows=own),
            engine.nearest(q, k=R - 1, query_ids=own),
            engine.nearest(q, k, k=K, query_ids=own, key_ids=jnp.arange(K)),
        )

    with jax.enable_x64(True):
        arrays = jnp.asarray(QUERY), jnp.asarray(KEY)
        got, wanted = (jax.jit(functools.partial(found, e))(*arrays) for e in (ENGINES[name](), dense()))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("name", ["streamed in tiles of 4", "ring of 8"])
def test_equal_logits_give_the_lower_row(name):
    ids = jnp.arange(R)
    near = jax.jit(functools.partial(ENGINES[name]().nearest, k=3))(jnp.ones((R, D)), query_ids=ids)
    np.testing.assert_array_equal(near.rows, dense().nearest(jnp.ones((R, D)), k=3, query_ids=ids).rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["streamed", "ring of 4 in tiles of 2"])
def test_ignored_rows_may_hold_anything(name):
    """NaN in rows that are out reaches neither values nor gradients."""
    engine = ENGINES[name]()
    out = (QUERY_IDS == -1)[:, None]
    q = jnp.asarray(np.where(out, np.nan, QUERY), jnp.float32)

    def total(q):
        return weighted(engine.softmax_rows(q, query_ids=jnp.asarray(QUERY_IDS)), jnp.asarray(BY_QUERY, jnp.float32))

    value, gradient = jax.jit(jax.value_and_grad(total))(q)
    assert np.isfinite(value) and np.isfinite(gradient).all() and not gradient[out[:, 0]].any()


@pytest.mark.slow
def test_bfloat16_factors_by_name():
    """Rounded factors, float32 sums: near, and not equal."""
    z = jnp.asarray(RANDOM.normal(size=(2, 64, 32)), jnp.float32)
    exact, rounded = (nt_xent(*z, temperature=0.1, engine=streamed(precision=p)) for p in ("highest", "bfloat16"))
    assert 0 < abs(float(exact - rounded)) < 2e-3 * float(exact)
    text = jax.jit(functools.partial(nt_xent, temperature=0.1, engine=streamed(precision="bfloat16"))).lower(*z)
    assert "tensor<128x32xbf16>" in text.as_text()


def test_auto_chooses_by_bytes_and_says_so(caplog):
    engine = auto(mesh_of(4), "data", limit_bytes=4 * 4 * 16 * 4)
    with caplog.at_level("DEBUG", "hcl_jax"):
        assert engine.chosen(16, 16, 8, 4) == dense()
        assert engine.chosen(16, 20, 26, 4) == ring(mesh_of(4), "data")  # 2 x 20 x 26 numbers, and room for 4 x 256
        assert engine.chosen(16, 20, 25, 4) == gathered(mesh_of(4), "data")
        assert auto(limit_bytes=0).chosen(8, 8, 8, 4) == streamed()
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [(level, line.split(": ")[-1]) for level, line in said] == [
        *(("DEBUG", "dense"), ("INFO", "ring over 4"), ("INFO", "gathered over 4"), ("INFO", "streamed"))
    ]
    assert "16 x 20 similarities" in said[1][1]


def test_without_a_mesh_the_default_leaves_large_matrices_to_one_device_alone(monkeypatch):
    """Tiles of rows that lie on several devices would be computed on each of them."""
    sizes = {"rows": 4096, "keys": 4096, "features": 128, "itemsize": 4}
    assert jax.device_count() > 1 and isinstance(DEFAULT.chosen(**sizes), Dense)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert isinstance(DEFAULT.chosen(**sizes), Tiled)
    assert isinstance(DEFAULT.chosen(**{**sizes, "rows": 512, "keys": 512}), Dense)


def test_engines_are_values():
    for make in ENGINES.values():
        assert make() == make() and hash(make()) == hash(make())
    assert streamed() != streamed(4) != ring(mesh_of(2), "data", 4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: streamed(tile=5), "tile: found 5 for 16 rows of query"),
        (lambda: ring(mesh_of(2), "data", tile=3), "tile: found 3 for 8 rows of query"),
        (lambda: streamed(tile=0), "tile: found 0"),
        (lambda: ring(mesh_of(2), "model"), "axes: found 'model'; allowed: axes of the mesh: data"),
        (lambda: auto(mesh_of(2), ("data", "fsdp")), "axes: found 'fsdp'"),
        (lambda: ring(jax.make_mesh((2,), ("data",), devices=jax.devices()[:2]), "data"), "mesh: found axes of type"),
        (lambda: auto(limit_bytes=-1), "limit_bytes: found -1"),
        (lambda: dense("float32"), "precision: found 'float32'; allowed: highest"),
    ],
)
def test_bad_input_is_named_at_trace_time(make, words):
    z = jax.ShapeDtypeStruct((8, D), jnp.float32)
    with pytest.raises(InputError, match="^" + words.replace("(", r"\(")):
        jax.eval_shape(lambda a, b: nt_xent(a, b, temperature=0.1, engine=make()), z, z)


def test_keys_need_ids():
    for engine in (dense(), streamed()):
        for ids in (None, jnp.arange(1)):
            with pytest.raises(InputError, match="^key_ids: found"):
                engine.softmax_rows(jnp.ones((R, D)), jnp.ones((K, D)), query_ids=jnp.arange(R), key_ids=ids)


@pytest.mark.slow
def test_small_cotangents_and_narrow_rows():
    """Weights of 1e-16 are not lost below the smallest number, and float16 rows have wide sums."""
    q, k = jnp.array([[55.0, 0], [0, 1]]), jnp.array([[1.0, 0], [1, 0.01], [0, 0]])
    ids = {"query_ids": jnp.arange(2), "key_ids": jnp.arange(3) + 9}
    one, small = (
        jax.grad(lambda q, c=c: c * streamed().softmax_rows(q, k, **ids).lse[0])(q)[0] / c for c in (1, 1e-16)
    )
    np.testing.assert_allclose(small, one, rtol=1e-5)
    keys = jnp.concatenate([jnp.zeros((1024, 1)), jnp.full((1024, 1), 7.0)]).astype(jnp.float16)
    lse = (
        streamed()
        .softmax_rows(jnp.ones((1, 1), jnp.float16), keys, query_ids=jnp.array([0]), key_ids=jnp.arange(2048))
        .lse
    )
    assert float(lse[0]) == pytest.approx(7 + np.log(1024), rel=1e-3)


@pytest.mark.slow
def test_inside_a_shard_map():
    """A loss of each device's own rows."""
    z = jnp.asarray(RANDOM.normal(size=(2, 16, D)), jnp.float32)
    spec = jax.sharding.PartitionSpec("data")

    def local(engine, a, b):
        step = jax.value_and_grad(functools.partial(siglip, scale=9.0, bias=-1.0, engine=engine), argnums=(0, 1))
        one = jax.value_and_grad(functools.partial(nt_xent, temperature=0.1, engine=engine), argnums=(0, 1))
        return jax.tree.map(lambda x: jnp.atleast_1d(x), (step(a, b), one(a, b)))

    found = [
        jax.jit(jax.shard_map(functools.partial(local, e), mesh=mesh_of(4), in_specs=spec, out_specs=spec))(*z)
        for e in (dense(), streamed())
    ]
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_neighbours_beyond_the_keys_are_refused():
    with pytest.raises(InputError, match="^k: found 17"):
        streamed().nearest(jnp.ones((R, D)), k=17, query_ids=jnp.arange(R))


@pytest.mark.slow
def test_seeds_may_be_stacked():
    """vmap over a leading axis, as several seeds in one program do."""
    z = jnp.asarray(RANDOM.normal(size=(3, 2, 8, D)), jnp.float32)
    each = [jax.jit(functools.partial(clip, scale=5.0, engine=e)) for e in (dense(), streamed(4))]
    stacked = jax.vmap(each[1])(z[:, 0], z[:, 1])
    np.testing.assert_allclose(stacked, [each[0](*pair) for pair in z], rtol=1e-5)
    assert isinstance(dense(), Dense)
