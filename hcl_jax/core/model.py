"""The model of a run: towers and objectives bound into pure functions of the state and a batch.

outputs  = towers(views)
loss     = sum of weight * objective(outputs)
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcl_jax.core import memory_bank, objectives, towers
from hcl_jax.core.optim import Optimizer
from hcl_jax.core.state import REMEMBERED, TrainState, named_key
from hcl_jax.errors import InputError, nearest


class Model(NamedTuple):
    """The static parts of a run."""

    towers: dict[str, towers.Tower]
    objectives: Mapping[str, Mapping[str, Any]]
    losses: Mapping[str, Callable]
    measures: Mapping[str, Mapping[str, Callable]]
    engines: Mapping[str, Any]  # of each objective
    accumulate: int
    cache: int
    num_shards: int  # parts that the mesh splits a batch into
    steps: int
    param_dtype: Any


class Aux(NamedTuple):
    """What a forward pass leaves besides the loss."""

    metrics: dict[str, jax.Array]
    model_state: Any
    target_stats: Any
    memory_rows: Any  # {tower: {slot: (rows by reference, which are present)}}, for the memory


def build(
    config: Any,
    *,
    encoders: Mapping,
    heads: Mapping,
    losses: Mapping,
    measures: Mapping,
    engines: Mapping[str, Any],
    steps: int,
    num_shards: int = 1,
) -> Model:
    """Binds a frozen config to the tables of parts; the mesh splits a batch into `num_shards` parts."""
    return Model(
        towers=towers.build(config, encoders, heads),
        objectives=config.objectives.to_dict(),
        losses=losses,
        measures=measures,
        engines=engines,
        accumulate=config.train.accumulate,
        cache=config.train.cache,
        num_shards=num_shards,
        steps=steps,
        param_dtype=jnp.dtype(config.train.param_dtype),
    )


def init(
    model: Model, tx: optax.GradientTransformation | Optimizer, batch: Mapping[str, Any], seed: int | jax.Array
) -> TrainState:
    """The state before the first step. Of `batch` only shapes are used: the numbers depend on no data and no mesh."""
    key = jax.random.key(seed)
    batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
    params: dict[str, Any] = {"objectives": {}}
    target: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    memory: dict[str, Any] = {name: {} for name in model.towers}
    for name, tower in model.towers.items():
        params[name], stats[name] = towers.init(tower, named_key(key, f"towers/{name}"), batch["views"])
        if tower.target is not None:
            target[name] = {
                "params": towers.copy_for_target(tower, params[name]),
                "batch_stats": towers.copy_for_target(tower, stats[name]),
            }
    for name, spec in model.objectives.items():
        params["objectives"][name] = objectives.init(spec, model.param_dtype)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        target=target,
        model_state=stats,
        memory={},
        opt_state=tx.init(params),
        key=key,
        skipped=jnp.zeros((), jnp.int32),
        skipped_total=jnp.zeros((), jnp.int32),
        skipped_steps=jnp.full((REMEMBERED,), -1, jnp.int32),
    )
    if not any(tower.memory for tower in model.towers.values()):
        return state._replace(memory=memory)
    _, aux = jax.eval_shape(lambda s, b: forward(model, s, s.params, b, row_keys(s.key, model, b), None), state, batch)
    for name, tower in model.towers.items():
        for slot, spec in tower.memory.items():
            written = aux.memory_rows[name][slot][0]
            if any(x.ndim != 2 or x.shape != written[0].shape for x in written):
                found = f"shapes {', '.join(str(x.shape) for x in written)}"
                raise InputError(f"config.towers.{name}.memory.{slot}.reads", found, "[rows, features], of one width")
            rows = written[0]
            slot_key = named_key(key, f"memory/{name}/{slot}")
            if spec["kind"] == "fifo":
                zeros = spec.get("initial") == "zeros"
                memory[name][slot] = memory_bank.init_fifo(slot_key, spec["size"], rows.shape[-1], rows.dtype, zeros)
            else:
                memory[name][slot] = memory_bank.init_mean(rows.shape[-1], rows.dtype)
    return state._replace(memory=memory)


def row_keys(key: jax.Array, model: Model, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """{view: keys [B]}: from the step's key, the view and the row, and nothing else."""
    rows = jnp.arange(batch["index"].shape[0])
    names = [v for t in model.towers.values() for v in t.views]
    return {v: jax.vmap(jax.random.fold_in, (None, 0))(named_key(key, v), rows) for v in names}


_target_key = jax.vmap(lambda key: named_key(key, "target"))


