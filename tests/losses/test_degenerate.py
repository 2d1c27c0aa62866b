"""Finite value and gradient whatever the batch holds."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax.losses import LOSSES, instance_graph
from hcl_jax.similarity import Engine, dense, streamed
from tests.losses.cases import ORACLES, PAIRED, TEMPERED, A, B, D, N, paired

PARAMETERS = {**dict.fromkeys(TEMPERED, "temperature"), "clip": "scale", "siglip": "scale"}
ONE_HOT = np.eye(N, D)
BATCHES = {
    "zero vectors": (np.zeros((N, D)), np.zeros((N, D))),
    "a zero row": (np.where(np.arange(N)[:, None] == 2, 0, A), B),
    "equal rows": (np.ones((N, D)), np.ones((N, D))),
    "opposite views": (A, -A),
    "equal views": (A, A),
    "tiny": (1e-30 * A, 1e-30 * B),
    "large": (1e4 * A, 1e4 * B),
    "a dead feature": (ONE_HOT, ONE_HOT),
    "the largest of float16": (65504 * np.sign(A), 65504 * np.sign(B)),
    "the smallest of float16": (6e-8 * np.sign(A), 6e-8 * np.sign(B)),
}
IDS = {
    "all own": np.arange(N),
    "all equal": np.zeros(N),
    "all ignored": np.full(N, -1),
    "one left": np.where(np.arange(N) == 3, 3, -1),
}


@functools.cache
def step(name: str, engine: Engine | None = None):
    """jit of value and gradients by both inputs and, where there is one, by temperature or scale."""
    chosen = {} if engine is None else {"engine": engine}

    def loss(a: jax.Array, b: jax.Array, number: jax.Array, ids: jax.Array) -> jax.Array:
        parameters = {PARAMETERS[name]: number} if name in PARAMETERS else {}
        if name == "siglip":
            parameters["bias"] = -number
        return paired(name)(a, b, ids=ids, **parameters, **chosen)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)), compiler_options={"xla_backend_optimization_level": 0})


def check(name: str, a, b, number: float, ids, what: str, engine: Engine | None = None) -> float:
    value, gradients = step(name, engine)(a, b, jnp.float32(number), jnp.asarray(ids, jnp.int32))
    assert value.dtype == jnp.float32
    assert np.isfinite(value), (name, what, number)
    for gradient in gradients:
        assert np.isfinite(np.asarray(gradient, np.float32)).all(), (name, what, number)
    return float(value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", PAIRED)
def test_finite(name, dtype):
    """R25: a value and gradients that are numbers, and 0 where every row is ignored."""
    for what, (a, b) in BATCHES.items():
        a, b = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
        for number in (0.01, 1.0, 10.0, 100.0) if name in PARAMETERS else (1.0,):
            check(name, a, b, number, IDS["all own"], what)
        for which, ids in IDS.items():
            value = check(name, a, b, 0.1, ids, f"{what}, {which}")
            if which == "all ignored":
                assert value == 0


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("name", PAIRED)
def test_float16_is_finite_where_its_range_allows(name):
    """R25: near a zero row a gradient is about 1e6; what leaves float16 is inf there, and the step is skipped."""
    for what, (a, b) in BATCHES.items():
        a, b = jnp.asarray(a, "float16"), jnp.asarray(b, "float16")
        for number in (0.1, 10.0) if name in PARAMETERS else (1.0,):
            arguments = jnp.float32(number), jnp.arange(N, dtype=jnp.int32)
            value, gradients = step(name)(a, b, *arguments)
            wide_value, wide = step(name)(a.astype("float32"), b.astype("float32"), *arguments)
            assert np.isfinite(value) and np.isfinite(wide_value), (what, number)
            for found, wanted in zip(gradients[:2], wide[:2], strict=True):
                fits = np.abs(np.asarray(wanted)).max() < 3e4
                assert not fits or np.isfinite(np.asarray(found)).all(), (what, number)


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("name", [n for n in PAIRED if "engine" in inspect.signature(LOSSES[n]).parameters])
def test_finite_in_tiles(name):
    """The same batches tile by tile, where a tile may hold no valid row: finite, and the dense number."""
    for what, (a, b) in BATCHES.items():
        a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
        for which, ids in IDS.items():
            for number in (0.01, 1.0, 100.0) if which == "all own" else (0.1,):
                found = check(name, a, b, number, ids, f"{what}, {which}", streamed(tile=2))
                wanted = check(name, a, b, number, ids, f"{what}, {which}")
                assert found == pytest.approx(wanted, rel=1e-4, abs=1e-4), (what, which, number)


@pytest.mark.parametrize("name", PAIRED)
def test_batch_of_one(name):
    """R25."""
    value = check(name, jnp.asarray(A[:1], jnp.float32), jnp.asarray(B[:1], jnp.float32), 0.1, [0], "one row")
    if name in ("clip", *TEMPERED):
        assert value == 0  # one other row and it is the positive
    check(name, jnp.asarray(A[:1], jnp.float32), jnp.asarray(B[:1], jnp.float32), 0.1, [-1], "no row")


@pytest.mark.slow
@pytest.mark.parametrize("engine", [dense(), streamed(tile=2)])
def test_what_is_no_number_gives_none(engine):
    """A run that diverged must not look healthy: no neighbour, no length and no weight hides it."""
    a, b = jnp.asarray(A, jnp.float32).at[3, 1].set(jnp.nan), jnp.asarray(B, jnp.float32)
    nan = jnp.full((N, 1), jnp.nan)
    own = jnp.arange(N)[:, None]
    for value in (
        LOSSES["koleo"](a, engine=engine),
        LOSSES["triplet"](a, b, engine=engine),
        LOSSES["dominant_singular_value"](a),
        LOSSES["nnclr"](b, b, b, b, a, temperature=0.1, engine=engine),
        LOSSES["multi_positive"](b, b, own, nan, temperature=0.1, engine=engine),
        LOSSES["multi_positive"](b, a, *instance_graph(a, k=2, engine=engine), temperature=0.1, engine=engine),
        LOSSES["nt_xent"](1e25 * b, b, temperature=0.1, engine=engine),  # its squares leave float32
    ):
        assert np.isnan(value)


def test_row_without_a_positive_adds_nothing_and_is_counted():
    """R25."""

    def loss(a, ids, weights):
        return LOSSES["sup_con"](a, temperature=0.1, ids=ids, row_weights=weights)

    loss = jax.jit(jax.value_and_grad(loss))
    a, ids, ones = jnp.asarray(A, jnp.float32), jnp.array([0, 0, 1, 2, 3, 4, 5, 6]), jnp.ones(N)
    whole, two = loss(a, ids, ones)[0], loss(a, ids, jnp.where(ids == 0, 1.0, 0.0))[0]
    assert whole == pytest.approx(float(two)) and whole > 0
    value, gradient = loss(a, jnp.arange(N), ones)
    assert value == 0 and not gradient.any()


def test_negatives_only_denominator_without_negatives():
    """R25."""
    a = jnp.asarray(A, jnp.float32)
    loss = functools.partial(LOSSES["nt_xent"], temperature=0.1, denominator="negatives", ids=np.zeros(N, np.int32))
    value, gradient = jax.jit(jax.value_and_grad(loss))(a, a)
    assert value == 0 and not gradient.any()


def test_queue_that_is_still_empty():
    a, b = jnp.asarray(A, jnp.float32), jnp.asarray(B, jnp.float32)
    loss = jax.jit(functools.partial(LOSSES["info_nce"], temperature=0.1))
    value, gradient = jax.value_and_grad(loss)(a, b, jnp.zeros((16, D)))
    assert value == 0 and np.isfinite(gradient).all()
    half = jnp.concatenate([a[:4], jnp.zeros((12, D))])
    assert float(loss(a, b, half)) == pytest.approx(float(loss(a, b, a[:4])), rel=1e-6)


@pytest.mark.parametrize("name", PARAMETERS)
def test_bfloat16_is_near_float64(name):
    """Inputs rounded to bfloat16, sums in float32: near the float64 value of the rounded inputs."""
    a, b = jnp.asarray(100 * A, jnp.bfloat16), jnp.asarray(100 * B, jnp.bfloat16)
    for number in (0.05, 1.0, 20.0):
        value = check(name, a, b, number, IDS["all own"], "bfloat16")
        wide = [np.asarray(x, np.float64) for x in (a, b)]
        parameters = {PARAMETERS[name]: number, **({"bias": -number} if name == "siglip" else {})}
        expected = paired(name, ORACLES)(*wide, **parameters)
        assert value == pytest.approx(expected, rel=1e-5, abs=1e-5)
