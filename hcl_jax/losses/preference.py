"""Preferences between two responses to one prompt: DPO, IPO, and the next-token stage before them.

Legend: N pairs, T places, V tokens. Tokens are ids with 0 as padding; a mask `response` says which tokens count. The
logits at place t - 1 predict the token at place t, so the first place never counts.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Integer, Shaped

from hcl_jax.errors import InputError
from hcl_jax.losses import masking
from hcl_jax.losses.supervised import cross_entropy


class Margins(NamedTuple):
    """h of each pair [N], and which pairs count, bool [N]."""

    h: Float[Array, " n"]
    valid: Bool[Array, " n"]


def dpo(
    chosen_logits: Float[Array, "n t v"],
    rejected_logits: Float[Array, "n t v"],
    reference_chosen: Float[Array, "n t v"],
    reference_rejected: Float[Array, "n t v"],
    chosen_tokens: Integer[Array, "n t"],
    rejected_tokens: Integer[Array, "n t"],
    chosen_response: Bool[Array, "n t"] | Integer[Array, "n t"],
    rejected_response: Bool[Array, "n t"] | Integer[Array, "n t"],
    *,
    beta: float | Array = 0.1,
    smoothing: float = 0.0,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Direct preference optimisation.

    h = [log p(w) - log p_ref(w)] - [log p(l) - log p_ref(l)],   log p(y) = sum_t log softmax(logits_{t-1})_{y_t}
    l = -(1 - smoothing) log sigmoid(beta h) - smoothing log sigmoid(-beta h)

    Args:
      chosen_logits: [N, T, V], of the policy on the chosen sequences (w).
      rejected_logits: [N, T, V], of the policy on the rejected sequences (l).
      reference_chosen, reference_rejected: the same of the frozen reference; no gradient.
      chosen_tokens, rejected_tokens: int [N, T]. A counted token out of range makes the loss NaN.
      chosen_response, rejected_response: bool or int [N, T], the tokens whose log-probability counts.
      beta: > 0, how strongly the policy is held at the reference, a number or a traced scalar.
      smoothing: probability that a preference is wrong, 0 to below 0.5 (conservative DPO).
      ids: int [N]; -1 = ignored pair. A pair of which one response holds no counted token is ignored too.
      row_weights: [N], scale the loss of each pair.

    Returns:
      Scalar; mean over valid pairs, weights not renormalised. log 2 where policy and reference are equal.

    Raises:
      InputError: shapes or types that do not fit, beta not above 0, smoothing out of range.

    Example:
      >>> reference, tokens = jnp.zeros((1, 2, 3)), jnp.array([[1, 2]])
      >>> response = jnp.array([[False, True]])  # the second token alone
      >>> chosen = reference.at[0, 0, 2].set(1.0)  # h = 1 - log(e + 2) + log 3 = 0.5472
      >>> pair = (chosen, reference, reference, reference, tokens, tokens, response, response)
      >>> print(f"{dpo(*pair):.4f}")  # log(1 + exp(-0.05472))
      0.6662

    Reference: Rafailov et al. 2023, arXiv 2305.18290, equation 7; smoothing as in the authors' code (Mitchell 2023,
    "A note on DPO with noisy preferences", equation 3).
    """
    masking.check_positive("beta", beta)
    if not 0 <= smoothing < 0.5:
        raise InputError("smoothing", smoothing, "0 to below 0.5")
    arrays = (
        *(chosen_logits, rejected_logits, reference_chosen, reference_rejected),
        *(chosen_tokens, rejected_tokens, chosen_response, rejected_response),
    )
    h, valid = _margins(arrays, ids)
    h = jnp.asarray(beta, h.dtype) * h
    values = -(1 - smoothing) * jax.nn.log_sigmoid(h) - smoothing * jax.nn.log_sigmoid(-h)
    return masking.mean(values, valid, row_weights)


