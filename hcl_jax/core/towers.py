"""Towers: views -> outputs. An encoder, the heads on it, and optionally a moving-average target."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hcl_jax.core.state import named_key
from hcl_jax.encoders.inputs import Rows
from hcl_jax.encoders.own import module_of
from hcl_jax.errors import InputError, nearest
from hcl_jax.losses.masking import interleave

Outputs = dict[str, dict[str, jax.Array]]


class Tower(NamedTuple):
    """The static parts of a tower; its numbers live in the state."""

    name: str
    views: tuple[str, ...]
    encoder: Any
    heads: dict[str, Any]
    reads: dict[str, str]  # head -> the output that it reads, in the order of evaluation
    target: Mapping[str, Any] | None
    memory: Mapping[str, Mapping[str, Any]]
    joint: bool
    bn_groups: int
    frozen: bool
    heads_together: bool = False  # the heads run once over all views, whatever passes the encoder takes


def build(config: Any, encoders: Mapping[str, Callable], heads: Mapping[str, Callable]) -> dict[str, Tower]:
    """The towers of a config. `train.compute_dtype`, `param_dtype` and `remat` reach every module that has them."""
    towers = {}
    for name, spec in config.towers.items():
        order = head_order(spec.heads)
        towers[name] = Tower(
            name=name,
            views=tuple(spec.views),
            encoder=_module(encoders, spec.encoder, config.train, f"config.towers.{name}.encoder"),
            heads={h: _module(heads, spec.heads[h], config.train, f"config.towers.{name}.heads.{h}") for h in order},
            reads={h: spec.heads[h]["reads"] for h in order},
            target=spec.target,
            memory=spec.memory,
            joint=spec.batching == "joint",
            bn_groups=spec.bn_groups,
            frozen=spec.frozen,
            heads_together=spec.heads_batching == "together",
        )
    return towers


def _module(table: Mapping[str, Callable], spec: Mapping[str, Any], train: Any, where: str) -> Any:
    arguments = {k: v for k, v in spec.items() if k not in ("name", "reads")}
    make = table[spec["name"]]
    common = {
        "dtype": jnp.dtype(train.compute_dtype),
        "param_dtype": jnp.dtype(train.param_dtype),
        "remat": train.remat,
    }
    known = inspect.signature(make).parameters if callable(make) else {}
    common = {k: v for k, v in common.items() if k in known and k not in arguments}
    return module_of(make, {**common, **arguments}, f"{where}.name")


def head_order(heads: Mapping[str, Any]) -> list[str]:
    """Heads so that each comes after the one it reads; those that read nothing known stay at the end for validation."""
    order: list[str] = []
    while len(order) < len(heads):
        ready = [h for h in heads if h not in order and heads[h]["reads"] not in set(heads) - set(order)]
        if not ready:
            return order + [h for h in heads if h not in order]
        order += ready
    return order


def with_read(wanted: Any, heads: Mapping[str, Any]) -> tuple[str, ...]:
    """The wanted heads and those that they read, in the order of evaluation."""
    open_, closure = list(wanted), set()
    while open_:
        head = open_.pop()
        if head in heads and head not in closure:
            closure.add(head)
            open_.append(heads[head]["reads"])
    return tuple(h for h in head_order(heads) if h in closure)


def target_heads(tower: Tower) -> tuple[str, ...]:
    """The heads that the target copies."""
    if tower.target is None:
        return ()
    return with_read(tower.target["heads"], {h: {"reads": r} for h, r in tower.reads.items()})


def _inputs(tower: Tower, views: Mapping[str, Any]) -> dict[str, Any]:
    """What the encoder reads of each view of the tower; all of a view without any of it, so that a refusal names it."""
    reads = getattr(tower.encoder, "reads", None)
    read = {v: {k: x for k, x in views[v].items() if reads is None or k in reads} for v in tower.views if v in views}
    return {v: found or dict(views[v]) for v, found in read.items()}


def _groups(tower: Tower, inputs: Mapping[str, Any]) -> list[list[str]]:
    """Views that go through the encoder together: with joint batching those of one shape, else each alone.

    An encoder may say of a view that it goes `apart`: where rows refer to rows (the nodes of one graph), side by side
    they would be renumbered.
    """
    apart = getattr(tower.encoder, "apart", lambda view: False)
    groups: dict[Any, list[str]] = {}
    for name, view in inputs.items():
        kind = str(jax.tree.map(lambda x: (x.shape, x.dtype), view)) if tower.joint and not apart(view) else name
        groups.setdefault(kind, []).append(name)
    return list(groups.values())


def groups(tower: Tower, views: Mapping[str, Any]) -> list[list[str]]:
    """The views of a tower by the pass that they share; running statistics move from pass to pass."""
    return _groups(tower, _inputs(tower, views))


def batch_views(tower: Tower, views: Mapping[str, Any]) -> list[list[str]]:
    """The views of a tower whose rows can go in parts, by what has to be at hand at once: `groups`, or all of them
    where the heads run over all.

    Raises:
      InputError: rows of a view refer to each other (the nodes of one graph), so that no part of them can go alone.
    """
    inputs = _inputs(tower, views)
    apart = getattr(tower.encoder, "apart", lambda view: False)
    for name, view in inputs.items():
        if apart(view):
            raise InputError("config.train.cache", "more than 1", f"1: rows of view {name} refer to each other")
    return [list(inputs)] if tower.heads_together else _groups(tower, inputs)


def _stack(trees: list[Any]) -> Any:
    """[B, ...] per view -> [B V, ...], the views of a row side by side."""
    return jax.tree.map(lambda *xs: interleave(list(xs)), *trees)


def _unstack(x: jax.Array, count: int) -> list[jax.Array]:
    if count == 1:
        return [x]
    split = x.reshape(-1, count, *x.shape[1:])
    return [split[:, i] for i in range(count)]


# The names of these scopes are those by which hcl_jax.plan tells the parts of a step apart.
@jax.named_scope("encoder")
def apply(
    tower: Tower,
    params: Any,
    stats: Any,
    views: Mapping[str, Any],
    *,
    present: Mapping[str, jax.Array],
    keys: Mapping[str, jax.Array] | None,
    train: bool,
    heads: tuple[str, ...] | None = None,
    momentum: jax.Array | None = None,
    drop: bool = True,
) -> tuple[Outputs, Any]:
    """Runs a tower over its views.

    Args:
      tower: the static parts.
      params, stats: its parameters and running statistics, {"encoder": ..., "heads": {...}}.
      views: {view: pytree}, leading axis B; views of other towers are passed over.
      present: {view: bool [B]} for the views that may be absent.
      keys: {view: PRNG keys [B]} for dropout; None when nothing is dropped.
      train: batch statistics and dropout, or running statistics; the encoder of a frozen tower has the latter always.
      heads: which heads to run; None runs all.
      momentum: share of the running statistics that the pass keeps; None: as each module says.
      drop: dropout and stochastic depth in a training pass.

    Returns:
      ({view: {output: [B, ...]}}, running statistics after the pass).

    Raises:
      InputError: heads together over outputs of different shapes.
    """
    outputs: Outputs = {}
    stats = {"encoder": stats["encoder"], "heads": dict(stats["heads"])}
    inputs = _inputs(tower, views)

    def rows_of(group: list[str]) -> Rows:
        count = len(jax.tree.leaves(inputs[group[0]])[0])
        masks = None
        if any(v in present for v in group):
            masks = _stack([present.get(v, jnp.ones(count, bool)) for v in group])
        return Rows(
            present=masks,
            keys=None if keys is None else _stack([keys[v] for v in group]),
            train=train,
            bn_groups=tower.bn_groups,
            momentum=momentum,
            drop=drop,
        )

    def run_heads(of_group: dict[str, jax.Array], rows: Rows) -> None:
        for head, module in tower.heads.items():
            if heads is None or head in heads:
                of_group[head], stats["heads"][head] = _apply(
                    module, params["heads"][head], stats["heads"][head], of_group[tower.reads[head]], rows
                )

    def keep(of_group: Mapping[str, jax.Array], group: list[str]) -> None:
        for name, y in of_group.items():
            for view, part in zip(group, _unstack(y, len(group)), strict=True):
                outputs.setdefault(view, {})[name] = part

    for group in _groups(tower, inputs):
        x, rows = _stack([inputs[v] for v in group]), rows_of(group)
        if tower.frozen:
            y, _ = _apply(
                tower.encoder,
                jax.lax.stop_gradient(params["encoder"]),
                stats["encoder"],
                x,
                dataclasses.replace(rows, train=False, keys=None),
            )
        else:
            y, stats["encoder"] = _apply(tower.encoder, params["encoder"], stats["encoder"], x, rows)
        of_group = dict(y) if isinstance(y, Mapping) else {"h": y}
        if not tower.heads_together:
            run_heads(of_group, rows)
        keep(of_group, group)
    if tower.heads_together and inputs:
        group = list(inputs)
        of_all = {r: _stack_equal(tower, r, {v: outputs[v][r] for v in group}) for r in _read_of_encoder(tower, heads)}
        run_heads(of_all, rows_of(group))
        keep({head: y for head, y in of_all.items() if head in tower.heads}, group)
    return outputs, stats


def _read_of_encoder(tower: Tower, heads: tuple[str, ...] | None) -> list[str]:
    """The encoder's outputs that the heads to run read."""
    reads = [r for h, r in tower.reads.items() if (heads is None or h in heads) and r not in tower.heads]
    return list(dict.fromkeys(reads))


