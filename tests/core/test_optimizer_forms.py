"""Forms of optimizers that the authors' codes have, against NumPy loops over one array at a time."""

import jax
import numpy as np
import pytest
from optimizer_oracle import CONFIG, EXCLUDED, GRADS, RUN, by_hand, close, numbers, run

from hcl_jax.core import objectives
from hcl_jax.core.optim import make_optimizer
from hcl_jax.core.weight_average import average_of
from hcl_jax.errors import InputError

RATES = [0.1 * t / 2 for t in range(3)]  # of a warm-up of 2 updates to 0.1, then constant
WARM = {"warmup_steps": 2}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def norm(x):
    return np.sqrt((x**2).sum())


def momentum(slot, g, rate, inside):
    """What w loses: v = m v + lr g, or lr times v = m v + g."""
    v = slot["v"] = 0.9 * slot.get("v", 0) + (rate * g if inside else g)
    return v if inside else rate * v


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("name", ["sgd", "lars", "larc"])
def test_the_rate_inside_and_outside_of_the_momentum(name, inside):
    """The rate moves: with a constant one the two are the same. A norm of zero is in it, for LARS and LARC."""

    def step(leaf, w, g, slot, t):
        decay = 0 if leaf in EXCLUDED else 0.01
        trust = 1.0
        if leaf not in EXCLUDED and norm(w) > 0 and name == "lars":
            trust = 1e-3 * norm(w) / norm(g + decay * w)
        if leaf not in EXCLUDED and norm(w) > 0 and name == "larc":
            trust = 1e-3 * norm(w) / (norm(g) + decay * norm(w) + 1e-8)
        return w - momentum(slot, trust * (g + decay * w), RATES[t], inside)

    params = numbers(0)
    params["out"]["kernel"] *= 0
    form = {"momentum_form": "rate_inside" if inside else "rate_outside"}
    expected = by_hand(step, params, GRADS)
    close(run({"name": name, "weight_decay": 0.01, **WARM, **form}, params, GRADS)[0], expected)
    if inside == (name == "lars"):
        close(run({"name": name, "weight_decay": 0.01, **WARM}, params, GRADS)[0], expected)


def test_larc_adapts_norms_and_biases_too_where_nothing_is_excluded():
    def step(leaf, w, g, slot, t):
        trust = 0.02 * norm(w) / (norm(g) + 0.05 * norm(w) + 1e-8)
        return w - momentum(slot, trust * (g + 0.05 * w), RATES[t], False)

    changes = {"name": "larc", "weight_decay": 0.05, "exclude": (), "trust_coefficient": 0.02, **WARM}
    close(run(changes, numbers(0), GRADS)[0], by_hand(step, numbers(0), GRADS))


def adam(slot, g, t):
    m = slot["m"] = 0.9 * slot.get("m", 0) + 0.1 * g
    v = slot["s"] = 0.999 * slot.get("s", 0) + 0.001 * g**2
    return (m / (1 - 0.9 ** (t + 1))) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)


def test_adam_with_the_decay_in_the_gradient():
    """torch.optim.Adam(weight_decay): the penalty goes through the moments."""

    def step(leaf, w, g, slot, t):
        return w - 0.1 * adam(slot, g + 0.5 * w, t)

    changes = {"name": "adamw", "decay": "gradient", "weight_decay": 0.5, "exclude": ()}
    close(run(changes, numbers(0), GRADS)[0], by_hand(step, numbers(0), GRADS))


def test_sgd_with_the_decay_beside_the_momentum():
    def step(leaf, w, g, slot, t):
        return w - momentum(slot, g, RATES[t], False) - RATES[t] * (0 if leaf in EXCLUDED else 0.5) * w

    changes = {"decay": "decoupled", "weight_decay": 0.5, **WARM}
    close(run(changes, numbers(0), GRADS)[0], by_hand(step, numbers(0), GRADS))


