"""A trained run as a model to use: `model = hcl_jax.open("runs/x")`, `model.encode(paths)`."""

import functools
import io
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from hcl_jax import config as configs
from hcl_jax import data, workdir
from hcl_jax.config.check_towers import rows_of
from hcl_jax.core.state import TrainState
from hcl_jax.data import new
from hcl_jax.data.series import moments
from hcl_jax.data.subset import subset
from hcl_jax.disk.reading import is_file, readable, text_of
from hcl_jax.errors import InputError, nearest
from hcl_jax.evaluation import Evaluation, restored
from hcl_jax.evaluators.classifier import METHODS, Classifier, probabilities, read
from hcl_jax.evaluators.linear import linear
from hcl_jax.evaluators.result import Splits
from hcl_jax.parallel import mesh as meshes
from hcl_jax.run import Parts, Run
from hcl_jax.workdir import files


class Opened(NamedTuple):
    """A run of a workdir with the weights that evaluation reads.

    Fields:
      run: the run.
      sources: its data, by split.
      evaluation: of it.
      state: of one seed, as it is read.
      seed: which.
    """

    run: Run
    sources: dict[str, data.Source]
    evaluation: Evaluation
    state: TrainState
    seed: int


class Encoded(NamedTuple):
    """Features of records.

    Fields:
      features: float32 [n, ...].
      rows: int [n], the numbers of the records that have them: all but bad ones and those without the view.
      labels: label -> int or float [n].
      paths: the file of each row; None where they are not known.
      class_names: label -> names.
      classes: label -> number of classes.
      parts: where the records are.
    """

    features: np.ndarray
    rows: np.ndarray
    labels: dict[str, np.ndarray]
    paths: list[str] | None
    class_names: Mapping[str, tuple[str, ...]]
    classes: Mapping[str, int]
    parts: tuple[new.New, ...]

    def name(self, row: int) -> str:
        """The path of a row, or the number of its record."""
        return str(self.rows[row]) if self.paths is None else self.paths[row]

    def class_of(self, row: int) -> str:
        """The name of a row's class by its first label, its number where it has none, "" where it is not known."""
        for label, values in self.labels.items():
            if self.classes[label] and values.ndim == 1:
                number, names = int(values[row]), self.class_names.get(label, ())
                return "" if number < 0 else names[number] if number < len(names) else str(number)
        return ""


class Classified(NamedTuple):
    """The classes of records.

    Fields:
      names: of the most probable class of each record; its number where the classes have no names.
      probabilities: float32 [n, c].
      classes: the names of the c columns.
    """

    names: list[str]
    probabilities: np.ndarray
    classes: tuple[str, ...]


