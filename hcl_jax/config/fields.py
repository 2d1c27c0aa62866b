"""Fields by declaration: a frozen dataclass is a section, and each of its fields says what it may hold.

    @dataclass(frozen=True)
    class Log:
        every: int = setting(20, "steps between lines", least=1)
        spike: float = setting(10.0, "warn of a loss so far above the others", least=0, zero="is off")

From the annotation and the bounds come the check of a value (`check`), its defaults (`filled`), what a line of an error
and a table of the docs allow (`allowed`), and which field a dotted name means (`at`).
"""

import copy
import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from hcl_jax.errors import InputError, nearest

INT32 = 2**31 - 1
FLOAT32 = 3.4e38
BY_NAME = "fields by name"


class Regex(str):
    """Annotates a Python regular expression."""


class Name(str):
    """Annotates a name that others refer to: letters, digits and _."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a field may hold beside its type.

    Attributes:
      words: what it means, for the docs.
      least, most: bounds that are allowed themselves; above, below: bounds that are not. A number needs a lower one;
        `least=-math.inf` says that negative numbers are meant. Of a list they bound its numbers.
      cap: beyond this no number of either sign makes sense: a slip that would be noticed late. Shown where a value is
        past it.
      also: values outside of the bounds that have a meaning of their own.
      zero: what 0 does, where it is no amount ("is off", "takes all").
      choices: the texts that are allowed.
      open: it may differ when a run goes on: it changes speed, output or what is measured, never what is trained.
      younger: a section that the first runs do not have.
      before: how runs were that were begun before the field was there, where that is not its default.
      shown: the default as the docs show it, where it depends on something.
    """

    words: str = ""
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    cap: float | None = None
    also: tuple[float, ...] = ()
    zero: str = ""
    choices: tuple[str, ...] = ()
    open: bool = False
    younger: bool = False
    before: Any = None
    shown: str = ""


class Field(typing.NamedTuple):
    """A field of a section: its annotation, its rule, and its default (dataclasses.MISSING: it must be given)."""

    kind: Any
    rule: Rule
    default: Any


def setting(default: Any = dataclasses.MISSING, words: str = "", **rule: Any) -> Any:
    """A field of a section. Without a default (`...`) it must be given; `rule` are the attributes of Rule."""
    metadata = {"rule": Rule(words, **rule)}
    if default is ... or default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, dict) or isinstance(default, type):
        factory = default if isinstance(default, type) else functools.partial(copy.deepcopy, default)
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@functools.lru_cache
def fields(section: type) -> Mapping[str, Field]:
    """The fields of a section, by name."""
    kinds = typing.get_type_hints(section)
    found = {}
    for f in dataclasses.fields(section):
        default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            default = dataclasses.asdict(default)
        found[f.name] = Field(kinds[f.name], f.metadata["rule"], default)
    return types.MappingProxyType(found)


def takes_arguments(section: type) -> bool:
    """Whether fields beside the known ones are arguments of the part that the section names."""
    return getattr(section, "ARGUMENTS", False)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def members(kind: Any) -> tuple[Any, ...]:
    """The members of a union; else the kind alone."""
    return typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)


def open_fields(section: type, prefix: str) -> list[str]:
    """The fields of a section that may differ when a run goes on, each behind a prefix."""
    return [f"{prefix}{name}" for name, f in fields(section).items() if f.rule.open] if _is_section(section) else []


def filled(kind: Any, value: Any) -> Any:
    """A value with the defaults of the sections in it; what has another shape is left to `check`."""
    kinds = members(kind)
    if types.NoneType in kinds and value == {}:
        return None
    for each in kinds:
        if isinstance(value, Mapping):
            if _is_section(each):
                known = fields(each)
                given = {k: filled(known[k].kind, v) if k in known else v for k, v in value.items()}
                rest = {k: f.default for k, f in known.items() if k not in given}
                return given | {k: v for k, v in rest.items() if v is not dataclasses.MISSING}
            if typing.get_origin(each) is dict:
                return {k: filled(typing.get_args(each)[1], v) for k, v in value.items()}
    return value


def at(section: type, path: tuple[str, ...]) -> Any:
    """What a path of names means below a section: a Field, the kind of an entry of a dict, or None for an argument.

    Raises:
      InputError: a name that a section does not have; `where` is the name.
    """
    found: Any = section
    for name in path:
        kind = found.kind if isinstance(found, Field) else found
        found = None
        for each in members(kind):
            if _is_section(each):
                found = fields(each).get(name)
                if found is None and not takes_arguments(each):
                    raise InputError(name, "an unknown field", nearest(name, fields(each)))
            elif typing.get_origin(each) is dict:
                found = typing.get_args(each)[1]
    return found


def check(section: type, found: Any, where: str) -> None:
    """Checks names, types, bounds and choices of a section and of all that is in it.

    Args:
      section: the dataclass.
      found: what was given, completed (`filled`).
      where: how the user calls it, for the error: a field, or a file as "claims/mine.toml: ".

    Raises:
      InputError: the first field that is unknown, missing or out of its bounds.
    """
    if not isinstance(found, Mapping):
        raise InputError(where, repr(found), BY_NAME)
    known = fields(section)
    stem = where if where.endswith(": ") else f"{where}."
    if not takes_arguments(section):
        for name in found:
            if name not in known:
                raise InputError(f"{stem}{name}", "an unknown field", nearest(name, known))
    for name, f in known.items():
        if name not in found:
            raise InputError(f"{stem}{name}", "no value", allowed(f.kind, f.rule))
        check_value(f"{stem}{name}", found[name], f.kind, f.rule)


