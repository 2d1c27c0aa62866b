"""Row weights that a step makes of a frozen judge's tokens: with every kind of pairwise method, and what is refused."""

import jax
import numpy as np
import pytest
from quick import AS_USERS
from worlds import VIEWS, batch_of, bind, run, start, two_views

from hcl_jax import config as configs
from hcl_jax.config import validate
from hcl_jax.core import towers
from hcl_jax.encoders import ENCODERS, HEADS
from hcl_jax.errors import InputError
from hcl_jax.losses import LOSSES, pair_weights

PREDICTOR = {"p": {"name": "predictor", "reads": "z", "hidden": 16}}
TARGET = {"momentum": 0.9, "heads": ("z",)}
METHODS = {
    "moco": (
        {
            "target": TARGET,
            "memory": {"queue": {"kind": "fifo", "reads": "b.target.z", "size": 32}},
        },
        {"loss": "info_nce", "inputs": ("a.z", "b.target.z", "image.memory.queue"), "temperature": 0.2},
    ),
    "byol": (
        {"target": TARGET, "extra": PREDICTOR},
        {"loss": "byol", "inputs": ("a.p", "b.target.z", "b.p", "a.target.z")},
    ),
    "simsiam": ({"extra": PREDICTOR}, {"loss": "negative_cosine", "inputs": ("a.p", "b.z", "b.p", "a.z")}),
    "swav": (
        {"extra": {"s": {"name": "prototypes", "reads": "z", "features": 6}}},
        {"loss": "swav", "inputs": ("a.s", "b.s"), "temperature": 0.1},
    ),
    "simclr": ({}, {"loss": "nt_xent", "inputs": ("a.z", "b.z"), "temperature": 0.5}),
}
PAIR = {"weights": "pair_quality", "inputs": ("qa.tokens", "qb.tokens")}


def judged(method, row_weights=PAIR, **fields):
    """A method on 8 x 8 pictures, and a frozen judge with views of its own: 4 x 4 tokens."""
    tower, objective = METHODS[method]
    c = two_views(towers__image__encoder={"name": "mlp", "widths": (8,), "batch_norm": False}, **fields)
    c.optimizer.rules = (("^judge/encoder/", 0.0),)  # as run.build does for a frozen tower
    c.views.qa = {"kind": "image", "field": "image", "ops": (), "draws": "a"}
    c.views.qb = {"kind": "image", "field": "image", "ops": (), "draws": "b"}
    heads = {"z": c.towers.image.heads.z.to_dict(), **tower.get("extra", {})}
    c.towers.image.update({"heads": heads, **{k: v for k, v in tower.items() if k != "extra"}})
    c.towers.judge = {"views": ("qa", "qb"), "encoder": {"name": "convnet", "widths": (6,)}, "frozen": True}
    c.objectives = {"contrast": {**objective, **({} if row_weights is None else {"row_weights": row_weights})}}
    return c


def leaves(tree):
    return [np.asarray(x) for x in jax.tree.leaves(jax.device_get(tree))]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simsiam", "moco", "byol", "swav"])
def test_gamma_0_is_the_plain_loss_and_gamma_1_is_not(method):
    """Bit for bit, in values and in what is learned; and the judge stays as it was."""
    # Two programs with the same bits: a promise of the emitters that users have, the older ones fuse in other ways.
    plain_losses, plain = run(judged(method, None), 2, options=AS_USERS)
    losses, state = run(judged(method, {**PAIR, "gamma": 0.0}), 2, options=AS_USERS)
    assert losses == plain_losses
    for a, b in zip(leaves(state.params), leaves(plain.params), strict=True):
        np.testing.assert_array_equal(a, b)
    config = judged(method, PAIR)
    _, before = run(config, 0)
    losses, state = run(config, 2)
    assert losses != plain_losses and np.isfinite(losses).all()
    old, new = (leaves((s.params["judge"], s.model_state["judge"])) for s in (before, state))
    for a, b in zip(old, new, strict=True):
        np.testing.assert_array_equal(a, b)


def by_hand(row_weights):
    """One step's metrics, the loss of each row, and the judge's tokens of both views."""
    config = judged("simsiam", row_weights)
    state, step, put = start(config, batch_of(config))
    _, metrics = step(state, put(batch_of(config)))
    _, bound = bind(config)
    batch = batch_of(config)

    def outputs(params, stats, views):
        made = {}
        for name, tower in bound.towers.items():
            given = {v: views[v] for v in tower.views}
            made |= towers.apply(tower, params[name], stats[name], given, present={}, keys=None, train=True)[0]
        return made

    made = jax.device_get(jax.jit(outputs)(state.params, state.model_state, batch["views"]))

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    pairs = (("a", "b"), ("b", "a"))
    rows = -sum((unit(made[x]["p"]) * unit(made[y]["z"])).sum(1) for x, y in pairs) / 2
    return metrics, rows, made["qa"]["tokens"], made["qb"]["tokens"]


@pytest.mark.slow(one=True)
@pytest.mark.parametrize(
    "arguments",
    [{}, {"gamma": {"schedule": "linear", "start": 3.0, "end": 0.0, "steps": 9}}, {"shift": 1, "groups": 2}],
)
def test_the_loss_is_the_weighted_mean_of_the_rows(arguments):
    metrics, rows, one, two = by_hand({**PAIR, **arguments})
    at_start = {k: 3.0 if k == "gamma" else v for k, v in arguments.items()}
    weights = np.asarray(pair_weights(one, two, **at_start), np.float64)
    assert float(metrics["loss"]) == pytest.approx((weights * rows).mean(), rel=1e-4)
    assert float(metrics["row_weights_std/contrast"]) == pytest.approx(weights.std(), rel=1e-3)
    assert weights.std() > 1e-3 and abs((weights * rows).mean() - rows.mean()) > 1e-6