class Model:
    """A trained run: what `open` gives.

    Attributes:
      config: the run's config.
      step: of the checkpoint.
      seed: whose weights these are.
      towers: tower -> its outputs that are rows of features.
      inputs: the names of what `encode` takes: the run's evaluation views, without those that read the same.
      class_names: label -> the names of its classes, where the data has them.
    """

    def __init__(self, opened: Opened, config: Any, parts: Parts, folder: str | os.PathLike):
        self._opened, self._folder = opened, folder
        self._classifiers: dict[str, Classifier] = {}
        self._shapes: dict[str, str] = {}
        self.config, self.step, self.seed = config, int(jax.device_get(opened.state.step)), opened.seed
        self.towers = {k: (*rows_of(v, parts.encoders), *v["heads"]) for k, v in config.towers.items()}
        self.inputs = _inputs(config.evaluate.views)
        self.class_names = dict(opened.sources["train"].class_names)

    def encode(self, inputs: Any, output: str = "h", *, input: str | None = None) -> np.ndarray:
        """Features of new records, made as evaluation makes them: its view, its weights.

        Args:
          inputs: for a view of pictures a path, a folder (pictures at any depth, in the order of their names), a list
            of paths, or uint8 [n, H, W, C]; of series [n, T, C] or a list of [T, C]; of text a list of str; of
            features [n, D]; or the path of an .npz with the view's field. Of graphs a folder as the run's.
          output: h, or a head of the tower.
          input: which of the run's inputs; needed where there are several.

        Returns:
          float32 [n, d], in the order of `inputs`.

        Raises:
          InputError: an unknown output or input, records of another kind or shape than the run's, a picture that cannot
            be read, by its name.

        Example:
            model = hcl_jax.open("runs/photos")
            features = model.encode(["a.jpg", "b.jpg"])  # [2, d]
        """
        return self.encoded(inputs, output, input=input, most_bad=0).features

    def encoded(
        self, inputs: Any, output: str = "h", *, input: str | None = None, most_bad: int = 0, where: str = new.WHERE
    ) -> Encoded:
        """The same with what is known of the records; up to `most_bad` that cannot be read are left out.

        Args:
          inputs, output, input: as for `encode`.
          most_bad: how many bad records do not matter.
          where: the argument, for messages.
        """
        view = self.view_of(output, input)
        spec = self._opened.evaluation.spec.views[view]
        like = new.Run(self._opened.sources["train"], self.config.data, self._moments(spec["field"]))
        made = new.records(inputs, spec, like, where)
        bad = [data.BadRecords(most_bad, f"encode/{i}") for i in range(len(made))]
        found = []
        for part, one in zip(made, bad, strict=True):
            self._check_shape(part.source, view, where)
            found.append(self._features(part.source, one, view, output, rows=part.rows))
        order = np.argsort(np.concatenate([f.rows for f in found]))
        paths = [p for f in found for p in f.paths or ()]
        return Encoded(
            features=np.concatenate([f.features for f in found])[order],
            rows=np.concatenate([f.rows for f in found])[order],
            labels={k: np.concatenate([f.labels[k] for f in found])[order] for k in found[0].labels},
            paths=[paths[i] for i in order] if paths else None,
            class_names=found[0].class_names,
            classes=found[0].classes,
            parts=tuple(made),
        )

    def classify(
        self, inputs: Any, method: str = "linear", *, input: str | None = None, label: str | None = None
    ) -> Classified:
        """The class of new records, by a classifier of the run's training features.

        It is the one that the run's evaluation fitted with its linear probe (classifiers.npz in its folder). A
        checkpoint without one has it fitted now, to the run's training split.

        Args:
          inputs, input: as for `encode`.
          method: "linear", the logistic regression, or "nearest", the nearest class mean.
          label: which label of the run; None: that of its evaluation.

        Returns:
          `Classified`: (names, probabilities [n, c], the names of the columns).

        Raises:
          InputError: as `encode`; a label that the run does not have, or that is no class; an unknown method.
        """
        if method not in METHODS:
            raise InputError("method", repr(method), ", ".join(METHODS))
        known = [k for k, count in self._opened.sources["train"].labels.items() if count]
        wanted = self.config.evaluate.labels if label is None else label
        if wanted not in known:
            said = repr(wanted) if wanted else "nothing"
            raise InputError("label", said, f"a label of the run that is a class: {nearest(wanted, known)}")
        view = self.view_of("h", input)
        output = self.config.evaluate.views[view]["output"]
        classifier = self._classifier(view, output, wanted)
        found = probabilities(classifier, self.encode(inputs, output, input=view), method)
        names = self.class_names.get(wanted, ())
        columns = tuple(names[c] if c < len(names) else str(c) for c in classifier.classes.tolist())
        return Classified([columns[i] for i in found.argmax(axis=1)], found, columns)

    def _classifier(self, view: str, output: str, label: str) -> Classifier:
        name = f"{view}.{output}.{label}.{self.seed}"
        if name not in self._classifiers:
            saved = self._saved()
            found = read(saved, name) if int(saved.get("step", -1)) == self.step else None
            if found is None:
                train = self.records("train", output, input=view)
                both = (Splits(x, x) for x in (train.features, train.labels[label]))
                found = Classifier(**linear(*both).kept)
            self._classifiers[name] = found
        return self._classifiers[name]

    def _saved(self) -> dict[str, np.ndarray]:
        """The arrays of the run's classifiers.npz; none where it has no such file."""
        path = files.path(self._folder) / workdir.CLASSIFIERS
        if not path.exists():
            return {}
        allowed = "the file that the run's evaluation wrote, or none"
        with readable(path, allowed), np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return dict(file)

    def records(self, split: str = "train", output: str = "h", *, input: str | None = None) -> Encoded:
        """Features of the run's own records, as `python -m hcl_jax.embed` writes them.

        Args:
          split: train or test.
          output, input: as for `encode`.
        """
        most = self.config.data.max_bad_records
        bad = data.BadRecords(most, f"records/{split}")
        return self._features(self.source(split), bad, self.view_of(output, input), output)

    def source(self, split: str = "train") -> data.Source:
        """The run's own records of a split, train or test."""
        if split not in ("train", "test"):
            raise InputError("split", repr(split), "train or test")
        missing = self._opened.sources["train"].missing
        if split == "train" and missing is not None:
            raise missing
        if split not in self._opened.sources:
            name = self.config.data[f"{split}_split"]
            self._opened.sources[split] = data.open_source(self.config.data, name, self._opened.run.parts.sources)
        return self._opened.sources[split]

    def view_of(self, output: str, input: str | None = None) -> str:
        """The evaluation view that an input names. Raises InputError where it or the output is unknown."""
        if input is None and len(self.inputs) == 1:
            input = self.inputs[0]
        views = self.config.evaluate.views
        if input is None or input not in views:
            found = "nothing" if input is None else repr(input)
            raise InputError("input", found, f"an input of the run: {nearest(input or '', self.inputs)}")
        tower = views[input]["tower"]
        if output not in self.towers[tower]:
            raise InputError("output", repr(output), f"outputs of tower {tower}: {nearest(output, self.towers[tower])}")
        return input

    def _features(
        self, source: data.Source, bad: data.BadRecords, view: str, output: str, rows: np.ndarray | None = None
    ) -> Encoded:
        evaluation, state = self._opened.evaluation, self._opened.state
        # A few rows need no whole batch: sizes that are powers of two compile a few programs.
        size = 1 << (source.num_examples - 1).bit_length()
        size = size if source.whole else min(evaluation.spec.batch_size, size)  # one graph is one batch
        found = evaluation.features_of(
            source, bad, *evaluation.weights(state), seed=self.seed, views=[view], output=output, batch_size=size
        )
        there = found.present[view]
        features = np.asarray(found.outputs[view][output], np.float32)[there]
        if not np.isfinite(features).all():
            raise InputError(source.name, f"features {view}.{output} that are not finite", "a run that learnt")
        index = found.rows[there]
        return Encoded(
            features=features,
            rows=index if rows is None else rows[index],
            labels={k: v[there] for k, v in found.labels.items()},
            paths=None if source.paths is None else [source.paths[i] for i in index],
            class_names={k: v for k, v in source.class_names.items() if k in source.labels},
            classes=source.labels,
            parts=(new.New(np.arange(source.num_examples), source),),
        )

    def views(self, found: Encoded, at: Sequence[int], *, input: str | None = None) -> list[dict[str, np.ndarray]]:
        """What some rows look like to the tower: the evaluation view of each, for pictures of them.

        Args:
          found: of `encoded` or `records`.
          at: rows of its features.
          input: as for `encode`.
        """
        view, run = self.view_of("h", input), self._opened.run
        spec, wanted = self._opened.evaluation.spec.views[view], found.rows[np.asarray(at, int)]
        made: dict[int, dict[str, np.ndarray]] = {}
        for part in found.parts:
            local = np.flatnonzero(np.isin(part.rows, wanted))
            if len(local):
                size, views = len(local), {view: spec}
                batch = next(data.evaluation_batches(subset(part.source, local), views, seed=self.seed, batch_size=size,
                                                     rows=np.arange(size), views=run.parts.views))  # fmt: skip
                for i, row in enumerate(part.rows[local].tolist()):
                    made[row] = {k: np.asarray(v)[i] for k, v in batch["views"][view].items() if hasattr(v, "shape")}
        return [made[row] for row in wanted.tolist()]

    def _check_shape(self, source: data.Source, view: str, where: str) -> None:
        """Raises InputError for records whose view has another shape than that of the run's."""
        own, field = self._opened.sources["train"], self.config.evaluate.views[view]["field"]
        try:
            made = self._view_shapes(source, view)
        except InputError as error:
            shape = (*own.sides[field], 3) if field in own.sides else own.fields[field][0]
            picture = source.fields[field][1] == "string"
            found = "a picture of another size" if picture else f"a record of another shape ({error.found})"
            allowed = f"{field} of shape {list(shape)}, as the run's, for no op of the view makes one of the other"
            raise InputError(source.describe(0), found, allowed) from None
        if made != self._view_shapes(own, view):
            raise InputError(where, f"a view of shape {made}", f"{self._view_shapes(own, view)}, as the run's records")

    def _view_shapes(self, source: data.Source, view: str) -> str:
        key = f"{view} {source.fields} {source.sides}"
        if key not in self._shapes:
            spec, run = self._opened.evaluation.spec.views[view], self._opened.run
            size = source.num_examples if source.whole else 1
            specs = data.batch_specs(source, {view: spec}, seed=0, batch_size=size, order="each", views=run.parts.views)
            made = {k: v.shape[1:] for k, v in specs["views"][view].items() if hasattr(v, "shape")}
            if spec["kind"] == "graph":  # of any size; an encoder knows the features of a node
                made = {"nodes": made["nodes"][-1:]}
            self._shapes[key] = ", ".join(f"{k} {list(shape)}" for k, shape in made.items())
        return self._shapes[key]

    def _moments(self, field: str) -> Callable[[], tuple[np.ndarray, np.ndarray]] | None:
        """Mean and deviation by which the run's series were standardised; None where they were not."""
        if not self.config.data.standardise:
            return None
        by = self._opened.sources["train"].moments
        if field in by:
            return lambda: by[field]

        def of_training_split() -> tuple[np.ndarray, np.ndarray]:
            # Of all records of the file, as the readers take them.
            own = {"standardise": False, "held_out": 0.0, "num_examples": 0, "generated": ""}
            raw = type(self.config.data)({**self.config.data.to_dict(), **own})
            source = data.open_source(raw, raw.train_split, self._opened.run.parts.sources)
            series = source.fetch(np.arange(source.num_examples))[field].numpy()
            return moments(np.moveaxis(series, 1, 2))

        return of_training_split


