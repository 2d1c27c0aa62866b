"""DINO: limits, ignored rows, what the centre and the temperatures do, bad input. Values: test_values.py."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax.losses.dino import dino
from tests.losses.cases import DIVERSE, IDS, N, normal

K = 8
CENTRE = normal(13, K)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def value(*arrays, **settings) -> float:
    options = {"xla_backend_optimization_level": 0}
    return float(jax.jit(functools.partial(dino, **settings), compiler_options=options)(*arrays))


def test_flat_outputs_give_log_k():
    flat = np.zeros((N, K))
    assert value(np.zeros(K), *[flat] * 5) == pytest.approx(math.log(K))


def test_students_that_agree_reach_the_entropy_of_the_teachers():
    """With equal temperatures and outputs the cross entropy is the entropy, and no student can do better."""
    g = DIVERSE[0]
    same = {"student_temperature": 0.5, "teacher_temperature": 0.5}
    p = np.exp(g / 0.5) / np.exp(g / 0.5).sum(1, keepdims=True)
    entropy = -(p * np.log(p)).sum(1).mean()
    assert value(np.zeros(K), g, g, g, g, **same) == pytest.approx(entropy, rel=1e-12)
    slope = jax.jit(jax.grad(lambda x: dino(np.zeros(K), g, g, x, x, **same)))(g)
    np.testing.assert_allclose(slope, 0, atol=1e-12)
    assert value(np.zeros(K), g, g, *DIVERSE[1:3], **same) > entropy


def test_a_colder_teacher_is_sharper():
    values = [
        value(np.zeros(K), *[DIVERSE[0]] * 4, student_temperature=t, teacher_temperature=t) for t in (1, 0.3, 0.05)
    ]
    assert values[0] > values[1] > values[2]


def test_the_centre_removes_what_all_teachers_say():
    shift = np.arange(K, dtype=float)
    moved = value(CENTRE + shift, *(DIVERSE[:2] + shift), *DIVERSE[2:])
    assert moved == pytest.approx(value(CENTRE, *DIVERSE), rel=1e-12)


def test_pairs_of_one_view_are_left_out():
    """Teacher 0 with student 1 and teacher 1 with student 0, and both with every small crop."""
    pair = functools.partial(value, teachers=1)
    t0, t1, s0, s1, s2 = DIVERSE
    # With one teacher the first student is its own view: any array does.
    parts = [pair(CENTRE, t, own, s) for t, own, s in ((t0, s0, s1), (t0, s0, s2), (t1, s1, s0), (t1, s1, s2))]
    assert value(CENTRE, *DIVERSE) == pytest.approx(np.mean(parts), rel=1e-12)


def test_scheduled_temperature_does_not_retrace():
    traces = []

    @jax.jit
    def step(temperature):
        traces.append(1)
        return dino(CENTRE, *DIVERSE, teacher_temperature=temperature)

    assert float(step(0.04)) == pytest.approx(value(CENTRE, *DIVERSE), rel=1e-12)
    assert float(step(0.07)) == pytest.approx(value(CENTRE, *DIVERSE, teacher_temperature=0.07), rel=1e-12)
    assert len(traces) == 1


@pytest.mark.slow(one=True)
def test_ignored_rows_are_absent_rows():
    out = np.isin(np.arange(N), (1, 6))
    broken = DIVERSE.copy()
    broken[:, 1], broken[3, 6] = np.nan, np.inf
    ids = np.where(out, -1, np.arange(N))
    step = jax.jit(jax.value_and_grad(lambda o: dino(CENTRE, *o, ids=ids)))
    found, gradient = step(broken)
    assert float(found) == pytest.approx(value(CENTRE, *DIVERSE[:, ~out]), rel=1e-12)
    assert np.isfinite(gradient).all() and not gradient[:, out].any()
    assert value(CENTRE, *DIVERSE, ids=np.full(N, -1)) == 0
    weights = np.linspace(0, 2, N)
    parts = sum(value(CENTRE, *DIVERSE, ids=IDS, row_weights=w) for w in np.diag(weights))
    assert value(CENTRE, *DIVERSE, ids=IDS, row_weights=weights) == pytest.approx(parts, rel=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_finite(dtype):
    step = jax.jit(jax.value_and_grad(lambda o, c: dino(c, *o), argnums=(0, 1)))
    for factor in (0.0, 1.0, 1e4):
        found, gradients = step(jnp.asarray(factor * DIVERSE, dtype), jnp.asarray(CENTRE, "float32"))
        assert found.dtype == jnp.float32 and np.isfinite(found)
        assert all(np.isfinite(np.asarray(g, "float32")).all() for g in gradients)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: dino(CENTRE, *DIVERSE[:3]), ("outputs", "3 arrays", "2 of teachers, then 2 or more")),
        (lambda: dino(CENTRE, *DIVERSE[:2], teachers=1), ("outputs", "2 arrays", "1 of teachers, then 2")),
        (lambda: dino(CENTRE, *DIVERSE, teachers=0), ("teachers", "0")),
        (lambda: dino(CENTRE[:3], *DIVERSE), ("centre", "(3,)", "(8,)")),
        (lambda: dino(CENTRE, *DIVERSE[:4], DIVERSE[4][:2]), ("student[2]", "(2, 8)", "teacher[0]")),
        (lambda: dino(CENTRE, *DIVERSE, student_temperature=0), ("student_temperature", "above 0")),
        (lambda: dino(CENTRE, *DIVERSE, teacher_temperature=-1), ("teacher_temperature", "-1")),
    ],
)
def test_refused(call, words):
    with pytest.raises(ValueError) as error:
        jax.eval_shape(call)
    assert all(word in str(error.value) for word in words), str(error.value)
