"""The losses of a run and their measures over a whole split."""

from collections.abc import Iterable, Mapping
from typing import Any

from hcl_jax.evaluators.result import Result


def objectives(batches: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Result:
    """Means over a split from the means of its batches, each weighted by what it is a mean of.

    mean = sum_b value_b count_b / sum_b count_b: exact for means over rows, tokens or pixels, whatever the batches are.
    A loss that compares the rows of a batch with each other depends on the batches; this is then their weighted mean.

    Args:
      batches: (values, counts) of each batch: {name: mean} and {name: rows, tokens or pixels that it is a mean of}.

    Returns:
      `Result` of {name: mean}; a name that nothing was counted for is left out.
    """
    total: dict[str, float] = {}
    count: dict[str, float] = {}
    for values, counts in batches:
        for name, value in values.items():
            total[name] = total.get(name, 0.0) + float(value) * float(counts[name])
            count[name] = count.get(name, 0.0) + float(counts[name])
    return Result({name: value / count[name] for name, value in total.items() if count[name]})
