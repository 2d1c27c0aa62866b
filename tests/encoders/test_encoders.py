"""Encoders: parameter counts, shapes, precision, names, absent rows, errors."""

import dataclasses
import inspect
from functools import partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax.encoders import ENCODERS, HEADS, Rows, resnet
from hcl_jax.errors import InputError

N = 4
TINY = {  # the ResNets with the fixture `shallow`
    "resnet18": {"stem": "small", "width": 0.125},
    "resnet50": {"stem": "imagenet", "width": 0.0625},
    "convnet": {"widths": [8, 16], "extra": True},
    "vit": {"variant": "ti/4", "width": 16, "depth": 2, "heads": 2, "mlp": 32, "registers": 2},
    "text_transformer": {"vocab_size": 50, "width": 16, "depth": 2, "heads": 2},
    "tcn": {"features": 12, "hidden": 8, "depth": 3, "dropout": 0.0},
    "series_transformer": {"width": 16, "depth": 2, "heads": 2, "patch": 4},
    "mlp": {"widths": [16, 8]},
}
WIDTH = {
    "resnet18": 16,
    "resnet50": 32,
    "convnet": 16,
    "vit": 16,
    "text_transformer": 16,
    "tcn": 12,
    "series_transformer": 16,
    "mlp": 8,
}
TOKENS = {
    "resnet18": 16,
    "resnet50": 1,
    "convnet": 4,
    "vit": 4,
    "text_transformer": 6,
    "tcn": 10,
    "series_transformer": 3,
}


@pytest.fixture
def shallow(monkeypatch):
    """Two stages of one block: the numbers of a deep one take minutes to compile."""
    monkeypatch.setitem(resnet.DEPTHS, 18, (False, (1, 1)))
    monkeypatch.setitem(resnet.DEPTHS, 50, (True, (1, 1)))


def view(dtype="float32", n=N):
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 50, (n, 6)).astype(np.int32)
    tokens[0, 3:] = 0
    return {
        "image": jnp.asarray(rng.random((n, 8, 8, 3)), dtype),
        "series": jnp.asarray(rng.normal(size=(n, 10, 2)), dtype),
        "tokens": jnp.asarray(tokens),
    }


def count(name, image=(224, 224, 3), **kwargs):
    shapes = {
        "image": jax.ShapeDtypeStruct((2, *image), jnp.float32),
        "series": jax.ShapeDtypeStruct((2, 32, 7), jnp.float32),
        "tokens": jax.ShapeDtypeStruct((2, 77), jnp.int32),
    }
    module = ENCODERS[name](**kwargs)
    tree = jax.eval_shape(lambda v: module.init(jax.random.key(0), v, Rows()), shapes)["params"]
    return sum(prod(x.shape) for x in jax.tree.leaves(tree))


# torchvision's totals less the classifier: 512 * 1000 + 1000 or 2048 * 1000 + 1000.
@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("resnet18", 11_689_512 - 513_000),
        ("resnet34", 21_797_672 - 513_000),
        ("resnet50", 25_557_032 - 2_049_000),
        ("resnet101", 44_549_160 - 2_049_000),
        ("resnet152", 60_192_808 - 2_049_000),
    ],
)
def test_resnet_has_the_published_number_of_parameters(name, total):
    assert count(name) == total


def test_resnet_small_stem_and_width():
    assert count("resnet18", (32, 32, 3), stem="small") == 11_176_512 - (49 - 9) * 3 * 64
    # SimCLR, table 1: ResNet-50 (2x) has 94 M parameters.
    assert round(count("resnet50", width=2) / 1e6) == 94


# timm's totals less the classifier and less the position that timm gives the class token.
@pytest.mark.parametrize(
    ("variant", "total", "width"),
    [
        ("ti/16", 5_717_416, 192),
        ("s/16", 22_050_664, 384),
        ("b/16", 86_567_656, 768),
        ("l/16", 304_326_632, 1024),
        ("b/32", 88_224_232, 768),
    ],
)
def test_vit_has_the_published_number_of_parameters(variant, total, width):
    assert count("vit", variant=variant) == total - (1000 * width + 1000) - width


def test_text_transformer_has_the_number_of_parameters_of_clip():
    # CLIP ViT-B/32: text embedding, positions, 12 blocks of width 512 and the last norm.
    clip = 49408 * 512 + 77 * 512 + 12 * (4 * 512 * 513 + 512 * 2048 * 2 + 2048 + 512 + 4 * 512) + 2 * 512
    assert count("text_transformer", vocab_size=49408, width=512, depth=12, heads=8, causal=True) == clip


