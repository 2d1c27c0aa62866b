"""Numbers of several runs side by side: the mean under a metric's own name, and each run's under its seed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def by_seed(metrics: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, float]:
    """The metrics of a step as numbers.

    Args:
      metrics: name -> a number, or [S] of the runs with these seeds.
      seeds: S of them; one seed leaves the names as they are.

    Returns:
      {"loss": mean, "seed0/loss": ..., "seed1/loss": ...}; of "skipped" the largest stands for the mean.
    """
    if len(seeds) == 1:
        return {k: float(v) for k, v in metrics.items()}
    together = {k: float(np.max(v) if k == "skipped" else np.mean(v)) for k, v in metrics.items()}
    return together | {f"seed{s}/{k}": float(v[i]) for i, s in enumerate(seeds) for k, v in metrics.items()}


def note(seeds: Sequence[int]) -> str:
    """What stands below the table of a run with several seeds."""
    if len(seeds) == 1:
        return ""
    each = f"seed{seeds[0]}/... to seed{seeds[-1]}/..."
    means = f"means over {len(seeds)} seeds with their standard error over seeds"
    return f"\n{means}; of each seed: {each} in card.json and metrics.jsonl"


def summary(results: Sequence[Mapping[str, float]], seeds: Sequence[int]) -> dict[str, float]:
    """Results of the runs as one: the mean over seeds, with its standard error in place of that of one run's test rows.

    Args:
      results: name -> number of each run; a number's own standard error is named `..._se`.
      seeds: of the runs.

    Returns:
      {"eval/x": mean, "eval/x_se": deviation over seeds / sqrt(S), "seed0/eval/x": ..., "seed0/eval/x_se": ...}.
    """
    if len(seeds) == 1:
        return dict(results[0])
    found: dict[str, float] = {}
    for name in results[0]:
        values = np.array([r[name] for r in results if name in r])
        if len(values) < len(results) or name.endswith("_se"):
            continue
        found[name] = float(values.mean())
        if np.ptp(values):
            found[f"{name}_se"] = float(values.std(ddof=1) / math.sqrt(len(values)))
    return found | {f"seed{s}/{k}": v for s, r in zip(seeds, results, strict=True) for k, v in r.items()}
