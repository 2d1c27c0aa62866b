"""Every product that a loss asks for is of full precision: on TPU and recent GPUs the default is not float32."""

import functools
import inspect
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from hcl_jax.core.objectives import known_to
from hcl_jax.losses import LOSSES, MEASURES, nt_xent
from hcl_jax.similarity import dense, gathered, ring, streamed
from tests.losses.cases import CASES, ELSEWHERE, ONE_EACH, Case, normal

HIGHEST = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
OVERLAP = tuple(np.tile(np.int32([start, 3]), (8, 1)) for start in (2, 1))  # start and steps
CALLS = {
    **{name: CASES[name] for name in ONE_EACH},
    "swav": Case("swav", tuple(normal(20, 2, 8, 4)), {"temperature": 0.2}, {}),
    "swav_queue": Case("swav_queue", (*normal(22, 2, 6, 4), *normal(20, 2, 8, 4)), {"temperature": 0.2}, {}),
    "ts2vec": Case("ts2vec", (*normal(21, 2, 8, 6, 4), *OVERLAP), {}, {}),
}


def mesh_of(devices: int) -> jax.sharding.Mesh:
    axis = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices], axis_types=axis)


ENGINES = {
    "dense": dense,
    "streamed": lambda precision="highest": streamed(4, precision),
    "ring": lambda precision="highest": ring(mesh_of(2), "data", precision=precision),
    "gathered": lambda precision="highest": gathered(mesh_of(2), "data", precision=precision),
}
# Rows meet no rows, or by elementwise products and sums alone.
WITHOUT_PRODUCTS = {"negative_cosine", "byol", "swav", "swav_queue", "dino", "bpr", "dpo", "ipo", "next_token"}
WITHOUT_PRODUCTS |= {"cross_entropy", "mean_squared_error", "consistency"}
# Products find the nearest rows; value and gradient are of the rows that were found.
SEARCH_ONLY = {"triplet", "koleo"}


def takes_engine(name: str) -> bool:
    return "engine" in inspect.signature(LOSSES[name]).parameters


def equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """Those of a program and of every program within it: jit, scan, while, cond, shard_map, custom_vjp."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr)):
            if isinstance(inner, Jaxpr | ClosedJaxpr):
                yield from equations(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)


def precisions(function: Callable, *arguments) -> list:
    """What each product (matrix product or convolution) of a traced function asks for."""
    every = equations(jax.make_jaxpr(function)(*arguments).jaxpr)
    return [equation.params["precision"] for equation in every if "precision" in equation.params]


def narrow(case: Case) -> tuple[list[jax.Array], dict[str, jax.Array]]:
    """Arrays and learned numbers of a case, floats as float32."""
    arrays = [jnp.asarray(x, jnp.float32 if x.dtype == np.float64 else x.dtype) for x in case.arrays]
    return arrays, {key: jnp.asarray(value, jnp.float32) for key, value in case.learned.items()}


def of_value_and_gradient(loss: Callable, case: Case) -> list:
    arrays, learned = narrow(case)
    floats = tuple(i for i, x in enumerate(arrays) if x.dtype == jnp.float32)

    def call(*given):
        return loss(*given[:-1], **given[-1])

    return precisions(jax.value_and_grad(call, argnums=(*floats, len(arrays))), *arrays, learned)


def assert_highest(found: list, name: str) -> None:
    assert all(p == HIGHEST for p in found), f"{name}: {found}"


def test_every_loss_is_called():
    assert {case.name for case in CALLS.values()} == set(LOSSES) and set(ELSEWHERE) <= set(CALLS)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [None, *ENGINES])
def test_products_are_of_full_precision(engine):
    for name, case in CALLS.items():
        if engine is not None and not takes_engine(case.name):
            continue
        given = {} if engine is None else {"engine": ENGINES[engine]()}
        found = of_value_and_gradient(functools.partial(case.loss, **given), case)
        assert_highest(found, name)
        assert bool(found) == (case.name not in WITHOUT_PRODUCTS), name
        if found and case.name not in SEARCH_ONLY:
            assert len(found) >= 2, f"{name}: a value and its gradient"


def test_measures_are_of_full_precision():
    for name, case in CALLS.items():
        arrays, learned = narrow(case)
        for measure in MEASURES.get(case.name, {}).values():
            assert_highest(
                precisions(functools.partial(measure, **known_to(measure, {**case.fixed, **learned})), *arrays), name
            )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_product_of_default_precision_is_found(engine):
    """In the loss itself, and where an engine has it: in a scan, in a shard_map, in a gradient written out."""
    case, make = CASES["nt_xent"], ENGINES[engine]
    right, low = (functools.partial(nt_xent, engine=make(p)) for p in ("highest", "default"))

    def planted(za, zb, *, temperature):
        return right(za, zb, temperature=temperature) + 1e-9 * jnp.sum(za @ zb.T)

    assert_highest(of_value_and_gradient(right, case), "nt_xent")
    for faulty in (low, planted):
        found = of_value_and_gradient(faulty, case)
        assert sum(p != HIGHEST for p in found) >= 3  # the product and its two gradients
        with pytest.raises(AssertionError, match="nt_xent: "):
            assert_highest(found, "nt_xent")


def square(x: jax.Array) -> jax.Array:
    return x @ x


def written_out(x: jax.Array) -> jax.Array:
    """A product whose gradient is one too, by custom_vjp."""
    own = jax.custom_vjp(square)
    own.defvjp(lambda x: (square(x), x), lambda x, g: (g @ x,))
    return own(x)


@pytest.mark.parametrize(
    "inside",
    [
        lambda x: jax.jit(square)(x),
        lambda x: jax.checkpoint(square)(x),
        lambda x: jax.lax.scan(lambda c, _: (square(c), None), x, length=2)[0],
        lambda x: jax.lax.fori_loop(0, jnp.int32(x[0, 0]), lambda _, c: square(c), x),
        lambda x: jax.lax.while_loop(lambda c: jnp.sum(square(c)) < 1, lambda c: c + 1, x),
        lambda x: jax.lax.cond(x[0, 0] > 0, square, lambda c: c, x),
        lambda x: jax.shard_map(square, mesh=mesh_of(1), in_specs=jax.P(), out_specs=jax.P())(x),
        written_out,
        jax.grad(lambda x: jnp.sum(written_out(x))),
    ],
    ids=["jit", "checkpoint", "scan", "fori_loop", "while", "cond", "shard_map", "custom_vjp", "its gradient"],
)
def test_products_are_found_wherever_they_are(inside):
    found = precisions(inside, jnp.eye(2))
    assert found and set(found) == {None}