def test_tcn_has_the_number_of_parameters_of_ts2vec():
    input_layer, small = 7 * 64 + 64, 3 * 64 * 64 + 64
    last = (3 * 64 * 320 + 320) + (3 * 320 * 320 + 320) + (64 * 320 + 320)
    assert count("tcn") == input_layer + 10 * 2 * small + last


def test_convnet_is_not_too_small():
    assert 300_000 < count("convnet", (32, 32, 3)) < count("convnet", (32, 32, 3), extra=True) < 1_200_000


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("name", list(TINY))
def test_h_is_finite_in_every_precision(name, dtype, weights):
    with jax.enable_x64(dtype == "float64"):
        kept = "float64" if dtype == "float64" else "float32"
        v, rows = view(kept), Rows(train=True)
        module = ENCODERS[name](dtype=dtype, param_dtype=kept, **TINY[name])

        variables = weights(module, v)
        y, new = jax.jit(lambda w: module.apply(w, v, rows, mutable=["batch_stats"]))(variables)
        y = y if isinstance(y, dict) else {"h": y}
        assert {str(x.dtype) for x in jax.tree.leaves((variables, new))} == {kept}
        assert {str(x.dtype) for x in y.values()} == {dtype}
        assert y["h"].shape == (N, WIDTH[name])
        assert "tokens" not in y or y["tokens"].shape == (N, TOKENS[name], WIDTH[name])
        for x in jax.tree.leaves((y, new)):
            assert np.isfinite(np.asarray(x, np.float64)).all()


@pytest.mark.slow(one=True)
@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_remat_changes_neither_numbers_nor_names(name, weights):
    with jax.enable_x64(True):
        v, types = view("float64"), {"dtype": "float64", "param_dtype": "float64"}
        drop = {} if name == "resnet18" else {"dropout": 0.5, "depth": 1}
        keys = jax.random.split(jax.random.key(0), N)
        rows = Rows(keys=keys, train=True, present=jnp.array([True, True, False, True]))
        results = []
        for remat in (False, True):
            module = ENCODERS[name](remat=remat, **{**TINY[name], **drop}, **types)
            variables = weights(module, v)

            def f(params, module=module, variables=variables):
                y, new = module.apply({**variables, "params": params}, v, rows, mutable=["batch_stats"])
                return jnp.sum(jnp.sin(y["h"])), new

            results.append(jax.jit(jax.value_and_grad(f, has_aux=True))(variables["params"]))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), *results)


