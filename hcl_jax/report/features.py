"""What the newest checkpoint of a run makes of a sample of its data: maps, neighbours and guesses, as arrays."""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.compare.logged import Logged
from hcl_jax.data.subset import subset
from hcl_jax.errors import InputError
from hcl_jax.evaluators import EVALUATORS
from hcl_jax.evaluators.entries import entries
from hcl_jax.evaluators.folds import fold_of
from hcl_jax.evaluators.knn import knn_predict
from hcl_jax.evaluators.neighbours import nearest_rows, unit_rows
from hcl_jax.trained import on_this_machine, opened
from hcl_jax.workdir import files

QUERIES, NEAREST = 8, 6
KNN = {"k": 20, "temperature": 0.07}  # where the run has no such evaluator


class Rows(NamedTuple):
    """Some records of a split.

    Attributes:
      features: float32 [n, d].
      labels: int [n], -1 = unknown.
      records: int [n], their numbers in the split.
      names: of each record.
    """

    features: np.ndarray
    labels: np.ndarray
    records: np.ndarray
    names: Sequence[str]


class Confusion(NamedTuple):
    """Guesses of a classifier: counts [C, C], a row for each true class and a column for each guess."""

    counts: np.ndarray
    classes: np.ndarray
    how: str


class Neighbours(NamedTuple):
    """Queries and what is nearest to them by cosine.

    Attributes:
      queries: int [q], rows of the test rows.
      found: int [q, k], rows of the bank, best first.
      cosine: [q, k].
      pictures: ({row: view of a query}, {row: view of a bank row}); empty for the nodes of one graph.
    """

    queries: np.ndarray
    found: np.ndarray
    cosine: np.ndarray
    pictures: tuple[Mapping[int, Any], Mapping[int, Any]]


class Look(NamedTuple):
    """What one evaluation view of a run looks like.

    Attributes:
      view: its name.
      output: of its tower.
      label: the name of the label, "" for none.
      class_names: of the label, by number; empty where the data have none.
      test, bank: the rows that are shown, and those that neighbours are found among.
      maps: {"PCA": [n, 2], "t-SNE": [n, 2]} of the test rows.
      explained: shares of the variance on the two axes of PCA.
      neighbours, confusion: None where there are too few rows, or no label.
    """

    view: str
    output: str
    label: str
    class_names: Sequence[str]
    test: Rows
    bank: Rows
    maps: Mapping[str, np.ndarray]
    explained: tuple[float, float]
    neighbours: Neighbours | None
    confusion: Confusion | None


class Pair(NamedTuple):
    """Records of one view that look for themselves in another, where the run measures retrieval.

    Attributes:
      title: "text.z to image.z".
      test: the rows of the first view; their labels are the records' numbers.
      bank: those of the second.
      neighbours: what is nearest in the second view.
    """

    title: str
    test: Rows
    bank: Rows
    neighbours: Neighbours


class Shown(NamedTuple):
    """The step of the checkpoint that was read, its seed, a `Look` for each evaluation view, and a `Pair` for each way
    of a retrieval."""

    step: int
    seed: int
    looks: tuple[Look, ...]
    pairs: tuple[Pair, ...] = ()


