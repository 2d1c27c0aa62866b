"""Cached gradients: the loss of the whole batch, the encoders in sub-batches.

1. scan over sub-batches j: y_j = f(x_j), nothing else kept;   2. L(y), dL/dy on the whole batch;
3. scan again: dL/dtheta = sum_j (dL/dy_j) (dy_j/dtheta), each forward pass made once more, with the same keys.

Memory: the outputs that somebody reads, and the activations of one sub-batch. Time: one more forward pass.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hcl_jax.core import memory_bank, objectives, towers
from hcl_jax.core.forward import Aux, Model, run_objectives, run_target, written
from hcl_jax.core.state import TrainState
from hcl_jax.errors import InputError


class Split(NamedTuple):
    """Sub-batch j of `parts` holds the contiguous groups j, j + parts, j + 2 parts, ... of `groups`.

    With a multiple of parts x (devices) groups, each device owns an equal share of each sub-batch: no row moves.
    """

    parts: int
    groups: int

    def taken(self, rows: Any, j: jax.Array) -> Any:
        """Sub-batch j of a pytree of [B, ...]: [B / parts, ...]."""

        def one(x: jax.Array) -> jax.Array:
            x = x.reshape(self.groups // self.parts, self.parts, x.shape[0] // self.groups, *x.shape[1:])
            return jax.lax.dynamic_index_in_dim(x, j, 1, keepdims=False).reshape(-1, *x.shape[3:])

        return jax.tree.map(one, rows)

    def joined(self, rows: Any) -> Any:
        """[parts, B / parts, ...] of all sub-batches -> [B, ...] in the order of the batch."""

        def one(x: jax.Array) -> jax.Array:
            rows, rest = x.shape[0] * x.shape[1], x.shape[2:]
            x = x.reshape(self.parts, self.groups // self.parts, rows // self.groups, *rest)
            return jnp.moveaxis(x, 0, 1).reshape(rows, *rest)

        return jax.tree.map(one, rows)


class Pass(NamedTuple):
    """The views of a tower that go through it together, and what a pass over them reads of the batch."""

    tower: towers.Tower
    split: Split
    rows: dict[str, Any]  # {"views": ..., "present": ..., "keys": ...}, each {view: [B, ...]}
    kept: dict[str, set[str]]  # {"output": ..., "target": ...}: the outputs that somebody reads, "view.output"


def gradient(
    model: Model, params: Any, state: TrainState, batch: Mapping[str, Any], keys: Mapping[str, jax.Array]
) -> tuple[tuple[jax.Array, Aux], Any]:
    """((loss, aux), gradient) of a batch, equal to those of the pass over all rows at once with the same bn_groups.

    Args:
      model: the static parts; `cache` sub-batches.
      params: state.params, or what stands for them.
      state: everything else that the pass reads.
      batch: the whole batch, rows in front.
      keys: {view: keys [B]}, one a row, so both passes drop the same numbers.

    Raises:
      InputError: a tower with batch statistics whose bn_groups are no multiple of cache; rows that do not split.

    Reference: Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup",
      arXiv:2101.06983, section 3.
    """
    passes: dict[str, list[tuple[Pass, Any]]] = {}  # with the running statistics that each starts from
    outputs: towers.Outputs = {}
    target: towers.Outputs = {}
    model_state, target_stats = dict(state.model_state), {n: t["batch_stats"] for n, t in state.target.items()}
    for name, tower in model.towers.items():
        passes[name] = []
        for p in _passes(model, tower, state.model_state[name], batch, keys):
            passes[name].append((p, model_state[name]))
            made, model_state[name] = _online(p, params[name], model_state[name])
            outputs |= made
            if tower.target is not None:
                made, target_stats[name] = _target(p, state.target[name]["params"], target_stats[name])
                target |= made

    def loss_of(moving: Any, learned: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        every = {v: {**made, **moving[v]} for v, made in outputs.items()}
        return run_objectives(model, state, learned, state.memory, batch=batch, outputs=every, target=target)

    moving = {v: {o: x for o, x in made.items() if jnp.issubdtype(x.dtype, jnp.inexact)} for v, made in outputs.items()}
    (loss, metrics), (cotangents, learned) = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)(
        moving, params["objectives"]
    )
    grads = {"objectives": learned}
    for name in model.towers:
        # bfloat16 parameters have float32 sums: k rounded ones would lose digits that the plain step keeps.
        total = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), params[name])
        for p, stats in passes[name]:
            total = _pulled_back(p, params[name], stats, cotangents, total)
        grads[name] = jax.tree.map(lambda g, x: g.astype(x.dtype), total, params[name])
    rows = written(model, batch=batch, outputs=outputs, target=target)
    return (loss, Aux(metrics, model_state, target_stats, rows)), grads


def _passes(
    model: Model, tower: towers.Tower, stats: Any, batch: Mapping[str, Any], keys: Mapping[str, jax.Array]
) -> list[Pass]:
    """The passes of a tower: views of another shape go alone, for their groups weigh otherwise in the statistics."""
    split = Split(model.cache, _groups(model, tower, stats, batch["index"].shape[0]))
    read = {"views": batch["views"], "present": batch["present"], "keys": keys}
    return [
        Pass(
            tower=tower._replace(views=tuple(group), bn_groups=split.groups // split.parts),
            split=split,
            rows={kind: {v: x[v] for v in group if v in x} for kind, x in read.items()},
            kept=_kept(model),
        )
        for group in towers.together(tower, batch["views"])
    ]


def _groups(model: Model, tower: towers.Tower, stats: Any, rows: int) -> int:
    """How many contiguous groups the sub-batches take in turn: those of the batch statistics, where there are any."""
    k = model.cache
    if jax.tree.leaves((stats["heads"], () if tower.frozen else stats["encoder"])):
        if tower.bn_groups % k:
            allowed = f"a multiple of train.cache {k}, for a sub-batch has batch statistics of its own"
            raise InputError(f"config.towers.{tower.name}.bn_groups", tower.bn_groups, allowed)
        return tower.bn_groups
    if rows % (k * model.ways):
        raise InputError(
            "config.train.cache", k, f"k with k x {model.ways} (mesh data x fsdp) a divisor of {rows} rows"
        )
    return k * model.ways


def _kept(model: Model) -> dict[str, set[str]]:
    """The outputs that objectives, their spreads and memory slots read, online and of targets."""
    names = [n for spec in model.objectives.values() for n in objectives.names_read(spec)]
    names += [n for tower in model.towers.values() for spec in tower.memory.values() for n in memory_bank.reads(spec)]
    found = [r for r in map(objectives.parse, names) if r]
    return {kind: {f"{r.owner}.{r.name}" for r in found if r.kind == kind} for kind in ("output", "target")}


def _only(made: towers.Outputs, names: set[str]) -> towers.Outputs:
    return {v: {o: x for o, x in every.items() if f"{v}.{o}" in names} for v, every in made.items()}


def _apply(p: Pass, params: Any, stats: Any, rows: Any) -> tuple[towers.Outputs, Any]:
    rows = {**rows, "train": True}
    made, stats = towers.apply(p.tower, params, stats, rows.pop("views"), **rows)
    return _only(made, p.kept["output"]), stats


def _online(p: Pass, params: Any, stats: Any) -> tuple[towers.Outputs, Any]:
    return _first(p, stats, lambda rows: _apply(p, params, stats, rows))


def _target(p: Pass, params: Any, stats: Any) -> tuple[towers.Outputs, Any]:
    def apply(rows: Any) -> tuple[towers.Outputs, Any]:
        copy = {"params": params, "batch_stats": stats}
        made, new = run_target(p.tower, copy, rows["views"], present=rows["present"], keys=rows["keys"], train=True)
        return _only(made, p.kept["target"]), new

    return _first(p, stats, apply)


def _first(p: Pass, stats: Any, apply: Any) -> tuple[towers.Outputs, Any]:
    """Outputs [B, ...] and the running statistics, s + sum_j w_j (s_j - s): every sub-batch starts from s.

    w_j is the share of the groups with a present row that sub-batch j holds, as BatchNorm weighs groups.
    """

    def body(moved: Any, at: tuple[jax.Array, jax.Array]) -> tuple[Any, towers.Outputs]:
        j, weight = at
        made, new = apply(p.split.taken(p.rows, j))
        # As a sum of moves: what does not move (a frozen encoder's statistics) stays bit by bit.
        return jax.tree.map(lambda m, n, o: m + (weight * (n - o)).astype(m.dtype), moved, new, stats), made

    zero = jax.tree.map(jnp.zeros_like, stats)
    moved, made = jax.lax.scan(body, zero, (jnp.arange(p.split.parts), _shares(p)))
    return p.split.joined(made), jax.tree.map(jnp.add, stats, moved)


def _shares(p: Pass) -> jax.Array:
    """w [parts]: each sub-batch's share of the groups with a present row in some view of the pass."""
    parts, present = p.split.parts, list(p.rows["present"].values())
    if len(present) < len(p.tower.views):
        return jnp.full(parts, 1 / parts)
    there = jnp.stack(present).any(0).reshape(-1, parts, present[0].shape[0] // p.split.groups)
    held = there.any(2).sum(0)
    return held / jnp.maximum(held.sum(), 1)


def _pulled_back(p: Pass, params: Any, stats: Any, cotangents: towers.Outputs, total: Any) -> Any:
    """total + the gradient of a tower's parameters that the cotangents [B, ...] of a pass's outputs give."""
    wanted = {v: cotangents[v] for v in p.tower.views}
    if not jax.tree.leaves(wanted):
        return total

    def body(total: Any, j: jax.Array) -> tuple[Any, None]:
        rows, part = p.split.taken((p.rows, wanted), j)

        def outputs(params: Any) -> towers.Outputs:
            made, _ = _apply(p, params, stats, rows)
            return {v: {o: made[v][o] for o in part[v]} for v in part}

        _, pull = jax.vjp(outputs, params)
        return jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, *pull(part)), None

    return jax.lax.scan(body, total, jnp.arange(p.split.parts))[0]
