"""A twin, the recorded run of an official code, beside ours: the same first weights and batches, and our train_step.

A file NAME.npz holds what the authors' own code made in some steps: `init/...` the first weights, `batch/...` [T, ...],
`step/loss` [T], `step/params/...` [T, ...] the weights after each step, `final/...`, and `meta`, JSON with the keys
repo, commit, exercised, hyper, conventions and dtype. Those in data/ have a digest of each step (`digest/...`, see
make_data.py) in the place of its weights. README.md says how one is added.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hcl_jax import config as configs
from hcl_jax.config import validate
from hcl_jax.core import model, objectives, optim, towers, weight_average
from hcl_jax.core.step import train_step
from hcl_jax.encoders import ENCODERS, HEADS
from hcl_jax.losses import LOSSES, MEASURES
from hcl_jax.parallel.mesh import make_mesh
from hcl_jax.parallel.sharding import batch_sharding, flat_paths, path_text
from hcl_jax.similarity import dense
from hcl_jax.views import VIEWS

FREQUENCIES = (2**0.5, 3**0.5, 5**0.5)
SMALL = 0.1

Read = Callable[[str], np.ndarray]


class Twin:
    """The arrays of one file, floats as float64, and which of them were read."""

    def __init__(self, path: pathlib.Path):
        with np.load(path) as file:
            self.arrays = {name: file[name] for name in file.files}
        self.name, self.used = path.stem, {"meta"}
        self.meta = json.loads(bytes(self.arrays["meta"]))
        self.hyper = self.meta["hyper"]
        self.digests = {k.removeprefix("digest/"): v for k, v in self.arrays.items() if k.startswith("digest/")}

    def __getitem__(self, name: str) -> np.ndarray:
        self.used.add(name)
        x = self.arrays[name]
        return x.astype(np.float64) if np.issubdtype(x.dtype, np.floating) else x

    @property
    def steps(self) -> int:
        return len(self["step/loss"])

    def at(self, prefix: str) -> Read:
        """A reader of the weights before the first step ("init") or after the last one ("final")."""
        return lambda name: self[f"{prefix}/{name}"]

    def after(self, step: int, group: str = "params") -> Read:
        """A reader of the weights after a step; of a file in data/ only the digests are left."""
        return lambda name: self.arrays[f"step/{group}/{name}"][step].astype(np.float64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A twin in a recipe's words.

    Attributes:
      config: as a recipe makes it; steps, batch size and float64 are filled in.
      batches: {"views": {view: {field: [B, ...]}}, "labels": {name: [B]}} of each step.
      start: {"params": {tower: ...}} and what else does not start as ours does: "target", "memory".
      after: step -> {"params": ..., "target": ..., "memory": ..., "stats": ..., "average": ...}, what is known of the
        state after it, laid out as ours is.
      final: the same of the last state, compared entry by entry.
      encoders, heads: a user's own, beside those of the package.
      steps_per_epoch: N / B.
      devices: over how many the rows of a batch are split.
      parts: {metric of ours: [T] of theirs}, parts of the loss that the twin has too.
      beside: (ours, theirs) of what is made outside of the step.
    """

    config: Any
    batches: list[dict[str, Any]]
    start: Mapping[str, Any]
    after: Callable[[int], Mapping[str, Any]]
    final: Mapping[str, Any]
    encoders: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    heads: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    steps_per_epoch: float = 1.0
    devices: int = 1
    parts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    beside: tuple[tuple[Any, Any], ...] = ()


def of_weights(twin: Twin, params: Callable[[Read], Any], stats: Any = None) -> dict[str, Any]:
    """`start`, `after` and `final` of a run of which the weights are known, and the running statistics at its end."""

    def known(read: Read) -> dict[str, Any]:
        return {"params": params(read)}

    last = known(twin.at("final")) | ({} if stats is None else {"stats": stats})
    return {"start": known(twin.at("init")), "after": lambda t: known(twin.after(t)), "final": last}


@dataclasses.dataclass(frozen=True)
class Alone:
    """A loss by itself: {"loss" or "state": [(ours, theirs), ...]}."""

    pairs: Mapping[str, list[tuple[Any, Any]]]


def batches(rows: int, steps: int, views: Mapping[str, Mapping[str, Any]], **labels: Any) -> list[dict[str, Any]]:
    """The batches of train_step from {view: {field: [T, B, ...]}} and labels [T, B, ...]; all rows are present."""
    return [
        {
            "views": {v: {k: x[t] for k, x in fields.items()} for v, fields in views.items()},
            "present": {},
            "index": np.arange(rows, dtype=np.int32),
            "labels": {k: x[t] for k, x in labels.items()},
        }
        for t in range(steps)
    ]


def digest(x: Any) -> np.ndarray:
    """[4]: the largest absolute value, and the products with three cosines of unit length without a common period."""
    x = np.asarray(x, np.float64).ravel()
    waves = np.cos(np.outer(FREQUENCIES, np.arange(x.size) + 0.5)) * (2 / max(x.size, 1)) ** 0.5
    return np.array([np.max(np.abs(x), initial=0), *(waves @ x)])


def digests(twin: Twin, run: Run) -> dict[str, np.ndarray]:
    """{"params/PATH": [T, 4], ...} of the official states: those of the file, or made from its weights."""
    if twin.digests:
        return twin.digests
    return _stacked([run.after(t) for t in range(twin.steps)])


