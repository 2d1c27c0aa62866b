"""Optimizers and schedules against NumPy oracles written from the published algorithms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optimizer_oracle import CONFIG, EXCLUDED, GRADS, RUN, by_hand, close, numbers, run

from hcl_jax.core.optim import DEFAULT_EXCLUDE, OPTIMIZERS, make_optimizer
from hcl_jax.core.patterns import path_mask
from hcl_jax.core.schedules import make_schedule, warmup_length
from hcl_jax.core.weight_average import average_of, restart_average, weight_average
from hcl_jax.errors import InputError


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd(nesterov, momentum):
    def step(name, w, g, slot, t):
        g = g + (0 if name in EXCLUDED else 0.01) * w
        v = slot["v"] = momentum * slot.get("v", 0) + g
        return w - 0.1 * (g + momentum * v if nesterov else v)

    changes = {"weight_decay": 0.01, "momentum": momentum, "nesterov": nesterov}
    found, _ = run(changes, numbers(0), GRADS)
    close(found, by_hand(step, numbers(0), GRADS))


def adamw(name, w, g, slot, t):
    m = slot["m"] = 0.9 * slot.get("m", 0) + 0.1 * g
    v = slot["v"] = 0.999 * slot.get("v", 0) + 0.001 * g**2
    u = (m / (1 - 0.9 ** (t + 1))) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)
    return w - 0.1 * (u + (0 if name in EXCLUDED else 0.05) * w)


def test_adamw():
    found, _ = run({"name": "adamw", "weight_decay": 0.05}, numbers(0), GRADS)
    close(found, by_hand(adamw, numbers(0), GRADS))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
def test_lars_is_simclrs(weight_decay, nesterov):
    """Classic momentum: the rate is inside the velocity. A warming rate tells it from the other kind."""
    rates = [0.1 * t / 4 for t in range(3)]

    def step(name, w, g, slot, t):
        trust = 1.0
        if name not in EXCLUDED:
            g = g + weight_decay * w
            w_norm, g_norm = np.sqrt((w**2).sum()), np.sqrt((g**2).sum())
            trust = 1e-3 * w_norm / g_norm if w_norm > 0 and g_norm > 0 else 1.0
        v = slot["v"] = 0.9 * slot.get("v", 0) + rates[t] * trust * g
        return w - (0.9 * v + rates[t] * trust * g if nesterov else v)

    params = numbers(0)
    params["out"]["kernel"] *= 0  # a norm of zero: trust ratio 1
    changes = {"name": "lars", "weight_decay": weight_decay, "warmup_steps": 4, "nesterov": nesterov}
    found, _ = run(changes, params, GRADS)
    close(found, by_hand(step, params, GRADS))


def test_lamb():
    def step(name, w, g, slot, t):
        m = slot["m"] = 0.9 * slot.get("m", 0) + 0.1 * g
        v = slot["v"] = 0.999 * slot.get("v", 0) + 0.001 * g**2
        u = (m / (1 - 0.9 ** (t + 1))) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-6)
        if name in EXCLUDED:
            return w - 0.1 * u
        u = u + 0.05 * w
        return w - 0.1 * np.linalg.norm(w.ravel()) / np.linalg.norm(u.ravel()) * u

    found, _ = run({"name": "lamb", "weight_decay": 0.05}, numbers(0), GRADS)
    close(found, by_hand(step, numbers(0), GRADS))


def test_schedule_is_simclrs():
    """`learning_rate_schedule` of SimCLR's code, for its CIFAR-10 setting."""
    examples, batch_size, epochs, warmup_epochs = 50000, 512, 20, 10
    steps = examples * epochs // batch_size + 1
    warmup = int(round(warmup_epochs * examples // batch_size))
    peak = 0.3 * batch_size / 256.0
    config = CONFIG | {"learning_rate": 0.3, "scaling": "linear", "schedule": "cosine", "warmup_epochs": 10.0}
    rate = make_schedule(config, steps=steps, batch_size=batch_size, steps_per_epoch=examples / batch_size)
    for t in (0, 1, warmup - 1, warmup, warmup + 1, (warmup + steps) // 2, steps - 1, steps, steps + 7):
        part = min(t - warmup, steps - warmup) / (steps - warmup)
        expected = t / warmup * peak if t < warmup else peak * 0.5 * (1 + math.cos(math.pi * part))
        assert abs(float(rate(t)) - expected) < 1e-12
    assert float(rate(0)) == 0 and float(rate(warmup)) == peak and float(rate(steps)) < 1e-15


def test_schedule_shapes_and_scalings():
    def peak(**changes):
        return float(make_schedule(CONFIG | changes, steps=9, batch_size=4096, steps_per_epoch=3)(5))

    assert peak() == 0.1
    assert peak(scaling="linear", learning_rate=0.3) == pytest.approx(4.8)
    assert peak(scaling="sqrt", learning_rate=0.075) == pytest.approx(4.8)
    assert jax.jit(make_schedule(CONFIG, **RUN))(jnp.int32(3)).shape == ()
    config = CONFIG | {"warmup_epochs": 10.0, "schedule": "cosine"}
    short = make_schedule(config, steps=2, batch_size=64, steps_per_epoch=5)
    assert [float(short(t)) for t in (0, 1)] == pytest.approx([0, 0.1 / 50])


@pytest.mark.parametrize("examples, batch_size", [(50000, 4096), (60000, 512), (1797, 256), (1281167, 4096)])
def test_warmup_length_is_simclrs(examples, batch_size):
    for epochs in (1, 5, 10):
        config = {"warmup_steps": 0, "warmup_epochs": float(epochs)}
        assert warmup_length(config, examples / batch_size) == epochs * examples // batch_size
    assert warmup_length({"warmup_steps": 7, "warmup_epochs": 3.0}, 10) == 7


def test_no_warmup_starts_at_the_peak():
    assert float(make_schedule(CONFIG | {"schedule": "cosine"}, **RUN)(0)) == 0.1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rules_freeze_scale_and_ascend(name):
    params = numbers(0)
    plain, _ = run({"name": name, "weight_decay": 0.1}, params, GRADS[:1])
    rules = (("^conv/kernel$", 0), ("^conv/", 0.5), ("^bn/", -1.0))
    bad = GRADS[0] | {"conv": GRADS[0]["conv"] | {"kernel": np.full((3, 3, 2, 4), np.nan)}}
    found, state = run({"name": name, "weight_decay": 0.1, "rules": rules}, params, [bad])
    moved = jax.tree.map(lambda new, old: new - old, plain, params)
    np.testing.assert_array_equal(found["conv"]["kernel"], params["conv"]["kernel"])
    close(found["conv"]["bias"], params["conv"]["bias"] + 0.5 * moved["conv"]["bias"])
    close(found["bn"]["scale"], params["bn"]["scale"] - moved["bn"]["scale"])
    close(found["out"], plain["out"])
    assert all(leaf.shape != (3, 3, 2, 4) for leaf in jax.tree.leaves(state)), "a frozen parameter needs no state"


def test_everything_frozen():
    params = numbers(0)
    found, _ = run({"name": "adamw", "rules": ((".*", 0),), "clip": 1.0, "average": 0.9}, params, GRADS)
    close(found, params, 0)


def test_clip_is_by_the_norm_of_what_is_trained():
    def norm(tree):
        return math.sqrt(sum((x**2).sum() for x in jax.tree.leaves(tree)))

    params, grads = numbers(0), GRADS[0]
    found, _ = run({"clip": 0.5, "momentum": 0.0}, params, [grads])
    close(found, jax.tree.map(lambda p, g: p - 0.1 * g * 0.5 / norm(grads), params, grads))
    found, _ = run({"clip": 1e6, "momentum": 0.0}, params, [grads])
    close(found, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads))
    found, _ = run({"clip": 0.5, "momentum": 0.0, "rules": (("^conv", 0),)}, params, [grads])
    trained = {k: grads[k] for k in ("bn", "out")}
    expected = jax.tree.map(lambda p, g: p - 0.1 * g * 0.5 / norm(trained), {k: params[k] for k in trained}, trained)
    close({k: found[k] for k in trained}, expected)


def test_weight_average():
    params = numbers(0)
    expected = params
    after = [run({"momentum": 0.0}, params, GRADS[:n])[0] for n in (1, 2, 3)]
    for t, new in enumerate(after, 1):
        d = min(0.25, (1 + t) / (10 + t))
        expected = jax.tree.map(lambda a, p, d=d: d * a + (1 - d) * p, expected, new)
    found, state = run({"momentum": 0.0, "average": 0.25}, params, GRADS)
    close(found, after[-1])
    close(average_of(state), expected)
    assert average_of(run({}, params, GRADS)[1]) is None


def test_average_of_decay_1_is_the_plain_mean_of_the_iterates():
    params = numbers(0)
    after = [run({}, params, GRADS[:n])[0] for n in (1, 2, 3)]
    found, state = run({"average": 1.0}, params, GRADS)
    close(found, after[-1])
    close(average_of(state), jax.tree.map(lambda *x: np.mean(x, 0), *after))


def sgd_with_momentum(name, w, g, slot, t):
    v = slot["v"] = 0.9 * slot.get("v", 0) + g + (0 if name in EXCLUDED else 0.05) * w
    return w - 0.1 * v


@pytest.mark.parametrize("factor", [1, -0.5])
@pytest.mark.parametrize(("name", "plain"), [("sgd", sgd_with_momentum), ("adamw", adamw)])
def test_unit_norm_puts_columns_back_to_length_1(name, plain, factor):
    """Momentum, decay and the multiplier of the rules come before; the columns are unit after each of the updates."""

    def step(leaf, w, g, slot, t):
        new = plain(leaf, w, g, slot, t)
        if w.shape != (4, 5):
            return new
        new = w + factor * (new - w)
        return new / np.sqrt((new**2).sum(0))

    changes = {"name": name, "weight_decay": 0.05, "unit_norm": ("^out/",), "average": 1.0}
    changes |= {} if factor == 1 else {"rules": (("^out/", factor),)}
    after = [run(changes, numbers(0), GRADS[:n]) for n in (1, 2, 3)]
    for n, (found, _) in enumerate(after, 1):
        close(found, by_hand(step, numbers(0), GRADS[:n]))
        np.testing.assert_allclose(np.linalg.norm(found["out"]["kernel"], axis=0), 1, rtol=1e-12)
    kernels = [found["out"]["kernel"] for found, _ in after]
    close(average_of(after[-1][1])["out"]["kernel"], np.mean(kernels, 0))  # of what is trained, not of the raw steps


def test_unit_norm_of_a_column_of_zeros_is_finite_and_in_its_dtype():
    params, grads = (numbers(i, np.float32) for i in (0, 1))
    params["out"]["kernel"][:, 2] = grads["out"]["kernel"][:, 2] = 0
    found, _ = run({"unit_norm": ("out",)}, params, [grads])
    assert found["out"]["kernel"].dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found["out"]["kernel"], axis=0), [1, 1, 0, 1, 1], rtol=1e-6)
    optimizer = make_optimizer(CONFIG | {"unit_norm": ("out",)}, params, **RUN)
    with pytest.raises(ValueError, match="needs params"):
        optimizer.update(grads, optimizer.init(params))


