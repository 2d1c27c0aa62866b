"""Warnings from logged numbers, and `spread/<output>` of a training step, both against NumPy."""

import math

import jax
import numpy as np
import pytest
from worlds import bind, start, two_views

from hcl_jax import config as configs
from hcl_jax.core import objectives
from hcl_jax.errors import InputError
from hcl_jax.workdir import alarms
from hcl_jax.workdir.alarms import State, spike

ROWS = 16


def spike_by_hand(loss, earlier):
    earlier = np.array([x for x in earlier if np.isfinite(x)], np.float64)[-50:]
    middle = np.median(earlier)
    return (loss - middle) / max(1.4826 * np.median(np.abs(earlier - middle)), 0.01 * abs(middle))


def test_spike_is_in_robust_deviations():
    random = np.random.default_rng(0)
    for n in (10, 11, 50, 200):
        earlier = random.normal(2.0, 0.3, n).tolist()
        for loss in (1.0, 2.0, 3.0, 30.0):
            assert spike(loss, earlier) == pytest.approx(spike_by_hand(loss, earlier), rel=1e-12)
    # A third of the history may be anything.
    wild = random.normal(2.0, 0.3, 40)
    wild[::3] = 1e9
    assert 2 < spike(4.0, wild.tolist()) < 12
    holes = [math.nan, math.inf, *earlier[:6], -math.inf, *earlier[6:]]
    assert spike(3.0, holes) == spike(3.0, earlier)


def test_spike_at_the_limits():
    assert spike(100.0, [1.0] * 9) == spike(math.inf, [1.0] * 9) == 0
    assert spike(100.0, [1.0] * 9 + [math.nan] * 9) == 0
    assert spike(1.5, [1.0] * 10) == pytest.approx(50), "a flat history: one deviation is 1 %"
    assert spike(-1.5, [-2.0] * 10) == pytest.approx(25)
    assert spike(0.0, [0.0] * 10) == 0 and math.isfinite(spike(1.0, [0.0] * 10))
    assert spike(math.nan, [1.0] * 10) == spike(math.inf, [1.0] * 10) == math.inf
    # Only the last 50 count: the loss of an untrained network is forgotten.
    assert spike(1.5, [100.0] * 1000 + [1.0] * 50) == pytest.approx(50)


def told(lines, spike_above=10.0, collapse_below=0.05, steps=None):
    """{step: its warnings} of lines that stand at steps 1, 2, 3, ..."""
    seen, found = State(), {}
    for step, line in enumerate(lines, 1):
        seen, texts = alarms.warnings(
            seen, step, line, spike_above=spike_above, collapse_below=collapse_below, skipped_steps=steps
        )
        assert all("\n" not in text and text.startswith(f"step {step}: ") for text in texts)
        if texts:
            found[step] = texts
    return found


def losses(*values):
    return [{"loss": v} for v in values]


def test_a_spike_is_told_of_once():
    quiet = [2.0, 2.1, 1.9, 2.05, 1.95] * 4
    found = told(losses(*quiet, 9.0, 9.5, 2.0, 9.0))
    assert list(found) == [21, 24]
    assert "loss 9 is 94 deviations above 2," in found[21][0] and "optimizer.learning_rate" in found[21][0]
    assert told(losses(*quiet, 2.5)) == told(losses(*quiet, 0.0)) == told(losses(*quiet, math.nan, math.inf)) == {}
    assert told(losses(*quiet[:9], 9.0)) == {}, "too few lines"
    evaluation = [{"eval/image/knn_accuracy": 0.5}]
    assert list(told([*losses(*quiet, 9.0), *evaluation, *losses(9.0)])) == [21]
    assert list(told(losses(*quiet, 2.5), spike_above=3.0)) == [21]
    assert told(losses(*quiet, 9.0), spike_above=0.0) == {}
    # What it came from may be anything: the first steps fall fast.
    assert told(losses(*(1 + 5 * np.exp(-np.arange(60) / 7)))) == {}


