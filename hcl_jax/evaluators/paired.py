"""The same evaluators on several feature sets of the same rows, trained, untrained and raw, and their differences."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hcl_jax.compat.fields import OLD_FIELDS, translated
from hcl_jax.errors import InputError
from hcl_jax.evaluators import EVALUATORS
from hcl_jax.evaluators.accuracy import Accuracy, draws_error, paired_gain
from hcl_jax.evaluators.entries import Entry, entries
from hcl_jax.evaluators.folds import cross_validated, fold_of
from hcl_jax.evaluators.result import Result, Splits, result_of, with_errors
from hcl_jax.evaluators.rows import labelled, labels_of

# The fields of `evaluate_features` with their defaults; see there.
SPEC: dict[str, Any] = {
    "knn": {"k": 20, "temperature": 0.07},
    "linear": True,
    "l2": None,
    "scaling": "columns",
    "per_class": (1, 10, 100),
    "draws": 5,
    "svm": False,
    "folds": 0,
    "nearest_neighbour": False,
    "seed": 0,
}


def gains(ours: Mapping[str, np.ndarray], baseline: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Paired differences of the numbers that both have, each with its standard error."""
    out: dict[str, float | Accuracy] = {}
    for key in (k for k in ours if k in baseline):
        if ours[key].dtype == bool:
            out[key] = paired_gain(ours[key], baseline[key])
        else:
            by_draw = ours[key] - baseline[key]
            out[key] = Accuracy(float(by_draw.mean()), draws_error(by_draw), len(by_draw))
    return with_errors(out)


def side_by_side(
    group: Sequence[Entry],
    sets: Mapping[str, tuple[Splits, ...]],
    labels: Splits | None = None,
    *,
    folds: int = 0,
    seed: int = 0,
    names: tuple[str, ...] = (),
    items: tuple[np.ndarray, ...] | None = None,
    failed: Callable[[Entry, Exception], None] | None = None,
    keep: Callable[[Mapping[str, np.ndarray]], None] | None = None,
    at: Callable[[str], None] = lambda what: None,
) -> dict[str, float]:
    """The numbers of evaluators that read the same rows.

    Args:
      group: the evaluators; each is called once for a set of features that it reads.
      sets: {"": the features of the trained encoder, "untrained": ..., "raw": ...}, one `Splits` for each feature that
        the evaluators take.
      labels: int [n] and [m], -1 = left out; None where the rows have none.
      folds: of cross-validation over the training rows; 0 = tested on the test rows.
      seed: of the folds.
      names: of the views.
      items: int [m] of each view, which test rows hold the same item; None: each its own.
      failed: told of an evaluator that raises, and the others go on; None raises.
      keep: given what evaluators have fitted to the first set and keep.
      at: told what is next.

    Returns:
      {name: number}: of the set "untrained" behind "untrained/", paired differences behind "gain_over_untrained/", and
      n and train/n, the labelled rows, once.
    """
    results: dict[str, float] = {}
    given = {"folded": folds > 0, "names": names, "items": items}
    paired: dict[str, dict[str, np.ndarray]] = {}
    for name, features in sets.items():
        before, paired[name] = f"{name}/" if name else "", {}
        for entry in group:
            if (name or "trained") not in entry.features:
                continue
            at(f"{entry.name}, {name or 'trained'}")
            try:
                found = _called(entry, features, labels, folds, seed, given)
            except Exception as error:  # of whatever kind: the numbers of the others are worth hours of training
                if failed is None:
                    raise
                failed(entry, error)
                continue
            if keep is not None and not name and found.kept:
                keep(found.kept)
            once = {} if name else found.once
            metrics = with_errors({**found.metrics, **once})
            results |= {f"{before}{entry.prefix}{key}": value for key, value in metrics.items()}
            paired[name] |= {f"{entry.prefix}{key}": value for key, value in found.paired.items()}
    for name in paired:
        if name and "" in paired:
            results |= {f"gain_over_{name}/{key}": v for key, v in gains(paired[""], paired[name]).items()}
    if labels is not None:
        train = int((np.asarray(labels.train) >= 0).sum())
        test = train if folds else int((np.asarray(labels.test) >= 0).sum())
        for entry in group:
            results |= {f"{entry.prefix}n": test, f"{entry.prefix}train/n": train}
    return results