def test_unit_norm_leaves_frozen_kernels_alone_and_takes_kernels_only():
    found, _ = run({"unit_norm": ("^out/",), "rules": (("^out/", 0.0),)}, numbers(0), GRADS)
    np.testing.assert_array_equal(found["out"]["kernel"], numbers(0)["out"]["kernel"])
    with pytest.raises(InputError, match=r"optimizer.unit_norm\[0\]: found 'conv': conv/.*kernels \[D, K\] only"):
        make_optimizer(CONFIG | {"unit_norm": ("conv",)}, numbers(0), **RUN)


def test_average_is_a_copy_and_at_least_float32():
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), numbers(0))
    average = average_of(make_optimizer(CONFIG | {"average": 0.9}, params, **RUN).init(params))
    assert {leaf.dtype for leaf in jax.tree.leaves(average)} == {jnp.dtype("float32")}
    params = jax.tree.map(jnp.asarray, numbers(0))
    average = weight_average(0.9).init(params).average
    jax.tree.map(lambda p: p.delete(), params)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(average))
    with pytest.raises(ValueError, match="needs params"):
        weight_average(0.9).update(average, weight_average(0.9).init(average))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dtypes_are_kept(name, dtype):
    params = numbers(0, dtype)
    changes = {"name": name, "weight_decay": 0.1, "clip": 1.0, "average": 0.9, "rules": (("^bn/", 0.1), ("^out", 0))}
    found, state = run(changes, params, [numbers(1, dtype)])
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(dtype)}
    kept = {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.ndim}
    assert kept == {np.dtype(dtype)}