@pytest.mark.parametrize("name", ["adamw", "larc"])
def test_a_decay_that_moves(name):
    """0 to 0.4 over the 10 updates of the run, by a cosine: it starts at nothing and is there from update 1 on."""
    decays = [0.4 + (0 - 0.4) * 0.5 * (1 + np.cos(np.pi * t / 10)) for t in range(3)]

    def step(leaf, w, g, slot, t):
        decay = 0 if leaf in EXCLUDED else decays[t]
        if name == "adamw":
            return w - 0.1 * (adam(slot, g, t) + decay * w)
        trust = 1 if leaf in EXCLUDED else 1e-3 * norm(w) / (norm(g) + decay * norm(w) + 1e-8)
        return w - momentum(slot, trust * (g + decay * w), 0.1, False)

    changes = {"name": name, "weight_decay": 0.0, "weight_decay_end": 0.4}
    close(run(changes, numbers(0), GRADS)[0], by_hand(step, numbers(0), GRADS))


def test_clip_by_parameter_is_dinos():
    """Each by its own norm, min(1, c / (|g| + 1e-6)); a gradient that is shorter stays."""

    def step(leaf, w, g, slot, t):
        return w - 0.1 * g * min(1.0, 2.5 / (norm(g) + 1e-6))

    assert {norm(x) < 2.5 for leaves in GRADS[0].values() for x in leaves.values()} == {True, False}
    changes = {"clip": 2.5, "clip_by": "parameter", "momentum": 0.0}
    close(run(changes, numbers(0), GRADS)[0], by_hand(step, numbers(0), GRADS))


@pytest.mark.parametrize("field", [{"freeze_steps": (("^out/", 2),)}, {"freeze_epochs": (("^out/", 0.4),)}])
def test_a_held_head_begins_late_with_moments_of_its_own(field):
    """As with a gradient of None in torch: no decay, and the bias correction counts the head's own updates."""
    grads = [numbers(i) for i in (1, 2, 3, 4)]
    rates = [0.1 * t / 3 for t in range(4)]

    def step(leaf, w, g, slot, t):
        late = 2 if w.shape == (4, 5) else 0
        if t < late:
            return w
        return w - rates[t] * (adam(slot, g, t - late) + (0 if leaf in EXCLUDED else 0.5) * w)

    changes = {"name": "adamw", "weight_decay": 0.5, "warmup_steps": 3, **field}
    found, state = run(changes, numbers(0), grads)
    close(found, by_hand(step, numbers(0), grads))
    rate = make_optimizer(CONFIG | changes, numbers(0), **RUN).learning_rate(state)
    assert float(rate) == pytest.approx(0.1), "the rate of the next update is that of the others"


def test_a_fixed_rate_is_a_share_of_the_peak():
    """SimSiam's predictor: no warm-up and no cosine, decay and momentum as elsewhere."""

    def step(leaf, w, g, slot, t):
        rate = 0.5 * 0.025 if w.shape == (4, 5) else 0.025 * t / 2
        return w - momentum(slot, g + (0 if leaf in EXCLUDED else 0.01) * w, rate, False)

    changes = {"weight_decay": 0.01, "scaling": "linear", "fixed_rate": (("^out/", 0.5),), **WARM}
    close(run(changes, numbers(0), GRADS)[0], by_hand(step, numbers(0), GRADS))


def test_groups_share_the_clipped_norm_rules_and_unit_columns():
    """Held, at a fixed rate, halved by a rule and put back to length 1, one after the other."""

    def step(leaf, w, g, slot, t):
        total = np.sqrt(sum(norm(x) ** 2 for leaves in GRADS[t].values() for x in leaves.values()))
        g = g * min(1.0, 1.0 / total)
        if w.shape != (4, 5):
            return w - 0.1 * g
        new = w - 0.5 * (0 if t < 1 else 0.3 * 0.1) * g
        return new / np.sqrt((new**2).sum(0))

    changes = {"clip": 1.0, "momentum": 0.0, "rules": (("^out/", 0.5),), "unit_norm": ("^out/",), "average": 1.0}
    changes |= {"freeze_steps": (("^out/", 1),), "fixed_rate": (("^out/", 0.3),)}
    close(run(changes, numbers(0), GRADS)[0], by_hand(step, numbers(0), GRADS))


