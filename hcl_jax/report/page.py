"""The page: a head with what matters most, and a tab for each part, with the runs one below the other."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hcl_jax.compare.logged import Logged
from hcl_jax.report import about, curves, drawings, sections
from hcl_jax.report.features import Look, Shown
from hcl_jax.report.html import Html, join, tag
from hcl_jax.report.style import document
from hcl_jax.workdir import card

TILES, FIRST = 3, "recall_1"  # numbers in the head of a page on one run, and those that come before others


class Part(NamedTuple):
    """What was found of a run beside its log.

    Attributes:
      run: its log.
      views: rows of its training views by name; None where they could not be made.
      shown: its features; None where there are none.
      notes: why something is missing.
    """

    run: Logged
    views: Mapping[str, Sequence[Any]] | None
    shown: Shown | None
    notes: tuple[str, ...] = ()


def page(parts: Sequence[Part]) -> str:
    """The HTML of a report on one run or more."""
    runs = [part.run for part in parts]
    tabs = {"Results": _results(parts)}
    found = curves.charts(runs)
    tabs["Curves"] = curves.section(found) if found else tag("p", "Fewer than two lines were logged.", class_="note")
    if any(part.views for part in parts):
        tabs["Views"] = _each(parts, lambda part: sections.views(part.views) if part.views else None)
    if any(part.shown and part.shown.looks for part in parts):
        tabs["Features"] = _looks(parts, sections.maps)
        tabs["Neighbours"] = _each(parts, _neighbours)
        if any(look.confusion for part in parts if part.shown for look in part.shown.looks):
            tabs["Confusion"] = _looks(parts, sections.confusion)
    tabs["Card"] = _each(parts, lambda part: about.card(part.run))
    buttons = (
        tag("button", name, type="button", role="tab", id=f"tab-{name}", aria_controls=name, aria_selected="false")
        for name in tabs
    )
    title = join("Report: ", ", ".join(run.name for run in runs))
    states = (tag("li", tag("b", run.name), " ", run.state) for run in runs)
    head = tag("header", tag("h1", title), tag("ul", *states, class_="state"), *_alarms(parts), *_tiles(parts))
    panels = (
        tag("section", tag("h2", name), content, id=name, role="tabpanel", aria_labelledby=f"tab-{name}")
        for name, content in tabs.items()
    )
    nav = tag("div", *buttons, class_="tabs", role="tablist", aria_label="parts of the report")
    versions = ", ".join(sorted({(run.card or {}).get("versions", {}).get("hcl_jax", "") for run in runs} - {""}))
    foot = tag("footer", f"hcl_jax {versions}".strip())
    return document(title, join(drawings.DEFINITIONS, head, tag("main", nav, *panels), foot))


def _each(parts: Sequence[Part], content: Callable[[Part], Html | None]) -> Html:
    """What each run has, under its name where there are several."""
    blocks = []
    for part in parts:
        made = content(part) or tag("p", "Nothing to show: see the notes above.", class_="note")
        heading = [tag("h3", part.run.name)] if len(parts) > 1 else []
        blocks.append(tag("div", *heading, made, class_="run"))
    return join(*blocks)


def _looks(parts: Sequence[Part], content: Callable[[Look], Html]) -> Html:
    """The same of each evaluation view, under its name where there are several."""

    def of(part: Part) -> Html | None:
        looks = part.shown.looks if part.shown else ()
        named = [join(*([tag("h3", look.view)] if len(looks) > 1 else []), content(look)) for look in looks]
        return join(*named) if named else None

    return _each(parts, of)


def _neighbours(part: Part) -> Html | None:
    """What records find in another view, where the run measures that, then in their own."""
    if not part.shown:
        return None
    named = [join(tag("h3", pair.title), sections.pair(pair)) for pair in part.shown.pairs]
    alone = not named and len(part.shown.looks) == 1
    named += [join(*([] if alone else [tag("h3", k.view)]), sections.neighbours(k)) for k in part.shown.looks]
    return join(*named)


def _results(parts: Sequence[Part]) -> Html:
    own = _each(parts, lambda part: sections.results(part.run))
    if len(parts) == 1:
        return own
    return join(sections.side_by_side([part.run for part in parts]), tag("h2", "Each run"), own)


def _alarms(parts: Sequence[Part]) -> list[Html]:
    """What is missing, and what the alarms said."""
    found = []
    for part in parts:
        before = f"{part.run.name}: " if len(parts) > 1 else ""
        for text in (*part.notes, *about.warnings(part.run)):
            found.append(tag("p", "! ", before, text, class_="alarm"))
    return found


def _tiles(parts: Sequence[Part]) -> list[Html]:
    """The first numbers that have a baseline, of one run."""
    if len(parts) > 1:
        return []
    run, tiles = parts[0].run, list[Html]()
    cells = sorted(card.cells(run.results).items(), key=lambda cell: not cell[0].endswith(FIRST))
    for row, columns in cells:
        if not card.is_share(row) or "trained" not in columns or len(tiles) == TILES or "labels_" in row:
            continue
        beside = [
            f"{card.COLUMNS[c]} {card.shown(row, columns[c][0])}"
            for c in ("untrained", "raw", "chance")
            if c in columns
        ]
        value, _, error = card.shown(row, *columns["trained"]).partition(" ± ")
        number = tag("b", value, tag("span", f" ± {error} %" if error else " %"))
        tiles.append(
            tag("div", tag("small", row.replace("_", " ")), number, tag("small", ", ".join(beside)), class_="tile")
        )
    return [tag("div", *tiles, class_="tiles")] if tiles else []
