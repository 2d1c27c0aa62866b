"""Inputs of objectives by name: they reach the arrays of a loss that have these names; what does not fit is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from worlds import VIEWS, two_views

from hcl_jax import config as configs
from hcl_jax import workdir
from hcl_jax.config import validate
from hcl_jax.core import objectives
from hcl_jax.encoders import ENCODERS, HEADS
from hcl_jax.errors import InputError
from hcl_jax.losses import LOSSES
from hcl_jax.prepare import plain_inputs
from hcl_jax.similarity import dense

Z = {
    "a": {"z": jnp.array([[1.0, 2.0], [3.0, 5.0], [7.0, 1.0]])},
    "b": {"z": jnp.array([[2.0, 0.0], [1.0, 1.0], [4.0, 4.0]])},
}
BATCH = {
    "index": jnp.arange(3),
    "present": {"b": jnp.array([True, False, True])},
    "labels": {"label": jnp.array([0, 1, -1])},
    "views": {},
}
SPEC = {"loss": "ordered", "pairs": "index", "row_weights": None, "weight": 1.0}


def ordered(query, key, scale=3.0, labels=None, *, ids=None):
    """Another number for each order of its arrays, and for what is left out."""
    total = jnp.sum(jnp.where(ids == -1, 0, query[:, 0] + 10 * key[:, 1]))
    return scale * total if labels is None else scale * total + 1000 * jnp.sum(labels)


def value_of(inputs):
    sources = {"batch": BATCH, "outputs": Z, "target": {}, "memory": {}}
    measures = {"same": lambda *arrays, ids: ordered(*arrays, ids=ids)}
    spec = SPEC | {"inputs": inputs}
    value, metrics = objectives.evaluate(spec, ordered, measures, {}, dense(), step=jnp.int32(0), **sources)
    assert float(metrics["same"]) == float(value), "a measure takes the arrays in the order of the loss"
    return float(value)


def test_an_array_goes_where_its_name_says_and_not_where_it_stands():
    by_hand = 3.0 * ((1 + 10 * 0) + (7 + 10 * 4))  # row 1 lacks view b
    assert value_of(("a.z", "b.z")) == by_hand
    assert value_of({"key": "b.z", "query": "a.z"}) == by_hand
    assert value_of({"key": "a.z", "query": "b.z"}) == 3.0 * ((2 + 10 * 2) + (4 + 10 * 1))
    # The optional array in between keeps its default.
    assert value_of({"key": "b.z", "labels": "labels.label", "query": "a.z"}) == by_hand
    assert value_of({"key": "b.z", "labels": "index", "query": "a.z"}) == by_hand + 3000


def test_names_count_rows_and_spreads_as_a_list_does():
    names, listed = ({**SPEC, "inputs": x} for x in ({"key": "b.z", "query": "a.z"}, ("a.z", "b.z")))
    assert set(objectives.names_read(names)) == set(objectives.names_read(listed)) >= {"a.z", "b.z", "index"}
    assert int(objectives.counted(names, BATCH)) == int(objectives.counted(listed, BATCH)) == 2
    labelled = {**SPEC, "inputs": {"key": "labels.label", "query": "a.z"}}
    assert int(objectives.counted(labelled, BATCH)) == 2, "rows with a label"
    found = [objectives.spreads({"x": spec}, batch=BATCH, outputs=Z) for spec in (names, listed)]
    assert found[0].keys() == found[1].keys() == {"spread/a.z", "spread/b.z"}
    assert all(float(found[0][k]) == float(found[1][k]) for k in found[0])


def test_row_weights_take_names(monkeypatch):
    monkeypatch.setitem(objectives.WEIGHTS, "first", lambda x, y, *, ids, gamma: x[:, 0] + gamma * y[:, 0])
    moving = {"schedule": "linear", "start": 1.0, "end": 3.0, "steps": 4}
    spec = {"weights": "first", "inputs": {"y": "b.z", "x": "a.z"}, "gamma": moving}
    sources = {"batch": BATCH, "outputs": Z, "target": {}, "memory": {}}
    made, metrics = objectives._row_weights(spec, BATCH["index"], jnp.int32(2), sources)
    np.testing.assert_array_equal(made, [1 + 2 * 2, 3 + 2 * 1, 7 + 2 * 4])
    assert float(metrics["row_weights_gamma"]) == 2


def checked(inputs, loss="info_nce", losses=LOSSES, **fields):
    c = two_views(**fields)
    temperature = {"temperature": 0.5} if loss == "info_nce" else {}
    c.objectives = {"x": {"loss": loss, "inputs": inputs, **temperature}}
    validate.check(configs.complete(c), encoders=ENCODERS, heads=HEADS, losses=losses, views=VIEWS)


def test_names_that_fit_are_valid():
    checked({"query": "a.z", "key": "b.z"})
    checked({"key": "b.z", "query": "a.z"})


@pytest.mark.parametrize(
    ("inputs", "loss", "where", "said"),
    [
        ({"qeury": "a.z", "key": "b.z"}, "info_nce", "x.inputs.qeury", "query"),
        ({"query": "a.z"}, "info_nce", "x.inputs.key", "needed"),
        ({"query": "a.zz", "key": "b.z"}, "info_nce", "x.inputs.query", "a.z"),
        ({"query": 5, "key": "b.z"}, "info_nce", "x.inputs.query", "text"),
        ({"query": "a.z", "key": "b.z", "temperature": "a.h"}, "info_nce", "x.inputs.temperature", "query"),
        ({"views": "a.z"}, "sup_con", "x.inputs", "a list"),
        ({}, "info_nce", "x.inputs", "query"),
    ],
)
def test_names_that_do_not_fit_are_one_line(inputs, loss, where, said):
    with pytest.raises(InputError) as error:
        checked(inputs, loss)
    assert error.value.where.startswith(f"config.objectives.{where}") and said in str(error.value)


def test_the_command_line_names_inputs():
    c = configs.load("moco:digits")
    configs.override(c, "objectives.contrast.inputs", "{'query': 'a.z', 'key': 'b.target.z'}")
    assert c.objectives.contrast.inputs.to_dict() == {"query": "a.z", "key": "b.target.z"}
    configs.override(c, "objectives.contrast.inputs.key", "a.target.z")
    assert configs.complete(c).objectives.contrast.inputs.key == "a.target.z"
    configs.override(c, "objectives.contrast.inputs", "('a.z', 'b.target.z')")
    assert c.objectives.contrast.inputs == ("a.z", "b.target.z")


def test_a_run_that_was_begun_with_a_list_goes_on_with_names():
    new = configs.complete(configs.load("dpo:preferences"))
    both = ("chosen", "rejected")
    listed = [f"{v}.logits" for v in both] + [f"{v}.target.logits" for v in both]
    listed += [f"views.{v}.tokens" for v in both] + [f"views.{v}.response" for v in both]
    old = new.copy_and_resolve_references()
    with old.unlocked(), old.objectives.preference.ignore_type():
        old.objectives.preference.inputs = tuple(listed)
    assert not workdir.allowed(plain_inputs(LOSSES, old), plain_inputs(LOSSES, new), "config.json")
    with old.unlocked():
        old.objectives.preference.inputs = (listed[1], listed[0], *listed[2:])
    with pytest.raises(InputError, match=r"objectives\.preference\.inputs"):
        workdir.allowed(plain_inputs(LOSSES, old), plain_inputs(LOSSES, new), "config.json")


def test_a_loss_that_is_not_told_of_absent_rows_is_refused():
    def plain(query, key):
        return jnp.mean(query * key)

    losses = {**LOSSES, "plain": plain}
    checked(("a.z", "b.z"), "plain", losses)  # no row can be absent
    for fields in ({"evaluate__objectives": True}, {"data__order": "whole"}):
        with pytest.raises(InputError, match=r"objectives\.x\.loss: found 'plain', which reads no ids"):
            checked(("a.z", "b.z"), "plain", losses, **fields)
    spec = {**SPEC, "loss": "plain", "inputs": {"query": "a.z", "key": "a.z"}}
    objectives.check_absent("config.objectives.x", spec, plain, BATCH["present"])  # view a is never absent
    spec["inputs"] = {"query": "a.z", "key": "b.z"}
    with pytest.raises(InputError, match=r"config\.objectives\.x\.loss.*rows without b"):
        objectives.check_absent("config.objectives.x", spec, plain, BATCH["present"])
    objectives.check_absent("config.objectives.x", spec, ordered, BATCH["present"])
