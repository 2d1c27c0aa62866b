"""Rules of views: their operations, and what of their numbers depends on the data."""

import inspect
from collections.abc import Mapping
from typing import Any

from hcl_jax.config.check_calls import call, one_of
from hcl_jax.errors import InputError


def check_views(c: Mapping[str, Any], views: Mapping[str, Any]) -> None:
    """Raises InputError for an operation of a view that cannot be built."""
    for name, view in c["views"].items():
        where = f"config.views.{name}"
        check_ops(f"{where}.ops", view["ops"], views)
        if c["data"]["order"] == "whole" and view["swapped"]:
            raise InputError(f"{where}.swapped", view["swapped"], "0, for data.order is whole")


def check_size(c: Mapping[str, Any]) -> None:
    """Raises InputError for a `data.size` that no operation takes: it would change nothing without a word."""
    size, views = c["data"]["size"], [*c["views"].values(), *c["evaluate"]["views"].values()]
    if size and not any(op.get("size") == size for view in views for op in view["ops"]):
        raise InputError("config.data.size", size, "0, for every operation names a size of its own")


def check_ops(where: str, ops: Any, views: Mapping[str, Any]) -> None:
    """Raises InputError for an operation that is not in the table `views`, or whose arguments it does not take."""
    for i, op in enumerate(ops):
        if not isinstance(op, Mapping) or "op" not in op:
            raise InputError(f"{where}[{i}]", repr(op), '{"op": name, ...}')
        one_of(f"{where}[{i}].op", op["op"], views)
        function = views[op["op"]]
        hidden = tuple(inspect.signature(function).parameters)[:2]  # the pixels and the random numbers
        call(f"{where}[{i}]", function, {k: v for k, v in op.items() if k != "op"}, hidden)
