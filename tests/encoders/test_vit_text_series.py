"""Transformers and TCN against independent formulas; padding, pooling, positions, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax.encoders import ENCODERS, Rows
from hcl_jax.encoders.positions import sincos2d
from hcl_jax.encoders.text import POOLS
from hcl_jax.encoders.transformer import Attention
from hcl_jax.encoders.vit import patches
from hcl_jax.errors import InputError

EVAL = Rows()


def text(**kwargs):
    return ENCODERS["text_transformer"](vocab_size=40, width=16, depth=1, heads=2, length=9, **kwargs)


TOKENS = np.array([[3, 9, 39, 0, 0], [5, 6, 7, 39, 8], [0, 0, 0, 0, 0]], np.int32)


def test_attention_equals_loops():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, source, mask = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 5, 4)), rng.random((2, 1, 3, 5)) < 0.7
        module = Attention(2, "float64", "float64")
        params = jax.eval_shape(module.init, jax.random.key(0), x, source)["params"]
        params = jax.tree.map(lambda p: rng.normal(size=p.shape), params)
        y = module.apply({"params": params}, jnp.asarray(x), jnp.asarray(source), jnp.asarray(mask))
        inputs = {"query": x, "key": source, "value": source}
        q, k, v = (i @ params[n]["kernel"] + params[n]["bias"] for n, i in inputs.items())
        joined = np.zeros_like(x)
        for n in range(2):
            for head in (slice(0, 2), slice(2, 4)):
                for t in range(3):
                    weight = np.exp(q[n, t, head] @ k[n, :, head].T / np.sqrt(2)) * mask[n, 0, t]
                    joined[n, t, head] = weight / weight.sum() @ v[n, :, head]
        np.testing.assert_allclose(y, joined @ params["out"]["kernel"] + params["out"]["bias"], rtol=1e-10)


def every_pool(variables, tokens, **kwargs):
    """{pool: output}, in one compilation."""

    def run(tokens):
        return {p: text(pool=p, **kwargs).apply(variables, {"tokens": tokens}, EVAL) for p in POOLS}

    return jax.device_get(jax.jit(run)(jnp.asarray(tokens)))


@pytest.mark.slow(one=True)
@pytest.mark.parametrize("causal", [False, True])
def test_padding_does_not_change_h(causal, weights):
    variables = weights(text(), {"tokens": jnp.asarray(TOKENS)})
    plain = every_pool(variables, TOKENS, causal=causal)
    padded = every_pool(variables, np.pad(TOKENS, ((0, 0), (0, 3))), causal=causal)
    for pool in POOLS:
        assert np.isfinite(padded[pool]["h"]).all()
        np.testing.assert_allclose(plain[pool]["h"], padded[pool]["h"], rtol=1e-5, atol=1e-6)


def test_pools_take_the_right_tokens(weights):
    variables = weights(text(), {"tokens": jnp.asarray(TOKENS)})
    out = every_pool(variables, TOKENS)
    x = out["mean"]["tokens"]
    np.testing.assert_allclose(out["mean"]["h"][0], x[0, :3].mean(0), rtol=1e-5, atol=1e-6)
    for pool, places in (("last", (2, 4, 0)), ("max_id", (2, 3, 0)), ("first", (0, 0, 0))):
        np.testing.assert_allclose(out[pool]["h"], x[np.arange(3), places], rtol=1e-6)


@pytest.mark.slow(one=True)
def test_padding_that_is_not_hidden_is_a_token(weights):
    """CLIP's 0 is "!" too: what stands before the end is seen, what fills the row behind it is not, being later."""
    tokens = np.array([[3, 0, 9, 39, 0, 0], [3, 9, 0, 0, 39, 0], [3, 9, 39, 0, 0, 0]], np.int32)
    variables = weights(text(), {"tokens": jnp.asarray(tokens)})
    clip = every_pool(variables, tokens, hide_padding=False, causal=True)
    cut = every_pool(variables, tokens[:, :5], hide_padding=False, causal=True)
    shown = every_pool(variables, np.where(tokens == 0, 7, tokens), hide_padding=False, causal=True)
    np.testing.assert_allclose(clip["max_id"]["h"], cut["max_id"]["h"], rtol=1e-5, atol=1e-6)
    changed = np.abs(clip["max_id"]["h"] - shown["max_id"]["h"]).max(axis=1)
    assert (changed[:2] > 1e-3).all() and changed[2] < 1e-6
    whole = every_pool(variables, tokens, hide_padding=False)  # SigLIP: all see all, and the last place is pooled
    np.testing.assert_allclose(whole["last"]["h"], whole["mean"]["tokens"][:, 5], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole["mean"]["h"], whole["mean"]["tokens"].mean(1), rtol=1e-5, atol=1e-6)
    assert np.abs(whole["last"]["h"] - every_pool(variables, tokens)["last"]["h"]).max() > 1e-3