def open(
    folder: str | os.PathLike,
    *,
    step: int | None = None,
    seed: int | None = None,
    parts: Parts | None = None,
    say: Callable[[str], None] = lambda text: None,
    **tables: Mapping,
) -> Model:
    """The model of a run; the run's folder stays as it is, and a run that is training there is not disturbed.

    Weights are those that evaluation reads (averaged, or of the target, where the recipe says so). The run's mesh is
    taken where it fits this machine; else as many devices as divide its batch. Where the run's data is not there (on
    another machine) new records are encoded all the same; the run's own are refused.

    Args:
      folder: the workdir.
      step: which checkpoint; None: the newest.
      seed: whose model, where the run trained several.
      parts: all tables of parts at once.
      say: where a line of progress goes.
      **tables: single ones (encoders, heads, losses, measures, counts, views, sources), as `train_and_evaluate` had
        them, where the run has parts of its own.

    Raises:
      InputError: no run, no checkpoint, no evaluation view, a part that no table has, or another data set than it was
        trained on.

    Example:
        model = hcl_jax.open("runs/mine", encoders={**hcl_jax.ENCODERS, "mine": Mine})
    """
    frozen = workdir.config_of(folder)
    seed_of(frozen, seed, "seed")
    if not frozen.evaluate.views:
        raise InputError(
            f"{folder}: config.evaluate.views", "none", "a run with an evaluation view, which is its input"
        )
    for name in tables.keys() - set(Parts._fields):
        raise InputError(name, "an argument that open does not have", f"a table: {nearest(name, Parts._fields)}")
    parts = (parts or Parts())._replace(**tables)
    plain = frozen.to_dict()
    plain["evaluate"]["evaluators"] = {}
    plain["evaluate"]["views"] = {k: {**v, "missing": 0.0} for k, v in plain["evaluate"]["views"].items()}
    config = on_this_machine(configs.complete(configs.ConfigDict(plain)))
    found = opened(
        folder, config, step=step, seed=seed, parts=parts, splits=(), say=say,
        train=functools.partial(_training_records, folder, config.data, parts, say),
    )  # fmt: skip
    return Model(found, frozen, parts, folder)


