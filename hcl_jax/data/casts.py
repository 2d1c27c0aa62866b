"""Casts of what a user hands in: equal numbers after them, or a line; never numbers that were cut."""

from collections.abc import Callable

import numpy as np

from hcl_jax.errors import InputError

MOST = np.iinfo(np.int32).max
Where = str | Callable[[int], str]


def whole_numbers(where: Where, values: np.ndarray, least: int | None = None) -> np.ndarray:
    """The same whole numbers as int32.

    Args:
      where: for messages: the array, or a function that says where a record is.
      values: [N, ...].
      least: the smallest allowed; None is -2**31.

    Raises:
      InputError: a number with a fraction, not finite, or out of range, with its record; text, or complex numbers.
    """
    if values.dtype.kind not in "uifbO":
        raise InputError(where if isinstance(where, str) else where(0), f"dtype {values.dtype}", "whole numbers")
    least = -MOST - 1 if least is None else least
    if values.dtype.kind == "f":
        _refuse(where, values, values != np.floor(values), "whole numbers")  # nan and inf are not their own floor
    _refuse(where, values, (values < least) | (values > MOST), f"whole numbers from {least} to {MOST}")
    return values.astype(np.int32)


def finite_floats(where: Where, values: np.ndarray) -> np.ndarray:
    """The numbers as float32, rounded as floats are; nan and infinities stay.

    Raises:
      InputError: a finite number that float32 cannot hold, or a whole one that it would round, with its record.
    """
    with np.errstate(over="ignore"):
        made = values.astype(np.float32)
    if values.dtype.kind == "f" and values.dtype.itemsize > 4 or values.dtype.kind in "ui":
        most, least = float(np.finfo(np.float32).max), float(np.finfo(np.float32).smallest_subnormal)
        _refuse(where, values, np.isinf(made) & np.isfinite(values), f"numbers up to {most:.2g}, float32")
        _refuse(where, values, (made == 0) & (values != 0), f"0, or numbers from {least:.2g}, float32")
    if values.dtype.kind in "ui":
        _refuse(where, values, made.astype(np.float64) != values, "whole numbers up to 2**24, or floats")
    return made


def _refuse(where: Where, values: np.ndarray, bad: np.ndarray, allowed: str) -> None:
    if bad.any():
        record = np.argwhere(bad)[0]
        at = f"{where} record {record[0]}" if isinstance(where, str) else where(int(record[0]))
        raise InputError(at, values[tuple(record)], allowed)
