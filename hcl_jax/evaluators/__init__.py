"""Evaluators: functions of (features, labels), one a file; `hcl_jax.evaluation` is their thin caller.

Every entry is called as `evaluator(features, labels, **arguments)` with two `Splits`, and returns a `Result` or a plain
mapping of numbers. One that takes several features, `evaluator(a, b)`, reads as many views; one that takes none but
`batches` reads the losses of each batch.
"""

from collections.abc import Callable
from typing import Any

from hcl_jax.evaluators.accuracy import Accuracy, accuracy, draws_error, paired_gain, proportion_error
from hcl_jax.evaluators.collapse import spread, spread_of_features
from hcl_jax.evaluators.knn import knn, knn_accuracy, knn_predict
from hcl_jax.evaluators.label_efficiency import (
    LabelEfficiency,
    area_under_curve,
    few_labels,
    label_draws,
    label_efficiency,
    labels_needed,
)
from hcl_jax.evaluators.linear import LinearProbe, Probe, linear, linear_probe
from hcl_jax.evaluators.objectives import objectives
from hcl_jax.evaluators.one_nn import one_nn, one_nn_accuracy, one_nn_predict
from hcl_jax.evaluators.result import Result, Splits
from hcl_jax.evaluators.retrieval import Recall, chance_recall, recall_at, recall_at_k, recall_of_items, retrieval
from hcl_jax.evaluators.svm import Svm, svm, svm_cross_validation, svm_probe

EVALUATORS: dict[str, Callable[..., Any]] = {
    "knn": knn,
    "linear": linear,
    "few_labels": few_labels,
    "svm": svm,
    "one_nn": one_nn,
    "retrieval": retrieval,
    "objectives": objectives,
    "spread": spread_of_features,
}

# Which features an evaluator reads where its entry says nothing; those that are not here read all three.
READS = {
    "one_nn": ("raw",),
    "retrieval": ("trained", "untrained"),
    "objectives": ("trained", "untrained"),
    "spread": ("trained", "untrained"),
}

# Of several features these want one shape.
ONE_SHAPE = ("retrieval",)

# The table, and the pure functions that its entries call.
__all__ = [
    "EVALUATORS",
    "ONE_SHAPE",
    "READS",
    "Accuracy",
    "LabelEfficiency",
    "LinearProbe",
    "Probe",
    "Recall",
    "Result",
    "Splits",
    "Svm",
    "accuracy",
    "area_under_curve",
    "chance_recall",
    "draws_error",
    "knn_accuracy",
    "knn_predict",
    "label_draws",
    "label_efficiency",
    "labels_needed",
    "linear_probe",
    "one_nn_accuracy",
    "one_nn_predict",
    "paired_gain",
    "proportion_error",
    "recall_at",
    "recall_at_k",
    "recall_of_items",
    "spread",
    "svm_cross_validation",
    "svm_probe",
]
