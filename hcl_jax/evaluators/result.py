"""What an evaluator takes and what it returns: features and labels of two splits, numbers and what can be paired."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from hcl_jax.errors import InputError
from hcl_jax.evaluators.accuracy import Accuracy

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Splits(NamedTuple):
    """One array of each split: features [n, d] and [m, d], or labels int [n] and [m] with -1 for a row without one.

    Attributes:
      train: what a probe is fitted on; None where nothing is fitted.
      test: what it is tested on.
    """

    train: Any
    test: Any

    def with_labels(self, labels: "Splits") -> tuple[Any, Any, Any, Any]:
        """(train features, train labels, test features, test labels), as the probes of this room take them."""
        return self.train, labels.train, self.test, labels.test


class Result(NamedTuple):
    """The numbers of one evaluator on one set of features.

    Attributes:
      metrics: {name: number}; an `Accuracy` is written with its standard error, as `name` and `name_se`.
      paired: {name: what the difference of two sets of features is taken of}: bool [m], right or wrong by test row, or
        float [draws], one number a draw. A name in it is written as gain_over_untrained/name too.
      once: numbers that do not depend on the features, such as chance: written for the trained encoder alone.
      kept: arrays of what was fitted, for use on new features.
    """

    metrics: Mapping[str, float | Accuracy]
    paired: Mapping[str, np.ndarray] = NOTHING
    once: Mapping[str, float] = NOTHING
    kept: Mapping[str, np.ndarray] = NOTHING


def result_of(found: Any, name: str = "evaluator") -> Result:
    """A `Result` of what an evaluator returned, a Result or a plain mapping of numbers, of any library.

    Args:
      found: what it returned.
      name: the evaluator's, for the error.

    Raises:
      InputError: something else than numbers by name.
    """
    result = found if isinstance(found, Result) else Result(found)
    for numbers in (result.metrics, result.once):
        if not isinstance(numbers, Mapping):
            raise InputError(f"what {name} returns", repr(numbers), "a mapping of numbers by name")
    where = f"what {name} returns as"
    metrics, once = ({k: _plain(f"{where} {k}", v) for k, v in m.items()} for m in (result.metrics, result.once))
    return result._replace(metrics=metrics, once=once)


def _plain(where: str, value: Any) -> Any:
    """A number as Python has it (np.float32 and arrays [] are no JSON); an accuracy as it is."""
    if isinstance(value, Accuracy):
        return value
    array = np.asarray(value)
    if array.ndim or not (array.dtype == bool or jax.dtypes.issubdtype(array.dtype, np.number)):
        raise InputError(where, repr(value), "a number")
    return array.item()


def with_errors(metrics: Mapping[str, float | Accuracy]) -> dict[str, float]:
    """Plain numbers: an accuracy becomes two, `name` and `name_se`."""
    out: dict[str, float] = {}
    for name, value in metrics.items():
        out |= {name: value.value, f"{name}_se": value.standard_error} if isinstance(value, Accuracy) else {name: value}
    return out
