"""Numbers of runs beside each other, in per cent, and their differences over the seeds that both have."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hcl_jax.claims.verdict import Verdict, judge
from hcl_jax.compare.logged import Logged
from hcl_jax.workdir import card
from hcl_jax.workdir.card import shown


class Difference(NamedTuple):
    """The trained numbers of one run less those of another.

    Attributes:
      value: a mean over the seeds of both, or the difference of the two numbers.
      judged: the mean with its interval over paired seeds; None with fewer than two seeds in common.
    """

    value: float
    judged: Verdict | None


def by_seed(run: Logged) -> dict[int, dict[str, float]]:
    """{seed: {row: trained number}} of a run."""
    if len(run.seeds) == 1:
        return {run.seeds[0]: _trained(run.results)}
    found = {}
    for seed in run.seeds:
        before = f"seed{seed}/"
        found[seed] = _trained({k.removeprefix(before): v for k, v in run.results.items() if k.startswith(before)})
    return found


def _trained(results: Mapping[str, float]) -> dict[str, float]:
    return {row: columns["trained"][0] for row, columns in card.cells(results).items() if "trained" in columns}


def differences(run: Logged, base: Logged) -> dict[str, Difference]:
    """{row: run - base} of the trained numbers that both have, paired by seed."""
    ours, theirs = by_seed(run), by_seed(base)
    means, others = _trained(run.results), _trained(base.results)
    found = {}
    for row in (r for r in means if r in others):
        pairs = [(ours[s][row], theirs[s][row]) for s in ours if s in theirs and row in ours[s] and row in theirs[s]]
        paired = [a - b for a, b in pairs]
        if len(paired) > 1:
            judged = judge(paired, "above", 0.0)
            found[row] = Difference(judged.value, judged)
        else:
            found[row] = Difference(paired[0] if paired else means[row] - others[row], None)
    return found


def of_difference(row: str, found: Difference) -> str:
    """A difference as a table has it, with its 95 % interval where it has one."""
    text = shown(row, found.value, sign=True)
    if found.judged is None:
        return text
    low, high = (shown(row, v, sign=True) for v in (found.judged.low, found.judged.high))
    return f"{text} [{low}, {high}]"


def rows_of(runs: Sequence[Logged]) -> list[str]:
    """The rows that some run has a trained number of, in order."""
    return list(dict.fromkeys(row for run in runs for row in _trained(run.results)))


def pairing(run: Logged, base: Logged) -> str:
    """What the differences of two runs are over, in words."""
    both = [s for s in run.seeds if s in base.seeds]
    if len(both) > 1:
        return f"{run.name} less {base.name}: mean over {len(both)} paired seeds with its 95 % interval"
    return f"{run.name} less {base.name}: {'one seed' if both else 'no seed'} in common, so there is no interval"


def text(runs: Sequence[Logged]) -> str:
    """The table of runs: a column a run, and a column of differences to the first for each other."""
    base = runs[0]
    apart = [differences(run, base) for run in runs[1:]]
    head = ["", *(run.name for run in runs), *(f"{run.name} - {base.name}" for run in runs[1:])]
    lines = [head]
    for row in rows_of(runs):
        cells = [card.cells(run.results).get(row, {}).get("trained") for run in runs]
        line = [row, *("" if cell is None else shown(row, *cell) for cell in cells)]
        lines.append([*line, *(of_difference(row, d[row]) if row in d else "" for d in apart)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    out = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    notes = [f"{run.name}: {run.state}" for run in runs if not run.finished]
    notes += [pairing(run, base) for run in runs[1:]]
    return "\n".join([*(line.rstrip() for line in out), *notes])
