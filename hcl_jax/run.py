"""A config made concrete: mesh, model, optimizer, shapes, shardings. Training, evaluation and plan build the same."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hcl_jax import data
from hcl_jax.config.as_found import as_found
from hcl_jax.core import model, objectives, statistics
from hcl_jax.core.optim import Optimizer, make_optimizer
from hcl_jax.core.state import TrainState
from hcl_jax.core.step import train_step
from hcl_jax.core.weight_average import average_of
from hcl_jax.encoders import ENCODERS, HEADS
from hcl_jax.errors import InputError
from hcl_jax.evaluators import EVALUATORS
from hcl_jax.losses import COUNTS, LOSSES, MEASURES
from hcl_jax.parallel import mesh as meshes
from hcl_jax.parallel import sharding
from hcl_jax.parallel.vmapped_seeds import over_seeds, seeds_sharding
from hcl_jax.similarity import ENGINES, Engine
from hcl_jax.views import VIEWS, tokenizers
from hcl_jax.workdir.trackers import TRACKERS


class Parts(NamedTuple):
    """The tables that names in a config are looked up in; pass one's own to add to them."""

    encoders: Mapping = ENCODERS
    heads: Mapping = HEADS
    losses: Mapping = LOSSES
    measures: Mapping = MEASURES
    counts: Mapping = COUNTS
    views: Mapping = VIEWS
    sources: Mapping = data.SOURCES
    evaluators: Mapping = EVALUATORS
    trackers: Mapping = TRACKERS

    def own(self) -> tuple[str, ...]:
        """The names of the tables that hold other parts than the package's."""
        plain = Parts()
        return tuple(k for k in self._fields if dict(getattr(self, k)) != dict(getattr(plain, k)))

    def checked(self) -> dict[str, Mapping]:
        """The tables that a config is checked against, by name."""
        names = ("encoders", "heads", "losses", "views", "evaluators")
        return {name: getattr(self, name) for name in names}


class Run(NamedTuple):
    """A config made concrete: everything static that a step needs. plan, evaluation and training build the same one."""

    config: Any
    parts: Parts
    mesh: jax.sharding.Mesh
    model: model.Model
    optimizer: Optimizer
    steps: int
    abstract: TrainState
    shardings: TrainState
    batch_sharding: jax.sharding.NamedSharding
    abstract_batch: Any
    single: "Run | None" = None  # with several seeds: the same run with one, whose arrays have no axis of seeds

    @property
    def one(self) -> "Run":
        """This run with one seed."""
        return self.single or self

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs in this program."""
        return tuple(self.config.seed + i for i in range(self.config.train.seeds))

    def init(self, seed: int | None = None) -> TrainState:
        """The state before the first step, made in place on the mesh; with several seeds, of all of them."""
        make = functools.partial(model.init, self.model, self.optimizer, self.one.abstract_batch)
        if self.single:
            every = jnp.asarray(np.array(self.seeds, np.uint32))
            return jax.jit(jax.vmap(make), out_shardings=self.shardings)(every)
        seed = self.config.seed if seed is None else seed
        return jax.jit(make, static_argnums=0, out_shardings=self.shardings)(seed)

    def states(self, state: TrainState) -> Iterator[tuple[int, TrainState]]:
        """(seed, its state) of each run in a state, laid out as a run with one seed has it."""
        if not self.single:
            yield self.config.seed, state
            return
        take = jax.jit(lambda s, i: jax.tree.map(lambda x: x[i], s), out_shardings=self.single.shardings)
        for i, seed in enumerate(self.seeds):
            yield seed, take(state, i)

    def meta(self, source: data.Source) -> dict[str, Any]:
        """What a checkpoint of this run says of its data; a resume must agree with it."""
        named = tokenizers.digests(self.config.views.to_dict())  # that of the data is in the fingerprint
        return {
            "seed": self.config.seed,
            "batch_size": self.config.data.batch_size,
            "examples": int(source.num_examples),
            "fingerprint": source.fingerprint,
            **({"tokenizers": named} if named else {}),
        }

    def step(self) -> Any:
        """The jitted step (state, batch) -> (state, metrics); the old state is donated."""
        step: Any = functools.partial(train_step, self.model, self.optimizer)
        step = over_seeds(step, self.mesh) if self.single else step
        whole = jax.NamedSharding(self.mesh, jax.P())
        return jax.jit(step, donate_argnums=0, out_shardings=(self.shardings, whole))


def epoch_examples(config: Any, source: data.Source) -> int:
    """The rows of an epoch: the records or a sample of them, or with whole-set batches the batch itself, absent rows
    included."""
    if config.data.order == "whole":
        return config.data.batch_size
    return config.data.sample or source.num_examples


def noise_of(config: Any, source: data.Source, seed: int) -> data.Noise:
    """What a seed's training batches are made with. Raises InputError for what the source cannot give."""
    fields = data.noise_fields(config.data)
    return data.training_noise(source.num_examples, source.labels, config.views, seed=seed, **fields)


