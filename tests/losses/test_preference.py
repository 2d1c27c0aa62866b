"""DPO, IPO and the next token: limits, what does not count, gradients, bad input. Values: test_values.py."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hcl_jax.losses.preference import dpo, dpo_accuracy, dpo_margin, ipo, next_token
from tests.losses import oracles
from tests.losses.cases import ANSWER, IDS, LOGITS, WORDS, N, normal

ARRAYS = (*LOGITS, *WORDS, *ANSWER)
WHOLE = np.arange(N) != 4  # pair 4 has no loser


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def value(f, *arrays, **settings) -> float:
    options = {"xla_backend_optimization_level": 0}
    return float(jax.jit(functools.partial(f, **settings), compiler_options=options)(*arrays))


def test_policy_equal_to_the_reference():
    """Margin 0: log 2, nothing won yet; IPO's pull is 1 / (2 beta)."""
    same = (LOGITS[0], LOGITS[1], LOGITS[0], LOGITS[1], *ARRAYS[4:])
    assert value(dpo, *same) == pytest.approx(math.log(2), rel=1e-12)
    assert value(ipo, *same, beta=0.25) == pytest.approx(4.0, rel=1e-12)
    assert value(dpo_accuracy, *same) == 0 and value(dpo_margin, *same) == 0
    # The same number added to all logits of a place is no other policy.
    shifted = (LOGITS[0] + normal(0, N, 5, 1), *same[1:])
    assert value(dpo, *shifted) == pytest.approx(math.log(2), rel=1e-12)


def test_measures():
    h = np.array([x for x in oracles.margins(*ARRAYS) if x is not None])
    assert len(h) == WHOLE.sum()
    assert value(dpo_accuracy, *ARRAYS) == pytest.approx(np.mean(h > 0))
    assert value(dpo_margin, *ARRAYS, beta=0.3) == pytest.approx(0.3 * np.mean(h), rel=1e-10)
    assert 0 < np.mean(h > 0) < 1


def test_smoothing_is_a_mixture_and_beta_small_is_flat():
    plain = value(dpo, *ARRAYS)
    swapped = [ARRAYS[i] for i in (1, 0, 3, 2, 5, 4, 7, 6)]
    mixed = 0.8 * plain + 0.2 * value(dpo, *swapped)
    assert value(dpo, *ARRAYS, smoothing=0.2) == pytest.approx(mixed, rel=1e-10)
    assert value(dpo, *ARRAYS, beta=1e-9) == pytest.approx(math.log(2), rel=1e-6)
    assert value(dpo_margin, *swapped) == pytest.approx(-value(dpo_margin, *ARRAYS), rel=1e-10)


def test_gradient_raises_the_chosen_and_lowers_the_rejected():
    """The gradient by a logit of a response token is -+ beta sigmoid(-beta h) (1 - p) / N for winner and loser."""
    won, lost = jax.jit(jax.grad(dpo, argnums=(0, 1)))(*ARRAYS)
    h = oracles.margins(*ARRAYS)
    for i in range(N):
        for t in range(1, 5):
            for gradient, k, sign in ((won, 0, -1), (lost, 1, 1)):
                p = oracles.softmax(LOGITS[k, i, t - 1])[WORDS[k, i, t]]
                counts = ANSWER[k, i, t] and h[i] is not None
                want = sign * 0.1 / (1 + math.exp(0.1 * h[i])) * (1 - p) / WHOLE.sum() if counts else 0
                assert gradient[i, t - 1, WORDS[k, i, t]] == pytest.approx(want, rel=1e-9, abs=1e-15)
    assert not won[:, -1].any(), "the last place predicts nothing"


@pytest.mark.parametrize("loss", [dpo, ipo, dpo_accuracy, dpo_margin])
def test_a_pair_without_a_response_is_absent(loss):
    arrays = [x.copy() for x in ARRAYS]
    for x in arrays[:4]:
        x[4] = np.nan
    assert value(loss, *arrays) == pytest.approx(value(loss, *(x[WHOLE] for x in ARRAYS)), rel=1e-10)
    ids = np.where(WHOLE, -1, 0)
    assert value(loss, *arrays, ids=ids) == 0
    if loss in (dpo, ipo):
        slope = jax.jit(jax.grad(loss, argnums=(0, 1)))(*arrays)
        assert all(np.isfinite(s).all() and not s[4].any() for s in slope)