def test_default_exclude():
    encoder = {"kernel": 0, "bias": 0, "bn": {"scale": 0}}
    tree = {"image": {"encoder": encoder}, "objectives": {"clip": {"temperature": 0}}}
    kept = path_mask(DEFAULT_EXCLUDE)(tree)
    expected = {"kernel": True, "bias": False, "bn": {"scale": False}}
    assert kept == {"image": {"encoder": expected}, "objectives": {"clip": {"temperature": False}}}


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"name": "adamm"}, "optimizer.name: found 'adamm'; allowed: adamw"),
        ({"scaling": "cubic"}, "optimizer.scaling: found 'cubic'; allowed: none, linear, sqrt"),
        ({"schedule": "step"}, "optimizer.schedule: found 'step'; allowed: cosine, constant, multistep"),
        ({"learning_rate": -0.1}, "optimizer.learning_rate: found -0.1"),
        ({"learning_rate": float("nan")}, "optimizer.learning_rate: found nan"),
        ({"average": 1.5}, "optimizer.average: found 1.5; allowed: a number from 0 to 1"),
        ({"clip": -1}, "optimizer.clip: found -1"),
        ({"momentum": 1}, "optimizer.momentum: found 1"),
        ({"exclude": ("(",)}, r"optimizer.exclude\[0\]: found '\('"),
        ({"rules": (("convv", 0),)}, r"optimizer.rules\[0\]: found 'convv', which no parameter .* nearest conv"),
        ({"rules": (("conv", "0"),)}, r"optimizer.rules\[0\]: found '0'"),
        ({"rules": ("conv",)}, r"optimizer.rules\[0\]: found 'conv'; allowed: a pair"),
        ({"unit_norm": ("out", "(")}, r"optimizer.unit_norm\[1\]: found '\(' .*; allowed: a Python regular expression"),
        (
            {"unit_norm": ("prototypes",)},
            r"optimizer.unit_norm\[0\]: found 'prototypes', which no parameter .* nearest",
        ),
        ({"average": -0.1}, "optimizer.average: found -0.1"),
    ],
)
def test_bad_input_names_the_field(changes, text):
    with pytest.raises(InputError, match=text):
        make_optimizer(CONFIG | changes, numbers(0), **RUN)


def test_a_restarted_average_is_at_the_new_weights_and_shares_nothing():
    old, new = (jax.tree.map(jnp.asarray, numbers(i)) for i in (0, 1))
    optimizer = make_optimizer(CONFIG | {"average": 0.9}, old, **RUN)
    state = restart_average(optimizer.init(old), new)
    close(average_of(state), new)
    jax.tree.map(lambda p: p.delete(), new)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(average_of(state)))
    plain = make_optimizer(CONFIG, old, **RUN).init(old)
    assert jax.tree.structure(restart_average(plain, old)) == jax.tree.structure(plain)
