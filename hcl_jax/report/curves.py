"""Curves over steps as SVG: axes, grid, a legend; lines differ in dashes as well as in colour."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hcl_jax.compare.logged import Logged
from hcl_jax.report.html import Html, join, tag
from hcl_jax.workdir.card import COLUMNS, SETTINGS, is_share

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 240, 58, 12, 10, 40
FIRST = ("loss", "learning_rate", "contrastive_top1", "spread")  # charts that come first
OWN = ("step", "minutes")  # numbers of a line that are no curve
DASHES = 8  # kinds of lines in page.css
MOST = 600  # points of a line; every other point is left out until there are no more


class Line(NamedTuple):
    """A curve: its name in the legend, its points, and whether it is one seed of several, whose mean has that name."""

    name: str
    points: list[tuple[float, float]]
    faint: bool = False


def charts(runs: Sequence[Logged]) -> dict[str, list[Line]]:
    """{title: lines} of everything that was logged at two steps or more; a metric of several runs is one chart."""
    found: dict[str, list[Line]] = {}
    for run in runs:
        names = [k for k in dict.fromkeys(k for line in run.lines for k in line) if k not in OWN]
        for name in names:
            seed = re.match(r"seed(\d+)/", name)
            metric = name[seed.end() :] if seed else name
            group, member = _group(metric)
            if not group or (metric.startswith("loss/") and sum(n.startswith("loss/") for n in names) == 1):
                continue
            points = [(float(line["step"]), line[name]) for line in run.lines if name in line]
            points = [(x, y) for x, y in points if math.isfinite(y)]
            if len(points) < 2:
                continue
            shown = " ".join(filter(None, (run.name if len(runs) > 1 else "", member))) or "last"
            found.setdefault(group, []).append(Line(shown, thinned(points), bool(seed)))
    order = [g for g in FIRST if g in found] + [g for g in found if g.startswith("eval ")]
    return {g: found[g] for g in [*order, *(g for g in found if g not in order)]}


def _group(metric: str) -> tuple[str, str]:
    """(chart, name of the line in it) of a metric; nothing for errors, baselines and settings of evaluations."""
    parts = metric.split("/")
    if parts[0] != "eval":
        return parts[0], "/".join(parts[1:])
    if metric.endswith("_se") or parts[-1] in SETTINGS or set(parts) & (set(COLUMNS) - {"trained"}):
        return "", ""
    return " ".join(parts), ""


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MOST` of the points, evenly, the last one among them."""
    step = -(-len(points) // MOST)
    return points if step == 1 else [*points[:-1:step], points[-1]]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high.

    Example:
      >>> ticks(0.0, 10.0)
      [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    size *= next(m for m in (1, 2, 5, 10) if m * size >= rough * 0.999)
    first = math.ceil(low / size - 1e-9)
    return [round((first + i) * size, 12) for i in range(int((high - first * size) / size + 1e-9) + 1)]


def chart(title: str, lines: Sequence[Line]) -> Html:
    """One chart with its legend."""
    factor = 100 if is_share(title) else 1
    xs = [x for line in lines for x, _ in line.points]
    ys = [factor * y for line in lines for _, y in line.points]
    (left, right), (low, high) = _range(xs, 0.0), _range(ys, 0.05)

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for y in ticks(low, high):
        at = place(left, y)[1]
        parts.append(tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{at:.1f}", y2=f"{at:.1f}"))
        parts.append(tag("text", f"{y:.4g}", class_="tick end", x=LEFT - 7, y=f"{at + 4:.1f}"))
    for x in ticks(left, right):
        at = place(x, low)[0]
        parts.append(
            tag("line", class_="axis", x1=f"{at:.1f}", x2=f"{at:.1f}", y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM + 4)
        )
        parts.append(tag("text", f"{x:,.6g}", class_="tick middle", x=f"{at:.1f}", y=HEIGHT - BOTTOM + 17))
    parts.append(tag("line", class_="axis", x1=LEFT, x2=WIDTH - RIGHT, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM))
    parts.append(tag("text", "step", class_="label end", x=WIDTH - RIGHT, y=HEIGHT - 6))
    legend = []
    numbers = {name: i for i, name in enumerate(dict.fromkeys(line.name for line in lines))}
    for line in lines:
        style = numbers[line.name] % DASHES
        corners = (place(x, factor * y) for x, y in line.points)
        spots = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        parts.append(tag("polyline", points=spots, class_=f"line s{style}" + " faint" * line.faint))
        if not line.faint:
            sample = tag(
                "svg", tag("line", class_=f"line s{style}", x1=0, x2=26, y1=6, y2=6), class_="key", viewBox="0 0 26 12"
            )
            legend.append(tag("li", sample, line.name, tag("b", f"{factor * line.points[-1][1]:.4g}")))
    unit = " (%)" if factor == 100 else ""
    picture = tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{title}{unit} over steps")
    heading = tag("figcaption", title.removeprefix("eval ").replace("_", " ") + unit)
    return tag("figure", heading, picture, tag("ul", *legend, class_="legend"), class_="chart")


def _range(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(1.0, abs(high)):
        room = abs(high) * 0.1 or 1.0
        return low - room, high + room
    return low - margin * (high - low), high + margin * (high - low)


def section(found: Mapping[str, list[Line]]) -> Html:
    """All charts; what never changed is a line of text."""
    moved = {t: lines for t, lines in found.items() if len({y for line in lines for _, y in line.points}) > 1}
    same = [f"{t.replace('_', ' ')} {lines[0].points[0][1]:.4g}" for t, lines in found.items() if t not in moved]
    note = [tag("p", f"The same at every step: {', '.join(same)}.", class_="note")] if same else []
    return join(tag("div", *(chart(title, lines) for title, lines in moved.items()), class_="charts"), *note)
