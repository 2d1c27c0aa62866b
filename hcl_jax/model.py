"""The model of a run: towers and objectives bound into pure functions of the state and a batch.

outputs  = towers(views)
loss     = sum of weight * objective(outputs)
step     : (state, batch) -> (state, metrics)
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hcl_jax import memory as memories
from hcl_jax import objectives, towers
from hcl_jax.errors import InputError
from hcl_jax.state import TrainState, named_key


class Model(NamedTuple):
    """The static parts of a run."""

    towers: dict[str, towers.Tower]
    objectives: Mapping[str, Mapping[str, Any]]
    losses: Mapping[str, Callable]
    measures: Mapping[str, Mapping[str, Callable]]
    engine: Any
    accumulate: int
    steps: int
    param_dtype: Any


def build(
    config: Any, *, encoders: Mapping, heads: Mapping, losses: Mapping, measures: Mapping, engine: Any, steps: int
) -> Model:
    """Binds a frozen config to the tables of parts."""
    return Model(
        towers=towers.build(config, encoders, heads),
        objectives=config.objectives.to_dict(),
        losses=losses,
        measures=measures,
        engine=engine,
        accumulate=config.train.accumulate,
        steps=steps,
        param_dtype=jnp.dtype(config.train.param_dtype),
    )


def init(model: Model, tx: optax.GradientTransformation, batch: Mapping[str, Any], seed: int | jax.Array) -> TrainState:
    """The state before the first step. Of `batch` only shapes are used: the numbers depend on no data and no mesh."""
    key = jax.random.key(seed)
    batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
    params: dict[str, Any] = {"objectives": {}}
    target: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    memory: dict[str, Any] = {}
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
    )
    _, aux = jax.eval_shape(lambda s, b: _forward(model, s, s.params, b, _keys(s.key, model, b), None), state, batch)
    for name, tower in model.towers.items():
        memory[name] = {}
        for slot, spec in tower.memory.items():
            every = aux.written[name][slot][0]
            if any(x.ndim != 2 or x.shape != every[0].shape for x in every):
                found = f"shapes {', '.join(str(x.shape) for x in every)}"
                raise InputError(f"config.towers.{name}.memory.{slot}.reads", found, "[rows, features], of one width")
            rows = every[0]
            slot_key = named_key(key, f"memory/{name}/{slot}")
            if spec["kind"] == "fifo":
                memory[name][slot] = memories.init_fifo(slot_key, spec["size"], rows.shape[-1], rows.dtype)
            else:
                memory[name][slot] = memories.init_mean(rows.shape[-1], rows.dtype)
    return state._replace(memory=memory)


def _keys(key: jax.Array, model: Model, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """{view: keys [B]}: from the step's key, the view and the row, and nothing else."""
    rows = jnp.arange(batch["index"].shape[0])
    names = [v for t in model.towers.values() for v in t.views]
    return {v: jax.vmap(jax.random.fold_in, (None, 0))(named_key(key, v), rows) for v in names}


_other = jax.vmap(lambda key: named_key(key, "target"))


class Aux(NamedTuple):
    """What a forward pass leaves besides the loss."""

    metrics: dict[str, jax.Array]
    model_state: Any
    target_stats: Any
    written: Any  # {tower: {slot: (rows by reference, which are present)}}, for the memory


def _forward(
    model: Model,
    state: TrainState,
    params: Any,
    batch: Mapping[str, Any],
    keys: Mapping[str, jax.Array] | None,
    memory: Any,
    train: bool = True,
) -> tuple[jax.Array, Aux]:
    """Loss of one batch. With memory None only the outputs are wanted (shapes at initialisation)."""
    outputs: dict[str, dict[str, jax.Array]] = {}
    target: dict[str, dict[str, jax.Array]] = {}
    model_state, target_stats = dict(state.model_state), {}
    common = {"present": batch["present"], "keys": keys, "train": train}
    for name, tower in model.towers.items():
        made, model_state[name] = towers.apply(tower, params[name], model_state[name], batch["views"], **common)
        outputs |= made
        if tower.target is not None:
            copy = jax.lax.stop_gradient(state.target[name])
            made, stats = towers.apply(
                tower,
                copy["params"],
                copy["batch_stats"],
                batch["views"],
                heads=towers.target_heads(tower),
                # Dropout masks of its own.
                **common | {"keys": None if keys is None else {v: _other(k) for v, k in keys.items()}},
            )
            target |= made
            target_stats[name] = stats
    sources: dict[str, Any] = {"batch": batch, "outputs": outputs, "target": target}
    written = {
        name: {slot: _rows_to_write(spec, **sources) for slot, spec in tower.memory.items()}
        for name, tower in model.towers.items()
    }
    total, metrics = jnp.zeros((), jnp.float32), {}
    if memory is not None:
        for name, spec in model.objectives.items():
            learned = params["objectives"][name]
            value, extra = objectives.evaluate(
                spec,
                model.losses[spec["loss"]],
                model.measures.get(spec["loss"], {}),
                learned,
                model.engine,
                step=state.step,
                memory=memory,
                **sources,
            )
            total = total + objectives.weigh(spec, value, learned, state.step)
            metrics[f"loss/{name}"] = value
            metrics |= {f"{k}/{name}": v for k, v in extra.items()}
        metrics |= objectives.spreads(model.objectives, batch=batch, outputs=outputs)
    return total, Aux(metrics, model_state, target_stats, written)