def ipo(
    chosen_logits: Float[Array, "n t v"],
    rejected_logits: Float[Array, "n t v"],
    reference_chosen: Float[Array, "n t v"],
    reference_rejected: Float[Array, "n t v"],
    chosen_tokens: Integer[Array, "n t"],
    rejected_tokens: Integer[Array, "n t"],
    chosen_response: Bool[Array, "n t"] | Integer[Array, "n t"],
    rejected_response: Bool[Array, "n t"] | Integer[Array, "n t"],
    *,
    beta: float | Array = 0.1,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Identity preference optimisation: the margin is pulled to a number instead of to infinity.

    l = (h - 1 / (2 beta))^2,   h as in `dpo`

    Args:
      chosen_logits, rejected_logits, reference_chosen, reference_rejected, chosen_tokens, rejected_tokens,
      chosen_response, rejected_response, ids, row_weights: as in `dpo`.
      beta: > 0, tau of the paper.

    Returns:
      Scalar; mean over valid pairs, weights not renormalised.

    Raises:
      InputError: as `dpo`.

    Example:
      >>> reference, tokens = jnp.zeros((1, 2, 3)), jnp.array([[1, 2]])
      >>> response = jnp.array([[False, True]])  # the second token alone
      >>> chosen = reference.at[0, 0, 2].set(1.0)  # h = 1 - log(e + 2) + log 3 = 0.5472
      >>> pair = (chosen, reference, reference, reference, tokens, tokens, response, response)
      >>> print(f"{ipo(*pair):.4f}")  # (0.5472 - 5)^2
      19.8277

    Reference: Azar et al. 2023, arXiv 2310.12036, equation 17; log-probabilities summed, not averaged, over tokens, as
    in the code of DPO's authors.
    """
    masking.check_positive("beta", beta)
    arrays = (
        *(chosen_logits, rejected_logits, reference_chosen, reference_rejected),
        *(chosen_tokens, rejected_tokens, chosen_response, rejected_response),
    )
    h, valid = _margins(arrays, ids)
    return masking.mean((h - 1 / (2 * jnp.asarray(beta, h.dtype))) ** 2, valid, row_weights)


def dpo_accuracy(
    *arrays: Shaped[Array, "n t ..."],
    ids: Integer[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Share of pairs whose chosen response has the higher reward, h > 0 (a tie is a miss).

    Args:
      All as in `dpo`, its eight arrays in their order.

    Returns:
      Scalar in 0..1.

    Example:
      >>> reference, tokens = jnp.zeros((1, 2, 3)), jnp.array([[1, 2]])
      >>> response = jnp.array([[False, True]])  # the second token alone
      >>> chosen = reference.at[0, 0, 2].set(1.0)  # h = 1 - log(e + 2) + log 3 = 0.5472
      >>> print(dpo_accuracy(chosen, reference, reference, reference, tokens, tokens, response, response))
      1.0
    """
    h, valid = _margins(arrays, ids)
    return masking.mean((h > 0).astype(h.dtype), valid, None)


def dpo_margin(
    *arrays: Shaped[Array, "n t ..."],
    beta: float | Array = 0.1,
    ids: Integer[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Mean difference of the rewards of both responses, beta h.

    Args:
      All as in `dpo`, its eight arrays in their order.

    Returns:
      Scalar.

    Example:
      >>> reference, tokens = jnp.zeros((1, 2, 3)), jnp.array([[1, 2]])
      >>> response = jnp.array([[False, True]])  # the second token alone
      >>> chosen = reference.at[0, 0, 2].set(1.0)  # h = 1 - log(e + 2) + log 3 = 0.5472
      >>> pair = (chosen, reference, reference, reference, tokens, tokens, response, response)
      >>> print(f"{dpo_margin(*pair):.4f}")
      0.0547
    """
    h, valid = _margins(arrays, ids)
    return masking.mean(jnp.asarray(beta, h.dtype) * h, valid, None)


def dpo_count(
    *arrays: Shaped[Array, "n t ..."],
    ids: Integer[Array, " n"] | None = None,
) -> Integer[Array, ""]:
    """How many pairs `dpo` and `ipo` are means over.

    Args:
      All as in `dpo`, its eight arrays in their order.

    Returns:
      Scalar.
    """
    return jnp.sum(_margins(arrays, ids).valid)


def next_token(
    logits: Float[Array, "n t v"],
    tokens: Integer[Array, "n t"],
    response: Bool[Array, "n t"] | Integer[Array, "n t"] | None = None,
    *,
    smoothing: float = 0.0,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Cross entropy of each token given those before it (language modelling, supervised fine-tuning).

    l = -log softmax(logits_{t-1})_{y_t}

    Args:
      logits: [N, T, V], of a causal encoder.
      tokens: int [N, T]; 0 = padding, not counted.
      response: bool or int [N, T], the tokens that count. None: all of them.
      smoothing: as in `cross_entropy`.
      ids: int [N]; -1 = ignored row. Other values change nothing.
      row_weights: [N], scale all tokens of a row.

    Returns:
      Scalar; mean over counted tokens (DPO's code has the sum over a row), weights not renormalised. 0 without one.

    Raises:
      InputError: shapes or types that do not fit.

    Example:
      >>> print(f"{next_token(jnp.zeros((1, 2, 3)), jnp.array([[1, 2]])):.4f}")  # log 3, of the second token
      1.0986
    """
    tokens, counted = _check("", logits, tokens, response)
    labels = jnp.where(counted, tokens[:, 1:], -1)
    return cross_entropy(logits[:, :-1], labels, smoothing=smoothing, ids=ids, row_weights=row_weights)


def next_token_count(
    logits: Float[Array, "n t v"],
    tokens: Integer[Array, "n t"],
    response: Bool[Array, "n t"] | Integer[Array, "n t"] | None = None,
    *,
    ids: Integer[Array, " n"] | None = None,
) -> Integer[Array, ""]:
    """How many tokens `next_token` is a mean over.

    Args:
      logits, tokens, response, ids: as in `next_token`.

    Returns:
      Scalar.
    """
    _, counted = _check("", logits, tokens, response)
    return jnp.sum(counted & masking.valid_rows(ids, jnp.shape(tokens)[0])[:, None])


def _check(which: str, logits: Array, tokens: Array, response: Array | None) -> tuple[Array, Array]:
    """Tokens int32 [N, T], and which of the tokens after the first count, bool [N, T - 1]."""
    if jnp.ndim(logits) != 3:
        raise InputError(f"{which}logits", f"shape {jnp.shape(logits)}", "[rows, places, tokens]")
    shape = jnp.shape(logits)[:2]
    kinds = {"tokens": (jnp.integer,), "response": (jnp.integer, jnp.bool_)}
    for name, x in (("tokens", tokens), ("response", tokens if response is None else response)):
        if jnp.shape(x) != shape:
            found = f"shape {jnp.shape(x)}"
            raise InputError(which + name, found, f"shape {shape}, the rows and places of the logits")
        if not any(jnp.issubdtype(jnp.asarray(x).dtype, kind) for kind in kinds[name]):
            allowed = "an integer type" + (" or bool" if name == "response" else "")
            raise InputError(which + name, jnp.asarray(x).dtype, allowed)
    tokens = jnp.asarray(tokens).astype(jnp.int32)
    counted = tokens != 0 if response is None else (jnp.asarray(response) != 0) & (tokens != 0)
    return tokens, counted[:, 1:]


def _log_probability(logits: Array, tokens: Array, counted: Array) -> Array:
    """sum over counted places of log softmax(logits_{t-1})_{y_t}, [N]. Places that do not count may hold anything."""
    logits = masking.mask(logits[:, :-1], counted)
    labels = jnp.where(counted, tokens[:, 1:], 0)
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1, mode="fill")[..., 0]
    return jnp.sum(jnp.where(counted, picked - jax.nn.logsumexp(logits, axis=-1), 0), axis=1)


def _margins(arrays: tuple[Array, ...], ids: Array | None) -> Margins:
    """h of each pair, and which pairs count, from dpo's eight arrays: of the chosen and the rejected by turns."""
    chosen, rejected = arrays[::2], arrays[1::2]
    n = jnp.shape(chosen[0])[0] if jnp.ndim(chosen[0]) else 0
    valid = masking.valid_rows(ids, n)
    ratios = []
    for which, (logits, reference, tokens, response) in (("chosen_", chosen), ("rejected_", rejected)):
        tokens, counted = _check(which, logits, tokens, response)
        if jnp.shape(reference) != jnp.shape(logits):
            found = f"shape {jnp.shape(reference)}"
            raise InputError(f"reference_{which[:-1]}", found, f"shape {jnp.shape(logits)}, that of {which}logits")
        if jnp.shape(logits)[0] != n:
            raise InputError(f"{which}logits", f"{jnp.shape(logits)[0]} rows", f"{n}, those of chosen_logits")
        valid &= jnp.any(counted, axis=1)
        ratios.append((logits, jax.lax.stop_gradient(reference), tokens, counted))
    h = [
        _log_probability(logits, tokens, counted & valid[:, None])
        - _log_probability(reference, tokens, counted & valid[:, None])
        for logits, reference, tokens, counted in ratios
    ]
    return Margins(h[0] - h[1], valid)
