"""The config of a run whose data have fewer labels than it asks for: a folder of pictures without classes."""

from collections.abc import Collection
from typing import Any

from hcl_jax.config.load import complete
from hcl_jax.errors import InputError


def as_found(config: Any, labels: Collection[str]) -> Any:
    """A completed config, whose evaluation reads no label that the training source lacks.

    Args:
      config: completed.
      labels: those of the training source. Sources refuse a label of `data.labels` that they should have and have not.

    Raises:
      InputError: an objective that reads such a label.
    """
    lost = [label for label in config.data.labels if label not in labels]
    if not lost:
        return config
    for name, spec in config.objectives.items():
        read = repr(spec.to_dict())
        for label in lost:
            if f"'labels.{label}'" in read:
                found = f"labels.{label}, which the data have not"
                raise InputError(f"config.objectives.{name}", found, "data with classes, or another recipe")
    plain = config.to_dict()
    evaluate = plain["evaluate"]
    evaluate["labels"] = "" if evaluate["labels"] in lost else evaluate["labels"]
    for entry in evaluate["evaluators"].values():
        if entry.get("labels") in lost:
            entry["labels"] = ""
    return complete(type(config)(plain))


def left_out(asked: Any, found: Any) -> str:
    """What is worth saying of a config beside the same `as_found`: "" where nothing is left out."""
    if asked.evaluate.labels == found.evaluate.labels:
        return ""
    return f"evaluation: the data have no classes ({asked.evaluate.labels}); what reads them (kNN, probes) is left out"
