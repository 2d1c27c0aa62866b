"""The same evaluators on several feature sets of the same rows: trained, untrained, raw."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from hcl_jax.errors import InputError
from hcl_jax.evaluators.accuracy import Accuracy, draws_error, paired_gain
from hcl_jax.evaluators.collapse import spread
from hcl_jax.evaluators.knn import knn_accuracy
from hcl_jax.evaluators.label_efficiency import label_efficiency
from hcl_jax.evaluators.linear import linear_probe
from hcl_jax.evaluators.one_nn import one_nn_accuracy
from hcl_jax.evaluators.rows import labelled, labels_of
from hcl_jax.evaluators.svm import fold_of, over_folds, svm_cross_validation, svm_probe

SPEC = {
    "knn": {"k": 20, "temperature": 0.07},  # None = off
    "linear": True,
    "l2": None,  # None = chosen on held-out training rows
    "scaling": "columns",  # before the linear probe: each column by its deviation, or "rows": each row to unit length
    "per_class": (1, 10, 100),
    "draws": 5,
    "svm": False,  # RBF support vector machine
    "folds": 0,  # of cross-validation over the training rows, in place of test rows; 0 = off
    "nearest_neighbour": False,  # 1-NN Euclidean on the raw input
    "seed": 0,
}


def _one(
    name: str, sets: tuple[Any, Any, Any, Any], spec: Mapping[str, Any], per_class: tuple[int, ...]
) -> tuple[dict[str, float], dict]:
    """The metrics of one feature set, and what the paired comparisons need."""
    out: dict[str, float] = {}
    paired: dict[str, np.ndarray] = {}
    train, _, test, _ = sets
    if name != "raw":
        out["spread"] = spread(test)
    if spec["knn"]:
        found = knn_accuracy(*sets, k=spec["knn"]["k"], temperature=spec["knn"]["temperature"])
        out |= {"knn_accuracy": found.value, "knn_accuracy_se": found.standard_error}
    if spec["linear"]:
        probe = linear_probe(*sets, l2=spec["l2"], seed=spec["seed"], scaling=spec["scaling"])
        out |= {"linear_accuracy": probe.accuracy.value, "linear_accuracy_se": probe.accuracy.standard_error}
        out["linear_l2"] = probe.l2
        paired["linear_accuracy"] = probe.correct
    if spec["svm"]:
        machine = svm_probe(*sets, seed=spec["seed"])
        out |= {"svm_accuracy": machine.accuracy.value, "svm_accuracy_se": machine.accuracy.standard_error}
        paired["svm_accuracy"] = machine.correct
    if per_class:
        by_size = label_efficiency(*sets, per_class=per_class, draws=spec["draws"], seed=spec["seed"])
        for n, few in by_size.items():
            out[f"labels_{n}/accuracy"] = few.mean
            if few.draws > 1:
                out[f"labels_{n}/accuracy_se"] = few.standard_error
                paired[f"labels_{n}/accuracy"] = few.accuracies
            out[f"labels_{n}/draws"] = few.draws
    if spec["nearest_neighbour"] and name == "raw":
        found = one_nn_accuracy(*sets)
        out |= {"one_nn_accuracy": found.value, "one_nn_accuracy_se": found.standard_error}
    return out, paired


def _folded(name: str, features: Any, labels: Any, spec: Mapping[str, Any]) -> tuple[dict[str, float], dict]:
    """As `_one`, each classifier tested on every row by the fold that did not train on it."""
    rows = labelled(features, labels, "train")
    fold = fold_of(rows.labels, spec["folds"], spec["seed"])
    out: dict[str, float] = {}
    paired: dict[str, np.ndarray] = {}
    if name != "raw":
        out["spread"] = spread(rows.features)

    def keep(key: str, found: Accuracy) -> None:
        out.update({key: found.value, f"{key}_se": found.standard_error})

    def each(classifier: Callable[..., Any]) -> list[Any]:
        parts = ((fold != f, fold == f) for f in range(spec["folds"]))
        return [classifier(*(x[part] for part in pair for x in rows)) for pair in parts]

    def mean(found: list[Accuracy]) -> Accuracy:
        values = np.array([a.value for a in found])
        return Accuracy(float(values.mean()), draws_error(values), len(fold))

    if spec["knn"]:
        k, temperature = spec["knn"]["k"], spec["knn"]["temperature"]
        keep("knn_accuracy", mean(each(functools.partial(knn_accuracy, k=k, temperature=temperature))))
    if spec["linear"]:
        probes = each(functools.partial(linear_probe, l2=spec["l2"], seed=spec["seed"], scaling=spec["scaling"]))
        correct = np.zeros(len(fold), bool)
        for f, probe in enumerate(probes):
            correct[fold == f] = probe.correct
        keep("linear_accuracy", over_folds(correct, fold))
        paired["linear_accuracy"] = correct
    if spec["svm"]:
        machine = svm_cross_validation(features, labels, spec["folds"], spec["seed"])
        keep("svm_accuracy", machine.accuracy)
        paired["svm_accuracy"] = machine.correct
    if spec["nearest_neighbour"] and name == "raw":
        keep("one_nn_accuracy", mean(each(one_nn_accuracy)))
    return out, paired


def _gains(ours: Mapping[str, np.ndarray], baseline: Mapping[str, np.ndarray]) -> dict[str, float]:
    out: dict[str, float] = {}
    for key, values in ours.items():
        if values.dtype == bool:
            gain = paired_gain(values, baseline[key])
            out |= {key: gain.value, f"{key}_se": gain.standard_error}
        else:
            by_draw = values - baseline[key]
            out |= {key: float(by_draw.mean()), f"{key}_se": draws_error(by_draw)}
    return out


def evaluate_features(
    features: Mapping[str, tuple[jax.typing.ArrayLike, jax.typing.ArrayLike | None]],
    train_labels: jax.typing.ArrayLike,
    test_labels: jax.typing.ArrayLike | None,
    spec: Mapping[str, Any] | None = None,
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
      spec: the fields of `SPEC`, whose values stand for those that are missing; others are not read. A recipe's
        `evaluate` is such a mapping.

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
    given = {} if spec is None else spec
    spec = {key: given[key] if key in given else value for key, value in SPEC.items()}
    if not features:
        raise InputError("features", "no feature set", "at least one")
    first = next(iter(features.values()))
    train_rows = labels_of(train_labels, np.shape(first[0])[0], "train labels")
    test_rows = train_rows
    if not spec["folds"]:
        if first[1] is None or test_labels is None:
            raise InputError("features", "no test rows", "test rows, or evaluate folds above 0")
        test_rows = labels_of(test_labels, np.shape(first[1])[0], "test labels")
    _, counts = np.unique(train_rows[train_rows >= 0], return_counts=True)
    least = int(counts.min()) if len(counts) else 0
    per_class = tuple(n for n in spec["per_class"] if n <= least)
    results: dict[str, float] = {}
    paired = {}
    for name, (train, test) in features.items():
        if spec["folds"]:
            found, paired[name] = _folded(name, train, train_labels, spec)
        else:
            found, paired[name] = _one(name, (train, train_labels, test, test_labels), spec, per_class)
        results |= {f"{name}/{key}" if name else key: value for key, value in found.items()}
    if "" in paired:
        for name in paired:
            if name:
                gains = _gains(paired[""], paired[name])
                results |= {f"gain_over_{name}/{key}": value for key, value in gains.items()}
    return results | {"n": int((test_rows >= 0).sum()), "train/n": int((train_rows >= 0).sum())}
