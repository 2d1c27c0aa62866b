"""Cached gradients: the loss of the whole batch, the encoders in chunks of its rows.

1. scan over chunks j: y_j = f(x_j), nothing else is stored;   2. L(y), dL/dy on the whole batch;
3. scan again: dL/dtheta = sum_j (dL/dy_j) (dy_j/dtheta), each forward pass run once more, with the same keys.

Memory: the outputs that are read, and the activations of one chunk. Time: one more forward pass.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hcl_jax.core import memory_bank, objectives, towers
from hcl_jax.core.model import Aux, Model, memory_rows, recalled, run_objectives, run_target
from hcl_jax.core.state import TrainState
from hcl_jax.errors import InputError


class Chunks(NamedTuple):
    """Chunk j of k holds the contiguous groups j, j + k, j + 2 k, ... of `groups`.

    With a multiple of k x (devices) groups, each device owns an equal share of each chunk: no row moves.
    """

    num_chunks: int
    groups: int

    def gather(self, rows: Any, j: jax.Array) -> Any:
        """Chunk j of a pytree of [B, ...]: [B / k, ...]."""

        def one(x: jax.Array) -> jax.Array:
            x = x.reshape(self.groups // self.num_chunks, self.num_chunks, x.shape[0] // self.groups, *x.shape[1:])
            return jax.lax.dynamic_index_in_dim(x, j, 1, keepdims=False).reshape(-1, *x.shape[3:])

        return jax.tree.map(one, rows)

    def scatter(self, rows: Any) -> Any:
        """[k, B / k, ...] of all chunks -> [B, ...] in the order of the batch."""

        def one(x: jax.Array) -> jax.Array:
            rows, rest = x.shape[0] * x.shape[1], x.shape[2:]
            x = x.reshape(self.num_chunks, self.groups // self.num_chunks, rows // self.groups, *rest)
            return jnp.moveaxis(x, 0, 1).reshape(rows, *rest)

        return jax.tree.map(one, rows)


class Pass(NamedTuple):
    """The views of a tower that go through it together, and what a pass over them reads of the batch."""

    tower: towers.Tower
    chunks: Chunks
    rows: dict[str, Any]  # {"views": ..., "present": ..., "keys": ...}, each {view: [B, ...]}
    read: dict[str, set[str]]  # {"output": ..., "target": ...}: the outputs that are read, "view.output"


def gradient(
    model: Model, params: Any, state: TrainState, batch: Mapping[str, Any], keys: Mapping[str, jax.Array]
) -> tuple[tuple[jax.Array, Aux], Any]:
    """((loss, aux), gradient) of a batch, equal to those of the pass over all rows at once with the same bn_groups.

    Args:
      model: the static parts; `cache` chunks.
      params: state.params, or what stands for them.
      state: everything else that the pass reads.
      batch: the whole batch, rows in front.
      keys: {view: keys [B]}, one a row, so both passes drop the same numbers.

    Raises:
      InputError: a tower with batch statistics whose bn_groups are not a multiple of cache; rows that do not split;
        heads over all views together where a view may be absent.

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
            of_pass, model_state[name] = _online(p, params[name], model_state[name])
            outputs |= of_pass
            if tower.target is not None:
                of_pass, target_stats[name] = _target(p, state.target[name]["params"], target_stats[name])
                target |= of_pass

    memory = recalled(model, params, state.model_state, state.memory)

    def loss_of(moving: Any, learned: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        merged = {v: {**x, **moving[v]} for v, x in outputs.items()}
        return run_objectives(model, state, learned, memory, batch=batch, outputs=merged, target=target)

    moving = {v: {o: x for o, x in of.items() if jnp.issubdtype(x.dtype, jnp.inexact)} for v, of in outputs.items()}
    (loss, metrics), (cotangents, learned) = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)(
        moving, params["objectives"]
    )
    grads = {"objectives": learned}
    for name in model.towers:
        # bfloat16 parameters have float32 sums: k rounded ones would lose digits that the plain step keeps.
        total = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), params[name])
        for p, stats in passes[name]:
            total = _vjp_chunks(p, params[name], stats, cotangents, total)
        grads[name] = jax.tree.map(lambda g, x: g.astype(x.dtype), total, params[name])
    rows = memory_rows(model, batch=batch, outputs=outputs, target=target)
    return (loss, Aux(metrics, model_state, target_stats, rows)), grads