def _called(
    entry: Entry,
    features: tuple[Splits, ...],
    labels: Splits | None,
    folds: int,
    seed: int,
    given: Mapping[str, Any],
) -> Result:
    """One evaluator on one set of features, cross-validated where it fits something."""
    accepted = inspect.signature(entry.function).parameters
    own = {k: v for k, v in given.items() if k in accepted}
    function: Callable = functools.partial(entry.function, **entry.arguments, **own)
    if not folds or labels is None:
        return result_of(function(*features, *((labels,) if entry.reads.labels else ())), entry.name)
    rows = labelled(features[0].train, labels.train, "train")
    if not entry.reads.labels:
        return result_of(function(Splits(None, rows.features)), entry.name)
    return cross_validated(function, rows, fold_of(rows.labels, folds, seed))


def evaluate_features(
    features: Mapping[str, tuple[jax.typing.ArrayLike, jax.typing.ArrayLike | None]],
    train_labels: jax.typing.ArrayLike,
    test_labels: jax.typing.ArrayLike | None,
    spec: Mapping[str, Any] | None = None,
    evaluators: Mapping[str, Callable] = EVALUATORS,
) -> dict[str, float]:
    """Evaluates feature sets of the same rows beside each other.

    All sets share the held-out rows, the draws of labels and the test rows, so their differences are paired. Numbers
    of labels that the smallest class does not have are left out. A pure function of its arguments: the same online and
    offline.

    With `folds` each classifier is cross-validated on the training rows: accuracies are means over folds, their errors
    over folds, and the differences are paired by row. Test features and labels are then not read and may be None; few
    labels (`per_class`) are left out.

    Args:
      features: {"": (train [n, d], test [m, d]), "untrained": (...), "raw": (...)}; the empty name is the trained
        encoder.
      train_labels: [n] int, -1 = left out.
      test_labels: [m] int, -1 = left out.
      spec: the fields of `SPEC`, whose values stand for those that are missing; or `evaluators` as in a recipe's
        `evaluate`, which is such a mapping, with `folds` and `seed`. Others are not read.
      evaluators: the table that `evaluators` are looked up in.

    Returns:
      For the set "" the keys below; for a set "name" the same behind "name/".
        knn_accuracy, linear_accuracy, svm_accuracy: shares of the test rows, each with its standard error in `..._se`
        labels_<n>/accuracy: mean over draws; labels_<n>/accuracy_se, over draws, unless there is one; labels_<n>/draws
        linear_l2: the penalty used (not with folds)
        spread: 1 = even over the sphere, 0 = collapsed (not of raw)
        one_nn_accuracy, one_nn_accuracy_se: of raw, when asked for
      Where "" and others are there, the paired differences with their errors: gain_over_<name>/ before
      linear_accuracy, svm_accuracy and labels_<n>/accuracy, each with `..._se`. Once: n and train/n, the labelled rows.

    Raises:
      InputError: no feature set, shapes or values that do not fit, fewer than two classes.
    """
    given: dict[str, Any] = {} if spec is None else dict(spec.to_dict() if hasattr(spec, "to_dict") else spec)
    seed, folds = given.get("seed", 0), given.get("folds", 0)
    if not features:
        raise InputError("features", "no feature set", "at least one")
    first = next(iter(features.values()))
    train_rows = labels_of(train_labels, np.shape(first[0])[0], "train labels")
    test_rows = None
    if not folds:
        if first[1] is None or test_labels is None:
            raise InputError("features", "no test rows", "test rows, or evaluate folds above 0")
        test_rows = labels_of(test_labels, np.shape(first[1])[0], "test labels")
    sets = {name: (Splits(*pair),) for name, pair in features.items()}
    group = entries(_section(given), evaluators)
    return side_by_side(group, sets, Splits(train_rows, test_rows), folds=folds, seed=seed)


def _section(given: Mapping[str, Any]) -> dict[str, Any]:
    """A section `evaluate` of a spec: of one view, with labels."""
    one: dict[str, Any] = {"views": {"": {"output": "h"}}, "labels": "label", "every": 0, "evaluators": {"spread": {}}}
    if "evaluators" in given:
        plain = {k: dict(v) for k, v in given["evaluators"].items()}
        one["evaluators"] = {k: v for k, v in plain.items() if v.get("evaluator", k) not in ("objectives", "retrieval")}
    else:
        given = {key: given[key] if key in given else value for key, value in SPEC.items()}
        old = {k: dict(v) if isinstance(v, Mapping) else v for k, v in given.items() if k in OLD_FIELDS}
        one = translated({**one, **old})
        if "linear" in one["evaluators"]:
            one["evaluators"]["linear"]["l2"] = given["l2"]
    seed = {"seed": given["seed"]} if given.get("seed") else {}
    for name, spec in one["evaluators"].items():
        takes_seed = spec.get("evaluator", name) in ("linear", "few_labels", "svm")
        one["evaluators"][name] = {"evaluator": name, **spec, **(seed if takes_seed else {})}
    return one