def steps_of(steps: int, epochs: float, num_examples: int, batch_size: int) -> int:
    """How many steps `train.steps` and `train.epochs` mean."""
    return steps or max(1, int(epochs * num_examples) // batch_size)


def build(config: Any, parts: Parts, source: data.Source, mesh: jax.sharding.Mesh, specs: Any = None) -> Run:
    """Binds a checked config to data, mesh and parts; allocates nothing. `specs` are the batch's shapes."""
    config = as_found(config, source.labels)
    if config.train.seeds == 1:
        meshes.check_batch(config.data.batch_size // config.train.accumulate, mesh)
        return _one(config, parts, source, mesh, specs)
    shard = seeds_sharding(mesh, config.train.seeds)
    one = _one(config, parts, source, mesh, specs)

    def stacked(tree: Any) -> Any:
        shape = (config.train.seeds,)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(shape + x.shape, x.dtype, sharding=shard), tree)

    return one._replace(
        abstract=stacked(one.abstract),
        shardings=jax.tree.map(lambda _: shard, one.shardings),
        batch_sharding=shard,
        abstract_batch=stacked(one.abstract_batch),
        single=one,
    )


def _one(config: Any, parts: Parts, source: data.Source, mesh: jax.sharding.Mesh, specs: Any) -> Run:
    batch_size = config.data.batch_size
    noise_of(config, source, config.seed)  # refuses here, before anything is written
    steps = steps_of(config.train.steps, config.train.epochs, epoch_examples(config, source), batch_size)
    batch_sharding = sharding.batch_sharding(mesh)
    if specs is None:
        order, seed = config.data.order, config.seed
        specs = data.batch_specs(source, config.views, seed=seed, batch_size=batch_size, order=order, views=parts.views)
    abstract_batch = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=batch_sharding), specs)
    bound = model.build(
        config,
        encoders=parts.encoders,
        heads=parts.heads,
        losses=parts.losses,
        measures=parts.measures,
        engines=_engines(config, mesh),
        steps=steps,
        num_shards=meshes.num_shards(mesh) if config.train.seeds == 1 else 1,
    )
    towers = jax.eval_shape(functools.partial(model.init, bound, optax.identity(), abstract_batch), 0)
    optimizer = make_optimizer(
        _with_frozen(config, towers.params),
        towers.params,
        steps=steps,
        batch_size=batch_size,
        steps_per_epoch=epoch_examples(config, source) / batch_size,
        limits=objectives.limits(bound.objectives),
    )
    abstract = towers._replace(opt_state=jax.eval_shape(optimizer.init, towers.params))
    shardings = sharding.state_shardings(abstract, mesh, config.mesh.rules or sharding.DEFAULT_RULES)
    abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
    return Run(config, parts, mesh, bound, optimizer, steps, abstract, shardings, batch_sharding, abstract_batch)


def _engines(config: Any, mesh: jax.sharding.Mesh) -> dict[str, Engine]:
    """The engine of each objective. With several seeds a device has whole runs, so none reaches over the mesh."""
    engines = {}
    for name, spec in config.objectives.items():
        own = "engine" in spec
        where = f"config.objectives.{name}.engine" if own else "config.train.engine"
        word = spec["engine"] if own else config.train.engine
        if word in ("ring", "gathered") and config.train.seeds > 1:
            raise InputError(where, repr(word), "auto, dense or streamed where train.seeds > 1")
        over = mesh if config.train.seeds == 1 else None
        engines[name] = ENGINES[word](over, config.train.similarity_mib * 2**20)
    return engines