def test_what_does_not_count_may_hold_anything():
    """Padding, the prompt, and the logits of the last place."""
    arrays = [x.copy() for x in ARRAYS]
    for k in (0, 1):
        dead = ~np.roll(ANSWER[k] & (np.arange(5) > 0), -1, axis=1)
        arrays[k][dead] = np.nan
        arrays[4 + k][~ANSWER[k] & (WORDS[k] != 0)] = 5
    assert value(dpo, *arrays) == pytest.approx(value(dpo, *ARRAYS), rel=1e-12)
    slope = jax.jit(jax.grad(dpo))(*arrays)
    assert np.isfinite(slope).all()
    # A mask that marks padding too is the same mask; integers do as well as bools.
    loose = [(ANSWER[k] | (WORDS[k] == 0)).astype(np.int32) * ANSWER[k].any(1, keepdims=True) for k in (0, 1)]
    assert value(dpo, *ARRAYS[:6], *loose) == pytest.approx(value(dpo, *ARRAYS), rel=1e-12)


def test_next_token():
    logits, tokens = LOGITS[0], WORDS[0]
    want = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:])
    want = np.asarray(want)[tokens[:, 1:] != 0].mean()
    assert value(next_token, logits, tokens) == pytest.approx(want, rel=1e-10)
    assert value(next_token, np.zeros((N, 5, 6)), tokens) == pytest.approx(math.log(6))
    # Knowing what comes next, and only that, brings it to 0.
    sure = np.roll(50.0 * np.eye(6)[tokens], -1, axis=1)
    assert value(next_token, sure, tokens) == pytest.approx(0, abs=1e-12)
    assert value(next_token, logits[:, :1], tokens[:, :1]) == 0
    assert value(next_token, logits, tokens, ids=IDS) != value(next_token, logits, tokens)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_finite(dtype):
    rest = [jnp.asarray(x) for x in ARRAYS[4:]]
    step = jax.jit(jax.value_and_grad(dpo, argnums=(0, 1, 2, 3)))
    for factor in (0.0, 1.0, 1e4):
        logits = [jnp.asarray(factor * x, dtype) for x in LOGITS]
        found, gradients = step(*logits, *rest)
        assert found.dtype == jnp.float32 and np.isfinite(found)
        assert all(np.isfinite(np.asarray(g, "float32")).all() for g in gradients)
    wide = value(dpo, *(np.asarray(x.astype(jnp.float64)) for x in logits), *rest)
    assert float(found) == pytest.approx(wide, rel=1e-4)


def put(place, new):
    return [new if i == place else x for i, x in enumerate(ARRAYS)]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: dpo(*ARRAYS, beta=0), ("beta", "above 0")),
        (lambda: ipo(*ARRAYS, beta=-1), ("beta", "-1")),
        (lambda: dpo(*ARRAYS, smoothing=0.5), ("smoothing", "0.5", "below 0.5")),
        (lambda: dpo(*put(0, LOGITS[0, 0])), ("chosen_logits", "(5, 6)", "[rows, places, tokens]")),
        (lambda: dpo(*put(3, LOGITS[3, :3])), ("reference_rejected", "(3, 5, 6)", "(8, 5, 6)")),
        (lambda: dpo(*put(4, WORDS[0, :, :4])), ("chosen_tokens", "(8, 4)", "(8, 5)")),
        (lambda: dpo(*put(5, WORDS[1].astype(float))), ("rejected_tokens", "float64", "an integer type")),
        (lambda: dpo(*put(4, ANSWER[0])), ("chosen_tokens", "bool", "an integer type")),
        (lambda: dpo(*put(7, ANSWER[1].astype(float))), ("rejected_response", "float64", "or bool")),
        (
            lambda: dpo(*[x[:3] if i in (1, 3, 5, 7) else x for i, x in enumerate(ARRAYS)]),
            ("rejected_logits", "3 rows"),
        ),
        (lambda: dpo(*ARRAYS, ids=np.zeros(3, int)), ("ids", "(3,)")),
        (lambda: next_token(LOGITS[0], WORDS[0, :3]), ("tokens", "(3, 5)", "(8, 5)")),
        (lambda: next_token(LOGITS[0], WORDS[0], ANSWER[0].astype(float)), ("response", "float64")),
    ],
)
def test_refused(call, words):
    with pytest.raises(ValueError) as error:
        jax.eval_shape(call)
    assert all(word in str(error.value) for word in words), str(error.value)
