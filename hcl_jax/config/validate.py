"""Checks a whole config before anything is built. The first fault found is one line that names the field.

schema.py says what each field may hold; here and in the check_ modules are the rules between fields.
"""

import importlib.util
import re
from collections.abc import Mapping
from typing import Any

from hcl_jax.config.check_evaluation import check_evaluation, reads_batches
from hcl_jax.config.check_objectives import check_objectives
from hcl_jax.config.check_towers import check_memory, check_towers, outputs_of
from hcl_jax.config.check_views import check_size, check_views
from hcl_jax.config.fields import check as check_fields
from hcl_jax.config.schema import PART_FIELDS, Config, Part
from hcl_jax.errors import InputError
from hcl_jax.evaluators import EVALUATORS

# Words that references use themselves.
RESERVED = ("views", "labels", "index", "memory", "target", "objectives")


def check(
    config: Any,
    *,
    encoders: Mapping,
    heads: Mapping,
    losses: Mapping,
    views: Mapping,
    evaluators: Mapping = EVALUATORS,
) -> None:
    """Raises InputError at the first field that cannot be built.

    Args:
      config: completed and frozen (config.complete).
      encoders, heads, losses, views, evaluators: the tables that names are looked up in.
    """
    c = config.to_dict()
    check_fields(Config, c, "config")
    _names(c)
    _lengths(c)
    _data(c)
    _rest(c)
    check_size(c)
    check_views(c, views)
    check_towers(c, encoders, heads)
    outputs = outputs_of(c, encoders)
    check_objectives(c, outputs, losses, evaluated=reads_batches(c, evaluators))
    check_memory(c, outputs)
    check_evaluation(c, views, encoders, evaluators)


def _refuse(where: str, found: Any, allowed: str, when: Any) -> None:
    if when:
        raise InputError(f"config.{where}", found, allowed)


def _names(c: Mapping[str, Any]) -> None:
    for section in ("views", "towers", "objectives"):
        _refuse(section, "none", "at least one entry by name", not c[section])
    for section in ("views", "towers"):
        for name in c[section]:
            allowed = "a name that references do not use themselves"
            _refuse(section, f"the name {name!r}", allowed, name in RESERVED)


def _lengths(c: Mapping[str, Any]) -> None:
    """How long a run is, and the parts of its batches."""
    data, train = c["data"], c["train"]
    _refuse("train.epochs", train["epochs"], "> 0, or train.steps > 0", not (train["steps"] or train["epochs"]))
    batch, k = data["batch_size"], train["accumulate"]
    _refuse("train.accumulate", k, f"a divisor of data.batch_size {batch}", batch % k)
    part, chunks = batch // k, train["cache"]
    _refuse("train.cache", chunks, f"a divisor of the (accumulated) batch {part}", part % chunks)
    for field in ("accumulate", "cache"):
        several = data["order"] == "whole" and train[field] > 1
        _refuse(f"train.{field}", train[field], "1, for data.order is whole", several)


def _data(c: Mapping[str, Any]) -> None:
    """How many records and classes there are shows when the data are open."""
    data = c["data"]
    most, sample = data["num_examples"], data["sample"]
    _refuse("data.sample", sample, f"at most data.num_examples {most}", most and sample > most)
    _refuse("data.sample", sample, "0, for data.order is whole", sample and data["order"] == "whole")
    _refuse("data.flipped", data["flipped"], "0, for data.labels has none", data["flipped"] and not data["labels"])
    parts, mixture = data["parts"], data["name"] == "mixture"
    found = f"{len(parts)} parts" if parts else "none"
    _refuse("data.parts", found, "parts by name where data.name is mixture, none elsewhere", bool(parts) != mixture)
    if parts:
        for field, plain in {"sample": 0, "generated": "", "order": "shuffled"}.items():
            _refuse(f"data.{field}", repr(data[field]), f"{plain!r} for a mixture", data[field] != plain)
    for name, part in parts.items():
        own = {field: data[field] for field in PART_FIELDS if field != "name"}
        check_fields(
            Part, {**own, "weight": 1.0, **part} if isinstance(part, Mapping) else part, f"config.data.parts.{name}"
        )
        _refuse(f"data.parts.{name}.name", "'mixture'", "a source that is no mixture", part["name"] == "mixture")


def _rest(c: Mapping[str, Any]) -> None:
    checkpoint, evaluate = c["checkpoint"], c["evaluate"]
    every = [evaluate["every"], *(entry["every"] for entry in evaluate["evaluators"].values())]
    lost = checkpoint["keep_best"] and not (checkpoint["best_metric"] and any(every))
    found = f"{checkpoint['keep_best']} without a best_metric, or with evaluate.every 0"
    _refuse("checkpoint.keep_best", found, "a metric of the evaluations while the run trains", lost)
    asked = c["log"]["wandb"] or "wandb" in c["log"]["trackers"]
    lost = asked and importlib.util.find_spec("wandb") is None
    _refuse("log.wandb", "true, but wandb is not installed", "pip install -e '.[wandb]'", lost)
    missing = "mlflow" in c["log"]["trackers"] and importlib.util.find_spec("mlflow") is None
    _refuse("log.trackers", "mlflow, which is not installed", "pip install -e '.[mlflow]'", missing)
    for i, (pattern, replacement) in enumerate(c["init_from"]["rename"]):
        try:
            re.sub(pattern, replacement, "")
        except (re.error, IndexError):
            allowed = f"text, with groups of its pattern {pattern!r}"
            raise InputError(f"config.init_from.rename[{i}]", repr(replacement), allowed) from None