def read(run: Logged, *, most: int, say: Callable[[str], None] = print) -> Shown:
    """Restores the newest checkpoint and encodes a sample of both splits.

    Args:
      run: whose folder is read; it may be training.
      most: records of each split at most.
      say: where a line of progress goes.

    Returns:
      A `Shown`; of several seeds the first one's model.

    Raises:
      InputError: no checkpoint, or other data than the run was trained on.
    """
    if not files.listed(files.path(run.folder) / "checkpoints"):
        raise InputError(run.folder, "no checkpoint", "a run that has saved a step")
    frozen = run.config
    plain = frozen.to_dict()
    plain["evaluate"]["evaluators"] = {}
    config = on_this_machine(configs.complete(configs.ConfigDict(plain)))
    folded = bool(frozen.evaluate.folds)
    splits = ("train",) if folded else ("train", "test")
    made, sources, evaluation, state, seed = opened(
        run.folder, config, step=None, seed=run.seeds[0], parts=None, splits=splits, say=say
    )
    weights = evaluation.weights(state)
    records, samples = {}, {}
    for split in splits:
        source = sources[split]
        records[split] = np.arange(source.num_examples)
        if not source.whole and source.num_examples > most:
            records[split] = np.sort(np.random.default_rng(0).permutation(source.num_examples)[:most])
        samples[split] = source if source.whole else subset(source, records[split])

    def encoded(split: str, **options: Any) -> Any:
        bad = data.BadRecords(frozen.data.max_bad_records, f"report/{split}")
        return evaluation.features_of(samples[split], bad, *weights, seed=seed, name=split, **options)

    found = {split: encoded(split) for split in splits}
    looks = []
    for view, spec in frozen.evaluate.views.items():
        say(f"report: {run.name}, {view}")
        label = frozen.evaluate.labels
        if label not in sources["train"].labels:
            label = next((k for k, classes in sources["train"].labels.items() if classes), "")
        rows = {s: _rows(found[s], view, spec["output"], label, records[s], sources[s], most) for s in splits}
        bank, test = rows["train"], rows[splits[-1]]
        if not len(test.features) or test.features.ndim != 2:
            continue
        draw = {s: functools.partial(_pictures, sources[s], spec, made.parts.views, seed) for s in splits}
        names = sources["train"].class_names.get(label, ())
        maps, explained = maps_of(test.features)
        settings = _knn(frozen)
        looks.append(
            Look(
                view, spec["output"], label, names, test, bank, maps, explained,
                _neighbours(test, bank, draw[splits[-1]], draw["train"], folded),
                _confusion(test, bank, settings, frozen.evaluate.folds, seed) if label else None,
            )
        )  # fmt: skip
    pairs = []
    for ends in _retrievals(frozen) if not folded and not sources["test"].whole else ():
        say(f"report: {run.name}, {' to '.join('.'.join(end) for end in ends)}")
        sides = [
            _rows(
                encoded("test", views=[view], output=output), view, output, "", records["test"], sources["test"], most
            )
            for view, output in ends
        ]
        draw_of = [
            functools.partial(_pictures, sources["test"], frozen.evaluate.views[view], made.parts.views, seed)
            for view, _ in ends
        ]
        pairs += _pairs(ends, sides, draw_of)
    return Shown(int(state.step), seed, tuple(looks), tuple(pairs))


def _retrievals(frozen: Any) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """The two (view, output) of each call of an evaluator that compares views."""
    listed = entries(frozen.evaluate, EVALUATORS)
    return list(dict.fromkeys(call for e in listed if e.evaluator == "retrieval" for call in e.views if len(call) == 2))


def _pairs(ends: Sequence[tuple[str, str]], sides: Sequence[Rows], draw: Sequence[Callable]) -> list[Pair]:
    """Both ways of a retrieval; a record is right where it finds itself."""
    sides = [side._replace(labels=side.records) for side in sides]
    if not all(len(side.records) and side.features.ndim == 2 for side in sides):
        return []
    found = []
    for a, b in ((0, 1), (1, 0)):
        both = np.flatnonzero(np.isin(sides[a].records, sides[b].records))
        if len(both):
            queries = both[np.unique(np.linspace(0, len(both) - 1, QUERIES).astype(int))]
            near = _nearest(sides[a], sides[b], queries, draw[a], draw[b], False)
            found += [Pair(f"{'.'.join(ends[a])} to {'.'.join(ends[b])}", sides[a], sides[b], near)] if near else []
    return found


def _knn(frozen: Any) -> dict[str, Any]:
    """k and temperature as the run's own evaluator has them."""
    for name, spec in frozen.evaluate.evaluators.items():
        if spec.get("evaluator", name) == "knn":
            return {k: spec.get(k, v) for k, v in KNN.items()}
    return KNN


def _rows(found: Any, view: str, output: str, label: str, records: np.ndarray, source: data.Source, most: int) -> Rows:
    """The rows of a view that are there; of one graph those with a label, at most `most`."""
    there = np.asarray(found.present[view], bool)
    labels = found.labels[label].astype(np.int64) if label else np.full(len(there), -1)
    if source.whole and label:
        there = there & (labels >= 0)
    at = np.flatnonzero(there)
    if len(at) > most:
        at = np.sort(np.random.default_rng(0).permutation(at)[:most])
    numbers = records[found.rows[at]]
    names = [source.describe(int(i)) if source.paths is None else source.paths[i] for i in numbers]
    return Rows(np.asarray(found.outputs[view][output], np.float32)[at], labels[at], numbers, names)