@jax.named_scope("target")
def run_target(
    tower: towers.Tower, copy: Any, views: Mapping[str, Any], *, keys: Mapping[str, jax.Array] | None, **common: Any
) -> tuple[towers.Outputs, Any]:
    """Runs the target of a tower, {"params": ..., "batch_stats": ...}: towers.apply without a gradient."""
    copy = jax.lax.stop_gradient(copy)
    # Dropout masks of its own.
    keys = None if keys is None else {v: _target_key(k) for v, k in keys.items()}
    heads = towers.target_heads(tower)
    drop = tower.target is not None and tower.target["drop"]
    return towers.apply(tower, copy["params"], copy["batch_stats"], views, heads=heads, keys=keys, drop=drop, **common)


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


def recalled(model: Model, params: Any, model_state: Any, memory: Any) -> Any:
    """The memory with what objectives read of heads over its rows: `image.memory.queue.prototypes` is the head
    `prototypes` of now over the rows of `queue`, without a gradient. A row of zeros stays one."""
    read = {r for spec in model.objectives.values() for r in map(objectives.parse, objectives.names_read(spec)) if r}
    made = {name: dict(slots) for name, slots in memory.items()}
    for reference in sorted(r for r in read if r.kind == "memory" and "." in r.name):
        slot, _, head = reference.name.partition(".")
        rows, owner = memory[reference.owner][slot]["rows"], reference.owner
        y = towers.apply_head(model.towers[owner], head, params[owner], model_state[owner], rows)
        made[owner][reference.name] = {"rows": jnp.where(jnp.any(rows != 0, axis=1, keepdims=True), y, 0)}
    return made


def memory_rows(model: Model, **sources: Any) -> Any:
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
    may_be_absent = any(o in present for o in owners)
    return rows, [present.get(o, jnp.ones(count, bool)) for o in owners] if may_be_absent else None


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
        of_tower, model_state[name] = towers.apply(tower, params[name], model_state[name], batch["views"], **common)
        outputs |= of_tower
        if tower.target is not None:
            of_target, target_stats[name] = run_target(tower, state.target[name], batch["views"], **common)
            target |= of_target
    sources: dict[str, Any] = {"batch": batch, "outputs": outputs, "target": target}
    total = jnp.zeros((), jnp.float32)
    metrics: dict[str, jax.Array] = {}
    if memory is not None:
        memory = recalled(model, params, state.model_state, memory)
        total, metrics = run_objectives(model, state, params["objectives"], memory, **sources)
    return total, Aux(metrics, model_state, target_stats, memory_rows(model, **sources))


def evaluate(
    model: Model, counts: Mapping[str, Callable], state: TrainState, params: Any, batch: Mapping[str, Any]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The objectives of one batch in evaluation mode, {"loss/contrast": ..., ...}, and what each is a mean over.

    Args:
      model: the static parts.
      counts: {loss: function of its inputs}, how many tokens or pixels it counts; of the others present rows count.
      state, params: of the run.
      batch: views, labels, index and masks.
    """
    named = {spec["loss"] for spec in model.objectives.values()} & counts.keys()
    counting = {loss: {**model.measures.get(loss, {}), "count": counts[loss]} for loss in named}
    counting_model = model._replace(measures={**model.measures, **counting})
    _, aux = forward(counting_model, state, params, batch, None, state.memory, train=False)
    values = dict(aux.metrics)
    rows = {name: objectives.counted(spec, batch) for name, spec in model.objectives.items()}
    rows |= {name: values.pop(f"count/{name}") for name in rows if f"count/{name}" in values}
    total = jnp.sum(batch["index"] >= 0)
    return values, {name: rows.get(name.rpartition("/")[2], total) for name in values}


def read_of_targets(model: Model, state: TrainState) -> tuple[Any, Any]:
    """(params, running statistics) with those of its target in the place of a tower's, where it has one; heads that the
    target has not stay the tower's."""
    params, stats = dict(state.params), dict(state.model_state)
    for name, copy in state.target.items():
        for into, part in ((params, copy["params"]), (stats, copy["batch_stats"])):
            into[name] = {"encoder": part["encoder"], "heads": {**into[name]["heads"], **part["heads"]}}
    return params, stats


def encode(
    model: Model, tower: str, outputs: tuple[str, ...], params: Any, model_state: Any, view: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """Outputs of one view in evaluation mode (running statistics, no dropout): {output: [B, ...]}.

    Raises:
      InputError: an output that the encoder does not make as it is configured.
    """
    part = model.towers[tower]._replace(views=("view",))
    views = {"view": view}
    found, _ = towers.apply(part, params[tower], model_state[tower], views, present={}, keys=None, train=False)
    for name in outputs:
        if name not in found["view"]:
            raise InputError(f"config.towers.{tower}: an output to evaluate", repr(name), nearest(name, found["view"]))
    return {name: found["view"][name] for name in outputs}
