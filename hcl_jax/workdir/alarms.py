"""Is a run going wrong? What its logged numbers say, as warnings of one line; on the host, and nothing is stopped.

A warning comes when its condition begins, and again when that has ended and begins again.
"""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

HISTORY = 50  # logged losses that the next one is compared with
LEAST = 10  # of them before it is
COLLAPSED = 3  # lines in a row: the first step of a network, or one batch that lacks a view, is no collapse


class State(NamedTuple):
    """What the warnings of the next line depend on; `State()` before the first one.

    Attributes:
      losses: {run: its last logged losses, oldest first}; a run is "", or "seed3/" of several seeds side by side.
      skipped: {run: steps skipped up to the last line}.
      streaks: {metric: lines in a row, up to the last one, in which its condition held}.
    """

    losses: Mapping[str, tuple[float, ...]] = {}
    skipped: Mapping[str, int] = {}
    streaks: Mapping[str, int] = {}


def spike(loss: float, earlier: Sequence[float]) -> float:
    """How many robust deviations a loss lies above the median of those before it.

    (loss - m) / max(1.4826 median_i |x_i - m|, |m| / 100), m = median_i x_i, over the last 50 that are finite

    Args:
      loss: the newest.
      earlier: those logged before it, oldest first; inf and nan among them count for nothing.

    Returns:
      A number, negative below the median; inf for a loss that is not finite; 0 with fewer than 10 before it.
    """
    kept = [x for x in earlier if math.isfinite(x)][-HISTORY:]
    if len(kept) < LEAST:
        return 0.0
    if not math.isfinite(loss):
        return math.inf
    middle = statistics.median(kept)
    deviation = 1.4826 * statistics.median(abs(x - middle) for x in kept)
    # A flat history would make any change infinitely large.
    return (loss - middle) / max(deviation, abs(middle) / 100, 1e-8)


def warnings(
    state: State,
    step: int,
    metrics: Mapping[str, float | str],
    *,
    spike_above: float,
    collapse_below: float,
    skipped_steps: Mapping[str, Sequence[int]] | None = None,
) -> tuple[State, list[str]]:
    """The warnings of one line of metrics.jsonl, and what those of the next line depend on.

    A resumed run passes the lines that it has first, and drops their warnings.

    Args:
      state: from the line before.
      step: of the line.
      metrics: its numbers by name. Of several seeds each one's count, not their means.
      spike_above: log.spike, in robust deviations; 0 = off.
      collapse_below: log.collapse, of each `spread/<output>`; 0 = off.
      skipped_steps: {run: numbers of its last skipped steps, newest first, below 0 for none}, where they are known.

    Returns:
      (state, a text for each warning).
    """
    runs = [name.removesuffix("loss") for name in metrics if re.fullmatch(r"(seed\d+/)?loss", name)]
    if not runs:  # a line of an evaluation alone has no step to judge
        return state, []
    losses, skipped, found = dict(state.losses), dict(state.skipped), []
    streaks: dict[str, int] = {}

    def holds(name: str) -> int:
        streaks[name] = state.streaks.get(name, 0) + 1
        return streaks[name]

    low = []
    for run in [run for run in runs if run] or runs:
        loss, before = float(metrics[f"{run}loss"]), losses.get(run, ())
        above = spike(loss, before)
        if math.isfinite(loss):
            losses[run] = (*before, loss)[-HISTORY:]
            # A NaN loss is reported as a skipped step.
            if spike_above and above > spike_above and holds(f"{run}loss") == 1:
                found.append(_spike_text(f"{run}loss", loss, above, before))
        last = skipped.get(run, 0)
        skipped[run] = total = int(metrics.get(f"{run}skipped_total", last))
        if total > last and holds(f"{run}skipped_total") == 1:
            found.append(_skipped_text(f"{run}skipped_total", total, last, (skipped_steps or {}).get(run, ())))
        for name in (k for k in metrics if k.startswith(f"{run}spread/")):
            if float(metrics[name]) < collapse_below and holds(name) == COLLAPSED:
                low.append(f"{name} {float(metrics[name]):.3g}")
    if low:
        found.append(_collapse_text(low, collapse_below))
    return State(losses, skipped, streaks), [f"step {step}: {text}" for text in found]


def _spike_text(name: str, loss: float, above: float, before: Sequence[float]) -> str:
    middle = statistics.median(before)
    return (
        f"{name} {loss:.4g} is {above:.0f} deviations above {middle:.4g}, the median of {len(before)} lines; "
        "if it stays there, start again from an earlier checkpoint with a lower optimizer.learning_rate, "
        "more optimizer.warmup_steps or optimizer.clip (config.log.spike)"
    )


def _skipped_text(name: str, total: int, last: int, steps: Sequence[int]) -> str:
    known = sorted([n for n in steps if n >= 0][: total - last])
    which = f" ({', '.join(map(str, known))})" if known else ""
    return (
        f"{name} {total}, {total - last} since the last line{which}: a loss or gradient was not finite and changed "
        "nothing; look at the rows of those steps, lower optimizer.learning_rate, or set optimizer.clip"
    )


def _collapse_text(low: Sequence[str], limit: float) -> str:
    rest = f" and {len(low) - 4} more" if len(low) > 4 else ""  # seeds x views
    return (
        f"{', '.join(low[:4])}{rest} below {limit:g} at {COLLAPSED} lines in a row: all rows have nearly the same "
        "direction; a target or a predictor may be missing, or the learning rate, the target's momentum or the "
        "temperature be wrong (config.log.collapse)"
    )
