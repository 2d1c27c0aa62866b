"""Checks of op parameters while the graph is built: a bad one is an InputError that names op and parameter."""

import math
import numbers
from collections.abc import Sequence

from hcl_jax.errors import InputError

LONGEST_SIDE = 65535  # pixels: that of a JPEG


def number(where: str, value: object, least: float = -math.inf, most: float = math.inf) -> float:
    """`value` as a float in [least, most].

    Args:
      where: "op.parameter", for the error text.
      value: what the config says.
      least, most: the closed range allowed.

    Returns:
      The float.

    Raises:
      InputError: not a finite number, or outside the range.
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not least <= value <= most:  # type: ignore[operator, arg-type]
        raise InputError(where, repr(value), f"a number from {least:g} to {most:g}")
    return float(value)  # type: ignore[arg-type]


def whole(where: str, value: object, least: int = 0, most: float = math.inf) -> int:
    """`value` as an integer in [least, most]; raises InputError otherwise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not least <= int(value) <= most:
        end = "" if most == math.inf else f" and at most {most}"
        raise InputError(where, repr(value), f"a whole number of at least {least}{end}")
    return int(value)


def span(where: str, value: object, least: float = -math.inf, most: float = math.inf) -> tuple[float, float]:
    """`value` as an ordered pair (low, high) in [least, most]; raises InputError otherwise."""
    allowed = f"two numbers, low <= high, from {least:g} to {most:g}"
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise InputError(where, repr(value), allowed)
    low, high = (number(where, v, least, most) for v in value)
    if low > high:
        raise InputError(where, repr(value), allowed)
    return low, high


def sides(where: str, value: object) -> tuple[int, int]:
    """A picture's (height, width) in pixels from one number or a pair; raises InputError otherwise."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 2:
            raise InputError(where, repr(value), "pixels, or (height, width)")
        return whole(where, value[0], 1, LONGEST_SIDE), whole(where, value[1], 1, LONGEST_SIDE)
    side = whole(where, value, 1, LONGEST_SIDE)
    return side, side


def choice(where: str, value: object, allowed: Sequence[str]) -> str:
    """`value` as one of the `allowed` words; raises InputError otherwise."""
    if value not in allowed:
        raise InputError(where, repr(value), ", ".join(allowed))
    return str(value)


def numbers_of(where: str, value: object, least: float = -math.inf, most: float = math.inf) -> list[float]:
    """One number or a sequence of numbers in [least, most] as a list of floats; raises InputError otherwise."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [number(where, v, least, most) for v in value]
    return [number(where, value, least, most)]
