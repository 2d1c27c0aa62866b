"""Evaluation of a run: features of both splits through the towers, then the evaluators; the same online and offline.

python -m hcl_jax.evaluation --workdir=DIR          the table of the run that DIR holds
python -m hcl_jax.evaluation --workdir=DIR --json   its numbers for a machine
"""

import functools
import json
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from hcl_jax import config as configs
from hcl_jax import data, workdir
from hcl_jax.cli import command_parser, plain_log
from hcl_jax.config import validate
from hcl_jax.core import model
from hcl_jax.core.state import TrainState
from hcl_jax.data.subset import subset
from hcl_jax.errors import InputError
from hcl_jax.evaluators.entries import Entry, entries
from hcl_jax.evaluators.groups import Features, groups_of, numbers, wanted
from hcl_jax.evaluators.items import digests, numbered
from hcl_jax.evaluators.knn import knn
from hcl_jax.evaluators.points import Points, points
from hcl_jax.evaluators.raw import raw_features
from hcl_jax.evaluators.result import Splits, result_of, with_errors
from hcl_jax.evaluators.sampled import Sampled, read_by, sample_of, sampled
from hcl_jax.parallel import mesh as meshes
from hcl_jax.parallel import sharding
from hcl_jax.run import Parts, Run, as_read, build
from hcl_jax.runtime import distributed, programs
from hcl_jax.workdir import card
from hcl_jax.workdir.checkpoint import Checkpoints
from hcl_jax.workdir.seed_stats import summary
from hcl_jax.workdir.terminal import repeated


def sources_of(run: Run, train: data.Source, test: data.Source) -> dict[str, dict[str, data.Source]]:
    """{data of an entry: {split: source}}, "" for those of the run."""
    found = {"": {"train": train, "test": test}}
    for entry in entries(run.config.evaluate, run.parts.evaluators):
        if entry.source not in found:
            spec = type(run.config.data)({**run.config.data.to_dict(), **entry.data})
            splits = {s: data.open_source(spec, spec[f"{s}_split"], run.parts.sources) for s in ("train", "test")}
            found[entry.source] = splits
    return found


def outputs_of(run: Run, view: str) -> tuple[str, ...]:
    """The outputs of a view that some evaluator reads, and the one that the view names."""
    spec = run.config.evaluate
    read = (pair for entry in entries(spec, run.parts.evaluators) for call in entry.views for pair in call)
    return tuple(sorted({spec.views[view]["output"], *(output for v, output in read if v == view)}))


