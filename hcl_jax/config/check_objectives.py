"""Rules of objectives: the loss, what it reads, its arguments, and those of them that move."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from hcl_jax.config.check_calls import call, one_of
from hcl_jax.config.fields import check, filled, is_number
from hcl_jax.config.specs import Learned, Scheduled
from hcl_jax.core import objectives
from hcl_jax.errors import InputError, nearest
from hcl_jax.losses import WEIGHTS
from hcl_jax.similarity import ENGINES

# A loss divides by these or scales logits with them.
POSITIVE = (
    *("temperature", "student_temperature", "teacher_temperature", "base_temperature"),
    *("scale", "beta", "epsilon"),
)


def check_reference(where: str, text: str, outputs: set[str], c: Mapping[str, Any]) -> None:
    """Refuses a name that stands for nothing: `outputs` are those that towers and memory give."""
    reference = objectives.parse(text)
    if reference is None:
        forms = "view.output, view.target.output, tower.memory.slot, views.view.field, labels.name"
        raise InputError(where, repr(text), forms)
    if reference.kind == "labels":
        if reference.name not in c["data"]["labels"]:
            known = nearest(reference.name, c["data"]["labels"])
            raise InputError(where, repr(text), f"labels of data.labels: {known}")
    elif reference.kind == "views":
        one_of(where, reference.owner, c["views"])
    elif reference.kind != "index" and text not in outputs:
        raise InputError(where, f"{text!r}, which no view or tower makes", f"nearest {nearest(text, outputs)}")


def check_objectives(c: Mapping[str, Any], outputs: set[str], losses: Mapping, evaluated: bool) -> None:
    """Raises InputError for an objective that cannot be built; `evaluated`: on the test split too."""
    for name, spec in c["objectives"].items():
        _objective(f"config.objectives.{name}", spec, outputs, c, losses, evaluated)


def _objective(
    where: str, spec: Mapping[str, Any], outputs: set[str], c: Mapping[str, Any], losses: Mapping, evaluated: bool
) -> None:
    one_of(f"{where}.loss", spec["loss"], losses)
    loss = losses[spec["loss"]]
    _inputs(f"{where}.inputs", spec["inputs"], loss, outputs, c)
    check_reference(f"{where}.pairs", spec["pairs"], outputs, c)
    if isinstance(spec["row_weights"], Mapping):
        _row_weights(f"{where}.row_weights", spec["row_weights"], outputs, c, evaluated)
    elif spec["row_weights"] is not None:
        check_reference(f"{where}.row_weights", spec["row_weights"], outputs, c)
    parameters = inspect.signature(loss).parameters
    for field, keyword, off in (("row_weights", "row_weights", None), ("pairs", "ids", "index")):
        if spec[field] != off and keyword not in parameters:
            raise InputError(f"{where}.{field}", repr(spec[field]), f"{off!r}: {spec['loss']} reads no {keyword}")
    if not objectives.takes_absent(loss) and (evaluated or c["data"]["order"] == "whole"):
        allowed = "a loss with the keyword ids: evaluation and data.order whole fill batches with absent rows"
        raise InputError(f"{where}.loss", f"{spec['loss']!r}, which reads no ids", allowed)
    if "engine" in spec:
        one_of(f"{where}.engine", spec["engine"], ENGINES)
    given = {k: v for k, v in spec.items() if k not in objectives.RESERVED}
    call(where, loss, given, (*objectives.array_names(loss), *objectives.GIVEN))
    for name, value in {**given, "weight": spec["weight"]}.items():
        if isinstance(value, Mapping):
            _moving(f"{where}.{name}", value, name in POSITIVE)
        elif name in POSITIVE and value is not None and not (is_number(value) and value > 0):
            raise InputError(f"{where}.{name}", repr(value), "a number > 0")
    weight = spec["weight"]
    if objectives.is_learned(weight) and (weight["learn"] != "linear" or "max" in weight):
        allowed = "{learn: linear, init: 0}, the uncertainty weight exp(-s) L + s"
        raise InputError(f"{where}.weight", repr(weight), allowed)


def _inputs(where: str, inputs: Any, function: Callable, outputs: set[str], c: Mapping[str, Any]) -> None:
    """Refuses references that stand for nothing, and inputs that do not match the arrays of a function."""
    parameters, arrays = inspect.signature(function).parameters, objectives.array_names(function)
    variadic = any(p.kind == p.VAR_POSITIONAL for p in parameters.values())
    needed = [n for n in arrays if parameters[n].default is inspect.Parameter.empty]
    if isinstance(inputs, Mapping):
        if not arrays:
            raise InputError(where, "inputs by name", "a list: this function takes any number of arrays without a name")
        for name, text in inputs.items():
            one_of(f"{where}.{name}", name, arrays)
            check_reference(f"{where}.{name}", text, outputs, c)
        missing = next((n for n in needed if n not in inputs), None)
        if missing is not None:
            raise InputError(f"{where}.{missing}", "no value", "an output: this input is needed")
        return
    for i, text in enumerate(inputs):
        check_reference(f"{where}[{i}]", text, outputs, c)
    if len(inputs) < max(1, len(needed)) or (len(inputs) > len(arrays) and not variadic):
        allowed = f"{len(arrays)} ({', '.join(arrays)})" if arrays else "one or more"
        raise InputError(where, f"{len(inputs)} names", allowed)


def _row_weights(where: str, spec: Mapping[str, Any], outputs: set[str], c: Mapping[str, Any], evaluated: bool) -> None:
    """Row weights that a function makes of outputs: {"weights": name, "inputs": names, argument: value}."""
    one_of(f"{where}.weights", spec["weights"], WEIGHTS)
    function = WEIGHTS[spec["weights"]]
    _inputs(f"{where}.inputs", spec["inputs"], function, outputs, c)
    given = {k: v for k, v in spec.items() if k not in objectives.WEIGHTS_RESERVED}
    call(where, function, given, (*objectives.array_names(function), *objectives.GIVEN))
    for name, value in given.items():
        if objectives.is_learned(value):
            raise InputError(f"{where}.{name}", repr(value), "a number or a schedule: weights take no gradient")
        if isinstance(value, Mapping):
            _moving(f"{where}.{name}", value, name in POSITIVE)
    if "groups" in given:
        rows = [c["data"]["batch_size"] // c["train"]["accumulate"]]
        rows += [c["evaluate"]["batch_size"]] if evaluated else []
        if given["groups"] < 1 or any(n % given["groups"] for n in rows):
            allowed = f"a divisor of {' and '.join(map(str, rows))} rows"
            raise InputError(f"{where}.groups", given["groups"], allowed)


def _moving(where: str, value: Mapping[str, Any], positive: bool) -> None:
    """A number that is trained or follows the step; `positive`: one that must stay above 0."""
    section = Scheduled if objectives.is_scheduled(value) else Learned
    check(section, filled(section, value), where)
    if value.get("learn") == "simplex":
        if not is_number(value["init"], whole=True) or value["init"] < 2:
            raise InputError(f"{where}.init", repr(value["init"]), "how many probabilities, 2 or more")
    elif positive or value.get("learn") == "exp":
        for field in ("init", "max", "start", "end"):
            if value.get(field) is not None and not value[field] > 0:
                raise InputError(f"{where}.{field}", repr(value[field]), "a number > 0")