def test_collapse_is_told_of_once_and_by_name():
    def spreads(*values):
        return [{"loss": 1.0, "spread/a.z": 0.9, "spread/b.z": v} for v in values]

    low = (0.04, 0.0, 0.03)
    assert told(spreads(*low[:2], 0.3, *low[:2], 0.3)) == {}
    found = told(spreads(0.3, *low, *low, 0.06, *low))
    assert list(found) == [4, 11] and len(found[4]) == 1
    assert "spread/b.z 0.03 below 0.05" in found[4][0]
    assert list(told(spreads(0.3, *low, *low), collapse_below=0.04)) == []
    assert told(spreads(*low), collapse_below=0.0) == {}
    assert told(spreads(math.nan, *low[:2])) == {}
    every = {f"seed{s}/{k}": v for s in range(3) for k, v in spreads(0.01)[0].items() if k != "spread/a.z"}
    every |= {f"seed{s}/spread/c.z": 0.01 for s in range(3)}
    assert [len(x) for x in told([every] * 4).values()] == [1] and " and 2 more below" in told([every] * 3)[3][0]


def test_skipped_steps_are_told_of_when_they_begin():
    counts = [0, 0, 3, 3, 4, 5, 5, 5, 6]
    lines = [{"loss": 1.0, "skipped_total": float(n)} for n in counts]
    found = told(lines, steps={"": [41, 39, 38, -1, -1]})
    assert list(found) == [3, 5, 9]
    assert "skipped_total 3, 3 since the last line (38, 39, 41): " in found[3][0]
    assert "skipped_total 6, 1 since the last line (41): " in found[9][0]
    assert "since the last line: a loss" in told(lines)[3][0]
    assert told([{"loss": 1.0, "skipped_total": 1.0}]).keys() == {1}


def test_each_seed_has_its_own_warnings():
    """The mean of eight runs hides the one that goes wrong."""

    def line(one, spread=0.5, skipped=0.0):
        return {
            **{"loss": 2 + (one - 2) / 8, "spread/a.z": 0.9, "skipped_total": skipped / 8},
            **{"seed3/loss": one, "seed3/spread/a.z": spread, "seed3/skipped_total": skipped},
            **{"seed4/loss": 2.0, "seed4/spread/a.z": 0.9, "seed4/skipped_total": 0.0},
        }

    found = told([*[line(2.0)] * 12, line(5.0), *[line(2.0, 0.01)] * 4, line(2.0, 0.5, 2.0)], steps={"seed3/": [7, 5]})
    assert {step: [text.split(" ")[2] for text in texts] for step, texts in found.items()} == {
        13: ["seed3/loss"],
        16: ["seed3/spread/a.z"],
        18: ["seed3/skipped_total"],
    }
    assert "(5, 7)" in found[18][0]


def test_a_run_that_goes_on_remembers():
    """Read back from metrics.jsonl, where no number is a text and an evaluation may have a line of its own."""
    before = [*losses(*[2.0] * 12), {"loss": "nan", "skipped_total": 2.0}, {"eval/image/knn_accuracy": 0.5}]
    limits = {"spike_above": 10.0, "collapse_below": 0.05}
    seen = State()
    for step, line in enumerate(before, 1):
        seen, _ = alarms.warnings(seen, step, line, **limits)
    _, found = alarms.warnings(seen, 15, {"loss": 9.0, "skipped_total": 2.0}, **limits)
    assert len(found) == 1 and "loss 9" in found[0]
    assert alarms.warnings(State(), 15, {"loss": 9.0, "skipped_total": 0.0}, **limits)[1] == []


@pytest.mark.parametrize("field", ["spike", "collapse"])
def test_bad_limits_are_refused(field):
    config = two_views()
    config.log[field] = -1.0
    with pytest.raises(InputError, match=f"config.log.{field}: found -1.0"):
        bind(config)
    assert f"log.{field}".startswith(configs.OPEN_FIELDS)


