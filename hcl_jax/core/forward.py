"""One forward pass of a run: towers make outputs, objectives read them.

outputs  = towers(views)
loss     = sum of weight * objective(outputs)
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hcl_jax.core import memory_bank, objectives, towers
from hcl_jax.core.state import TrainState, named_key


class Model(NamedTuple):
    """The static parts of a run."""

    towers: dict[str, towers.Tower]
    objectives: Mapping[str, Mapping[str, Any]]
    losses: Mapping[str, Callable]
    measures: Mapping[str, Mapping[str, Callable]]
    engines: Mapping[str, Any]  # of each objective
    accumulate: int
    cache: int
    ways: int  # parts that the mesh splits a batch into
    steps: int
    param_dtype: Any


class Aux(NamedTuple):
    """What a forward pass leaves besides the loss."""

    metrics: dict[str, jax.Array]
    model_state: Any
    target_stats: Any
    written: Any  # {tower: {slot: (rows by reference, which are present)}}, for the memory


_other = jax.vmap(lambda key: named_key(key, "target"))


@jax.named_scope("target")
def run_target(
    tower: towers.Tower, copy: Any, views: Mapping[str, Any], *, keys: Mapping[str, jax.Array] | None, **common: Any
) -> tuple[towers.Outputs, Any]:
    """Runs the target of a tower, {"params": ..., "batch_stats": ...}: towers.apply without a gradient."""
    copy = jax.lax.stop_gradient(copy)
    # Dropout masks of its own.
    keys = None if keys is None else {v: _other(k) for v, k in keys.items()}
    heads = towers.target_heads(tower)
    return towers.apply(tower, copy["params"], copy["batch_stats"], views, heads=heads, keys=keys, **common)


@jax.named_scope("objective")
def run_objectives(
    model: Model, state: TrainState, learned: Any, memory: Any, **sources: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted loss of all objectives on a batch's outputs, and its metrics.

    Args:
      model: the static parts.
      state: for the step.
      learned: {objective: its trained hyper-parameters}.
      memory: {tower: {slot: ...}} as it was before the step.
      sources: batch, outputs and target, as objectives.read takes them.
    """
    total, metrics = jnp.zeros((), jnp.float32), {}
    for name, spec in model.objectives.items():
        loss = model.losses[spec["loss"]]
        objectives.check_absent(f"config.objectives.{name}", spec, loss, sources["batch"]["present"])
        value, extra = objectives.evaluate(
            spec,
            loss,
            model.measures.get(spec["loss"], {}),
            learned[name],
            model.engines[name],
            step=state.step,
            memory=memory,
            **sources,
        )
        total = total + objectives.weigh(spec, value, learned[name], state.step)
        metrics[f"loss/{name}"] = value
        metrics |= {f"{k}/{name}": v for k, v in extra.items()}
    metrics |= objectives.spreads(model.objectives, batch=sources["batch"], outputs=sources["outputs"])
    return total, metrics


def written(model: Model, **sources: Any) -> Any:
    """{tower: {slot: (rows by reference, which are present)}} of batch, outputs and target."""
    return {
        name: {slot: _rows_to_write(spec, **sources) for slot, spec in tower.memory.items()}
        for name, tower in model.towers.items()
    }


def _rows_to_write(spec: Mapping[str, Any], **sources: Any) -> tuple[list[jax.Array], list[jax.Array] | None]:
    """The rows [B, D] that a slot takes from each of its references, and which of them are present (None: all)."""
    names = memory_bank.reads(spec)
    rows = [jax.lax.stop_gradient(objectives.read(n, memory={}, **sources)) for n in names]
    present, count = sources["batch"]["present"], rows[0].shape[0]
    owners = [r.owner for r in map(objectives.parse, names) if r]
    some = any(o in present for o in owners)
    return rows, [present.get(o, jnp.ones(count, bool)) for o in owners] if some else None


def forward(
    model: Model,
    state: TrainState,
    params: Any,
    batch: Mapping[str, Any],
    keys: Mapping[str, jax.Array] | None,
    memory: Any,
    train: bool = True,
) -> tuple[jax.Array, Aux]:
    """Loss of one batch. With memory None only the outputs are wanted (shapes at initialisation)."""
    outputs: towers.Outputs = {}
    target: towers.Outputs = {}
    model_state, target_stats = dict(state.model_state), {}
    common = {"present": batch["present"], "keys": keys, "train": train}
    for name, tower in model.towers.items():
        made, model_state[name] = towers.apply(tower, params[name], model_state[name], batch["views"], **common)
        outputs |= made
        if tower.target is not None:
            made, target_stats[name] = run_target(tower, state.target[name], batch["views"], **common)
            target |= made
    sources: dict[str, Any] = {"batch": batch, "outputs": outputs, "target": target}
    total = jnp.zeros((), jnp.float32)
    metrics: dict[str, jax.Array] = {}
    if memory is not None:
        total, metrics = run_objectives(model, state, params["objectives"], memory, **sources)
    return total, Aux(metrics, model_state, target_stats, written(model, **sources))
