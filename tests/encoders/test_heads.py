"""Heads: layers, biases, norms, prototypes; initialisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax.encoders import HEADS, Rows
from hcl_jax.encoders.initial import normal, scaled_normal
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


def test_prototypes_of_a_zero_row_have_a_finite_gradient(weights):
    module = HEADS["prototypes"](features=3)
    params = weights(module, X)
    slope = jax.jit(jax.grad(lambda x: module.apply(params, x, TRAIN).sum()))
    assert np.isfinite(slope(jnp.zeros((2, 10)))).all()


def test_unknown_affine():
    with pytest.raises(InputError, match="head.last_affine: found 'bias'; allowed: .*scale"):
        shapes("projector", last_affine="bias")


def test_initialisers_have_the_stated_deviation_and_the_numbers_of_the_plain_draw():
    key, shape = jax.random.key(0), (3, 3, 8, 32)
    for mode, fan in (("in", 72), ("out", 288)):
        x = np.asarray(scaled_normal(2.0, mode)(key, shape))
        assert abs(x.std() / np.sqrt(2 / fan) - 1) < 0.03
    np.testing.assert_allclose(normal(0.5)(key, (1, 4, 6)), 0.5 * jax.random.normal(key, (1, 4, 6)), rtol=1e-6)
