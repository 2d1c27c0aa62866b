"""Rules of `evaluate`: its views read towers, and its tables need what they compare."""

from collections.abc import Mapping
from typing import Any

from hcl_jax.config.check_calls import one_of
from hcl_jax.config.check_views import check_ops
from hcl_jax.errors import InputError


def check_evaluation(c: Mapping[str, Any], views: Mapping[str, Any]) -> None:
    """Raises InputError for what an evaluation cannot read."""
    spec = c["evaluate"]
    for name, view in spec["views"].items():
        where = f"config.evaluate.views.{name}"
        check_ops(f"{where}.ops", view["ops"], views)
        one_of(f"{where}.tower", view["tower"], c["towers"])
        one_of(f"{where}.output", view["output"], ("h", *c["towers"][view["tower"]]["heads"]))
    if spec["views"] and spec["labels"]:
        one_of("config.evaluate.labels", spec["labels"], ("", *c["data"]["labels"]))
    for i, pair in enumerate(spec["retrieval"]):
        where = f"config.evaluate.retrieval[{i}]"
        for name in pair:
            view, _, output = name.partition(".")
            one_of(where, view, spec["views"])
            one_of(where, output, ("h", *c["towers"][spec["views"][view]["tower"]]["heads"]))
    if spec["retrieval"] and not spec["recall_at"]:
        raise InputError("config.evaluate.recall_at", "none", "at least one whole number, for evaluate.retrieval")
    if spec["folds"] and spec["retrieval"]:
        raise InputError("config.evaluate.folds", spec["folds"], "0, for evaluate.retrieval is read on a test split")