def _passes(
    model: Model, tower: towers.Tower, stats: Any, batch: Mapping[str, Any], keys: Mapping[str, jax.Array]
) -> list[Pass]:
    """The passes of a tower: views of another shape go alone, for their groups weigh otherwise in the statistics."""
    chunks = Chunks(model.cache, _groups(model, tower, stats, batch["index"].shape[0]))
    if tower.heads_together and any(v in batch["present"] for v in tower.views):
        # The passes of encoder and heads would weigh their chunks differently.
        allowed = "encoder, where train.cache is above 1 and rows may lack a view"
        raise InputError(f"config.towers.{tower.name}.heads_batching", "together", allowed)
    read = {"views": batch["views"], "present": batch["present"], "keys": keys}
    return [
        Pass(
            tower=tower._replace(views=tuple(group), bn_groups=chunks.groups // chunks.num_chunks),
            chunks=chunks,
            rows={kind: {v: x[v] for v in group if v in x} for kind, x in read.items()},
            read=_read(model),
        )
        for group in towers.batch_views(tower, batch["views"])
    ]


def _groups(model: Model, tower: towers.Tower, stats: Any, rows: int) -> int:
    """How many contiguous groups the chunks take in turn: those of the batch statistics, where there are any."""
    k = model.cache
    if jax.tree.leaves((stats["heads"], () if tower.frozen else stats["encoder"])):
        if tower.bn_groups % k:
            allowed = f"a multiple of train.cache {k}, for a chunk has batch statistics of its own"
            raise InputError(f"config.towers.{tower.name}.bn_groups", tower.bn_groups, allowed)
        return tower.bn_groups
    if rows % (k * model.num_shards):
        raise InputError(
            "config.train.cache", k, f"k with k x {model.num_shards} (mesh data x fsdp) a divisor of {rows} rows"
        )
    return k * model.num_shards


def _read(model: Model) -> dict[str, set[str]]:
    """The outputs that objectives, their spreads and memory slots read, online and of targets."""
    names = [n for spec in model.objectives.values() for n in objectives.names_read(spec)]
    names += [n for tower in model.towers.values() for spec in tower.memory.values() for n in memory_bank.reads(spec)]
    found = [r for r in map(objectives.parse, names) if r]
    return {kind: {f"{r.owner}.{r.name}" for r in found if r.kind == kind} for kind in ("output", "target")}


def _select(outputs: towers.Outputs, names: set[str]) -> towers.Outputs:
    return {v: {o: x for o, x in of_view.items() if f"{v}.{o}" in names} for v, of_view in outputs.items()}


def _apply(p: Pass, params: Any, stats: Any, rows: Any) -> tuple[towers.Outputs, Any]:
    rows = {**rows, "train": True}
    outputs, stats = towers.apply(p.tower, params, stats, rows.pop("views"), **rows)
    return _select(outputs, p.read["output"]), stats


def _online(p: Pass, params: Any, stats: Any) -> tuple[towers.Outputs, Any]:
    return _scan_chunks(p, stats, lambda rows: _apply(p, params, stats, rows))


def _target(p: Pass, params: Any, stats: Any) -> tuple[towers.Outputs, Any]:
    def apply(rows: Any) -> tuple[towers.Outputs, Any]:
        copy = {"params": params, "batch_stats": stats}
        outputs, new = run_target(p.tower, copy, rows["views"], present=rows["present"], keys=rows["keys"], train=True)
        return _select(outputs, p.read["target"]), new

    return _scan_chunks(p, stats, apply)


def _scan_chunks(p: Pass, stats: Any, apply: Any) -> tuple[towers.Outputs, Any]:
    """Outputs [B, ...] and the running statistics, s + sum_j w_j (s_j - s): every chunk starts from s.

    w_j is the share of the groups with a present row that chunk j holds, as BatchNorm weighs groups.
    """

    def body(change: Any, at: tuple[jax.Array, jax.Array]) -> tuple[Any, towers.Outputs]:
        j, weight = at
        outputs, new = apply(p.chunks.gather(p.rows, j))
        # As a sum of changes: what does not change (a frozen encoder's statistics) stays bit by bit.
        return jax.tree.map(lambda c, n, o: c + (weight * (n - o)).astype(c.dtype), change, new, stats), outputs

    zero = jax.tree.map(jnp.zeros_like, stats)
    change, outputs = jax.lax.scan(body, zero, (jnp.arange(p.chunks.num_chunks), _shares(p)))
    return p.chunks.scatter(outputs), jax.tree.map(jnp.add, stats, change)


def _shares(p: Pass) -> jax.Array:
    """w [k]: each chunk's share of the groups with a present row in some view of the pass."""
    count, present = p.chunks.num_chunks, list(p.rows["present"].values())
    if len(present) < len(p.tower.views):
        return jnp.full(count, 1 / count)
    mask = jnp.stack(present).any(0).reshape(-1, count, present[0].shape[0] // p.chunks.groups)
    groups = mask.any(2).sum(0)
    return groups / jnp.maximum(groups.sum(), 1)


def _vjp_chunks(p: Pass, params: Any, stats: Any, cotangents: towers.Outputs, total: Any) -> Any:
    """total + the gradient of a tower's parameters that the cotangents [B, ...] of a pass's outputs give."""
    wanted = {v: cotangents[v] for v in p.tower.views}
    if not jax.tree.leaves(wanted):
        return total

    def body(total: Any, j: jax.Array) -> tuple[Any, None]:
        rows, part = p.chunks.gather((p.rows, wanted), j)

        def outputs(params: Any) -> towers.Outputs:
            found, _ = _apply(p, params, stats, rows)
            return {v: {o: found[v][o] for o in part[v]} for v in part}

        _, pull = jax.vjp(outputs, params)
        return jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, *pull(part)), None

    return jax.lax.scan(body, total, jnp.arange(p.chunks.num_chunks))[0]
