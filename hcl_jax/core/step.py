"""One training step: loss, gradient, update, then targets and memory.

step : (state, batch) -> (state, metrics)
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hcl_jax.core import grad_cache, memory_bank, objectives, towers
from hcl_jax.core.model import Aux, Model, forward, row_keys
from hcl_jax.core.optim import Optimizer
from hcl_jax.core.state import TrainState
from hcl_jax.losses.masking import interleave


def train_step(
    model: Model, tx: optax.GradientTransformation | Optimizer, state: TrainState, batch: Mapping[str, Any]
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step: loss, gradient, optimizer, target, memory. Where the loss, the gradient, running statistics or rows for
    the memory are not finite, nothing changes but the count; a view may reach the last two and no loss.

    With accumulate = k the rows r with r mod k = j form the j-th contrastive batch; the gradient is the mean over j.
    With cache > 1 the gradient of a contrastive batch is taken with its rows in parts (grad_cache.py).

    The metrics are those of this step: the rate that its update has, the weights and momenta that it is taken with, the
    norm of the parameters after it. A skipped step has the rate of the update that it did not make, and update_norm 0.
    """
    k = model.accumulate
    keys = row_keys(jax.random.fold_in(state.key, state.step), model, batch)
    gradient: Callable[..., Any] = functools.partial(grad_cache.gradient, model)
    if model.cache == 1:
        gradient = jax.value_and_grad(lambda p, s, b, key: forward(model, s, p, b, key, state.memory), has_aux=True)

    if k == 1:
        (loss, aux), grads = gradient(state.params, state, batch, keys)
    else:
        split = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, k, *x.shape[1:]), 1, 0), (batch, keys))

        def body(carry: Any, part: Any) -> tuple[Any, Any]:
            model_state, target_stats, total = carry
            target = {n: {**t, "batch_stats": target_stats[n]} for n, t in state.target.items()}
            (loss, aux), grads = gradient(
                state.params, state._replace(model_state=model_state, target=target), part[0], part[1]
            )
            return (aux.model_state, aux.target_stats, jax.tree.map(jnp.add, total, grads)), (
                loss,
                aux.metrics,
                aux.memory_rows,
            )

        start = (
            state.model_state,
            {n: t["batch_stats"] for n, t in state.target.items()},
            jax.tree.map(jnp.zeros_like, state.params),
        )
        (model_state, target_stats, grads), (loss, metrics, memory_rows) = jax.lax.scan(body, start, split)
        grads = jax.tree.map(lambda g: g / k, grads)
        loss, metrics = jax.tree.map(lambda x: jnp.mean(x, 0), (loss, metrics))
        # Row r lies at [r mod k, r // k]: back to the order of the global batch before the memory takes it.
        memory_rows = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), memory_rows)
        aux = Aux(metrics, model_state, target_stats, memory_rows)

    gradient_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm) & _finite(aux)
    with jax.named_scope("optimizer"):
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
    new = state._replace(
        params=params,
        target=_target(model, state, params, aux),
        model_state=aux.model_state,
        memory=_memory(model, state, aux),
        opt_state=opt_state,
    )
    # Selected, never scaled by zero: 0 * nan is nan.
    new = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, state)
    new = _counted(new, state, finite)
    return new, {
        "loss": loss,
        **aux.metrics,
        **objectives.moving_weights(model.objectives, state.params["objectives"], state.step),
        **_momenta(model, state.step),
        **({"learning_rate": tx.learning_rate(state.opt_state)} if isinstance(tx, Optimizer) else {}),
        "parameter_norm": optax.tree.norm(new.params),
        "update_norm": jnp.where(finite, optax.tree.norm(updates), 0),
        "gradient_norm": gradient_norm,
        "skipped": new.skipped,
        "skipped_total": new.skipped_total,
    }


def _momenta(model: Model, step: jax.Array) -> dict[str, jax.Array]:
    """{"momentum/image": ...} of the towers with a target."""
    specs = {name: tower.target for name, tower in model.towers.items() if tower.target is not None}
    return {f"momentum/{name}": towers.target_momentum(spec, step, model.steps) for name, spec in specs.items()}


def _finite(aux: Aux) -> jax.Array:
    """Whether the statistics and the rows for the memory, which a state keeps as they are, are numbers."""
    good = [jnp.isfinite(x) for x in jax.tree.leaves((aux.model_state, aux.target_stats))]
    for rows, present in (slot for slots in aux.memory_rows.values() for slot in slots.values()):
        masks = [True] * len(rows) if present is None else [mask[:, None] for mask in present]
        good += [jnp.isfinite(x) | ~jnp.asarray(mask) for x, mask in zip(rows, masks, strict=True)]
    return functools.reduce(jnp.logical_and, map(jnp.all, good), jnp.asarray(True))


def _counted(new: TrainState, old: TrainState, finite: jax.Array) -> TrainState:
    """The step's number, and those of the steps that were skipped."""
    steps = jnp.concatenate([old.step[None], old.skipped_steps[:-1]])
    return new._replace(
        step=old.step + 1,
        skipped=jnp.where(finite, 0, old.skipped + 1),
        skipped_total=jnp.where(finite, old.skipped_total, old.skipped_total + 1),
        skipped_steps=jnp.where(finite, old.skipped_steps, steps),
    )


@jax.named_scope("target")
def _target(model: Model, state: TrainState, params: Any, aux: Aux) -> Any:
    target = {}
    for name, old in state.target.items():
        tower = model.towers[name]
        spec = tower.target
        assert spec is not None
        momentum = towers.target_momentum(spec, state.step, model.steps)
        online = towers.copy_for_target(tower, aux.model_state[name])
        if spec["stats"] == "own":
            stats = aux.target_stats[name]
        elif spec["stats"] == "ema":
            stats = towers.ema_update(old["batch_stats"], online, momentum)
        else:
            stats = online
        copy = towers.ema_update(old["params"], towers.copy_for_target(tower, params[name]), momentum)
        target[name] = {"params": copy, "batch_stats": stats}
    return target


@jax.named_scope("memory")
def _memory(model: Model, state: TrainState, aux: Aux) -> Any:
    memory: dict[str, Any] = {name: {} for name in model.towers}
    for name, tower in model.towers.items():
        memory[name] = {}
        for slot, spec in tower.memory.items():
            old, (rows, present) = (
                state.memory[name][slot],
                jax.tree.map(interleave, aux.memory_rows[name][slot], is_leaf=lambda x: isinstance(x, list)),
            )
            if spec["kind"] == "fifo":
                new = memory_bank.write_fifo(old, rows, present)
                if spec.get("starts"):
                    new = {k: jnp.where(state.step >= spec["starts"], new[k], old[k]) for k in new}
                memory[name][slot] = new
            else:
                memory[name][slot] = memory_bank.write_mean(old, rows, present, spec["momentum"])
    return memory