def test_causal_tokens_do_not_see_later_ones(weights):
    tokens, other = TOKENS[1:2], TOKENS[1:2].copy()
    other[0, 3] = 11
    for causal in (True, False):
        module = text(causal=causal)
        variables = weights(module, {"tokens": jnp.asarray(tokens)})
        apply = jax.jit(lambda t, m=module, w=variables: m.apply(w, {"tokens": t}, EVAL)["tokens"])
        a, b = np.asarray(apply(tokens)), np.asarray(apply(other))
        assert np.allclose(a[0, :3], b[0, :3], atol=1e-6) is causal
        assert not np.allclose(a[0, 3:], b[0, 3:], atol=1e-3)


def vit(**kwargs):
    return ENCODERS["vit"](**{"variant": "ti/4", "width": 16, "depth": 1, "heads": 2, "mlp": 32, **kwargs})


IMAGE = jnp.asarray(np.random.default_rng(0).random((2, 8, 12, 3)), "float32")


def test_patches_are_row_by_row():
    found = np.asarray(patches(IMAGE, 4))
    assert found.shape == (2, 6, 48)
    np.testing.assert_array_equal(found[1, 4].reshape(4, 4, 3), IMAGE[1, 4:8, 4:8])


def test_sincos2d_equals_loops():
    for rows_first in (False, True):
        table = sincos2d((2, 3), 8, rows_first=rows_first)
        for row in range(2):
            for column in range(3):
                wave = [1.0, 10000 ** (-1 / 2)]
                places = (row, column) if rows_first else (column, row)
                wanted = [f(p * w) for p in places for f in (np.sin, np.cos) for w in wave]
                np.testing.assert_allclose(table[0, row * 3 + column], wanted)


@pytest.mark.slow
def test_vit_pools(weights):
    view = {"image": IMAGE}
    for pool in ("cls", "gap", "map"):
        module = vit(pool=pool, registers=3, position="sincos2d")
        variables = weights(module, view)
        assert ("cls" in variables["params"]) is (pool == "cls") and "position" not in variables["params"]
        y = jax.jit(module.apply)(variables, view, EVAL)
        assert y["h"].shape == (2, 16) and y["tokens"].shape == (2, 6, 16)
        if pool == "gap":
            np.testing.assert_allclose(y["h"], y["tokens"].mean(1), rtol=1e-6)


@pytest.mark.slow
def test_a_class_token_with_a_position_is_their_sum(weights):
    view = {"image": IMAGE}
    variables = weights(vit(class_position=True), view)
    params = dict(variables["params"])
    position = params.pop("cls_position")
    assert position.shape == (1, 1, 16) and np.abs(position).max() > 0
    summed = {**params, "cls": params["cls"] + position}
    theirs = vit(class_position=True).apply(variables, view, EVAL)["h"]
    np.testing.assert_array_equal(vit().apply({"params": summed}, view, EVAL)["h"], theirs)


def test_vit_takes_another_image_size_with_resized_positions(weights):
    module = vit(pool="gap")
    variables = weights(module, {"image": IMAGE})
    assert variables["params"]["position"].shape == (1, 2, 3, 16)
    large = jnp.asarray(np.random.default_rng(1).random((2, 16, 16, 3)), "float32")
    y = jax.jit(module.apply)(variables, {"image": large}, EVAL)
    assert y["tokens"].shape == (2, 16, 16) and np.isfinite(y["h"]).all()