def check_value(where: str, value: Any, kind: Any, rule: Rule) -> None:
    """As `check`, for one value of an annotated kind."""
    kinds = members(kind)
    if len(kinds) > 1:
        kind = next((k for k in kinds if _has_shape(value, k)), None)
    if kind is None or not _has_shape(value, kind):
        raise InputError(where, repr(value), allowed(kinds, rule, value))
    if _is_section(kind):
        check(kind, value, where)
    elif typing.get_origin(kind) is dict:
        names, inside = typing.get_args(kind)
        for key, entry in value.items():
            if names is Name and not re.fullmatch(r"\w+", str(key)):
                raise InputError(where, f"the name {key!r}", "letters, digits and _")
            check_value(f"{where}.{key}", entry, inside, rule)
    elif typing.get_origin(kind) is tuple:
        inside = typing.get_args(kind)
        several = inside[-1] is ...
        if not several and len(value) != len(inside):
            raise InputError(where, repr(value), allowed((kind,), rule))
        for i, entry in enumerate(value):
            # A pair is named as a whole: its halves have no name of their own.
            inner = f"{where}[{i}]" if several else where
            check_value(inner, entry, inside[0] if several else inside[i], rule)
    elif not _within(value, kind, rule):
        raise InputError(where, repr(value), allowed((kind,), rule, value))


def is_number(value: Any, whole: bool = False) -> bool:
    """A finite int or float; with `whole`, an int. No bool is one."""
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)  # math would make a float of an int, which may be too large


def _has_shape(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind, whatever is in it and how large it is."""
    if kind is Any:
        return True
    if kind in (None, types.NoneType):
        return value is None
    if kind in (int, float):
        return is_number(value, whole=kind is int)
    if kind in (bool, str) or kind in (Regex, Name):
        return isinstance(value, bool if kind is bool else str)
    if typing.get_origin(kind) is tuple or kind is tuple:
        return isinstance(value, tuple | list)
    return isinstance(value, Mapping)


def _within(value: Any, kind: Any, rule: Rule) -> bool:
    """Whether a value of the right shape is one of the choices and inside of the bounds."""
    if kind is Regex:
        return _compiles(value)
    if kind is str and rule.choices:
        return value in rule.choices
    if kind not in (int, float):
        return True
    return value in rule.also or (
        abs(value) <= _limit(kind, rule)
        and (rule.least is None or value >= rule.least)
        and (rule.above is None or value > rule.above)
        and (rule.most is None or value <= rule.most)
        and (rule.below is None or value < rule.below)
    )


def _limit(kind: Any, rule: Rule) -> float:
    """What makes sense, or what the program that reads a number can hold."""
    return rule.cap or max(INT32 if kind is int else FLOAT32, rule.most or 0)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def bounds(rule: Rule, value: Any = None, kind: Any = float) -> str:
    """The bounds of a number in words (" >= 1", ", 0 <= x < 1"), and the machine's where `value` is past that."""
    low, high = rule.least if rule.above is None else rule.above, rule.most if rule.below is None else rule.below
    past = is_number(value) and abs(value) > _limit(kind, rule)
    high = _limit(kind, rule) if past else high
    left, right = "<=" if rule.above is None else "<", "<=" if rule.below is None or past else "<"
    if low in (None, -math.inf):
        text = "" if high is None else f" {right} {high:.10g}"
    elif high is None:
        text = f" {'>=' if left == '<=' else '>'} {low:.10g}"
    else:
        text = f", {low:.10g} {left} x {right} {high:.10g}"
    return text + "".join(f", or {x:g}" for x in rule.also) + (f"; 0 {rule.zero}" if rule.zero else "")


def allowed(kinds: Any, rule: Rule, value: Any = None) -> str:
    """What a field takes, in words; with `value`, the choices nearest to it come first."""
    several = kinds if isinstance(kinds, tuple) else members(kinds)
    return " or ".join(_one(kind, rule, value) for kind in several)


def _plural(text: str) -> str:
    noun, bound, rest = re.fullmatch(r"(?:an? )?((?:whole |Python regular )?\w+)( by name)?(.*)", text, re.S).groups("")  # type: ignore[union-attr]
    return f"{noun}{'' if noun.endswith('s') else 's'}{bound}{rest}"


def _one(kind: Any, rule: Rule, value: Any) -> str:
    inside = typing.get_args(kind)
    if kind is str and rule.choices:
        return nearest(value, rule.choices) if value is not None else ", ".join(rule.choices)
    if kind in (int, float):
        return ("a whole number" if kind is int else "a number") + bounds(rule, value, kind)
    if typing.get_origin(kind) is tuple and inside[-1] is ...:
        each = [_plural(_one(k, rule, None)) for k in members(inside[0])]
        return f"a list of {', '.join(rule.choices) or ' or '.join(each)}"
    if typing.get_origin(kind) is tuple:
        return f"a {'pair' if len(inside) == 2 else 'list'} ({', '.join(_one(k, rule, None) for k in inside)})"
    words: dict[Any, str] = {
        bool: "true or false",
        str: "text",
        Regex: "a Python regular expression",
        Name: "a name of letters, digits and _",
        types.NoneType: "None",
        tuple: "a list",
        Any: "a value",
    }
    return words.get(kind, BY_NAME)