def _stacked(states: list[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    each = [{path: digest(x) for path, x in flat_paths(dict(s)).items()} for s in states]
    # A code that moves its target ahead of a step does not say where the last one would have gone.
    return {path: np.stack([s[path] for s in each if path in s]) for path in each[0]}


def bind(run: Run, steps: int) -> tuple[model.Model, optim.Optimizer, Any]:
    """Model, optimizer and the shapes of the state of a config that the checks of a run have passed."""
    c = run.config
    c.train.steps, c.data.batch_size = steps, len(run.batches[0]["index"])
    c.train.compute_dtype = c.train.param_dtype = "float64"
    c = configs.complete(c)
    tables = {"encoders": {**ENCODERS, **run.encoders}, "heads": {**HEADS, **run.heads}, "losses": LOSSES}
    validate.check(c, views=VIEWS, **tables)
    engines = dict.fromkeys(c.objectives, dense())
    bound = model.build(c, measures=MEASURES, engines=engines, steps=steps, **tables)
    like = jax.eval_shape(functools.partial(model.init, bound, optax.identity(), run.batches[0]), 0)
    more = {"steps": steps, "batch_size": c.data.batch_size, "steps_per_epoch": run.steps_per_epoch}
    limits = objectives.limits(bound.objectives)
    return bound, optim.make_optimizer(c.optimizer.to_dict(), like.params, limits=limits, **more), like


def begin(bound: model.Model, tx: optim.Optimizer, like: Any, start: Mapping[str, Any]) -> Any:
    """The first state: the authors' numbers, and running statistics as model.init has them (it would be compiled)."""
    params = _filled("params", like.params, start["params"])
    stats = jax.tree_util.tree_map_with_path(_statistic, like.model_state)
    target = {}
    for name, old in like.target.items():
        copy = functools.partial(towers.copy_for_target, bound.towers[name])
        given = start.get("target", {}).get(name) or copy(params[name])
        target[name] = {"params": _filled(f"target/{name}", old["params"], given), "batch_stats": copy(stats[name])}
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    memory = {name: {**slots, **start.get("memory", {}).get(name, {})} for name, slots in empty.memory.items()}
    return empty._replace(
        params=params,
        model_state=stats,
        target=target,
        memory=_filled("memory", like.memory, memory),
        opt_state=tx.init(params),
        key=jax.random.key(0),
    )


def _filled(where: str, ours: Any, theirs: Any) -> Any:
    """Arrays like ours with the numbers of theirs, leaf by leaf; both have the same ones."""
    given = flat_paths(theirs)
    a, b = ({k: np.shape(x) for k, x in leaves.items()} for leaves in (flat_paths(ours), given))
    assert a == b, f"{where}: ours and theirs, {sorted(a.items() ^ b.items())}"
    return jax.tree_util.tree_map_with_path(lambda path, x: jnp.asarray(given[path_text(path)], x.dtype), ours)


def _statistic(path: Any, x: Any) -> jax.Array:
    return jnp.full(x.shape, {"mean": 0, "var": 1}[path[-1].key], x.dtype)


def known(state: Any) -> dict[str, Any]:
    """The parts of our state that a twin can have."""
    target = {name: t["params"] for name, t in state.target.items()}
    groups = {"params": state.params, "target": target, "memory": state.memory, "stats": state.model_state}
    average = weight_average.average_of(state.opt_state)
    return groups if average is None else {**groups, "average": average}


def train(twin: Twin, run: Run) -> tuple[dict[str, np.ndarray], list[Any]]:
    """Our metrics [T] and states after each step; nothing of the authors' comes in after the first."""
    bound, tx, like = bind(run, twin.steps)
    state = begin(bound, tx, like, run.start)
    mesh = make_mesh({"data": run.devices, "fsdp": 1, "tensor": 1})
    whole, rows = jax.NamedSharding(mesh, jax.P()), batch_sharding(mesh)
    step = jax.jit(functools.partial(train_step, bound, tx), out_shardings=whole)
    state = jax.device_put(state, whole)
    metrics, states = [], []
    for batch in run.batches:
        state, of_step = step(state, jax.device_put(batch, rows))
        metrics.append(jax.device_get(of_step))
        states.append(known(jax.device_get(state)))
    return {name: np.stack([m[name] for m in metrics]) for name in metrics[0]}, states


def far(ours: Any, theirs: Any, least: float = 1e-300) -> float:
    """The largest difference relative to the largest of the official numbers, or to `least` where that is more."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.max(np.abs(ours - theirs), initial=0) / max(np.max(np.abs(theirs), initial=0), least))


def differences(twin: Twin, case: Run | Alone) -> dict[str, float]:
    """{"loss", "params", "state"}: the largest difference of each over all steps, as far as the twin has it."""
    if isinstance(case, Alone):
        return {kind: max(far(*pair) for pair in pairs) for kind, pairs in case.pairs.items()}
    metrics, states = train(twin, case)
    parts = {"loss": twin["step/loss"], **case.parts}
    found = {"loss": max(far(metrics[name], x) for name, x in parts.items())}
    flat = [flat_paths(s) for s in states]
    theirs, last = digests(twin, case), flat_paths(dict(case.final))
    compared = {path for path in theirs if path.startswith("params/")}
    assert compared == {path for path in flat[-1] if path.startswith("params/")}, "each parameter has its twin"
    pairs = [(path, np.stack([digest(s[path]) for s in flat[: len(d)]]), d) for path, d in theirs.items()]
    pairs += [(path, flat[-1][path], x) for path, x in last.items()]
    largest: dict[str, float] = {}
    for path, _, d in pairs:
        group = path.partition("/")[0]
        largest[group] = max(largest.get(group, 1e-300), np.max(np.abs(d)))
    for path, ours, d in pairs:
        group = path.partition("/")[0]
        kind = "params" if group == "params" else "state"
        found[kind] = max(found.get(kind, 0.0), far(ours, d, SMALL * largest[group]))
    for ours, d in case.beside:
        found["state"] = max(found.get("state", 0.0), far(ours, d))
    return found