def _stack_equal(tower: Tower, name: str, by_view: Mapping[str, jax.Array]) -> jax.Array:
    """An output of all views, those of a row side by side: the views may be of several sizes, this output may not."""
    shapes = {view: x.shape for view, x in by_view.items()}
    if len(set(shapes.values())) > 1:
        found = f"together, with {name} of {', '.join(f'{s} for {v}' for v, s in shapes.items())}"
        raise InputError(f"config.towers.{tower.name}.heads_batching", found, "heads that read outputs of one shape")
    return _stack(list(by_view.values()))


def apply_head(tower: Tower, head: str, params: Any, stats: Any, x: jax.Array) -> jax.Array:
    """A head of a tower over rows of its own, in evaluation mode and without a gradient."""
    params = jax.lax.stop_gradient(params["heads"][head])
    return _apply(tower.heads[head], params, stats["heads"][head], x, Rows())[0]


def _apply(module: Any, params: Any, stats: Any, x: Any, rows: Rows) -> tuple[Any, Any]:
    if not rows.train:
        return module.apply({"params": params, "batch_stats": stats}, x, rows), stats
    y, updated = module.apply({"params": params, "batch_stats": stats}, x, rows, mutable=["batch_stats"])
    return y, updated.get("batch_stats", stats)


def init(tower: Tower, key: jax.Array, views: Mapping[str, Any]) -> tuple[Any, Any]:
    """Parameters and running statistics of a tower, from a batch's shapes; each part from a key of its own name."""
    inputs = _inputs(tower, views)
    x = next(iter(inputs.values()))
    rows = Rows(present=None, keys=None, train=False, bn_groups=1)
    y, variables = tower.encoder.init_with_output(named_key(key, "encoder"), x, rows)
    outputs = dict(y) if isinstance(y, Mapping) else {"h": y}
    params: dict[str, Any] = {"encoder": variables.get("params", {}), "heads": {}}
    stats: dict[str, Any] = {"encoder": variables.get("batch_stats", {}), "heads": {}}
    for head, module in tower.heads.items():
        if tower.reads[head] not in outputs:
            where = f"config.towers.{tower.name}.heads.{head}.reads"
            raise InputError(where, repr(tower.reads[head]), f"what the encoder gives: {nearest('', outputs)}")
        x = outputs[tower.reads[head]]
        outputs[head], variables = module.init_with_output(named_key(key, f"heads/{head}"), x, rows)
        params["heads"][head] = variables.get("params", {})
        stats["heads"][head] = variables.get("batch_stats", {})
    return params, stats


