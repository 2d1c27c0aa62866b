"""Names of parts, and the arguments that a part's signature takes: what the checks of every kind of part share."""

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jaxtyping import AbstractArray

from hcl_jax.config.fields import Rule, allowed, is_number, members
from hcl_jax.core import objectives
from hcl_jax.errors import InputError, nearest

WORDS = (bool, int, float, str, types.NoneType)  # annotations that `allowed` has words for


def one_of(where: str, value: Any, known: Any) -> None:
    """Refuses what is not a name of `known`."""
    if not isinstance(value, str) or value not in known:
        raise InputError(where, repr(value), nearest(value, known))


def call(where: str, function: Callable, given: Mapping[str, Any], hidden: tuple[str, ...]) -> None:
    """Holds the arguments that a recipe gives against the signature of the function that will receive them.

    Args:
      where: the field that has them.
      function: of a table of parts.
      given: argument -> value.
      hidden: parameters that the recipe does not give: arrays, random numbers, modules.

    Raises:
      InputError: an argument that is unknown, missing, or of another type than annotated.
    """
    parameters = inspect.signature(function).parameters
    known = [n for n, p in parameters.items() if n not in hidden and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
        for name in given:
            if name not in known:
                raise InputError(f"{where}.{name}", "an unknown argument", nearest(name, known))
    for name in known:
        kind = parameters[name].annotation
        text = words_of(kind)
        if parameters[name].default is inspect.Parameter.empty and name not in given:
            raise InputError(f"{where}.{name}", "no value", text)
        moving = name in given and (objectives.is_learned(given[name]) or objectives.is_scheduled(given[name]))
        fixed = kind is not inspect.Parameter.empty and not any(map(_is_array, (kind, *typing.get_args(kind))))
        if moving and fixed:
            raise InputError(f"{where}.{name}", repr(given[name]), "a fixed value: this argument cannot move")
        if name in given and not moving and not fits(given[name], kind):
            raise InputError(f"{where}.{name}", repr(given[name]), text)


# Arguments of modules that are sizes, whatever their signature says of their type.
SIZES = (
    *("features", "hidden", "width", "widths", "depth", "layers", "heads", "mlp", "patch", "kernel", "length"),
    *("registers", "channels", "ratio", "vocab_size", "bn_groups"),
)
LARGEST_SIZE = 2**24
RATES = ("dropout", "drop_path", "rate", "mask")


def check_sizes(where: str, module: Callable, given: Mapping[str, Any]) -> None:
    """Raises InputError for a size of a module that is below 1 (below 0 where 0 has a meaning), or past all memory.

    Args:
      where: the field that has the arguments.
      module: of a table of parts.
      given: argument -> value, of the types of its signature.
    """
    parameters = inspect.signature(module).parameters
    zero = getattr(getattr(module, "func", module), "zero_has_a_meaning", ())
    for name, value in given.items():
        numbers = value if isinstance(value, tuple | list) else (value,)
        if name not in parameters or not all(map(is_number, numbers)):
            continue
        least = 0 if name in zero or parameters[name].default == 0 else 1
        if name in SIZES and not all(least <= n <= LARGEST_SIZE for n in numbers):
            allowed_ = f"{words_of(parameters[name].annotation)}, {least} <= x <= {LARGEST_SIZE}"
            raise InputError(f"{where}.{name}", repr(value), allowed_)
        if name in RATES and not all(0 <= n < 1 for n in numbers):
            raise InputError(f"{where}.{name}", repr(value), "a number, 0 <= x < 1")


def words_of(kind: Any) -> str:
    """An annotation as a user reads it: "a number or None", "a list of texts", "a value" where it says nothing."""
    if kind in (inspect.Parameter.empty, Any):
        return "a value"
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(map(str, typing.get_args(kind)))
    kinds = [k for k in members(kind) if not _is_array(k)] or [kind]
    if len(kinds) > 1:
        return " or ".join(map(words_of, kinds))
    (plain,) = kinds
    inside = typing.get_args(plain)
    if typing.get_origin(plain) in (Sequence, list) and inside[0] in WORDS:
        return allowed(types.GenericAlias(tuple, (inside[0], ...)), Rule())
    if plain in WORDS:
        return allowed(plain, Rule())
    return re.sub(r"[\w.]+\.(?=[A-Z])", "", inspect.formatannotation(plain))


def _is_array(kind: Any) -> bool:
    """Whether an annotation is an array, with its shape (Float[Array, "n d"]) or without (Array)."""
    return kind is jax.Array or (isinstance(kind, type) and issubclass(kind, AbstractArray))


def fits(value: Any, kind: Any) -> bool:
    """Whether a value from a config may be passed where `kind` is annotated; yes where that says nothing."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, k) for k in inside)
    if origin is typing.Literal:
        return value in inside
    if origin in (Sequence, list):
        return isinstance(value, tuple | list) and all(fits(v, inside[0]) for v in value)
    if kind is types.NoneType or _is_array(kind):
        return value is None
    if kind in (bool, str):
        return isinstance(value, kind)
    return is_number(value, whole=kind is int) if kind in (int, float) else True
