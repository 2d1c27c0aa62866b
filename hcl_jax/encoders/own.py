"""Encoders and heads of any kind behind Linen's two methods: a Linen, NNX or Equinox class, or a function.

All are called alike, with what a view holds and its rows, f(view, rows), and give features [n, d] or a dict of outputs.
"""

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from hcl_jax.errors import InputError


def module_of(make: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> Any:
    """The part that a name in a config stands for.

    Args:
      make: a class of Linen, NNX (which gets rngs) or Equinox (which gets a key), a function that makes a Linen
        module of the arguments, or a function f(view, rows, ...) without weights, whose second parameter
        has the name rows; or a functools.partial of one of them.
      arguments: those of the config.
      where: the config field, for the error text.

    Returns:
      An object with init_with_output(key, x, rows) -> (outputs, {"params", "batch_stats"}) and
      apply({"params", "batch_stats"}, x, rows[, mutable]) -> outputs, or (outputs, new statistics) with `mutable`.

    Raises:
      InputError: it is not one of them.
    """
    kind = _kind(make, where)
    if kind == "nnx":
        return nnx.bridge.to_linen(make, **arguments)
    if kind == "equinox":
        return Equinox(functools.partial(make, **arguments))
    if kind == "function":
        return Function(functools.partial(make, **arguments))
    module = make(**arguments)
    if not hasattr(module, "init_with_output"):
        raise _stranger(where, module)
    return module


def given_by_tower(make: Callable[..., Any], where: str) -> tuple[str, ...]:
    """The parameters of `make` that no config gives.

    Raises:
      InputError: as `module_of`.
    """
    kind = _kind(make, where)
    if kind == "function":
        return tuple(inspect.signature(make).parameters)[:2]
    return {"nnx": ("rngs",), "equinox": ("key",), "linen": ("parent", "name", "dtype", "param_dtype")}[kind]


def _kind(make: Any, where: str) -> str:
    base = make
    while isinstance(base, functools.partial):
        base = base.func
    if isinstance(base, type):
        equinox = sys.modules.get("equinox")  # who has one of its classes has imported it
        kinds = {"nnx": nnx.Module, "equinox": equinox.Module if equinox else (), "linen": nn.Module}
        own = next((kind for kind, root in kinds.items() if issubclass(base, root)), None)
        if own is not None:
            return own
    if not inspect.isroutine(base):
        raise _stranger(where, make)
    return "function" if tuple(inspect.signature(make).parameters)[1:2] == ("rows",) else "linen"


def _stranger(where: str, found: Any) -> InputError:
    of = "the class " if isinstance(found, type) else f"an instance of {_name(type(found))}: "
    allowed = "a class of Flax Linen, NNX or Equinox, or a function f(view, rows)"
    return InputError(where, of + _name(found), allowed)


def _name(found: Any) -> str:
    return getattr(found, "__name__", None) or repr(found)[:80]


@dataclasses.dataclass(frozen=True)
class Function:
    """A function of (view, rows) without parameters: handmade features, or a fixed transform."""

    function: Callable[..., Any]

    def init_with_output(self, key: Any, x: Any, rows: Any) -> tuple[Any, dict[str, Any]]:
        """The outputs, and no variables."""
        del key
        return self.function(x, rows), {}

    def apply(self, variables: Any, x: Any, rows: Any, mutable: Any = None) -> Any:
        """The outputs; with `mutable`, beside statistics that stay as they are."""
        del variables
        y = self.function(x, rows)
        return y if mutable is None else (y, {})


@dataclasses.dataclass(frozen=True)
class Equinox:
    """An Equinox class: its inexact arrays are parameters, by the names of its fields. What Equinox calls `State`
    (running statistics) has no place in it.

    Attributes:
      make: key -> the module.
    """

    make: Callable[..., Any]

    def init_with_output(self, key: Any, x: Any, rows: Any) -> tuple[Any, dict[str, Any]]:
        """The outputs and {"params": nested dicts}."""
        module = self.make(key=key)
        params: dict[str, Any] = {}
        for path, leaf in _arrays(module):
            *above, last = path
            at = params
            for part in above:
                at = at.setdefault(part, {})
            at[last] = leaf
        return module(x, rows), {"params": params}

    def apply(self, variables: Any, x: Any, rows: Any, mutable: Any = None) -> Any:
        """The outputs; with `mutable`, beside statistics that stay as they are."""
        # Its own first numbers are made again, and left out of the compiled program: nothing reads them.
        module = self.make(key=jax.random.key(0))
        params = variables["params"]
        values = iter([functools.reduce(lambda at, part: at[part], path, params) for path, _ in _arrays(module)])
        y = jax.tree.map(lambda leaf: next(values) if _is_parameter(leaf) else leaf, module)(x, rows)
        return y if mutable is None else (y, {})


def _is_parameter(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact)


def _arrays(module: Any) -> list[tuple[tuple[str, ...], jax.Array]]:
    """(path, array) of the parameters, in the order of the tree."""
    leaves = jax.tree_util.tree_flatten_with_path(module)[0]
    return [(tuple(jax.tree_util.keystr((k,), simple=True) for k in p), x) for p, x in leaves if _is_parameter(x)]
