"""Regular expressions on the paths of parameters: which are left out, scaled, frozen, or named by a field."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from hcl_jax.errors import InputError, nearest
from hcl_jax.parallel.sharding import flat_paths, path_text

Mask = Callable[[Any], Any]
Rules = tuple[tuple[str, float], ...]


def path_mask(patterns: tuple[str, ...]) -> Mask:
    """A function of a parameter tree: True where no pattern is found in the "/"-joined path."""
    return mask_of(lambda name: not any(re.search(pattern, name) for pattern in patterns))


def mask_of(keep: Callable[[str], bool]) -> Mask:
    """A function of a parameter tree: `keep` of each "/"-joined path."""

    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: keep(path_text(path)), params)

    return mask


def first(rules: Iterable[tuple[str, Any]], name: str, otherwise: Any) -> Any:
    """What the first rule (pattern, value) that is found in a path says of it."""
    return next((value for pattern, value in rules if re.search(pattern, name)), otherwise)


def factor(rules: Rules, name: str) -> float:
    """The multiplier of a parameter's update; 0 is frozen."""
    return float(first(rules, name, 1.0))


def check_pattern(pattern: Any, where: str) -> None:
    """Raises InputError for what is no regular expression."""
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise InputError(where, f"{pattern!r} ({error})", "a Python regular expression") from None


def check_matches(pattern: Any, where: str, paths: Iterable[str]) -> list[str]:
    """The paths that a pattern is found in. Raises InputError where there is none."""
    check_pattern(pattern, where)
    paths = list(paths)
    found = [path for path in paths if re.search(pattern, path)]
    if not found:
        raise InputError(where, f"{pattern!r}, which no parameter matches", f"nearest {nearest(pattern, paths)}")
    return found


def checked_rules(rules: Any, paths: list[str], field: str = "rules", number: str = "multiplier") -> Rules:
    """`rules` of pairs (pattern, number), each found in a path. Raises InputError naming the entry of `field`."""
    allowed = "a number: 0 freezes, negative ascends" if field == "rules" else "a number"
    for i, rule in enumerate(rules):
        where = f"config.optimizer.{field}[{i}]"
        if not isinstance(rule, list | tuple) or len(rule) != 2:
            raise InputError(where, repr(rule), f"a pair (regex, {number})")
        pattern, value = rule
        check_matches(pattern, where, paths)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(where, repr(value), allowed)
    return tuple((str(pattern), value) for pattern, value in rules)


def matched_kernels(patterns: Any, params_like: Any, field: str) -> tuple[str, ...]:
    """Patterns that are found in paths of kernels [D, K] alone. Raises InputError naming the entry of `field`."""
    leaves: Mapping[str, Any] = flat_paths(params_like)
    for i, pattern in enumerate(patterns):
        where = f"config.optimizer.{field}[{i}]"
        for path in check_matches(pattern, where, leaves):
            if len(leaves[path].shape) != 2:
                raise InputError(where, f"{pattern!r}: {path} {leaves[path].shape}", "kernels [D, K] only")
    return tuple(patterns)
