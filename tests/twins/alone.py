"""Losses by themselves: twins whose optimizer or whose other half is not in the product."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcl_jax.core import memory_bank
from hcl_jax.losses import LOSSES
from tests.twins.harness import Alone, Twin


def preferences(twin: Twin) -> Alone:
    """DPO or IPO on the official logits of each step (the code trains with RMSprop)."""
    loss = jax.jit(lambda *x: LOSSES[twin.name](*x, beta=twin.hyper["beta"]))
    sides = ("chosen", "rejected")
    logits = [twin[f"step/{net}_{side}"] for net in ("logits", "reference_logits") for side in sides]
    tokens = [twin[f"batch/{side}"] for side in sides]
    response = [twin[f"batch/{side}_labels"] != -100 for side in sides]
    ours = [loss(*(x[t] for x in (*logits, *tokens, *response))) for t in range(twin.steps)]
    return Alone({"loss": [(ours, twin["step/loss"])]})


def trl_dpo(twin: Twin) -> Alone:
    """The kind "sigmoid" of TRL, value and gradient; two words, whose log-probabilities are p and 1 - p, twice each."""

    def logits(logp: Any) -> Any:
        words = jnp.stack([jnp.zeros_like(logp), logp - jnp.log1p(-jnp.exp(logp))], -1)
        return jnp.repeat(words[:, None], 2, 1)

    def value(chosen: Any, rejected: Any, *reference: Any) -> Any:
        one = jnp.ones((chosen.shape[0], 2), jnp.int32)
        return LOSSES["dpo"](*map(logits, (chosen, rejected, *reference)), *[one] * 4, beta=twin.hyper["beta"])

    step = jax.jit(jax.value_and_grad(value, (0, 1)))
    given = [twin[f"batch/{x}_logps"] for x in ("chosen", "rejected", "ref_chosen", "ref_rejected")]
    made = [step(*(x[t] for x in given)) for t in range(twin.steps)]
    gradients = [
        (np.stack([g[i] for _, g in made]), twin[f"step/grad_{side}_sigmoid"])
        for i, side in enumerate(("chosen", "rejected"))
    ]
    return Alone({"loss": [([v for v, _ in made], twin["step/loss_sigmoid"])], "state": gradients})


def dinov2_centering(twin: Twin) -> Alone:
    """The class token's loss and its centre, at the official weights; the patch loss of iBOT beside it is not ours."""
    h, x = twin.hyper, twin["batch/x"]

    def net(prefix: str, rows: np.ndarray, step: int | None = None) -> np.ndarray:
        def g(name: str) -> np.ndarray:
            return twin[f"{prefix}/{name}"] if step is None else twin[f"step/params/{name}"][step]

        hidden = np.maximum(rows @ g("dense1.weight").T + g("dense1.bias"), 0)
        return hidden @ g("dense2.weight").T + g("dense2.bias")

    temperatures = {"student_temperature": h["student_temp"], "teacher_temperature": h["teacher_temp"]}
    # The second of two students that a teacher is paired with: the first stands for the teacher's own view.
    one = jax.jit(lambda c, t, s: LOSSES["dino"](c, t, s, s, teachers=1, **temperatures))
    slot, ours, centres = {"rows": jnp.zeros(h["outputs"])}, [], []
    for t in range(twin.steps):
        teachers = [net("teacher", x[t, v]) for v in (0, 1)]
        students = [net("init", x[t, v], t - 1 if t else None) for v in (2, 3)]
        centres.append(slot["rows"])
        ours.append(sum(one(slot["rows"], a, b) for a in teachers for b in students))
        slot = memory_bank.write_mean(slot, jnp.concatenate(teachers), None, h["center_momentum"])
    return Alone({"loss": [(ours, twin["step/cls"])], "state": [(np.stack(centres), twin["step/center"])]})
