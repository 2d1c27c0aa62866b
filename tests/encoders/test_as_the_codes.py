"""What encoders of authors' codes have and ours did not: CLIP's norm and activation, DINO's positions and four class
tokens, Google's and DeepMind's paddings. Oracles are NumPy, from the papers' formulas and the codes' rules."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax.encoders import ENCODERS, Rows
from hcl_jax.encoders.initial import INITIALISERS
from hcl_jax.encoders.positions import RESIZES
from hcl_jax.encoders.resnet import Block, convolution
from hcl_jax.encoders.transformer import ACTIVATIONS
from hcl_jax.errors import InputError

EVAL = Rows()


def cubic(x, a):
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def along(old, new, kind):
    """[new, old] by loops: torch's four taps at the edge's values, or a kernel as wide as the pixels that shrink."""
    w = np.zeros((new, old))
    for i in range(new):
        if kind == "antialiased":
            scale = max(old / new, 1)
            at = (i + 0.5) * old / new - 0.5
            row = np.array([cubic((j - at) / scale, -0.5) for j in range(old)])
            w[i] = row / row.sum()
        else:
            at = (i + 0.5) / ((new + (0.1 if kind == "dino" else 0)) / old) - 0.5
            for tap in (-1, 0, 1, 2):
                j = math.floor(at) + tap
                w[i, min(max(j, 0), old - 1)] += cubic(at - j, -0.75)
    return w


@pytest.mark.parametrize("kind", RESIZES)
def test_positions_on_another_grid(kind):
    table = np.random.default_rng(0).normal(size=(1, 7, 6, 3))
    for grid in ((3, 4), (9, 6), (14, 13)):
        wanted = np.einsum("ih,jw,nhwd->nijd", along(7, grid[0], kind), along(6, grid[1], kind), table)
        with jax.enable_x64(True):
            found = RESIZES[kind](jnp.asarray(table), grid)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


def test_ways_of_resizing_are_far_apart():
    """Of a table without structure: why an imported one must be resized as its code does."""
    table = jnp.asarray(np.random.default_rng(0).normal(size=(1, 7, 7, 16)), "float32")
    made = {kind: np.asarray(resized(table, (3, 3))) for kind, resized in RESIZES.items()}
    for other in ("antialiased", "torch"):
        assert np.abs(made[other] - made["dino"]).max() > 0.02 * np.abs(made["dino"]).max()


def test_activations_by_name():
    x = np.linspace(-4, 4, 41)
    erf = np.vectorize(math.erf)
    wanted = {
        "gelu": x * (1 + erf(x / np.sqrt(2))) / 2,
        "gelu_tanh": x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
        "quick_gelu": x / (1 + np.exp(-1.702 * x)),
        "relu": np.maximum(x, 0),
    }
    assert wanted.keys() == ACTIVATIONS.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(x, "float32")), values, rtol=1e-4, atol=1e-6)


def norm(p, x, epsilon):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * p["scale"] + p["bias"]


def dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0)


def block(p, x, heads, epsilon):
    y = norm(p["norm1"], x, epsilon)
    q, k, v = (
        dense(p["attention"][n], y).reshape(*y.shape[:2], heads, -1).swapaxes(1, 2) for n in ("query", "key", "value")
    )
    logits = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1])
    weights = np.exp(logits)
    weights /= weights.sum(-1, keepdims=True)
    x = x + dense(p["attention"]["out"], (weights @ v).swapaxes(1, 2).reshape(x.shape))
    y = dense(p["mlp"]["up"], norm(p["norm2"], x, epsilon))
    return x + dense(p["mlp"]["down"], y / (1 + np.exp(-1.702 * y)))


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("depth", [5, 3])
def test_clips_image_tower_and_the_last_four_class_tokens(depth, weights):
    kind = {"pre_norm": True, "patch_bias": False, "activation": "quick_gelu", "epsilon": 0.3}
    module = ENCODERS["vit"](variant="ti/4", width=8, depth=depth, heads=2, mlp=12, **kind)
    image = np.random.default_rng(0).random((3, 8, 12, 2)).astype(np.float32)
    variables = weights(module, {"image": jnp.asarray(image)})
    y = jax.jit(module.apply)(variables, {"image": jnp.asarray(image)}, EVAL)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    assert "bias" not in p["patch"]
    cut = image.reshape(3, 2, 4, 3, 4, 2).transpose(0, 1, 3, 2, 4, 5).reshape(3, 6, 32)
    x = cut @ p["patch"]["kernel"] + p["position"].reshape(1, 6, 8)
    x = np.concatenate([np.broadcast_to(p["cls"], (3, 1, 8)), x], 1)
    x, outputs = norm(p["transformer"]["pre_norm"], x, 0.3), []
    for i in range(depth):
        x = block(p["transformer"][f"block{i}"], x, 2, 0.3)
        outputs.append(norm(p["transformer"]["norm"], x, 0.3))
    np.testing.assert_allclose(y["h"], outputs[-1][:, 0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(y["tokens"], outputs[-1][:, 1:], rtol=1e-3, atol=1e-4)
    wanted = np.concatenate([z[:, 0] for z in outputs[-4:]], 1)
    np.testing.assert_allclose(y["cls4"], wanted, rtol=1e-3, atol=1e-4)


def test_the_text_tower_has_its_own_epsilon_and_activation(weights):
    def tower(**kind):
        return ENCODERS["text_transformer"](vocab_size=9, width=8, depth=1, heads=2, mlp=12, **kind)

    tokens = jnp.asarray([[1, 2, 3]], "int32")
    variables = weights(tower(), {"tokens": tokens})
    found = tower(epsilon=0.3, activation="quick_gelu", pool="first").apply(variables, {"tokens": tokens}, EVAL)["h"]
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    x = p["token"]["embedding"][[[1, 2, 3]]] + p["position"][:, :3]
    x = norm(p["transformer"]["norm"], block(p["transformer"]["block0"], x, 2, 0.3), 0.3)
    np.testing.assert_allclose(found, x[:, 0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "wrong", [{"activation": "swish"}, {"kernel_init": "zeros"}, {"patch_init": "zeros"}, {"resize": "linear"}]
)
def test_unknown_words(wrong):
    (name,) = wrong
    module = ENCODERS["vit"](variant="ti/4", width=8, depth=1, heads=2, mlp=12, **wrong)
    with pytest.raises(InputError, match=f"{name}: found"):
        jax.eval_shape(lambda: module.init(jax.random.key(0), {"image": jnp.zeros((1, 8, 8, 1))}, EVAL))


def windows(module, size):
    """The paddings of rows of all convolutions and pools of more than one pixel, with their strides, as traced."""
    view = {"image": jnp.zeros((1, size, size, 1))}
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), view, EVAL))
    traced = jax.make_jaxpr(lambda v: module.apply(v, view, EVAL)["h"])(variables)
    found = []
    for e in traced.eqns:
        if e.primitive.name == "conv_general_dilated" and e.invars[1].aval.shape[0] > 1:
            found.append((e.invars[1].aval.shape[0], e.params["window_strides"][0], e.params["padding"][0]))
        if e.primitive.name == "reduce_window_max":
            found.append(("pool", e.params["window_strides"][1], e.params["padding"][1]))
    return set(found)


def test_resnet_is_padded_as_it_says():
    """32 pixels halve to 16, 8, 4, 2, 1: with "SAME" a stride of 2 has one less in front than behind."""
    plain = {(7, 2, (3, 3)), (3, 1, (1, 1)), (3, 2, (1, 1))}
    same = {(7, 2, (2, 3)), (3, 1, (1, 1)), (3, 2, (0, 1))}
    small = {"width": 1 / 64}
    assert windows(ENCODERS["resnet18"](**small), 32) == plain | {("pool", 2, (1, 1))}
    assert windows(ENCODERS["resnet18"](pool_padding="same", **small), 32) == plain | {("pool", 2, (0, 1))}
    google = ENCODERS["resnet18"](padding="same", pool_padding="same", **small)
    assert windows(google, 32) == same | {("pool", 2, (0, 1))}


@pytest.mark.parametrize("zero", [True, False])
def test_a_block_starts_as_it_says(zero):
    def make(features, kernel, stride, name):
        start = INITIALISERS["cut_normal"]
        return convolution(features, kernel, stride, kernel_init=start, name=name)

    module = Block(64, 1, True, zero, make, "float32", "float32")
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 2, 2, 256)), EVAL)["params"]
    scales = [float(params[k]["scale"].max()) for k in ("norm1", "norm2", "norm3")]
    assert scales == [1, 1, 0 if zero else 1]
    assert abs(np.std(params["conv2"]["kernel"]) / (0.8796 / 24) - 1) < 0.03