@pytest.mark.slow
def test_rows_that_the_judge_cannot_see_enter_nothing():
    """As if the view of the method itself were missing there, whatever stands in its place."""
    config = judged("simsiam")
    batch = batch_of(config, absent=("qb",))
    there = batch["present"]["qb"]
    state, step, put = start(config, batch)
    _, metrics = step(state, put(batch))
    batch["views"]["qb"]["image"][~there] = np.nan
    _, again = step(state, put(batch))
    assert 0 < there.sum() < len(there)
    assert float(metrics["loss"]) == float(again["loss"]) and np.isfinite(float(again["gradient_norm"]))
    plain = judged("simsiam", {**PAIR, "gamma": 0.0})
    other = batch_of(plain)
    other["present"] = {"qb": there}
    state, step, put = start(plain, other)
    _, seen = step(state, put(other))
    other["index"] = np.where(there, other["index"], -1)
    other["present"] = {"qb": np.ones_like(there)}
    _, ignored = step(state, put(other))
    assert float(seen["loss"]) == pytest.approx(float(ignored["loss"]), rel=1e-6)
    assert float(seen["row_weights_std/contrast"]) == 0


@pytest.mark.slow
def test_cached_gradients_keep_the_judges_tokens():
    config = judged("simclr")
    config.towers.image.heads = {"z": {"name": "linear", "features": 8}}
    whole, state = run(config, 2)
    config.train.cache = 2
    parts, other = run(config, 2)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    for a, b in zip(leaves(state.params), leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def check(config, losses=LOSSES):
    validate.check(configs.complete(config), encoders=ENCODERS, heads=HEADS, losses=losses, views=VIEWS)


@pytest.mark.parametrize(
    ("row_weights", "said"),
    [
        ({**PAIR, "weights": "pair_qualty"}, ("row_weights.weights", "'pair_qualty'", "pair_quality")),
        ({"inputs": PAIR["inputs"]}, ("row_weights.weights", "no value")),
        ({"weights": "pair_quality"}, ("row_weights.inputs", "no value")),
        ({**PAIR, "inputs": "qa.tokens"}, ("row_weights.inputs", "a list of texts")),
        ({**PAIR, "inputs": ()}, ("row_weights.inputs", "0 names", "2 (tokens_1, tokens_2)")),
        ({**PAIR, "inputs": ("qa.tokens",)}, ("row_weights.inputs", "1 names", "2 (tokens_1, tokens_2)")),
        ({**PAIR, "inputs": ("qa.tokens", "qc.tokens")}, ("row_weights.inputs", "'qc.tokens'", "no view")),
        ({**PAIR, "inputs": ("qa.tokens", 5)}, ("row_weights.inputs[1]", "5", "text")),
        ({**PAIR, "gama": 1.0}, ("row_weights.gama", "an unknown", "gamma")),
        ({**PAIR, "ids": None}, ("row_weights.ids", "an unknown")),
        ({**PAIR, "gamma": "x"}, ("row_weights.gamma", "'x'")),
        ({**PAIR, "gamma": {"learn": "linear", "init": 1.0}}, ("row_weights.gamma", "no gradient")),
        ({**PAIR, "gamma": {"schedule": "linear", "start": 1.0}}, ("row_weights.gamma", "no value")),
        ({**PAIR, "groups": 3}, ("row_weights.groups", "3", "divisor of 16")),
        ({**PAIR, "groups": 0}, ("row_weights.groups", "0", "divisor of 16")),
        ({**PAIR, "groups": 2.0}, ("row_weights.groups", "2.0")),
        ({**PAIR, "sign": "middle"}, ("row_weights.sign", "'middle'", "centre")),
        (5, ("row_weights", "5", "text or fields by name or None")),
    ],
)
def test_a_wrong_mapping_is_one_line(row_weights, said):
    with pytest.raises(InputError) as error:
        check(judged("simclr", row_weights))
    text = str(error.value)
    assert "config.objectives.contrast" in text and "\n" not in text
    assert all(word in text for word in said), text


def test_groups_divide_what_is_evaluated_too():
    config = judged("simclr", {**PAIR, "groups": 8}, evaluate__batch_size=100)
    check(config)
    config.evaluate.evaluators.objectives = {"evaluator": "objectives"}
    with pytest.raises(InputError, match="divisor of 16 and 100"):
        check(config)


def test_a_loss_that_reads_no_weights_refuses_a_mapping():
    config = judged("simclr")
    config.objectives.contrast = {"loss": "plain", "inputs": ("a.z", "b.z"), "row_weights": PAIR}
    with pytest.raises(InputError, match="plain reads no row_weights"):
        check(config, {"plain": lambda za, zb: 0.0})


def test_a_mapping_is_frozen_and_overridden_as_any_other():
    config = judged("simclr")
    configs.override(config, "objectives.contrast.row_weights.gamma", "0.5")
    configs.override(config, "objectives.contrast.row_weights.gamma", "2")
    done = configs.complete(config)
    made = done.objectives.contrast.row_weights
    assert made.to_dict() == {**PAIR, "gamma": 2} and list(made.keys()) == ["gamma", "inputs", "weights"]
    assert configs.differences(done, configs.from_json(configs.to_json(done), "here")) == {}
    check(done)