def sampled_of(run: Run, train: data.Source, test: data.Source) -> Sampled:
    """What is evaluated on a sample while the run trains: nothing with an `evaluate.every`, or without classes."""
    config = run.config
    label, views = read_by(entries(config.evaluate, run.parts.evaluators))
    if config.evaluate.every is not None or not views or not train.labels.get(label):
        return Sampled()
    counts = []
    for source in (train, test):
        known = source.known_labels.get(label)
        counts.append(source.num_examples if known is None or source.whole else int((np.asarray(known) >= 0).sum()))
    if config.evaluate.folds:  # no test split: a quarter of the records asks the others
        counts = [] if train.whole else [counts[0] - counts[0] // 4, counts[0] // 4]
    if not counts or not all(counts):
        return Sampled()
    # Records that refer to each other are encoded together.
    batch = max(train.num_examples, test.num_examples) if train.whole else config.evaluate.batch_size
    return sampled(run.steps, config.data.batch_size, counts[0], counts[1], batch)


def _told(method: Callable) -> Callable:
    """A method of Evaluation that says every ten seconds where it is."""

    @functools.wraps(method)
    def told(self: "Evaluation", *args: Any, **given: Any) -> Any:
        if self.doing:  # by the one around this one
            return method(self, *args, **given)
        self.doing = "begins"
        try:
            with repeated(lambda seconds: self.at(f"evaluation: {self.doing}, {seconds:.0f} s")):
                return method(self, *args, **given)
        finally:
            self.doing = ""

    return told


class Evaluation:
    """Evaluates states of one run; keeps the compiled encoders between calls.

    Args:
      run: the run that made them.
      train, test: the sources; probes are fitted on the first and read on the second.
      say: where a line of progress goes.
      at: where a long evaluation says every ten seconds how far it is; None is `say`.
      tick: called between its parts, in every process as often; what it raises ends the evaluation.

    Attributes:
      doing: what it is at; "" between two evaluations.
      points: rows of the features that the last whole evaluation judged, of the first seed, by view.
    """

    def __init__(
        self,
        run: Run,
        train: data.Source,
        test: data.Source,
        *,
        say: Callable[[str], None] = print,
        at: Callable[[str], None] | None = None,
        tick: Callable[[], None] = lambda: None,
    ):
        self.at, self.doing = at or say, ""
        self.several, self.run, self.say, self.tick = run, run.one, say, tick
        self.spec = run.config.evaluate
        self.entries = entries(self.spec, run.parts.evaluators)
        self.sources = sources_of(run, train, test)
        self.sampled = sampled_of(run, train, test)
        self.as_read = as_read(self.run, train, say, tick)
        # Views of which equal rows are one item.
        self._by_item = {v for e in self.entries if e.compares_items for call in e.views for v, _ in call}
        most = run.config.data.max_bad_records
        self._bad = {
            (name, split): data.BadRecords(most, "/".join(filter(None, ("evaluate", name, split))))
            for name, splits in self.sources.items()
            for split in splits
        }
        whole = jax.NamedSharding(run.mesh, jax.P())
        self._kept: dict[str, np.ndarray] = {}
        self.points: dict[str, Points] = {}
        self._encoders: dict[tuple[str, tuple[str, ...]], Callable] = {}
        self._batch_losses = jax.jit(
            functools.partial(model.evaluate, self.run.model, run.parts.counts), out_shardings=whole
        )

    def features(
        self,
        split: str,
        params: Any,
        model_state: Any,
        *,
        raw: bool = False,
        seed: int | None = None,
        views: Iterable[str] | None = None,
        source: str = "",
    ) -> Features:
        """Runs every example of a split through its towers, in evaluation mode.

        Args:
          split: train or test.
          params, model_state: of the towers.
          raw: the views themselves too.
          seed: of random views; None: that of the run.
          views: some of the evaluation views; None: all.
          source: the data of an evaluator (Entry.source); "" those of the run.
        """
        records, bad = self.sources[source][split], self._bad[source, split]
        return self.features_of(records, bad, params, model_state, raw=raw, seed=seed, views=views, name=split)

    @_told
    def features_of(
        self,
        source: data.Source,
        bad: data.BadRecords,
        params: Any,
        model_state: Any,
        *,
        raw: bool = False,
        seed: int | None = None,
        views: Iterable[str] | None = None,
        output: str = "",
        batch_size: int = 0,
        name: str = "new",
    ) -> Features:
        """The same of any records.

        Args:
          source: the records.
          bad: takes those that cannot be used.
          params, model_state, raw, seed, views: as for `features`.
          output: the only one that is made; "" those that the views name and evaluators read.
          batch_size: 0 is that of evaluation; made to be a multiple of the devices.
          name: of the records, for lines of progress.
        """
        specs = {v: self.spec.views[v] for v in (self.spec.views if views is None else views)}
        seed = self.run.config.seed if seed is None else seed
        shards = self.run.batch_sharding
        size = -(-(batch_size or self.spec.batch_size) // shards.num_devices) * shards.num_devices
        rows = sharding.local_rows(shards, size)
        made_of = {v: (output,) if output else outputs_of(self.run, v) for v in specs}
        outputs: dict[str, dict[str, list]] = {v: {o: [] for o in made_of[v]} for v in specs}
        inputs: dict[str, list] = {v: [] for v in specs} if raw else {}
        labels: dict[str, list] = {}
        present: dict[str, list] = {v: [] for v in specs}
        items: dict[str, list] = {v: [] for v in specs if v in self._by_item}
        index = []
        whole = jax.jit(lambda x: x, out_shardings=jax.NamedSharding(self.run.mesh, jax.P()))
        done, self.doing = 0, f"0 of {source.num_examples:,} {name} records"
        for local in data.evaluation_batches(
            source, specs, seed=seed, batch_size=size, rows=rows, views=self.run.parts.views, bad=bad
        ):
            self.tick()
            local["items"] = {v: digests(local["views"][v]) for v in items}
            batch = sharding.to_global(local, shards, rows, size)
            # Dispatch every tower before fetching: the host then waits once a batch.
            made = {v: self._encoder(v, made_of[v])(params, model_state, batch["views"][v]) for v in specs}
            rest = jax.device_get(whole({k: batch[k] for k in ("index", "labels", "present", "items")}))
            real = rest["index"] >= 0
            index.append(rest["index"][real])
            done += int(real.sum())
            self.doing = f"{done:,} of {source.num_examples:,} {name} records"
            for label, value in rest["labels"].items():
                labels.setdefault(label, []).append(value[real])
            for view, by_output in made.items():
                there = rest["present"].get(view, np.ones_like(real))
                present[view].append(there[real])
                if view in items:
                    items[view].append(rest["items"][view][real])
                for one, value in by_output.items():
                    outputs[view][one].append(np.asarray(value)[real])
                if raw:
                    inputs[view].append(raw_features(jax.device_get(whole(batch["views"][view])))[real])
        return Features(
            outputs={v: {o: np.concatenate(x) for o, x in by.items()} for v, by in outputs.items()},
            raw={v: np.concatenate(x) for v, x in inputs.items()},
            labels={k: np.concatenate(x) for k, x in labels.items()},
            present={v: np.concatenate(x) for v, x in present.items()},
            rows=np.concatenate(index),
            items={v: numbered(np.concatenate(x)) for v, x in items.items()},
        )

    def _encoder(self, view: str, outputs: tuple[str, ...]) -> Callable:
        """The compiled tower of a view."""
        if (view, outputs) not in self._encoders:
            made = functools.partial(model.encode, self.run.model, self.spec.views[view]["tower"], outputs)
            whole = jax.NamedSharding(self.run.mesh, jax.P())
            self._encoders[view, outputs] = jax.jit(made, out_shardings=whole)
        return self._encoders[view, outputs]

    def weights(self, state: TrainState) -> tuple[Any, Any]:
        """(params, running statistics) that features are made with: those trained, or of the targets."""
        if self.spec.weights == "target":
            return model.read_of_targets(self.run.model, state)
        return state.params, state.model_state

    def is_due(self, step: int, steps: int) -> bool:
        """Whether an evaluator is called after `step` of a run of `steps`, before its end."""
        listed = any(e.every and step % e.every == 0 for e in self.entries)
        return step in self.sampled.steps or (0 < step < steps and listed)

    @_told
    def online(self, state: TrainState, step: int | None = None) -> dict[str, float]:
        """The numbers of these weights alone: what a run logs while it trains. Those on a sample stand behind
        "sample/", before the others.

        Args:
          state: of the run.
          step: the evaluators that are due after it; None: all.
        """
        if step is None:
            due = list(self.entries)
        else:
            due = [e for e in self.entries if step < self.run.steps and step and e.every and step % e.every == 0]
        found = []
        for seed, one in self.several.states(state):
            some = self._sampled(one, seed) if step in self.sampled.steps else {}
            found.append(some | (self._evaluate({"": one}, seed, due, keep=step is None) if due else {}))
        return summary(found, self.several.seeds)

    def _sampled(self, state: TrainState, seed: int) -> dict[str, float]:
        """kNN on the sample: of the weights as trained, for BatchNorm statistics of averaged ones cost an epoch."""
        label, views = read_by(self.entries)
        made: dict[str, Features] = {}
        folds = self.spec.folds
        bank, queries = self.sampled.bank, self.sampled.queries
        for split, count, after in (("train", bank, 0), ("test", queries, bank if folds else 0)):
            records = self.sources[""]["train" if folds else split]
            if not records.whole:
                known = records.known_labels.get(label)
                records = subset(records, sample_of(known, records.num_examples, count, seed, after))
            bad = data.BadRecords(self.run.config.data.max_bad_records, f"evaluate/sample/{split}")
            made[split] = self.features_of(
                records, bad, *self.weights(state), seed=seed, views=[v for v, _ in views], name=f"{split} (a sample)"
            )
        results: dict[str, float] = {}
        for view, output in views:
            there = {s: f.present[view] for s, f in made.items()}
            features = Splits(*(made[s].outputs[view][output][there[s]] for s in ("train", "test")))
            labels = Splits(*(made[s].labels[label][there[s]] for s in ("train", "test")))
            try:
                found = with_errors(knn(features, labels).metrics)
            except InputError as error:
                self.say(f"evaluation: no kNN on the sample of {view}: {error}")
                continue
            results |= {f"sample/{view}/{k}": v for k, v in found.items()}
        return results

    @_told
    def full(self, state: TrainState) -> dict[str, float]:
        """The numbers beside those of the untrained encoder (the same architecture and seed) and of the raw input."""
        if not self.spec.baselines:
            return self.online(state)
        found = []
        for seed, one in self.several.states(state):
            if self.several.single:
                self.say(f"evaluation: seed {seed}")
            both = {"": one, "untrained": self.run.init(seed)}
            raw = any("raw" in e.features for e in self.entries)
            found.append(self._evaluate(both, seed, self.entries, raw=raw, keep=True))
        return summary(found, self.several.seeds)

    def classifiers(self, step: int) -> dict[str, np.ndarray]:
        """The classifiers that the last whole evaluation fitted to the run's data, as the arrays of a file.

        Args:
          step: of the weights.

        Returns:
          "view.output.label.seed.weights" and the other fields of a `Classifier`, the class names of each label as
          "class_names.label", and the step; empty where nothing was fitted.
        """
        if not self._kept:
            return {}
        names = {f"class_names.{k}": np.array(v, np.str_) for k, v in self.sources[""]["train"].class_names.items()}
        return {**self._kept, **names, "step": np.asarray(step)}

    def batches(self, state: TrainState, seed: int, source: str = "") -> Iterator[tuple[Any, Any]]:
        """(values, counts) of each batch of the test split in evaluation mode: losses and measures, and their rows. The
        state is one as it is read."""
        shards, size = self.run.batch_sharding, self.run.config.data.batch_size
        rows = sharding.local_rows(shards, size)
        for local in data.evaluation_batches(
            self.sources[source]["test"], self.run.config.views, seed=seed, batch_size=size, rows=rows,
            views=self.run.parts.views, size_field="config.data.batch_size", bad=self._bad[source, "test"],
        ):  # fmt: skip
            self.tick()
            batch = sharding.to_global(local, shards, rows, size)
            yield jax.device_get(self._batch_losses(state, state.params, batch))

    def _evaluate(
        self,
        states: Mapping[str, TrainState],
        seed: int,
        listed: Iterable[Entry],
        *,
        raw: bool = False,
        keep: bool = False,
    ) -> dict[str, float]:
        """The numbers of some entries: each split is read once for all of them."""
        listed = list(listed)
        groups = groups_of(listed, self.spec.folds)
        reads = wanted(groups, self.spec.views)
        results: dict[str, float] = {}
        made: dict[str, dict[tuple[str, str], Features]] = {}
        for name, state in states.items():
            state = self.as_read(state, seed)
            results |= self._of_batches(name, state, seed, listed)
            if reads:
                self.say(f"evaluation: features of the {name or 'trained'} encoder")
            weights = self.weights(state)
            made[name] = {
                (source, split): self.features(
                    split, *weights, raw=raw and not name, seed=seed, views=views, source=source
                )
                for (source, split), views in reads.items()
            }

        split = "train" if self.spec.folds else "test"
        if keep and not self.points and ("", split) in made[""]:
            one, outputs = self.sources[""][split], {v: spec.output for v, spec in self.spec.views.items()}
            named = one.describe if one.paths is None else one.paths.__getitem__
            self.points = points(made[""]["", split], outputs, named, one.class_names, labelled=one.whole)

        def kept(name: str, arrays: Mapping[str, np.ndarray]) -> None:
            self._kept |= {f"{name}.{seed}.{field}": value for field, value in arrays.items()}

        for group in groups:
            self.tick()
            found = numbers(group, made, self.spec.folds, self.say, kept if keep else None, self._at)
            results |= {f"eval/{k}": v for k, v in found.items()}
        return results

    def _at(self, what: str) -> None:
        self.doing = what

    def _of_batches(self, name: str, state: TrainState, seed: int, listed: Iterable[Entry]) -> dict[str, float]:
        """The numbers of the entries that read batches, of one set of weights."""
        results: dict[str, float] = {}
        for entry in listed:
            if entry.reads.batches and (name or "trained") in entry.features:
                self.say(f"evaluation: {entry.name} of the {name or 'trained'} model")
                self._at(f"{entry.name} of the {name or 'trained'} model")
                found = result_of(
                    entry.function(self.batches(state, seed, entry.source), **entry.arguments), entry.name
                )
                before = f"{name}/" if name else ""
                results |= {f"eval/{before}{entry.prefix}{k}": v for k, v in with_errors(found.metrics).items()}
        return results


def restored(
    folder: str | pathlib.Path,
    config: Any,
    *,
    parts: Parts | None = None,
    step: int | None = None,
    splits: tuple[str, ...] = ("train", "test"),
    train: Callable[[], data.Source] | None = None,
    say: Callable[[str], None] = print,
) -> tuple[Run, dict[str, data.Source], TrainState]:
    """A run of a workdir, its data and its state, to be read; a run that is training there is not disturbed.

    Args:
      folder: the workdir.
      config: its config, completed; what is evaluated may differ from the frozen one.
      parts: the tables of parts, where the run had some of its own.
      step: which checkpoint; None: the newest.
      splits: which sources to open; train always is, for a checkpoint names its data.
      train: opens the training source; None: as the config says.
      say: where a line about the checkpoints goes.

    Returns:
      (run, {split: source}, state).

    Raises:
      InputError: no checkpoint, or another data set than it was trained on.
    """
    parts = parts or Parts()
    validate.check(config, **parts.checked())
    sources = {
        s: train()
        if train and s == "train"
        else data.open_source(config.data, config.data[f"{s}_split"], parts.sources)
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
    config = configs.complete(workdir.config_of(folder))
    run, sources, state = restored(folder, config, parts=parts, step=step, say=say)
    say(f"evaluation: step {int(np.max(state.step))} of {run.steps}")
    return Evaluation(run, sources["train"], sources["test"], say=say).full(state)


@plain_log()
def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = command_parser("evaluation", __doc__)
    parser.add_argument("--workdir", required=True, metavar="DIR")
    parser.add_argument("--step", type=int, metavar="N", help="which checkpoint; the newest when left out")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    known = parser.parse_args(arguments)
    distributed.prepare()
    programs.keep()
    try:
        results = evaluate_workdir(known.workdir, step=known.step, say=lambda text: print(text, file=sys.stderr))
    except InputError as error:
        print(f"hcl_jax: {error}", file=sys.stderr)
        return 2
    print(json.dumps(results, indent=1) if known.json else card.table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
