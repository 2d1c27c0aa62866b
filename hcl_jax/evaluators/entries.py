"""The evaluators that a recipe lists, bound to their functions: what each reads, when, and with which arguments."""

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hcl_jax.evaluators import READS

FIELDS = ("evaluator", "every", "views", "labels", "data", "features")  # of an entry; the rest are arguments
GIVEN = ("folded", "names", "items")  # keywords of an evaluator that the caller fills in, not the recipe
FEATURES = ("trained", "untrained", "raw")


class Inputs(NamedTuple):
    """What a function reads, as its parameters say.

    Attributes:
      views: how many features, each of its own view.
      labels: reads labels.
      batches: reads the losses of batches.
    """

    views: int
    labels: bool
    batches: bool


class Entry(NamedTuple):
    """One entry of `evaluate.evaluators`.

    Attributes:
      name: its name in the recipe.
      evaluator: the name of its function in the table.
      function, arguments: the function and what the recipe gives it.
      reads: its inputs.
      views: the outputs that each call reads, (view, output) for each of its features.
      labels: the label that decides which rows count; "" for all rows.
      every: steps between two calls while the run trains; 0 = only at the end.
      data: fields of data that are its own.
      features: which of FEATURES it reads.
      prefix: before its metrics' names.
    """

    name: str
    evaluator: str
    function: Callable
    arguments: Mapping[str, Any]
    reads: Inputs
    views: tuple[tuple[tuple[str, str], ...], ...]
    labels: str
    every: int
    data: Mapping[str, Any]
    features: tuple[str, ...]
    prefix: str

    @property
    def compares_items(self) -> bool:
        """Whether it wants to know which rows hold the same item."""
        return "items" in inspect.signature(self.function).parameters

    @property
    def source(self) -> str:
        """A name of the data that it reads: "" for those of the run."""
        return json.dumps(self.data, sort_keys=True) if self.data else ""


def inputs(function: Callable) -> Inputs:
    """What an evaluator reads: its positional parameters, of which `labels` and `batches` have a meaning by name."""
    names = arrays(function)
    return Inputs(sum(n not in ("labels", "batches") for n in names), "labels" in names, "batches" in names)


def arrays(function: Callable) -> tuple[str, ...]:
    """The names of a function's arrays."""
    parameters = inspect.signature(function).parameters
    return tuple(n for n, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


def output_of(name: str, views: Mapping[str, Any]) -> tuple[str, str]:
    """("image", "z") of "image.z", or of "image" where z is the output that its view names."""
    view, _, output = name.partition(".")
    return view, output or views[view]["output"]


def calls(spec: Mapping[str, Any], reads: Inputs, views: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """The names that each call of an entry reads; where the entry says nothing, one view after the other."""
    given = spec.get("views") or (tuple(views) if reads.views == 1 else ())
    return tuple((one,) if isinstance(one, str) else tuple(one) for one in given)


def entries(evaluate: Mapping[str, Any], table: Mapping[str, Callable]) -> tuple[Entry, ...]:
    """The entries of a checked section `evaluate`. Those that read labels are left out where there are none.

    Args:
      evaluate: the section of a completed config.
      table: {name: evaluator}.
    """
    out = []
    for name, spec in evaluate["evaluators"].items():
        function = table[spec["evaluator"]]
        reads = inputs(function)
        labels = spec.get("labels")
        labels = evaluate["labels"] if labels is None else labels
        labels = labels if reads.labels or reads.views == 1 else ""
        if reads.labels and not labels:
            continue
        own = name != spec["evaluator"] or labels not in ("", evaluate["labels"]) or spec.get("data")
        every = spec.get("every")
        out.append(
            Entry(
                name=name,
                evaluator=spec["evaluator"],
                function=function,
                arguments={k: v for k, v in spec.items() if k not in FIELDS},
                reads=reads,
                views=tuple(
                    tuple(output_of(n, evaluate["views"]) for n in names)
                    for names in calls(spec, reads, evaluate["views"])
                ),
                labels=labels,
                every=(evaluate["every"] or 0) if every is None else every,
                data=dict(spec.get("data") or {}),
                features=tuple(spec.get("features") or READS.get(spec["evaluator"], FEATURES)),
                prefix=f"{name}/" if own else "",
            )
        )
    return tuple(out)
