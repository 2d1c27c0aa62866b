"""The losses of a split: means over tokens, pixels, pairs and rows, the same whatever the batches are."""

import jax
import numpy as np
import optax
import pytest
from worlds import bind, two_views

from hcl_jax.core import model
from hcl_jax.evaluators.objectives import objectives
from hcl_jax.losses import COUNTS

ROWS, PLACES, WORDS = 15, 6, 5
SIDES = ("logits", "other", "tokens", "response")


def examples():
    """Rows with few and with many tokens, hidden pixels and labels; one lacks view b, one is padding."""
    random = np.random.default_rng(0)

    def noise(*shape, scale=1):
        x = random.normal(size=(ROWS, *shape)) * np.reshape(scale, (-1, *(1 for _ in shape)))
        return x.astype(np.float32)

    def view():
        length = random.integers(0, PLACES + 1, ROWS)
        inside = np.arange(PLACES)[None] < length[:, None]
        return {
            "image": noise(4, 4, 1),
            "guess": noise(4, 4, 1, scale=1 + np.arange(ROWS)),
            "hidden": random.random((ROWS, 4)) < np.linspace(0.1, 0.9, ROWS)[:, None],
            "logits": noise(PLACES, WORDS, scale=1 + length),
            "other": noise(PLACES, WORDS),
            "scores": noise(3, scale=1 + np.arange(ROWS)),
            "tokens": np.where(inside, random.integers(1, WORDS, (ROWS, PLACES)), 0).astype(np.int32),
            "response": inside & (random.random((ROWS, PLACES)) < 0.7),
        }

    batch = {
        "index": np.where(np.arange(ROWS) == 14, -1, np.arange(ROWS)).astype(np.int32),
        "labels": {"label": np.where(np.arange(ROWS) < 6, -1, np.arange(ROWS) % 3).astype(np.int32)},
        "present": {"b": np.arange(ROWS) != 4},
        "views": {"a": view(), "b": view()},
    }
    return batch


def log_softmax(x):
    x = x.astype(np.float64)
    return x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(-1, keepdims=True)


def by_hand(batch):
    """Each loss as one sum over the split, divided by one count."""
    a, b = batch["views"]["a"], batch["views"]["b"]
    real = batch["index"] >= 0
    both = real & batch["present"]["b"]

    def of_tokens(logits, view, rows):
        counted = (view["tokens"] != 0)[:, 1:] & view["response"][:, 1:] & rows[:, None]
        picked = np.take_along_axis(log_softmax(logits[:, :-1]), view["tokens"][:, 1:, None], -1)[..., 0]
        return np.where(counted, picked, 0), counted

    tokens, counted = of_tokens(a["logits"], a, real)
    hidden = np.broadcast_to(a["hidden"][:, :, None, None], a["guess"].shape) & both[:, None, None, None]
    square = (a["guess"].astype(np.float64) - b["image"]) ** 2
    label = batch["labels"]["label"]
    known = real & (label >= 0)
    right = np.take_along_axis(log_softmax(a["scores"]), np.maximum(label, 0)[:, None], -1)[:, 0]
    h, valid = 0.0, both
    for sign, view in ((1, a), (-1, b)):
        ours, has = of_tokens(view["logits"], view, both)
        h = h + sign * (ours.sum(1) - of_tokens(view["other"], view, both)[0].sum(1))
        valid = valid & has.any(1)
    return {
        "loss/tokens": -tokens.sum() / counted.sum(),
        "loss/pixels": square[hidden].sum() / hidden.sum(),
        "loss/classes": -right[known].sum() / known.sum(),
        "top1/classes": (a["scores"].argmax(1) == label)[known].sum() / known.sum(),
        "loss/pairs": np.log1p(np.exp(-0.1 * h[valid])).sum() / valid.sum(),
        "accuracy/pairs": (h > 0)[valid].sum() / valid.sum(),
    }


@pytest.fixture(scope="module")
def evaluated():
    """(number of rows a batch, by what a batch is weighted) -> the numbers of the split."""
    config = two_views(batch_size=ROWS)
    config.towers.image.encoder, config.towers.image.heads = {"name": "mlp", "widths": (4,)}, {}
    pair = tuple(f"views.{v}.{field}" for field in SIDES for v in "ab")
    config.objectives = {
        "tokens": {"loss": "next_token", "inputs": ("views.a.logits", "views.a.tokens", "views.a.response")},
        "pixels": {"loss": "mean_squared_error", "inputs": ("views.a.guess", "views.b.image", "views.a.hidden")},
        "classes": {"loss": "cross_entropy", "inputs": ("views.a.scores", "labels.label")},
        "pairs": {"loss": "dpo", "inputs": pair},
    }
    _, bound = bind(config)
    whole = examples()
    state = model.init(bound, optax.identity(), whole, 0)

    def read(size, counts=COUNTS):
        run = jax.jit(lambda batch: model.evaluate(bound, counts, state, state.params, batch))
        parts = [jax.tree.map(lambda x, s=s: x[s : s + size], whole) for s in range(0, ROWS, size)]
        return objectives(jax.device_get(run(part)) for part in parts).metrics

    return read


def test_means_are_those_of_all_tokens_pixels_pairs_and_rows(evaluated):
    expected = by_hand(examples())
    for size in (3, 5, ROWS):
        found = evaluated(size)
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6, abs=1e-6), size
        assert not any(name.startswith("count/") for name in found)


def test_weighing_by_rows_is_seen(evaluated):
    """The fault that this file is about: a mean of the batches' means, weighted by present rows."""
    exact, by_rows = by_hand(examples()), evaluated(3, {})
    assert all(abs(exact[name] / by_rows[name] - 1) > 1e-3 for name in ("loss/tokens", "loss/pixels", "loss/pairs"))


def test_what_nothing_was_counted_for_is_left_out():
    batches = [({"a": 1.0, "b": np.nan}, {"a": 3, "b": 0}), ({"a": 2.0, "b": np.nan}, {"a": 1, "b": 0})]
    assert objectives(batches).metrics == {"a": 1.25}
