"""BatchNorm against NumPy in float64: masks, groups, running statistics, gradients, meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hcl_jax.encoders.batch_norm import BatchNorm
from hcl_jax.encoders.inputs import Rows
from hcl_jax.errors import InputError

N, C, EPS, MOMENTUM = 8, 3, 1e-5, 0.9
FLOAT64 = {"dtype": "float64", "param_dtype": "float64"}


def oracle(x, scale, bias, present, groups, mean=None, var=None, nobody=(0.0,) * C):
    """Loops over groups and channels: (y, running mean, running var) from running statistics mean, var."""
    mean, var = np.zeros(C) if mean is None else mean, np.ones(C) if var is None else var
    y, means, variances = np.zeros_like(x), [], []
    for g in np.split(np.arange(len(x)), groups):
        there = [i for i in g if present[i]]
        m, v = np.zeros(C), np.zeros(C)
        for c in range(C):
            numbers = np.concatenate([x[i, ..., c].ravel() for i in there]) if there else np.full(1, nobody[c])
            m[c], v[c] = np.mean(numbers), np.var(numbers)
            y[g, ..., c] = (x[g, ..., c] - m[c]) / np.sqrt(v[c] + EPS) * scale[c] + bias[c]
        if there:
            means.append(m)
            variances.append(v)
    if means:
        mean = MOMENTUM * mean + (1 - MOMENTUM) * np.mean(means, 0)
        var = MOMENTUM * var + (1 - MOMENTUM) * np.mean(variances, 0)
    return y, mean, var


def numbers(shape=(N, 2, 3, C), seed=0):
    rng = np.random.default_rng(seed)
    scale, bias = rng.normal(size=C), rng.normal(size=C)
    return rng.normal(2, 3, shape), {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": bias, "var": scale**2},
    }


def mesh_rows(devices):
    """The sharding of rows over the first `devices` devices."""
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])
    return NamedSharding(mesh, PartitionSpec("data"))


MASKS = {
    "all": None,
    "some": np.array([1, 0, 1, 1, 1, 1, 0, 1], bool),
    "one": np.eye(N, dtype=bool)[5],
    "a group is absent": np.array([0, 0, 1, 1, 1, 0, 1, 1], bool),
    "nobody": np.zeros(N, bool),
}


@pytest.mark.parametrize("shape", [(N, C), (N, 2, 3, C)])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("one_pass", [False, True])
def test_equals_the_oracle(shape, groups, one_pass):
    with jax.enable_x64(True):
        x, variables = numbers(shape)
        module, given = BatchNorm(one_pass=one_pass, **FLOAT64), jnp.asarray(x)
        nobody = variables["batch_stats"]["mean"] if one_pass else (0.0,) * C
        run = jax.jit(lambda p: module.apply(variables, given, Rows(p, None, True, groups), mutable="batch_stats"))
        for mask in MASKS.values():
            y, stats = run(None if mask is None else jnp.asarray(mask))
            present = np.ones(N, bool) if mask is None else mask
            expected = oracle(
                x, *variables["params"].values(), present, groups, *variables["batch_stats"].values(), nobody
            )
            for found, wanted in zip((y, *stats["batch_stats"].values()), expected, strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-11)


def test_evaluation_uses_the_running_statistics_and_changes_nothing():
    with jax.enable_x64(True):
        x, variables = numbers()
        y, stats = BatchNorm(**FLOAT64).apply(variables, jnp.asarray(x), Rows(bn_groups=3), mutable="batch_stats")
        mean, var = variables["batch_stats"].values()
        scale, bias = variables["params"].values()
        np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + EPS) * scale + bias, rtol=1e-12)
        np.testing.assert_array_equal(stats["batch_stats"]["mean"], mean)


def test_initialisation_leaves_zero_mean_and_unit_variance():
    x, _ = numbers()
    stats = BatchNorm().init(jax.random.key(0), jnp.asarray(x, "float32"), Rows(train=True))["batch_stats"]
    np.testing.assert_array_equal(stats["mean"], np.zeros(C))
    np.testing.assert_array_equal(stats["var"], np.ones(C))


@pytest.mark.slow(one=True)
def test_gradient_with_a_mask_equals_that_of_the_present_rows_alone():
    with jax.enable_x64(True):
        x, variables = numbers((N, C))
        weight, mask = np.random.default_rng(1).normal(size=(N, C)), MASKS["some"]

        @jax.jit
        def loss(x, weight, present):
            y, _ = BatchNorm(**FLOAT64).apply(variables, x, Rows(present, None, True), mutable="batch_stats")
            return (weight * jnp.sin(y)).sum()

        slope = jax.jit(jax.grad(loss))
        masked = slope(jnp.asarray(x), jnp.asarray(weight * mask[:, None]), jnp.asarray(mask))
        alone = slope(jnp.asarray(x[mask]), jnp.asarray(weight[mask]), None)
        np.testing.assert_allclose(masked[mask], alone, rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(masked[~mask], 0)
        step = 1e-6 * np.eye(N * C)[7].reshape(N, C)
        x, weight = jnp.asarray(x), jnp.asarray(weight)
        rise = loss(x + step, weight, None) - loss(x - step, weight, None)
        np.testing.assert_allclose(rise / 2e-6, slope(x, weight, None).ravel()[7], rtol=1e-6)


@pytest.mark.slow
def test_same_numbers_on_1_2_4_8_devices():
    with jax.enable_x64(True):
        x, variables = numbers()
        x, mask = jnp.asarray(x), jnp.asarray(MASKS["some"])

        @jax.jit
        def run(x, present):
            rows = [Rows(present, None, True, groups) for groups in (1, 4, 8)]
            return [BatchNorm(**FLOAT64).apply(variables, x, r, mutable="batch_stats") for r in rows]

        results = []
        for devices in (1, 2, 4, 8):
            rows = mesh_rows(devices)
            results.append(jax.device_get(run(jax.device_put(x, rows), jax.device_put(mask, rows))))
        for other in results[1:]:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), results[0], other)


def test_groups_that_lie_on_one_device_send_nothing():
    x, variables = numbers()
    rows = mesh_rows(4)

    def run(x, groups):
        return BatchNorm().apply(variables, x, Rows(None, None, True, groups), mutable="batch_stats")[0]

    shape = jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=rows)
    text = {g: jax.jit(run, static_argnums=1, out_shardings=rows).lower(shape, g).compile().as_text() for g in (1, 4)}
    assert "all-reduce" in text[1] and "all-reduce" not in text[4] and "all-gather" not in text[4]


@pytest.mark.slow
def test_bfloat16_statistics_are_float32_and_survive_a_large_mean():
    x = jnp.asarray(256 + 2 * np.random.default_rng(0).integers(-4, 5, (64, C)), "bfloat16")
    norm = BatchNorm(dtype="bfloat16")
    y, stats = norm.apply(norm.init(jax.random.key(0), x, Rows()), x, Rows(train=True), mutable="batch_stats")
    wide = np.asarray(x, np.float64)
    assert y.dtype == jnp.bfloat16 and stats["batch_stats"]["var"].dtype == jnp.float32
    # The first step, 50 standard deviations from the running mean: (mean / std)^2 = 2,500 times float32's rounding.
    np.testing.assert_allclose(stats["batch_stats"]["var"], 0.9 + 0.1 * wide.var(0), rtol=5e-4)
    np.testing.assert_allclose(np.asarray(y, np.float64), (wide - wide.mean(0)) / wide.std(0), atol=2e-2)


def test_float32_keeps_its_digits_while_the_running_mean_is_near():
    """The mean is 10,000 standard deviations from 0; the running mean is half of one from it."""
    wide = 1e4 + np.random.default_rng(0).normal(size=(512, C)).astype(np.float32).astype(np.float64)
    given = {"params": {"scale": np.ones(C, "f"), "bias": np.zeros(C, "f")},
             "batch_stats": {"mean": np.full(C, 1e4 + 0.5, "f"), "var": np.ones(C, "f")}}  # fmt: skip
    y, _ = BatchNorm(one_pass=True).apply(
        given, jnp.asarray(wide, jnp.float32), Rows(train=True), mutable="batch_stats"
    )
    wide = np.asarray(jnp.asarray(wide, jnp.float32), np.float64)
    np.testing.assert_allclose(y, (wide - wide.mean(0)) / wide.std(0), atol=1e-4)


@pytest.mark.slow
def test_a_channel_of_one_value_is_normalised_to_its_bias():
    given = {"params": {"scale": np.ones(C, "f"), "bias": np.full(C, 0.25, "f")},
             "batch_stats": {"mean": np.full(C, -0.3, "f"), "var": np.ones(C, "f")}}  # fmt: skip

    def total(x):
        y, _ = BatchNorm(one_pass=True).apply(given, x, Rows(train=True), mutable="batch_stats")
        return y.sum(), y

    slope, y = jax.grad(total, has_aux=True)(jnp.full((64, C), 0.1, jnp.float32))
    np.testing.assert_allclose(y, 0.25, atol=1e-3)
    assert np.isfinite(slope).all()


def test_statistics_travel_together():
    """One message forward and one backward."""
    x, variables = numbers()
    rows = mesh_rows(4)

    def loss(x, weight):
        return (
            weight * jnp.sin(BatchNorm(one_pass=True).apply(variables, x, Rows(train=True), mutable="batch_stats")[0])
        ).sum()

    shape = jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=rows)
    text = jax.jit(jax.grad(loss), out_shardings=rows).lower(shape, shape).compile().as_text()
    assert len([line for line in text.splitlines() if " all-reduce(" in line]) == 2


def test_scale_and_bias_are_optional():
    x = jnp.ones((2, C))
    for scale in (True, False):
        for bias in (True, False):
            tree = BatchNorm(use_scale=scale, use_bias=bias).init(jax.random.key(0), x, Rows())
            assert ("scale" in tree.get("params", {})) is scale and ("bias" in tree.get("params", {})) is bias


@pytest.mark.parametrize("groups", [0, 3])
def test_groups_must_divide_the_rows(groups):
    x, variables = numbers()
    with pytest.raises(InputError, match="bn_groups: found .*a divisor of 8"):
        BatchNorm().apply(variables, jnp.asarray(x, "float32"), Rows(None, None, True, groups), mutable="batch_stats")
