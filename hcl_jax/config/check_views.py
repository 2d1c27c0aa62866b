"""Rules of views: their operations, and what of their numbers depends on the data."""

import inspect
from collections.abc import Mapping
from typing import Any

from hcl_jax.config.check_calls import call, one_of
from hcl_jax.config.load import SIZED
from hcl_jax.errors import InputError


def check_views(c: Mapping[str, Any], views: Mapping[str, Any]) -> None:
    """Raises InputError for an operation of a view that cannot be built."""
    for name, view in c["views"].items():
        where = f"config.views.{name}"
        check_ops(f"{where}.ops", view["ops"], views)
        if c["data"]["order"] == "whole" and view["swapped"]:
            raise InputError(f"{where}.swapped", view["swapped"], "0, for data.order is whole")


def check_size(c: Mapping[str, Any]) -> None:
    """Raises InputError for a `data.size` that no operation takes (it would change nothing without a word), and for 0
    where one needs it."""
    size = c["data"]["size"]
    lists = {f"views.{k}": v["ops"] for k, v in c["views"].items()}
    lists |= {f"evaluate.views.{k}": v["ops"] for k, v in c["evaluate"]["views"].items()}
    ops = {f"{k}.ops[{i}]": op for k, v in lists.items() for i, op in enumerate(v) if isinstance(op, Mapping)}
    bare = next((where for where, op in ops.items() if op.get("op") in SIZED and "size" not in op), "")
    if bare and not size:
        raise InputError("config.data.size", size, f"a side in pixels from 1, for {bare} names no size of its own")
    if size and not any(op.get("size") == size for op in ops.values()):
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