def test_a_run_without_the_new_fields_keeps_the_structure_of_its_state():
    """What a checkpoint of before holds: one chain, no groups, no wrapper for the limits."""
    params = numbers(0)
    plain = make_optimizer(CONFIG | {"name": "adamw", "weight_decay": 0.1, "clip": 1.0}, params, **RUN).init(params)
    names = [type(s).__name__ for s in (plain, *plain[1])]
    assert names == ["tuple", "ScaleByAdamState", "MaskedState", "ScaleByScheduleState"]
    limited = make_optimizer(CONFIG | {"name": "adamw"}, params, limits={"out/kernel": (0.0, 1.0)}, **RUN)
    unlimited = make_optimizer(CONFIG | {"name": "adamw"}, params, **RUN)
    assert jax.tree.structure(limited.init(params)) == jax.tree.structure(unlimited.init(params))


def test_a_learned_number_is_put_back_after_the_update_and_comes_down_again():
    """open_clip's clamp of log s to [0, log 100], where the pairs first agree and then do not."""
    spec = {"clip": {"weight": 1.0, "scale": {"learn": "exp", "init": 99.0, "min": 1.0, "max": 100.0}}}
    limits = objectives.limits(spec)
    assert limits == {"objectives/clip/scale": pytest.approx((0.0, np.log(100)))}
    params = {"objectives": {"clip": {"scale": np.log(99.0)}}}
    grads = [-1.0, -1.0, 3.0, 50.0]
    optimizer = make_optimizer(CONFIG | {"average": 1.0}, params, limits=limits, **RUN)
    state, w, v, seen = optimizer.init(params), np.log(99.0), 0.0, []
    for g in grads:
        updates, state = optimizer.update({"objectives": {"clip": {"scale": np.asarray(g)}}}, state, params)
        params = jax.tree.map(np.add, params, updates)
        v = 0.9 * v + g
        w = min(max(w - 0.1 * v, 0.0), np.log(100))
        seen.append(w)
        np.testing.assert_allclose(params["objectives"]["clip"]["scale"], w, rtol=1e-14)
    assert seen[0] == seen[1] == np.log(100) and 0 < seen[2] < seen[0] and seen[3] == 0
    np.testing.assert_allclose(average_of(state)["objectives"]["clip"]["scale"], np.mean(seen), rtol=1e-14)


def test_at_its_limit_a_learned_number_still_has_a_gradient():
    spec = {"learn": "exp", "init": 9.0, "max": 10.0}
    value, slope = jax.value_and_grad(lambda p: objectives.value_of(spec, "s", {"s": p}, 0))(np.log(10.5))
    assert float(value) == pytest.approx(10.0, rel=1e-14) and float(slope) == pytest.approx(10.5)


def test_the_mean_of_the_weights_counts_the_first_ones():
    """AveragedModel, whose first member is what the run began with (TS2Vec)."""
    params = numbers(0)
    after = [params, *(run({}, params, GRADS[:n])[0] for n in (1, 2, 3))]
    _, state = run({"average": 1.0, "average_first": True}, params, GRADS)
    close(average_of(state), jax.tree.map(lambda *x: np.mean(x, 0), *after))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "adamw", "momentum_form": "rate_outside"}, "momentum_form: found 'rate_outside'; .* name is 'adamw'"),
        ({"momentum_form": "outside"}, "momentum_form: found 'outside'; allowed: own, rate_inside, rate_outside"),
        ({"name": "lars", "decay": "decoupled"}, "decay: found 'decoupled'; allowed: 'own' where name is 'lars'"),
        ({"decay": "decoupled", "momentum_form": "rate_inside"}, "momentum_form: .* where decay is 'decoupled'"),
        ({"clip_by": "layer", "clip": 1.0}, "clip_by: found 'layer'; allowed: global, parameter"),
        ({"clip_by": "parameter"}, "clip_by: found 'parameter'; allowed: 'global' where clip is 0"),
        ({"average_first": True, "average": 0.9}, "average_first: found True"),
        ({"weight_decay_end": -0.1}, "weight_decay_end: found -0.1"),
        ({"fixed_rate": (("heads/p/", 1.0),)}, r"fixed_rate\[0\]: found 'heads/p/', which no parameter matches"),
        ({"freeze_steps": (("proto", 9),)}, r"freeze_steps\[0\]: found 'proto', which no parameter matches"),
        ({"freeze_epochs": (("(", 1.0),)}, r"freeze_epochs\[0\]: found '\(' .*a Python regular expression"),
    ],
)
def test_bad_input_names_the_field(changes, text):
    with pytest.raises(InputError, match=f"config.optimizer.{text}"):
        make_optimizer(CONFIG | changes, numbers(0), **RUN)