def _with_frozen(config: Any, params: Any) -> Any:
    """The optimizer's fields, with rules that freeze what init_from brings in where the recipe asks for that, and the
    encoders of frozen towers."""
    frozen = [name for name, spec in config.towers.items() if spec.frozen and jax.tree.leaves(params[name]["encoder"])]
    rules = [(f"^{name}/encoder/", 0.0) for name in frozen]
    if config.init_from.frozen:
        kept = "|".join(f"(?:{p})" for p in config.init_from.exclude)
        guard = f"^(?!.*(?:{kept}))" if kept else "^"
        rules += [(f"{guard}.*(?:{p})", 0.0) for p in config.init_from.include]
    if not rules:
        return config.optimizer
    fields = config.optimizer.to_dict()
    fields["rules"] = (*rules, *fields["rules"])
    return type(config.optimizer)(fields)


def global_batches(
    run: Run, source: data.Source, start: int, stop: int, bad: data.BadRecords | None = None, seed: int | None = None
) -> Iterator[Any]:
    """Batches of steps start..stop-1 as global arrays; this process makes the rows that its devices hold. `bad` takes
    the bad records that it meets; `seed` is that of a run with one, where it is not the config's."""
    config = run.config
    bad = data.BadRecords(config.data.max_bad_records) if bad is None else bad
    batch_size = config.data.batch_size
    # With several seeds the leading axis is theirs, and a process makes whole batches for those of its devices.
    leading = config.train.seeds if run.single else batch_size
    shards = run.batch_sharding
    if leading % meshes.num_shards(run.mesh):  # one of several seeds, whose batches no mesh had to split
        shards = jax.NamedSharding(run.mesh, jax.P())
    rows = sharding.local_rows(shards, leading)
    one = config.seed if seed is None else seed
    local = [
        data.batches(
            source,
            config.views,
            seed=seed,
            batch_size=batch_size,
            rows=np.arange(batch_size) if run.single else rows,
            start=start,
            stop=stop,
            order=config.data.order,
            views=run.parts.views,
            **data.noise_fields(config.data),
            bad=bad,
        )
        for seed in ([run.seeds[i] for i in rows] if run.single else [one])
    ]
    for made in zip(*local, strict=True):
        batch = jax.tree.map(lambda *x: np.stack(x), *made) if run.single else made[0]
        yield sharding.to_global(batch, shards, rows, leading)


def first_rows(run: Run, batch: Any, count: int) -> Any:
    """The first rows of a global batch that this process holds, as NumPy arrays; with several seeds the first's."""

    def first(x: jax.Array) -> np.ndarray:
        here = jax.device_get(x.addressable_shards[0].data)
        return (here[0] if run.single else here)[:count]

    return jax.tree.map(first, batch)


# What the BatchNorm statistics of averaged weights are made from, an epoch at most: the error of their mean is a
# fourteenth of that of one batch, and the weights were trained with those of one.
STATISTICS_BATCHES = 200


def as_read(
    run: Run, source: data.Source, say: Callable[[str], None] = print, tick: Callable[[], None] = lambda: None
) -> Callable[[TrainState, int], TrainState]:
    """What evaluation reads of a state: the running average of its weights where the recipe keeps one.

    BatchNorm statistics are then made for the average, of the training batches of steps 0, 1, ...: those in the state
    are of the last weights, and can cost more than averaging gains. Before the first step the two are of one time, and
    the statistics stay.

    Args:
      run: the run, of one seed.
      source: its training data.
      say: where a line of progress goes.
      tick: called between batches.

    Returns:
      (state, seed) -> the state with `params` and `model_state` that are of each other; compiled once.
    """
    records, rows = epoch_examples(run.config, source), run.config.data.batch_size
    count = min(STATISTICS_BATCHES, -(-records // rows))
    bad = data.BadRecords(run.config.data.max_bad_records, "evaluate/statistics")
    whole = jax.NamedSharding(run.mesh, jax.P())
    add = jax.jit(
        functools.partial(statistics.add, run.model),
        out_shardings=(run.shardings.model_state, whole),
    )

    def read(state: TrainState, seed: int) -> TrainState:
        average = average_of(state.opt_state)
        if average is None:
            return state
        state = state._replace(params=average)
        moving = any(statistics.moving(tower, state.model_state[name]) for name, tower in run.model.towers.items())
        if not moving or not int(jax.device_get(state.step)):
            return state
        say(f"evaluation: BatchNorm statistics of the averaged weights, from {count} training batches")
        made = (state.model_state, jax.jit(lambda: statistics.init(run.model), out_shardings=whole)())
        for step, batch in enumerate(global_batches(run, source, 0, count, bad, seed)):
            tick()
            made = add(state.params, made, batch, jax.random.fold_in(state.key, step))
        return state._replace(model_state=made[0])

    return read