def _training_records(folder: str | os.PathLike, spec: Any, parts: Parts, say: Callable[[str], None]) -> data.Source:
    """The run's training source; where it cannot be opened, what the run kept of it."""
    try:
        return data.open_source(spec, spec.train_split, parts.sources)
    except InputError as error:
        missing = error
    path, wrote = files.path(folder) / workdir.DATA, f"the {workdir.DATA} that a run wrote"
    if not is_file(path, path, wrote):
        allowed = (
            f"{missing.allowed}; or {path}, which python -m hcl_jax.main --workdir={folder} writes beside the data"
        )
        raise InputError(missing.where, missing.found, allowed)
    say(f"without the run's own records ({missing.where}: {missing.found})")
    return data.without_records(text_of(path, wrote), spec, str(path), missing)


def opened(
    folder: str | os.PathLike,
    config: Any,
    *,
    step: int | None,
    seed: int | None,
    parts: Parts | None,
    splits: Sequence[str],
    say: Callable[[str], None],
    train: Callable[[], data.Source] | None = None,
) -> Opened:
    """A run with one seed's weights, as evaluation reads them.

    Args:
      folder: the workdir.
      config: its config, completed; what is evaluated may differ.
      step, seed, parts, say: as for `open`.
      splits: the sources to open; train always is.
      train: opens that one; None: as the config says.

    Raises:
      InputError: as `open`.
    """
    seed = seed_of(config, seed)
    run, sources, state = restored(
        pathlib.Path(folder), config, parts=parts, step=step, splits=tuple(splits), train=train, say=say
    )
    evaluation = Evaluation(run, sources["train"], sources.get("test", sources["train"]), say=say)
    state = next(evaluation.as_read(one, s) for s, one in run.states(state) if s == seed)
    return Opened(run, sources, evaluation, state, seed)


