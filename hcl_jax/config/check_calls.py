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