def copy_for_target(tower: Tower, tree: Any) -> Any:
    """The part of a tower's parameters or statistics that its target holds, as new arrays (nothing shared)."""
    part = {"encoder": tree["encoder"], "heads": {h: tree["heads"][h] for h in target_heads(tower)}}
    return jax.tree.map(jnp.array, part)


def target_momentum(spec: Mapping[str, Any], step: jax.Array, steps: int) -> jax.Array:
    """The target's momentum at the end of step k: constant, or m = 1 - (1 - m0) (cos(pi k / K) + 1) / 2.

    Where it "moves" before a step, that of step k + 1: the same weights meet at the same place, one momentum later.

    Reference: Grill et al. 2020, "Bootstrap your own latent", section 3.3.
    """
    base = jnp.asarray(spec["momentum"], jnp.result_type(float))
    if spec["schedule"] == "constant":
        return base
    step = jnp.asarray(step + 1 if spec.get("moves") == "before" else step, base.dtype)
    return 1 - (1 - base) * (jnp.cos(jnp.pi * jnp.minimum(step / max(steps, 1), 1.0)) + 1) / 2


def ema_update(old: Any, new: Any, momentum: jax.Array) -> Any:
    """m old + (1 - m) new, leaf by leaf, in the leaf's own dtype."""
    return jax.tree.map(lambda o, n: (momentum * o + (1 - momentum) * n).astype(o.dtype), old, new)
