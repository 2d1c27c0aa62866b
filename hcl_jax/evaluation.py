"""Evaluation of a run: features of both splits through the towers, then the evaluators; the same online and offline.

python -m hcl_jax.evaluation --workdir=DIR          the table of the run that DIR holds
python -m hcl_jax.evaluation --workdir=DIR --json   its numbers for a machine
"""

import argparse
import functools
import json
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from hcl_jax import config as configs
from hcl_jax import data, workdir
from hcl_jax.config import validate
from hcl_jax.core import model
from hcl_jax.core.state import TrainState
from hcl_jax.errors import InputError
from hcl_jax.evaluators.compare import evaluate_features
from hcl_jax.evaluators.raw import raw_features
from hcl_jax.evaluators.retrieval import recall_at_k
from hcl_jax.parallel import mesh as meshes
from hcl_jax.parallel import sharding
from hcl_jax.run import Parts, Run, build, evaluated_params
from hcl_jax.runtime import distributed
from hcl_jax.workdir import card
from hcl_jax.workdir.checkpoint import Checkpoints
from hcl_jax.workdir.seed_stats import summary


class Features(NamedTuple):
    """What the towers make of one split: every example once, in order.

    Attributes:
      outputs: {view: {output: [N, D]}}.
      raw: {view: [N, F]}, the input itself, flat; empty when it was not asked for.
      labels: {name: [N]}.
      present: {view: bool [N]}.
      rows: int [N], the records' numbers.
    """

    outputs: dict[str, dict[str, np.ndarray]]
    raw: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    present: dict[str, np.ndarray]
    rows: np.ndarray


def check(several: Run, train: data.Source, test: data.Source) -> None:
    """Raises InputError for what a run's evaluation cannot read, before the run has trained for it. Reads no record."""
    run = several.one
    spec = run.config.evaluate
    made: dict[str, tuple[int, ...]] = {}
    if spec.objectives:
        size = run.config.data.batch_size
        meshes.check_batch(size, run.mesh)
        batch = data.batch_specs(
            test, run.config.views, seed=run.config.seed, batch_size=size, order="each", views=run.parts.views
        )
        _same_shapes("config.views", run.abstract_batch["views"], batch["views"])
    if spec.views and spec.labels and not train.labels[spec.labels]:
        raise InputError("config.evaluate.labels", f"{spec.labels!r}, which holds no classes", "'' or classes")
    for view, of in spec.views.items():
        seen = None
        for source in (train, test):
            specs = data.batch_specs(
                source, {view: of}, seed=run.config.seed, batch_size=spec.batch_size, views=run.parts.views,
                order="each", where="config.evaluate.views", size_field="config.evaluate.batch_size",
            )  # fmt: skip
            if seen is not None:
                _same_shapes("config.evaluate.views", seen, specs["views"])
            seen = specs["views"]
            shape = specs["labels"][spec.labels].shape if spec.labels else ()
            if len(shape) > 1:
                raise InputError("config.evaluate.labels", f"{spec.labels!r} of shape {shape}", "one class a row")
            outputs = _outputs(spec, view)
            encode = functools.partial(model.encode, run.model, of["tower"], outputs)
            found = jax.eval_shape(encode, run.abstract.params, run.abstract.model_state, specs["views"][view])
            made |= {f"{view}.{name}": array.shape for name, array in found.items()}
    for a, b in spec.retrieval:
        if made[a] != made[b]:
            raise InputError("config.evaluate.retrieval", f"{a} {made[a]} with {b} {made[b]}", "outputs of one shape")


def _same_shapes(where: str, train: Any, test: Any) -> None:
    """Raises InputError where a view of the test split has another shape than that of the training split."""
    for view, fields in train.items():
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(fields), jax.tree.leaves(test[view]), strict=True):
            if a.shape[1:] != b.shape[1:]:
                field = jax.tree_util.keystr(path, simple=True, separator="/")
                found = f"{field} of shape {b.shape[1:]} in the test split"
                raise InputError(f"{where}.{view}", found, f"{a.shape[1:]}, as in the training split")


def _outputs(spec: Any, view: str) -> tuple[str, ...]:
    wanted = {spec.views[view]["output"]}
    wanted |= {name.partition(".")[2] for pair in spec.retrieval for name in pair if name.startswith(f"{view}.")}
    return tuple(sorted(wanted))