def seed_of(config: Any, seed: int | None, where: str = "--seed") -> int:
    """The seed that is asked for, or the run's only one. Raises InputError where it has no such seed."""
    seeds = tuple(config.seed + i for i in range(config.train.seeds))
    if seed is None and len(seeds) == 1:
        return seeds[0]
    if seed is None or seed not in seeds:
        found = "nothing" if seed is None else str(seed)
        raise InputError(where, found, f"a seed of the run: {', '.join(map(str, seeds))}")
    return seed


def on_this_machine(config: Any) -> Any:
    """The config with a mesh that these devices can make."""
    try:
        mesh = meshes.make_mesh(config.mesh)
        if config.train.seeds == 1:
            meshes.check_batch(config.data.batch_size // config.train.accumulate, mesh)
        return config
    except InputError:
        rows = config.train.seeds if config.train.seeds > 1 else config.data.batch_size // config.train.accumulate
        size = max(n for n in range(1, jax.device_count() + 1) if rows % n == 0)
        plain = config.to_dict()
        plain["mesh"] = {**plain["mesh"], "data": size, "fsdp": 1, "tensor": 1}
        return configs.complete(configs.ConfigDict(plain))


def _inputs(views: Mapping[str, Any]) -> tuple[str, ...]:
    """The evaluation views, without those that give one tower the same as an earlier one."""
    first: dict[str, str] = {}
    for name, spec in views.items():
        plain = spec.to_dict() if hasattr(spec, "to_dict") else dict(spec)
        first.setdefault(repr(sorted((k, v) for k, v in plain.items() if k != "output")), name)
    return tuple(first.values())