def names(module, x, rows=None):
    tree = jax.eval_shape(lambda v: module.init(jax.random.key(0), v, rows or Rows()), x)["params"]
    return {"/".join(p.key for p in path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.slow
def test_parameter_names_that_sharding_rules_match():
    v = view()
    found = names(ENCODERS["resnet50"](width=0.0625), v)
    assert {"stem_conv/kernel", "stem_norm/scale", "stage1_block0/conv1/kernel", "stage4_block2/norm3/bias"} <= found
    assert "stage2_block0/shortcut_conv/kernel" in found and "stage2_block1/shortcut_conv/kernel" not in found
    found = names(ENCODERS["vit"](**TINY["vit"], pool="map"), v)
    block = {f"transformer/block1/attention/{k}/kernel" for k in ("query", "key", "value", "out")}
    block |= {"transformer/block1/mlp/up/kernel", "transformer/block1/mlp/down/kernel", "transformer/norm/scale"}
    assert block | {"patch/kernel", "position", "registers", "map/probe", "map/attention/query/kernel"} <= found
    assert block | {"token/embedding", "position"} <= names(ENCODERS["text_transformer"](**TINY["text_transformer"]), v)
    for name in ("resnet18", "vit", "text_transformer"):
        plain, remat = (names(ENCODERS[name](**TINY[name], remat=r), v) for r in (False, True))
        assert plain == remat
    assert {"input/kernel", "block3/shortcut/kernel", "block0/conv1/kernel"} <= names(ENCODERS["tcn"](**TINY["tcn"]), v)
    assert names(HEADS["projector"](), v["image"][:, 0, 0]) == {"dense1/kernel", "norm1/scale", "norm1/bias"} | {
        "dense2/kernel",
        "norm2/scale",
    }


@pytest.mark.slow(one=True)
@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", ["convnet", "mlp"])
def test_absent_rows_change_no_other_row_and_no_statistic(name, weights):
    v, module = view(), ENCODERS[name](**TINY[name])
    variables = weights(module, v)
    present = jnp.array([True, False, True, True])
    apply = jax.jit(lambda v, rows: module.apply(variables, v, rows, mutable=["batch_stats"]))

    def h(y):
        return y["h"] if isinstance(y, dict) else y

    zeros = {k: jnp.where(present.reshape(-1, *[1] * (x.ndim - 1)), x, 0) for k, x in v.items()}
    y, stats = apply(zeros, Rows(present=present, train=True))
    z, others = apply({k: x[np.asarray(present)] for k, x in v.items()}, Rows(train=True))
    assert np.isfinite(h(y)).all()
    np.testing.assert_allclose(h(y)[np.asarray(present)], h(z), rtol=2e-4, atol=2e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), stats, others)


def test_every_entry_takes_dtypes_and_plain_fields():
    for table in (ENCODERS, HEADS):
        for name, make in table.items():
            fields = inspect.signature(make).parameters
            assert name == "identity" or {"dtype", "param_dtype"} <= set(fields)
            for key, field in fields.items():
                if key not in ("parent", "name"):
                    assert isinstance(field.default, int | float | str | bool | tuple), (name, key)


def test_reads_says_which_fields_are_read():
    assert ENCODERS["resnet18"]().reads == ENCODERS["vit"]().reads == ("image",)
    assert ENCODERS["text_transformer"]().reads == ("tokens",)
    assert ENCODERS["mlp"](field="series").reads == ("series",)
    assert ENCODERS["tcn"]().reads == ("series", "inside")


def test_rows_is_a_pytree_with_static_train_and_groups():
    rows = Rows(present=jnp.ones(3, bool), train=True, bn_groups=3)
    assert len(jax.tree.leaves(rows)) == 1
    assert jax.tree.map(lambda x: x, rows).bn_groups == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        rows.train = False


@pytest.mark.parametrize(
    ("name", "kwargs", "words"),
    [
        ("vit", {"variant": "huge/16"}, ("vit.variant", "'huge/16'", "ti, s, b, l")),
        ("vit", {"variant": "b/5"}, ("vit.variant", "'5'", "16")),
        ("vit", {"variant": "ti/16", "patch": 8}, ("vit.patch", "8 beside variant 'ti/16'", "16")),
        ("vit", {"variant": "ti", "patch": 3}, ("vit.patch", "3 for 8x8", "divides")),
        ("vit", {"variant": "ti/4", "pool": "max"}, ("vit.pool", "'max'", "cls")),
        ("vit", {"variant": "ti/4", "position": "rope"}, ("vit.position", "'rope'", "sincos2d")),
        ("vit", {"variant": "ti/4", "heads": 5}, ("heads", "5", "divisor of the width 192")),
        (
            "vit",
            {"variant": "ti/4", "position": "sincos2d", "width": 6, "heads": 1},
            ("vit.width", "6", "multiple of 4"),
        ),
        ("resnet18", {"stem": "large"}, ("resnet.stem", "'large'", "small")),
        ("text_transformer", {"pool": "cls"}, ("text_transformer.pool", "'cls'", "max_id")),
        ("text_transformer", {"length": 3}, ("text_transformer.length", "6 tokens", "at most 3")),
        ("text_transformer", {"dropout": 1.5, "depth": 1}, ("dropout.rate", "1.5", "[0, 1)")),
        ("tcn", {"pool": "last"}, ("tcn.pool", "'last'", "max")),
        ("tcn", {"mask": 1.0}, ("tcn.mask", "1.0", "[0, 1)")),
        ("series_transformer", {"length": 1}, ("series_transformer.length", "2 patches", "at most 1")),
        ("mlp", {"field": "imag"}, ("mlp input", "'imag'", "image")),
    ],
)
def test_bad_input_is_refused_with_what_is_allowed(name, kwargs, words):
    module = ENCODERS[name](**kwargs)
    with pytest.raises(InputError) as error:
        jax.eval_shape(lambda v: module.init(jax.random.key(0), v, Rows()), view())
    assert all(word in str(error.value) for word in words), str(error.value)


def test_unknown_depth_and_missing_or_flat_image():
    for make, x, word in (
        (partial(ENCODERS["resnet50"], depth=20), view(), "18"),
        (ENCODERS["convnet"], {"series": view()["series"]}, "series"),
        (ENCODERS["convnet"], {"image": view()["image"][0]}, "4 axes"),
    ):
        with pytest.raises(InputError, match=word):
            jax.eval_shape(lambda v, make=make: make().init(jax.random.key(0), v, Rows()), x)
