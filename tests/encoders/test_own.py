"""Encoders of a user, of each kind, behind Linen's two methods."""

import functools
import pathlib
import runpy

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hcl_jax.encoders.inputs import Rows
from hcl_jax.encoders.own import given_by_tower, module_of
from hcl_jax.errors import InputError

X = {"features": jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)}
WHERE = "config.towers.t.encoder.name"


class OfLinen(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, view, rows):
        y = nn.BatchNorm(use_running_average=not rows.train)(nn.Dense(self.width)(view["features"]))
        return {"h": nn.relu(y), "before": y}


class OfNNX(nnx.Module):
    def __init__(self, width: int = 4, *, rngs: nnx.Rngs):
        self.dense, self.norm = nnx.Linear(3, width, rngs=rngs), nnx.BatchNorm(width, rngs=rngs)

    def __call__(self, view, rows):
        y = self.norm(self.dense(view["features"]), use_running_average=not rows.train)
        return {"h": nnx.relu(y), "before": y}


class OfEquinox(eqx.Module):
    layers: list
    act: object = jax.nn.relu

    def __init__(self, width: int = 4, *, key):
        self.layers = [eqx.nn.Linear(3, width, key=key)]

    def __call__(self, view, rows):
        return self.act(jax.vmap(self.layers[0])(view["features"]))


def doubled(view, rows, scale: float = 2.0):
    """A fixed transform."""
    return scale * view["features"]


def train(module):
    """Three steps of gradient descent on the mean square of h; parameters, statistics and losses."""
    h = lambda y: y["h"] if isinstance(y, dict) else y  # noqa: E731
    y, variables = module.init_with_output(jax.random.key(0), X, Rows())
    params, stats = variables.get("params", {}), variables.get("batch_stats", {})

    @jax.jit
    def step(params, stats):
        def loss_of(params):
            variables = {"params": params, "batch_stats": stats}
            out, new = module.apply(variables, X, Rows(train=True), mutable=["batch_stats"])
            return jnp.mean((h(out) - 1) ** 2), new

        (loss, new), slope = jax.value_and_grad(loss_of, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, slope), new.get("batch_stats", stats), loss

    losses = []
    for _ in range(3):
        params, stats, loss = step(params, stats)
        losses.append(float(loss))
    last = module.apply({"params": params, "batch_stats": stats}, X, Rows())
    return params, stats, losses, last


def test_nnx_trains_as_linen():
    """Weights copied from one to the other: parameters, running statistics and outputs after three steps are equal."""
    linen, nnx_ = module_of(OfLinen, {"width": 5}, WHERE), module_of(OfNNX, {"width": 5}, WHERE)
    dense = linen.init(jax.random.key(0), X, Rows())["params"]["Dense_0"]

    class Same:
        def init_with_output(self, key, x, rows):
            y, variables = nnx_.init_with_output(key, x, rows)
            return y, {**variables, "params": {**variables["params"], "dense": dense}}

        apply = staticmethod(nnx_.apply)

    ours, theirs = train(Same()), train(linen)
    assert ours[2] == pytest.approx(theirs[2], rel=1e-6) and theirs[2][2] < theirs[2][0]
    np.testing.assert_allclose(ours[0]["dense"]["kernel"], theirs[0]["Dense_0"]["kernel"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(ours[1]["norm"]["mean"], theirs[1]["BatchNorm_0"]["mean"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(ours[3]["h"], theirs[3]["h"], rtol=1e-5, atol=1e-6)


def test_equinox_trains_and_names_its_parameters():
    module = module_of(functools.partial(OfEquinox, width=5), {}, WHERE)
    params, stats, losses, last = train(module)
    assert jax.tree.map(jnp.shape, params) == {"layers": {"0": {"weight": (5, 3), "bias": (5,)}}} and stats == {}
    assert losses[0] > losses[1] > losses[2]
    layer = jax.tree.map(np.asarray, params["layers"]["0"])
    wanted = np.maximum(np.asarray(X["features"]) @ layer["weight"].T + layer["bias"], 0)
    np.testing.assert_allclose(last, wanted, rtol=1e-5, atol=1e-6)


def test_a_function_has_no_parameters():
    params, _, _, last = train(module_of(doubled, {"scale": 3.0}, WHERE))
    assert params == {}
    np.testing.assert_array_equal(last, 3 * X["features"])


def test_a_function_may_make_a_linen_module():
    assert module_of(lambda wide: OfLinen(width=wide), {"wide": 7}, WHERE).width == 7


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (OfLinen(), "an instance of OfLinen: "),
        (OfNNX(rngs=nnx.Rngs(0)), "an instance of OfNNX: "),
        (OfEquinox(key=jax.random.key(0)), "an instance of OfEquinox: "),
        ("mine", "an instance of str: 'mine'"),
        (lambda: jnp.ones(3), "an instance of ArrayImpl: "),
        (dict, "the class dict"),
    ],
)
def test_anything_else_is_refused(make, found):
    with pytest.raises(InputError) as error:
        given_by_tower(make, WHERE)
        module_of(make, {}, WHERE)
    assert str(error.value).startswith(f"{WHERE}: found {found}")
    assert str(error.value).endswith("a class of Flax Linen, NNX or Equinox, or a function f(view, rows)")


def test_the_examples_of_the_page(tmp_path):
    text = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "core.md").read_text()
    block = text.partition("## Encoders of any kind")[2].partition("```python\n")[2].partition("```")[0]
    (tmp_path / "block.py").write_text(block)
    made = runpy.run_path(str(tmp_path / "block.py"))
    view, shapes = {"image": jnp.ones((6, 8, 8, 1))}, []
    for name in ("OfLinen", "OfNNX", "OfEquinox", "handmade"):
        y, _ = module_of(made[name], {}, WHERE).init_with_output(jax.random.key(0), view, Rows())
        shapes.append(y.shape)
    assert shapes == [(6, 64), (6, 64), (6, 64), (6, 8)]