def features(rows=ROWS, **fields):
    """Rows of features as they are, and a linear head on them."""
    c = two_views(rows, **fields)
    c.views = {v: {"kind": "features", "field": v, "ops": ()} for v in "abc"}
    c.towers = {
        "rows": {
            "views": ("a", "b", "c"),
            "encoder": {"name": "identity"},
            "heads": {"z": {"name": "linear", "features": 4}, "one": {"name": "linear", "features": 1}},
        }
    }
    c.objectives = {
        "fixed": {"loss": "nt_xent", "inputs": ("a.h", "b.h"), "temperature": 0.5},
        "heads": {"loss": "nt_xent", "inputs": ("c.z", "b.z"), "temperature": 0.5},
        "sign": {"loss": "nt_xent", "inputs": ("a.one", "c.one"), "temperature": 0.5},
    }
    c.train.param_dtype = c.train.compute_dtype = "float64"
    return c


def rows_of(c):
    """a has rows of all directions, two of them zero; b lacks rows, and what stands there is large; c is one vector."""
    random = np.random.default_rng(3)
    a, b = random.normal(size=(2, c.data.batch_size, 6)) + np.array([2.0, 0, 0, 0, 0, 0])
    a[[4, 9]] = 0
    there = random.random(c.data.batch_size) > 0.3
    b[~there] *= 1e3
    same = np.outer(random.random(c.data.batch_size) + 0.5, random.normal(size=6))
    return {
        "index": np.arange(c.data.batch_size, dtype=np.int32),
        "labels": {},
        "present": {"b": there},
        "views": {name: {"features": x} for name, x in {"a": a, "b": b, "c": same}.items()},
    }


def spread_by_hand(z):
    square = (z * z).sum(1, keepdims=True)
    u = z / np.sqrt(np.where(square > 0, square, 1))
    return math.sqrt(z.shape[1]) * np.mean([np.sqrt(np.mean((column - column.mean()) ** 2)) for column in u.T])


@pytest.mark.slow(one=True)
@pytest.mark.parametrize(
    ("ways", "fields"), [(1, {}), (8, {}), (1, {"accumulate": 2}), (8, {"cache": 2})], ids=lambda x: str(x)
)
def test_the_spread_of_a_step(ways, fields):
    with jax.enable_x64(True):
        c = features(**{f"train__{k}": v for k, v in fields.items()})
        batch = rows_of(c)
        state, step, put = start(c, batch, {"data": ways})
        head = jax.device_get(state.params["rows"]["heads"]["z"]["dense"])
        _, metrics = step(state, put(batch))
    metrics = {k: float(v) for k, v in metrics.items() if not np.ndim(v)}
    outputs = {f"{v}.h": x["features"] for v, x in batch["views"].items()}
    outputs |= {f"{v}.z": outputs[f"{v}.h"] @ head["kernel"] + head["bias"] for v in "bc"}
    parts = fields.get("accumulate", 1)
    for name in ("a.h", "b.h", "b.z", "c.z"):
        there = batch["present"].get(name[0], np.ones(ROWS, bool))
        each = [spread_by_hand(outputs[name][j::parts][there[j::parts]]) for j in range(parts)]
        assert metrics[f"spread/{name}"] == pytest.approx(np.mean(each), abs=1e-10), name
    assert metrics["spread/c.z"] < 1e-6 < 0.5 < metrics["spread/a.h"], "one direction is collapse"
    assert {k for k in metrics if k.startswith("spread/")} == {f"spread/{n}" for n in ("a.h", "b.h", "b.z", "c.z")}
    assert math.isfinite(metrics["gradient_norm"])


def test_the_spread_takes_no_gradient():
    z = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    specs = {"x": {"inputs": ("a.z", "labels.label", "a.tokens")}}
    batch = {"index": np.arange(8), "present": {}}

    def total(z):
        outputs = {"a": {"z": z, "tokens": z[:, None, :]}}
        found = objectives.spreads(specs, batch=batch, outputs=outputs)
        assert set(found) == {"spread/a.z"}
        return found["spread/a.z"]

    value, gradient = jax.jit(jax.value_and_grad(total))(z)
    assert float(value) == pytest.approx(spread_by_hand(z.astype(np.float64)), rel=1e-5)
    assert not np.any(gradient)