def _pair(values: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """(train, test); test is None where there is only the first."""
    train, *test = values
    return train, test[0] if test else None


class Evaluation:
    """Evaluates states of one run; keeps the compiled encoders between calls.

    Args:
      run: the run that made them.
      train, test: the sources; probes are fitted on the first and read on the second.
      say: where a line of progress goes.
      tick: called between its parts, in every process as often; what it raises ends the evaluation.
    """

    def __init__(
        self,
        run: Run,
        train: data.Source,
        test: data.Source,
        *,
        say: Callable[[str], None] = print,
        tick: Callable[[], None] = lambda: None,
    ):
        self.several, self.run, self.splits, self.say = run, run.one, {"train": train, "test": test}, say
        self.tick = tick
        most = run.config.data.max_bad_records
        self._bad = {split: data.BadRecords(most, f"evaluate/{split}") for split in self.splits}
        self.spec = run.config.evaluate
        self._encoders = {
            view: jax.jit(
                functools.partial(model.encode, run.model, spec["tower"], _outputs(self.spec, view)),
                out_shardings=jax.NamedSharding(run.mesh, jax.P()),
            )
            for view, spec in self.spec.views.items()
        }
        whole = jax.NamedSharding(run.mesh, jax.P())
        self._objectives = jax.jit(functools.partial(model.evaluate, self.run.model), out_shardings=whole)

    def features(
        self, split: str, params: Any, model_state: Any, *, raw: bool = False, seed: int | None = None
    ) -> Features:
        """Runs every example of a split through its towers, in evaluation mode; `seed` is that of random views."""
        seed = self.run.config.seed if seed is None else seed
        shards = self.run.batch_sharding
        size = -(-self.spec.batch_size // shards.num_devices) * shards.num_devices
        rows = sharding.local_rows(shards, size)
        outputs: dict[str, dict[str, list]] = {v: {o: [] for o in _outputs(self.spec, v)} for v in self.spec.views}
        inputs: dict[str, list] = {v: [] for v in self.spec.views} if raw else {}
        labels: dict[str, list] = {}
        present: dict[str, list] = {v: [] for v in self.spec.views}
        index = []
        whole = jax.jit(lambda x: x, out_shardings=jax.NamedSharding(self.run.mesh, jax.P()))
        for local in data.evaluation_batches(
            self.splits[split], self.spec.views, seed=seed, batch_size=size, rows=rows,
            views=self.run.parts.views, bad=self._bad[split],
        ):  # fmt: skip
            self.tick()
            batch = sharding.to_global(local, shards, rows, size)
            # Dispatch every tower before fetching: the host then waits once a batch.
            made = {v: f(params, model_state, batch["views"][v]) for v, f in self._encoders.items()}
            rest = jax.device_get(whole({k: batch[k] for k in ("index", "labels", "present")}))
            real = rest["index"] >= 0
            index.append(rest["index"][real])
            for name, value in rest["labels"].items():
                labels.setdefault(name, []).append(value[real])
            for view, by_output in made.items():
                there = rest["present"].get(view, np.ones_like(real))
                present[view].append(there[real])
                for name, value in by_output.items():
                    outputs[view][name].append(np.asarray(value)[real])
                if raw:
                    inputs[view].append(raw_features(jax.device_get(whole(batch["views"][view])))[real])
        return Features(
            outputs={v: {o: np.concatenate(x) for o, x in by.items()} for v, by in outputs.items()},
            raw={v: np.concatenate(x) for v, x in inputs.items()},
            labels={k: np.concatenate(x) for k, x in labels.items()},
            present={v: np.concatenate(x) for v, x in present.items()},
            rows=np.concatenate(index),
        )

    def online(self, state: TrainState) -> dict[str, float]:
        """The numbers of these weights alone: what a run logs while it trains."""
        found = [self._evaluate({"": one}, seed) for seed, one in self.several.states(state)]
        return summary(found, self.several.seeds)

    def full(self, state: TrainState) -> dict[str, float]:
        """The numbers beside those of the untrained encoder (the same architecture and seed) and of the raw input."""
        if not self.spec.baselines:
            return self.online(state)
        found = []
        for seed, one in self.several.states(state):
            if self.several.single:
                self.say(f"evaluation: seed {seed}")
            found.append(self._evaluate({"": one, "untrained": self.run.init(seed)}, seed, raw=True))
        return summary(found, self.several.seeds)

    def objectives(self, state: TrainState, seed: int) -> dict[str, float]:
        """The losses and their measures over the test split in evaluation mode.

        Batches are weighted by the rows that an objective counts in them. A loss that is a mean over tokens or pixels
        is then a mean of the batches' means.
        """
        spec, data_spec = self.run.config.views, self.run.config.data
        shards, size = self.run.batch_sharding, data_spec.batch_size
        rows = sharding.local_rows(shards, size)
        total: dict[str, float] = {}
        count: dict[str, float] = {}
        for local in data.evaluation_batches(
            self.splits["test"],
            spec,
            seed=seed,
            batch_size=size,
            rows=rows,
            views=self.run.parts.views,
            size_field="config.data.batch_size",
            bad=self._bad["test"],
        ):
            self.tick()
            batch = sharding.to_global(local, shards, rows, size)
            metrics, counted = jax.device_get(self._objectives(state, evaluated_params(state), batch))
            for name, value in metrics.items():
                total[name] = total.get(name, 0.0) + float(value) * float(counted[name])
                count[name] = count.get(name, 0.0) + float(counted[name])
        return {name: value / count[name] for name, value in total.items() if count[name]}

    def _read(self) -> tuple[str, ...]:
        """The splits whose features the evaluators read."""
        return ("train",) if self.spec.folds else ("train", "test")

    def _evaluate(self, states: Mapping[str, TrainState], seed: int, *, raw: bool = False) -> dict[str, float]:
        made: dict[str, dict[str, Features]] = {}
        results: dict[str, float] = {}
        for i, (name, state) in enumerate(states.items()):
            part = f"{name}/" if name else ""
            if self.spec.objectives:
                self.say(f"evaluation: objectives of the {name or 'trained'} model")
                results |= {f"eval/{part}{k}": v for k, v in self.objectives(state, seed).items()}
            if not self.spec.views:
                continue
            self.say(f"evaluation: features of the {name or 'trained'} encoder")
            params = evaluated_params(state)
            made[name] = {
                s: self.features(s, params, state.model_state, raw=raw and i == 0, seed=seed) for s in self._read()
            }
        if not made:
            return results
        first = made[next(iter(made))]
        for view, spec in self.spec.views.items():
            self.tick()
            # Cross-validation has no test rows.
            there = {s: first[s].present[view] for s in self._read()}
            sets = {
                name: _pair(by[s].outputs[view][spec["output"]][there[s]] for s in there) for name, by in made.items()
            }
            if raw:
                sets["raw"] = _pair(first[s].raw[view][there[s]] for s in there)
            if self.spec.labels:
                self.say(f"evaluation: {view}, {', '.join(n or 'trained' for n in sets)}")
                label = self.spec.labels
                train, test = _pair(first[s].labels[label][there[s]] for s in there)
                numbers = evaluate_features(sets, train, test, self.spec)
                results |= {f"eval/{view}/{k}": v for k, v in numbers.items()}
        for a, b in self.spec.retrieval:
            results |= self._retrieval(made, a, b)
        return results

    def _retrieval(self, made: Mapping[str, Mapping[str, Features]], a: str, b: str) -> dict[str, float]:
        (view_a, _, out_a), (view_b, _, out_b) = a.partition("."), b.partition(".")
        results: dict[str, float] = {}
        for name, by in made.items():
            f = by["test"]
            both = f.present[view_a] & f.present[view_b]
            vectors = (f.outputs[view_a][out_a][both], f.outputs[view_b][out_b][both])
            numbers = recall_at_k(*vectors, ks=tuple(self.spec.recall_at), names=(view_a, view_b))
            part = f"{name}/" if name else ""
            results |= {
                f"eval/{view_a}-{view_b}/{part}{k}": v
                for k, v in numbers.items()
                if not (name and k.startswith("chance"))
            }
        return results


def restored(
    folder: str | pathlib.Path,
    config: Any,
    *,
    parts: Parts | None = None,
    step: int | None = None,
    splits: tuple[str, ...] = ("train", "test"),
    say: Callable[[str], None] = print,
) -> tuple[Run, dict[str, data.Source], TrainState]:
    """A run of a workdir, its data and its state, to be read; a run that is training there is not disturbed.

    Args:
      folder: the workdir.
      config: its config, completed; what is evaluated may differ from the frozen one.
      parts: the tables of parts, where the run had some of its own.
      step: which checkpoint; None: the newest.
      splits: which sources to open; train always is, for a checkpoint names its data.
      say: where a line about the checkpoints goes.

    Returns:
      (run, {split: source}, state).

    Raises:
      InputError: no checkpoint, or another data set than it was trained on.
    """
    parts = parts or Parts()
    validate.check(config, encoders=parts.encoders, heads=parts.heads, losses=parts.losses, views=parts.views)
    sources = {
        s: data.open_source(config.data, config.data[f"{s}_split"], parts.sources)
        for s in dict.fromkeys(("train", *splits))
    }
    run = build(config, parts, sources["train"], meshes.make_mesh(config.mesh))
    # Read-only: the run may be training, and the checkpoint that it is writing must stay.
    checkpoints = Checkpoints(folder, keep=1, meta=run.meta(sources["train"]), read_only=True, say=say)
    return run, sources, checkpoints.restore(run.abstract, run.shardings, step)


def evaluate_workdir(
    folder: str | pathlib.Path,
    *,
    parts: Parts | None = None,
    step: int | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Evaluates a checkpoint of a workdir (default: its newest); reads config.json and runs no recipe.

    Args:
      folder: the workdir.
      parts: the tables of parts, where the run had some of its own.
      step: which checkpoint.
      say: where a line of progress goes.

    Raises:
      InputError: no run there, no checkpoint, or another data set than it was trained on.
    """
    config = configs.complete(workdir.resume_config(folder))
    run, sources, state = restored(folder, config, parts=parts, step=step, say=say)
    return Evaluation(run, sources["train"], sources["test"], say=say).full(state)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m hcl_jax.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, metavar="DIR")
    parser.add_argument("--step", type=int, metavar="N", help="which checkpoint; the newest when left out")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    known = parser.parse_args(arguments)
    distributed.prepare()
    try:
        results = evaluate_workdir(known.workdir, step=known.step, say=lambda text: print(text, file=sys.stderr))
    except InputError as error:
        print(f"hcl_jax: {error}", file=sys.stderr)
        return 2
    print(json.dumps(results, indent=1) if known.json else card.table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
