"""Heads: layers, biases, norms, prototypes; initialisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax.encoders import HEADS, Rows
from hcl_jax.encoders.initial import INITIALISERS, normal, scaled_normal, uniform_bias
from hcl_jax.errors import InputError

X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 10)), "float32")
TRAIN = Rows(train=True)


def shapes(name, **kwargs):
    module = HEADS[name](**kwargs)
    tree = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, TRAIN), X).get("params", {})
    return {"/".join(p.key for p in path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize(
    ("kwargs", "wanted"),
    [
        (
            {"features": 4},
            {"dense1/kernel": (10, 10), "norm1/scale": (10,), "norm1/bias": (10,)}
            | {"dense2/kernel": (10, 4), "norm2/scale": (4,)},
        ),
        (
            {"features": 4, "hidden": 5, "layers": 3, "last_affine": False},
            {"dense1/kernel": (10, 5), "norm1/scale": (5,), "norm1/bias": (5,)}
            | {"dense2/kernel": (5, 5), "norm2/scale": (5,), "norm2/bias": (5,), "dense3/kernel": (5, 4)},
        ),
        (
            {"features": 4, "hidden": 5, "batch_norm": False, "last_batch_norm": False},
            {"dense1/kernel": (10, 5), "dense1/bias": (5,), "dense2/kernel": (5, 4)},
        ),
        (
            {"features": 4, "layers": 1, "last_affine": True},
            {"dense1/kernel": (10, 4), "norm1/scale": (4,), "norm1/bias": (4,)},
        ),
        (
            {"features": 4, "layers": 1, "last_batch_norm": False, "last_bias": True},
            {"dense1/kernel": (10, 4), "dense1/bias": (4,)},
        ),
    ],
)
def test_projector_layers(kwargs, wanted):
    assert shapes("projector", **kwargs) == wanted


def test_predictor_is_as_wide_as_its_input():
    norm = {"norm1/scale": (512,), "norm1/bias": (512,)}
    assert shapes("predictor") == {"dense1/kernel": (10, 512), "dense2/kernel": (512, 10), "dense2/bias": (10,)} | norm


@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_heads_are_finite_in_every_precision(name, dtype, weights):
    with jax.enable_x64(dtype == "float64"):
        x = X.astype(dtype)
        types = {} if name == "identity" else {"dtype": dtype, "param_dtype": dtype}
        module = HEADS[name](**types)
        variables = weights(module, x)
        run = jax.jit(lambda x, rows: module.apply(variables, x, rows, mutable="batch_stats")[0])
        y = run(x, Rows(present=jnp.arange(6) != 2, train=True))
        assert str(y.dtype) == dtype and y.shape[0] == 6 and np.isfinite(np.asarray(y, "float64")).all()
        # A head also reads tokens: [n, T, D].
        assert run(jnp.stack([x, x], 1), Rows(train=True)).shape == (6, 2, y.shape[1])


def test_linear_identity_and_prototypes():
    assert shapes("linear", features=3) == {"dense/kernel": (10, 3), "dense/bias": (3,)}
    assert shapes("linear", features=3, use_bias=False) == {"dense/kernel": (10, 3)}
    assert shapes("identity") == {} and HEADS["identity"]().apply({}, X, TRAIN) is X
    kernel, x = np.random.default_rng(1).normal(size=(10, 7)), np.asarray(X, "float64")
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for normalise in (False, True):
        module = HEADS["prototypes"](features=7, normalise=normalise)
        found = module.apply({"params": {"kernel": jnp.asarray(kernel, "float32")}}, X, TRAIN)
        columns = kernel / np.linalg.norm(kernel, axis=0) if normalise else kernel
        np.testing.assert_allclose(found, unit @ columns, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_residual_is_its_input_plus_a_scaled_mlp(weights):
    mlp = {"mlp/dense1/kernel": (10, 40), "mlp/norm1/scale": (40,), "mlp/norm1/bias": (40,)}
    mlp |= {"mlp/dense2/kernel": (40, 10), "mlp/dense2/bias": (10,)}
    assert shapes("residual") == mlp | {"scale": (10,)}
    assert shapes("residual", skip=False) == mlp
    assert shapes("residual", ratio=2)["mlp/dense1/kernel"] == (10, 20)
    module, x = HEADS["residual"](), np.asarray(X, "float64")
    variables = weights(module, X)
    found = jax.jit(lambda v, x: module.apply(v, x, TRAIN, mutable="batch_stats")[0])(variables, X)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, "float64"), variables["params"])
    hidden = x @ p["mlp"]["dense1"]["kernel"]
    hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
    hidden = np.maximum(hidden * p["mlp"]["norm1"]["scale"] + p["mlp"]["norm1"]["bias"], 0)
    made = hidden @ p["mlp"]["dense2"]["kernel"] + p["mlp"]["dense2"]["bias"]
    np.testing.assert_allclose(found, p["scale"] * made + x, rtol=1e-4, atol=1e-4)
    inner = {part: {"mlp": variables[part]["mlp"]} for part in ("params", "batch_stats")}
    plain = HEADS["residual"](skip=False).apply(inner, X, TRAIN, mutable="batch_stats")[0]
    np.testing.assert_allclose(plain, made, rtol=1e-4, atol=1e-4)


def test_residual_starts_at_the_stated_scale():
    module = HEADS["residual"](scale=0.25, ratio=1)
    params = jax.jit(lambda x: module.init(jax.random.key(0), x, TRAIN))(X)["params"]
    np.testing.assert_array_equal(params["scale"], np.full(10, 0.25))
    with pytest.raises(InputError, match="head.ratio: found 0"):
        shapes("residual", ratio=0)


def test_prototypes_start_at_unit_length():
    for dtype in ("float32", "bfloat16"):
        module = HEADS["prototypes"](features=50, param_dtype=dtype)
        kernel = module.init(jax.random.key(0), X, TRAIN)["params"]["kernel"]
        assert kernel.dtype == dtype
        kernel = np.asarray(kernel, "float64")
        np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, atol=1e-6 if dtype == "float32" else 1e-2)
        assert np.abs(kernel.mean(1)).max() < 0.2  # to all sides


def test_weight_normed_prototypes():
    """s_k = g_k c_k . x / (|c_k| |x|): value, and the gradient of g and of c (at right angles to c)."""
    rng = np.random.default_rng(2)
    kernel, length, x = rng.normal(size=(10, 7)), rng.normal(size=7), np.asarray(X, "float64")
    module = HEADS["prototypes"](features=7, normalise=True, lengths=True)
    assert shapes("prototypes", features=7, normalise=True, lengths=True) == {"kernel": (10, 7), "length": (7,)}
    params = {"kernel": jnp.asarray(kernel, "float32"), "length": jnp.asarray(length, "float32")}
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    norms = np.linalg.norm(kernel, axis=0)
    scores = module.apply({"params": params}, X, TRAIN)
    np.testing.assert_allclose(scores, unit @ (kernel / norms) * length, rtol=1e-4, atol=1e-5)
    slope = jax.jit(jax.grad(lambda p: (module.apply({"params": p}, X, TRAIN) ** 2).sum() / 2))(params)
    of_w = unit.T @ np.asarray(scores, "float64")  # dL/dw, w = g c / |c|
    np.testing.assert_allclose(slope["length"], (of_w * kernel / norms).sum(0), rtol=1e-3, atol=1e-4)
    along = kernel * (of_w * kernel).sum(0) / norms**2
    np.testing.assert_allclose(slope["kernel"], length / norms * (of_w - along), rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="head.lengths: found true without normalise"):
        shapes("prototypes", lengths=True)


def test_prototypes_of_a_zero_row_have_a_finite_gradient(weights):
    module = HEADS["prototypes"](features=3)
    params = weights(module, X)
    slope = jax.jit(jax.grad(lambda x: module.apply(params, x, TRAIN).sum()))
    assert np.isfinite(slope(jnp.zeros((2, 10)))).all()


def test_unknown_affine():
    with pytest.raises(InputError, match="head.last_affine: found 'bias'; allowed: .*scale"):
        shapes("projector", last_affine="bias")


def test_initialisers_by_name():
    """The deviation of each, and where it is cut; one name is flax's own, number by number."""
    key, shape = jax.random.key(0), (3, 3, 20, 50)  # fan in 180, out 450
    made = {name: np.asarray(init(key, shape), "float64") for name, init in INITIALISERS.items()}
    deviations = {
        "lecun_normal": 180**-0.5,
        "cut_normal": 0.8796 * 180**-0.5,
        "he_fan_out": (2 / 450) ** 0.5,
        "normal_0.01": 0.01,
        "normal_0.02": 0.02,
        "uniform": (180 * 3) ** -0.5,
        "xavier_uniform": (2 / 630) ** 0.5,
    }
    assert deviations.keys() == made.keys()
    for name, deviation in deviations.items():
        assert abs(made[name].std() / deviation - 1) < 0.03, name
    largest = {name: np.abs(x).max() * 180**0.5 for name, x in made.items()}
    assert 1.99 < largest["cut_normal"] < 2 and 1.99 < largest["lecun_normal"] * 0.8796 < 2.001
    assert 0.999 < largest["uniform"] <= 1
    plain = jax.nn.initializers.lecun_normal()(key, (30, 40))
    np.testing.assert_array_equal(INITIALISERS["lecun_normal"](key, (30, 40)), plain)
    bias = np.asarray(uniform_bias(180)(key, (2000,)))
    assert 0.99 < np.abs(bias).max() * 180**0.5 <= 1


def test_a_head_starts_as_it_says():
    module = HEADS["projector"](hidden=400, features=300, batch_norm=False, last_batch_norm=False, last_bias=True)
    for name, kernel, bias in (("normal_0.01", 0.01, 0), ("uniform", 1200**-0.5, 1200**-0.5)):
        made = module.clone(kernel_init=name).init(jax.random.key(0), X, TRAIN)["params"]["dense2"]
        assert abs(np.std(made["kernel"]) / kernel - 1) < 0.02
        assert abs(np.std(made["bias"]) - bias) < 0.1 * bias + 1e-9
    with pytest.raises(InputError, match="head.kernel_init: found 'normal'"):
        shapes("projector", kernel_init="normal")


def test_initialisers_have_the_stated_deviation_and_the_numbers_of_the_plain_draw():
    key, shape = jax.random.key(0), (3, 3, 8, 32)
    for mode, fan in (("in", 72), ("out", 288)):
        x = np.asarray(scaled_normal(2.0, mode)(key, shape))
        assert abs(x.std() / np.sqrt(2 / fan) - 1) < 0.03
    np.testing.assert_allclose(normal(0.5)(key, (1, 4, 6)), 0.5 * jax.random.normal(key, (1, 4, 6)), rtol=1e-6)