@pytest.mark.slow
def test_frozen_patch_layer_gets_no_gradient(weights):
    for freeze in (True, False):
        module = vit(freeze_patch=freeze)
        variables = weights(module, {"image": IMAGE})

        @jax.jit
        @jax.grad
        def slope(params, module=module):
            return (module.apply({"params": params}, {"image": IMAGE}, EVAL)["h"] ** 2).sum()

        grads = slope(variables["params"])
        assert bool(np.abs(grads["patch"]["kernel"]).max() == 0) is freeze
        assert np.abs(grads["transformer"]["block0"]["mlp"]["up"]["kernel"]).max() > 0


def tcn(**kwargs):
    return ENCODERS["tcn"](**{"features": 6, "hidden": 4, "depth": 2, "dropout": 0.0, **kwargs})


SERIES = jnp.asarray(np.random.default_rng(0).normal(size=(3, 12, 2)), "float32")


@pytest.mark.parametrize("causal", [False, True])
def test_tcn_reach(causal, weights):
    module, series = tcn(depth=1, causal=causal), SERIES[:1]
    variables = weights(module, {"series": series})
    other = series.at[0, 6].add(1.0)
    a, b = (np.asarray(jax.jit(module.apply)(variables, {"series": s}, EVAL)["tokens"])[0] for s in (series, other))
    reach = 2 * (1 + 2)  # two convolutions of three taps at dilations 1 and 2: one tap each side, each
    changed = np.abs(a - b).max(1) > 1e-7
    wanted = [(6 <= t <= 6 + 2 * reach) if causal else abs(t - 6) <= reach for t in range(12)]
    np.testing.assert_array_equal(changed, wanted)


@pytest.mark.slow
def test_tcn_pools_and_missing_steps(weights):
    variables = weights(tcn(), {"series": SERIES})
    for pool, f in (("max", np.max), ("mean", np.mean)):
        y = jax.jit(tcn(pool=pool).apply)(variables, {"series": SERIES}, EVAL)
        np.testing.assert_allclose(y["h"], f(np.asarray(y["tokens"]), axis=1), rtol=1e-5, atol=1e-6)
    hole = SERIES.at[1, 4, 0].set(jnp.nan)
    grads = jax.jit(jax.grad(lambda w: tcn().apply(w, {"series": hole}, EVAL)["h"].sum()))(variables)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.slow
def test_tcn_mask_is_row_keyed_and_off_in_evaluation(weights):
    module, keys = tcn(mask=0.5), jax.random.split(jax.random.key(0), 3)
    variables = weights(module, {"series": SERIES})
    run = jax.jit(lambda s, k: module.apply(variables, {"series": s}, Rows(None, k, True))["tokens"])
    whole = run(SERIES, keys)
    np.testing.assert_allclose(run(SERIES[1:], keys[1:]), whole[1:], rtol=1e-5, atol=1e-6)
    clear = jax.jit(module.apply)(variables, {"series": SERIES}, EVAL)["tokens"]
    assert np.abs(np.asarray(whole) - np.asarray(clear)).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"causal": True}, {"pool": "mean"}, {"depth": 4}], ids=str)
def test_tcn_encodes_a_crop_as_if_it_were_alone(settings, weights):
    """The steps inside give what the cut series gives, in values and gradients; what lies outside gives nothing."""
    with jax.enable_x64(True):
        module = tcn(**settings, dtype="float64", param_dtype="float64")
        series = np.random.default_rng(0).normal(size=(3, 12, 2))
        series[1, 3, 0] = np.nan
        variables = jax.tree.map(lambda w: w.astype("float64"), weights(module, {"series": SERIES}))

        def run(variables, view):
            y = module.apply(variables, view, EVAL)
            return (y["h"] ** 2).sum() + (y["tokens"] ** 3).sum(), y

        gradient = jax.jit(jax.grad(run, has_aux=True))
        for length in (1, 2, 5, 12):
            inside = np.tile(np.arange(12) < length, (3, 1))
            alone, expected = gradient(variables, {"series": series[:, :length]})
            for rest in (0.0, 1e3, np.nan):
                buffer = np.where(inside[:, :, None], series, rest)
                found, y = gradient(variables, {"series": buffer, "inside": inside})
                np.testing.assert_allclose(y["tokens"][:, :length], expected["tokens"], rtol=1e-12, atol=1e-14)
                assert not y["tokens"][:, length:].any()
                np.testing.assert_allclose(y["h"], expected["h"], rtol=1e-12, atol=1e-14)
                jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), found, alone)


