"""Evaluators: functions of (features, labels), one a file; `hcl_jax.evaluation` is their thin caller.

Every entry is called as `evaluator(features, labels, **arguments)` with two `Splits`, and returns a `Result` or a plain
mapping of numbers. One that takes several features, `evaluator(a, b)`, reads as many views; one that takes none but
`batches` reads the losses of each batch.
"""

from collections.abc import Callable
from typing import Any

from hcl_jax.evaluators.collapse import spread_of_features
from hcl_jax.evaluators.knn import knn
from hcl_jax.evaluators.label_efficiency import few_labels
from hcl_jax.evaluators.linear import linear
from hcl_jax.evaluators.objectives import objectives
from hcl_jax.evaluators.one_nn import one_nn
from hcl_jax.evaluators.result import Result, Splits
from hcl_jax.evaluators.retrieval import retrieval
from hcl_jax.evaluators.svm import svm

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

__all__ = ["EVALUATORS", "ONE_SHAPE", "READS", "Result", "Splits"]