def _rows_to_write(spec: Mapping[str, Any], **sources: Any) -> tuple[list[jax.Array], list[jax.Array] | None]:
    """The rows [B, D] that a slot takes from each of its references, and which of them are present (None: all)."""
    names = memories.reads(spec)
    rows = [jax.lax.stop_gradient(objectives.read(n, memory={}, **sources)) for n in names]
    present, count = sources["batch"]["present"], rows[0].shape[0]
    owners = [r.owner for r in map(objectives.parse, names) if r]
    some = any(o in present for o in owners)
    return rows, [present.get(o, jnp.ones(count, bool)) for o in owners] if some else None


def train_step(
    model: Model, tx: optax.GradientTransformation, state: TrainState, batch: Mapping[str, Any]
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step: loss, gradient, optimizer, target, memory. A non-finite loss or gradient changes nothing but the count.

    With accumulate = k the rows r with r mod k = j form the j-th contrastive batch; the gradient is the mean over j.
    """
    k = model.accumulate
    keys = _keys(jax.random.fold_in(state.key, state.step), model, batch)
    gradient = jax.value_and_grad(lambda p, s, b, key: _forward(model, s, p, b, key, state.memory), has_aux=True)

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
                aux.written,
            )

        start = (
            state.model_state,
            {n: t["batch_stats"] for n, t in state.target.items()},
            jax.tree.map(jnp.zeros_like, state.params),
        )
        (model_state, target_stats, grads), (loss, metrics, written) = jax.lax.scan(body, start, split)
        grads = jax.tree.map(lambda g: g / k, grads)
        loss, metrics = jax.tree.map(lambda x: jnp.mean(x, 0), (loss, metrics))
        # Row r lies at [r mod k, r // k]: back to the order of the global batch before the memory takes it.
        written = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), written)
        aux = Aux(metrics, model_state, target_stats, written)

    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
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
    new = new._replace(step=state.step + 1, skipped=jnp.where(finite, 0, state.skipped + 1))
    metrics = {"loss": loss, **aux.metrics, "gradient_norm": norm, "skipped": new.skipped}
    return new, metrics


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
            stats = towers.moved(old["batch_stats"], online, momentum)
        else:
            stats = online
        moved = towers.moved(old["params"], towers.copy_for_target(tower, params[name]), momentum)
        target[name] = {"params": moved, "batch_stats": stats}
    return target


def _memory(model: Model, state: TrainState, aux: Aux) -> Any:
    memory: dict[str, Any] = {}
    for name, tower in model.towers.items():
        memory[name] = {}
        for slot, spec in tower.memory.items():
            old, (rows, present) = (
                state.memory[name][slot],
                jax.tree.map(memories.side_by_side, aux.written[name][slot], is_leaf=lambda x: isinstance(x, list)),
            )
            if spec["kind"] == "fifo":
                memory[name][slot] = memories.write_fifo(old, rows, present)
            else:
                memory[name][slot] = memories.write_mean(old, rows, present, spec["momentum"])
    return memory


def evaluate(
    model: Model, state: TrainState, params: Any, batch: Mapping[str, Any]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The objectives of one batch in evaluation mode, {"loss/contrast": ..., ...}, and the rows that each counts."""
    _, aux = _forward(model, state, params, batch, None, state.memory, train=False)
    rows = {name: objectives.counted(spec, batch) for name, spec in model.objectives.items()}
    every = jnp.sum(batch["index"] >= 0)
    return aux.metrics, {name: rows.get(name.rpartition("/")[2], every) for name in aux.metrics}


def encode(
    model: Model, tower: str, outputs: tuple[str, ...], params: Any, model_state: Any, view: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """Outputs of one view in evaluation mode (running statistics, no dropout): {output: [B, ...]}."""
    part = model.towers[tower]._replace(views=("view",))
    made, _ = towers.apply(part, params[tower], model_state[tower], {"view": view}, present={}, keys=None, train=False)
    return {name: made["view"][name] for name in outputs}