@pytest.mark.slow
def test_tcn_row_without_a_step_inside(weights):
    variables = weights(tcn(), {"series": SERIES})
    view = {"series": SERIES, "inside": jnp.zeros((3, 12), bool).at[1:].set(True)}
    for pool in ("max", "mean"):
        module = tcn(pool=pool)

        def run(variables, module=module):
            y = module.apply(variables, view, EVAL)
            return y["h"].sum(), y

        gradient, y = jax.jit(jax.grad(run, has_aux=True))(variables)
        assert not y["h"][0].any() and not y["tokens"][0].any() and y["h"][1:].all()
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    with pytest.raises(InputError, match=r"tcn input 'inside': found shape \(3, 11\); allowed: \(3, 12\)"):
        tcn().apply(variables, {"series": SERIES, "inside": view["inside"][:, 1:]}, EVAL)


def test_tcn_initial_values():
    """ "uniform" is PyTorch's default: kernels and biases in +-1 / sqrt(inputs), variance a third of the square."""
    module = tcn(hidden=48, depth=1, features=64, initial="uniform")
    params = jax.jit(module.init)(jax.random.key(0), {"series": SERIES}, EVAL)["params"]
    fans = {("input",): 2, ("block0", "conv2"): 3 * 48, ("block1", "conv1"): 3 * 48, ("block1", "shortcut"): 48}
    for path, fan in fans.items():
        layer = params
        for name in path:
            layer = layer[name]
        for x in map(np.asarray, layer.values()):
            assert np.abs(x).max() < fan**-0.5 < 1.2 * np.abs(x).max()
            np.testing.assert_allclose(x.var() * 3 * fan, 1, rtol=5 * x.size**-0.5)
    with pytest.raises(InputError, match="tcn.initial: found 'zero'; allowed: normal, uniform"):
        tcn(initial="zero").init(jax.random.key(0), {"series": SERIES}, EVAL)


def test_series_transformer_continues_the_last_step(weights):
    module = ENCODERS["series_transformer"](width=8, depth=1, heads=2, patch=5)
    variables = weights(module, {"series": SERIES})
    longer = jnp.concatenate([SERIES, SERIES[:, -1:], SERIES[:, -1:], SERIES[:, -1:]], axis=1)
    y, z = (jax.jit(module.apply)(variables, {"series": s}, EVAL) for s in (SERIES, longer))
    assert y["tokens"].shape == (3, 3, 8)
    np.testing.assert_allclose(y["h"], z["h"], rtol=1e-6)


@pytest.mark.parametrize("name", ["tcn", "series_transformer"])
def test_a_silent_channel_hides_itself_alone(name):
    """One sensor that gave nothing: the others are seen as if it had given 0."""
    small = (
        {"features": 8, "hidden": 8, "depth": 2} if name == "tcn" else {"width": 8, "depth": 1, "heads": 2, "patch": 4}
    )
    module = ENCODERS[name](**small)
    silent, zero = SERIES.at[:, :, 1].set(jnp.nan), SERIES.at[:, :, 1].set(0)
    variables = module.init(jax.random.key(0), {"series": zero}, EVAL)
    found, wanted = (module.apply(variables, {"series": x}, EVAL)["h"] for x in (silent, zero))
    np.testing.assert_array_equal(found, wanted)
    assert np.ptp(np.asarray(found), axis=0).max() > 1e-3


def test_a_token_below_0_is_no_other_token():
    module, tokens = text(), jnp.asarray(TOKENS).at[1, 2].set(-1)
    variables = module.init(jax.random.key(0), {"tokens": tokens}, EVAL)
    h = module.apply(variables, {"tokens": tokens}, EVAL)["h"]
    assert np.isnan(h[1]).all() and np.isfinite(h[0]).all()
