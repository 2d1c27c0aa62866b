"""Heads over the rows of a memory slot: SwAV's queue of features, scored against the prototypes of now."""

import functools

import jax
import numpy as np
import optax
import pytest
from worlds import batch_of, bind, two_views

from hcl_jax.core import grad_cache, model
from hcl_jax.core.optim import make_optimizer
from hcl_jax.core.step import train_step
from hcl_jax.errors import InputError

ROWS = 4


def queued(**fields):
    """SwAV with a queue of two batches for each view, written from step 1 on."""
    c = two_views(ROWS, **fields)
    image = c.towers.image
    image.encoder = {"name": "mlp", "widths": (8,), "batch_norm": False}
    image.heads.z = {"name": "linear", "features": 5}
    image.heads.prototypes = {"name": "prototypes", "reads": "z", "features": 6}
    slot = {"kind": "fifo", "size": 2 * ROWS, "initial": "zeros", "starts": 1}
    image.memory = {v: {**slot, "reads": f"{v}.z"} for v in "ab"}
    inputs = (*(f"image.memory.{v}.prototypes" for v in "ab"), *(f"{v}.prototypes" for v in "ab"))
    c.objectives = {"swap": {"loss": "swav_queue", "inputs": inputs, "temperature": 0.5, "epsilon": 0.5}}
    c.optimizer.warmup_steps = 0
    return c


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@functools.cache
def three_steps():
    c = queued()
    batch = batch_of(c)
    c, bound = bind(c)
    shapes = jax.eval_shape(functools.partial(model.init, bound, optax.identity()), batch, 0)
    tx = make_optimizer(c.optimizer, shapes.params, steps=20, batch_size=ROWS, steps_per_epoch=10)
    states, step = [model.init(bound, tx, batch, 0)], jax.jit(functools.partial(train_step, bound, tx))
    for i in range(4):
        states.append(step(states[-1], batch_of(c, i))[0])
    return bound, states


def test_the_queue_is_empty_until_it_starts_and_holds_unit_rows():
    _, states = three_steps()
    filled = [int((np.asarray(s.memory["image"]["a"]["rows"]) != 0).any(1).sum()) for s in states]
    assert filled == [0, 0, 4, 8, 8]
    rows = np.asarray(states[-1].memory["image"]["b"]["rows"], np.float64)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


def test_scores_are_those_of_the_prototypes_of_now():
    bound, states = three_steps()
    for state in (states[2], states[4]):
        memory = model.recalled(bound, state.params, state.model_state, state.memory)["image"]
        rows = np.asarray(memory["a"]["rows"], np.float64)
        wanted = rows @ np.asarray(state.params["image"]["heads"]["prototypes"]["kernel"], np.float64)
        np.testing.assert_allclose(memory["a.prototypes"]["rows"], wanted, rtol=1e-4, atol=1e-5)
        assert memory["a"] is state.memory["image"]["a"]


def test_assignments_are_over_queue_and_batch_once_it_is_full():
    """The loss of the next batch with the queue that is full, and with one that is not: by hand."""
    bound, states = three_steps()
    batch, state = batch_of(queued(), 9), states[4]
    keys = model.row_keys(state.key, bound, batch)
    for memory, there in ((states[4].memory, True), (states[2].memory, False)):
        loss, _ = model.forward(bound, state, state.params, batch, keys, memory)
        params = jax.tree.map(lambda x: np.asarray(x, np.float64), state.params["image"])
        images = {v: np.asarray(batch["views"][v]["image"], np.float64).reshape(ROWS, -1) for v in "ab"}
        heads = params["heads"]
        z = {v: dense(heads["z"]["dense"], np.maximum(dense(params["encoder"]["dense1"], images[v]), 0)) for v in "ab"}
        scores = {v: unit(z[v]) @ heads["prototypes"]["kernel"] for v in "ab"}
        total = 0.0
        for c, other in ("ab", "ba"):
            rows = np.asarray(memory["image"][c]["rows"], np.float64) @ heads["prototypes"]["kernel"]
            q = np.exp((np.concatenate([rows, scores[c]]) if there else scores[c]) / 0.5)
            for _ in range(3):
                q = q / q.sum(0)
                q = q / q.sum(1, keepdims=True)
            log_p = scores[other] / 0.5
            log_p = log_p - np.log(np.exp(log_p).sum(1, keepdims=True))
            total -= (q[-ROWS:] * log_p).sum(1).mean() / 2
        np.testing.assert_allclose(loss, total, rtol=1e-5)


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


@pytest.mark.slow
def test_cached_gradients_recall_too():
    bound, states = three_steps()
    state, batch = states[4], batch_of(queued(), 9)
    keys = model.row_keys(state.key, bound, batch)
    plain = jax.jit(jax.value_and_grad(lambda p: model.forward(bound, state, p, batch, keys, state.memory)[0]))
    loss, grads = plain(state.params)
    parts = bound._replace(cache=2)
    (found, _), cached = jax.jit(lambda p: grad_cache.gradient(parts, p, state, batch, keys))(state.params)
    np.testing.assert_allclose(found, loss, rtol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6), cached, grads)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda c: c.towers.image.heads.__delitem__("prototypes"), "found .image.memory.a.prototypes., which no"),
        (
            lambda c: c.towers.image.memory.a.update(reads="a.h"),
            r"inputs\[0\]: found 'image.memory.a.prototypes', which no",
        ),
        (lambda c: c.towers.image.memory.__delitem__("b"), r"inputs\[1\]: found 'image.memory.b.prototypes', which no"),
        (lambda c: c.towers.image.memory.a.update(initial="ones"), "memory.a.initial: found 'ones'"),
        (lambda c: c.towers.image.memory.a.update(starts=-1), "memory.a.starts: found -1"),
    ],
)
def test_what_contradicts_itself_is_refused(change, line):
    c = queued()
    change(c)
    with pytest.raises(InputError, match=line):
        bind(c)