def maps_of(features: np.ndarray, seed: int = 0) -> tuple[dict[str, np.ndarray], tuple[float, float]]:
    """Features in two dimensions.

    PCA of the centred features; t-SNE of their directions (rows of unit length, 50 components of PCA at most), started
    from PCA, perplexity 30 or a third of the rows.

    Args:
      features: float32 [n, d].
      seed: of t-SNE.

    Returns:
      ({"PCA": [n, 2], "t-SNE": [n, 2]}, shares of the variance); without t-SNE below 10 rows, without either below 3
      rows, or where all rows are equal.

    Reference: van der Maaten and Hinton 2008, "Visualizing data using t-SNE", JMLR 9.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(features) < 3 or features.shape[1] < 2 or np.ptp(features, axis=0).max() < 1e-12:
        return {}, (0.0, 0.0)
    pca = PCA(2, svd_solver="full").fit(features.astype(np.float64))
    shares = pca.explained_variance_ratio_
    maps = {"PCA": pca.transform(features)}
    if len(features) >= 10:
        rows = unit_rows(features).astype(np.float64)
        parts = min(50, *rows.shape)
        rows = PCA(parts, svd_solver="full").fit_transform(rows)
        options = {"perplexity": min(30.0, (len(rows) - 1) / 3), "max_iter": 500, "random_state": seed}
        # Threads that wait for each other cost more than they save here, and sum in another order.
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")  # of equal rows; the map is a picture
            maps["t-SNE"] = TSNE(init="pca", learning_rate="auto", **options).fit_transform(rows)
    return maps, (float(shares[0]), float(shares[1]))


def queries_of(labels: np.ndarray, count: int = QUERIES) -> np.ndarray:
    """Rows to ask the neighbours of: one of each class in turn, else spread over all rows.

    Example:
      >>> queries_of(np.array([0, 0, 1, 1, 2]), 4).tolist()
      [0, 2, 4, 1]
    """
    classes = [np.flatnonzero(labels == c) for c in np.unique(labels[labels >= 0])]
    if not classes:
        return np.unique(np.linspace(0, len(labels) - 1, count).astype(int))
    turns = [int(rows[turn]) for turn in range(max(map(len, classes))) for rows in classes if turn < len(rows)]
    return np.array(turns[:count])


def _neighbours(test: Rows, bank: Rows, of_query: Callable, of_bank: Callable, same: bool) -> Neighbours | None:
    """Neighbours of some test rows among the bank, which has them too where it is the `same`."""
    return _nearest(test, bank, queries_of(test.labels), of_query, of_bank, same)


def _nearest(
    test: Rows, bank: Rows, queries: np.ndarray, of_query: Callable, of_bank: Callable, same: bool
) -> Neighbours | None:
    k = min(NEAREST, len(bank.features) - same)
    if k < 1:
        return None
    cosine, found = nearest_rows(unit_rows(test.features[queries]), unit_rows(bank.features), k + same)
    if same:  # a row is no neighbour of its own
        others = np.array([np.flatnonzero(row != q)[:k] for row, q in zip(found, queries, strict=True)])
        cosine, found = (np.take_along_axis(x, others, 1) for x in (cosine, found))
    some = np.unique(found)
    pictures = (
        dict(zip(queries.tolist(), of_query(test.records[queries]), strict=False)),
        dict(zip(some.tolist(), of_bank(bank.records[some]), strict=False)),
    )
    return Neighbours(queries, found, cosine, pictures)


def _pictures(source: data.Source, spec: Any, views: Mapping, seed: int, records: np.ndarray) -> list[Any]:
    """The view of each of some records; nothing for the nodes of one graph."""
    if source.whole:
        return []
    size = len(records)
    batch = next(
        data.evaluation_batches(
            subset(source, records), {"view": spec}, batch_size=size, rows=np.arange(size), seed=seed, views=views,
            bad=data.BadRecords(size, "report"),
        )
    )  # fmt: skip
    view, there = batch["views"]["view"], batch["present"].get("view", np.ones(size, bool))
    return [{k: np.asarray(v[i]) for k, v in view.items()} if there[i] else None for i in range(size)]


def _confusion(test: Rows, bank: Rows, settings: Mapping[str, Any], folds: int, seed: int) -> Confusion | None:
    """Guesses of weighted nearest neighbours, cross-validated where the run is."""
    known, labelled = test.labels >= 0, bank.labels >= 0
    classes = np.unique(np.concatenate([test.labels[known], bank.labels[labelled]]))
    if not known.any() or not labelled.any() or len(classes) < 2:
        return None
    x, y = test.features[known], test.labels[known]
    vote = f"weighted nearest neighbours (k = {settings['k']}, T = {settings['temperature']})"
    if folds:
        fold, guess = fold_of(y, folds, seed), np.empty(len(y), np.int64)
        for f in range(folds):
            guess[fold == f] = knn_predict(x[fold != f], y[fold != f], x[fold == f], **settings)
        how = f"{vote}, {folds} folds of {len(y):,} records"
    else:
        guess = knn_predict(bank.features[labelled], bank.labels[labelled], x, **settings)
        how = f"{vote}; {len(y):,} test records, {int(labelled.sum()):,} training records to look among"
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (np.searchsorted(classes, y), np.searchsorted(classes, guess)), 1)
    return Confusion(counts, classes, how)
