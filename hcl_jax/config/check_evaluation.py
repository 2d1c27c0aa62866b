"""Rules of `evaluate`: its views read towers, and its evaluators read views and take their arguments."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from hcl_jax.config.check_calls import call, one_of
from hcl_jax.config.check_towers import rows_of
from hcl_jax.config.check_views import check_ops
from hcl_jax.config.fields import Rule, check_value, fields
from hcl_jax.config.schema import PART_FIELDS, Part
from hcl_jax.core.towers import with_read
from hcl_jax.errors import InputError, nearest
from hcl_jax.evaluators.entries import FIELDS, GIVEN, arrays, inputs

# Bounds of the arguments that count something or divide, of whichever evaluator.
BOUNDS = {
    "k": (int, Rule(least=1)),
    "draws": (int, Rule(least=1)),
    "per_class": (tuple[int, ...], Rule(least=1)),
    "ks": (tuple[int, ...], Rule(least=1)),
    "temperature": (float, Rule(above=0)),
    "l2": (float | None, Rule(least=0)),
    "seed": (int, Rule(least=0, most=2**32 - 1)),
}


def reads_batches(c: Mapping[str, Any], evaluators: Mapping[str, Callable]) -> bool:
    """Whether some evaluator reads the losses of batches."""
    named = [evaluators.get(entry["evaluator"]) for entry in c["evaluate"]["evaluators"].values()]
    return any(inputs(function).batches for function in named if function)


def check_evaluation(
    c: Mapping[str, Any], views: Mapping[str, Any], encoders: Mapping, evaluators: Mapping[str, Callable]
) -> None:
    """Raises InputError for what an evaluation cannot read."""
    spec = c["evaluate"]
    outputs = {name: _outputs(c, tower, encoders) for name, tower in c["towers"].items()}
    for name, view in spec["views"].items():
        where = f"config.evaluate.views.{name}"
        check_ops(f"{where}.ops", view["ops"], views)
        one_of(f"{where}.tower", view["tower"], c["towers"])
        one_of(f"{where}.output", view["output"], outputs[view["tower"]])
    if spec["views"] and spec["labels"]:
        one_of("config.evaluate.labels", spec["labels"], ("", *c["data"]["labels"]))
    for name, entry in spec["evaluators"].items():
        where = f"config.evaluate.evaluators.{name}"
        one_of(f"{where}.evaluator", entry["evaluator"], evaluators)
        function = evaluators[entry["evaluator"]]
        given = {k: v for k, v in entry.items() if k not in FIELDS}
        call(where, function, given, (*arrays(function), *GIVEN))
        for argument in BOUNDS.keys() & given.keys():
            check_value(f"{where}.{argument}", given[argument], *BOUNDS[argument])
        for argument in ("ks", "per_class"):
            if not given.get(argument, True):
                raise InputError(f"{where}.{argument}", "none", "at least one whole number")
        if len(set(entry["features"])) < len(entry["features"]):
            raise InputError(f"{where}.features", repr(tuple(entry["features"])), "each once")
        _reads(where, entry, c, function, outputs)
    read = {view["tower"] for view in spec["views"].values()}
    if spec["weights"] == "target" and not any(c["towers"][name]["target"] for name in read):
        raise InputError("config.evaluate.weights", "'target'", "tower: no tower that is evaluated has a target")


def _outputs(c: Mapping[str, Any], tower: Mapping[str, Any], encoders: Mapping) -> tuple[str, ...]:
    """The outputs of a tower that an evaluation may read; of a target the heads that it copies."""
    heads = tuple(tower["heads"])
    if c["evaluate"]["weights"] == "target" and tower["target"]:
        known = tuple(h for h in tower["target"]["heads"] if h in heads)
        heads = with_read(known, tower["heads"])
    return (*rows_of(tower, encoders), *heads)


def _reads(
    where: str,
    entry: Mapping[str, Any],
    c: Mapping[str, Any],
    function: Callable,
    outputs: Mapping[str, tuple[str, ...]],
) -> None:
    """What an entry is evaluated on: its label, its data, and as many views a call as its function has features."""
    spec, count = c["evaluate"], inputs(function).views
    if entry["labels"]:
        one_of(f"{where}.labels", entry["labels"], ("", *c["data"]["labels"]))
    for field, value in entry["data"].items():
        if field not in PART_FIELDS:
            raise InputError(f"{where}.data.{field}", "an unknown field", nearest(field, PART_FIELDS))
        known = fields(Part)[field]
        check_value(f"{where}.data.{field}", value, known.kind, known.rule)
    if count == 0 and entry["views"]:
        raise InputError(f"{where}.views", repr(entry["views"]), "(): it reads the losses of batches, and no view")
    if count > 1 and not entry["views"]:
        raise InputError(f"{where}.views", "none", f"a list of {count} outputs, such as (('image.z', 'text.z'),)")
    named_after_views = "names" in inspect.signature(function).parameters
    if count > 1 and spec["folds"]:
        raise InputError("config.evaluate.folds", spec["folds"], f"0, for {where} is read on a test split")
    seen: set[tuple[str, ...]] = set()
    for i, names in enumerate(entry["views"]):
        names = (names,) if isinstance(names, str) else names
        if len(names) != count:
            raise InputError(f"{where}.views[{i}]", repr(names), f"{count} views or outputs for each call")
        for name in names:
            view, _, output = name.partition(".")
            one_of(f"{where}.views[{i}]", view, spec["views"])
            if "." in name:
                one_of(f"{where}.views[{i}]", output, outputs[spec["views"][view]["tower"]])
        # Numbers are named after their views: those of other outputs of the same would replace those of the first.
        views, shown = tuple(name.partition(".")[0] for name in names), repr(names[0] if count == 1 else names)
        if views in seen:
            raise InputError(f"{where}.views[{i}]", shown, f"one call of {'-'.join(views)}; another has its own entry")
        if named_after_views and len(set(views)) < count:
            raise InputError(f"{where}.views[{i}]", shown, "different views: its numbers are named after them")
        seen.add(views)
