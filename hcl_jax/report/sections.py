"""The parts of the page that one run fills: results, views, maps, neighbours, confusion."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hcl_jax.compare import table
from hcl_jax.compare.logged import Logged
from hcl_jax.report import drawings
from hcl_jax.report.features import Confusion, Look, Neighbours, Pair, Rows
from hcl_jax.report.html import Html, join, tag
from hcl_jax.workdir import card, seed_stats

MOST_SHOWN = 20  # classes of a confusion that is drawn whole
OFTEN = 15  # confusions that are listed where there are more


def rows(head: Sequence[str], body: Sequence[Sequence[str]], *, caption: str = "", words: int = 1) -> Html:
    """A table; the first `words` columns are text, the rest numbers, aligned at the right."""

    def cell(i: int, text: str) -> Html:
        return tag("th", text, scope="row") if not i else tag("td", text, class_=None if i < words else "n")

    titles = (tag("th", h, scope="col", class_=None if i < words else "n") for i, h in enumerate(head))
    return tag(
        "div",
        tag(
            "table",
            *([tag("caption", caption)] if caption else []),
            tag("thead", tag("tr", *titles)),
            tag("tbody", *(tag("tr", *(cell(i, text) for i, text in enumerate(line))) for line in body)),
        ),
        class_="scroll", tabindex="0",
    )  # fmt: skip


def results(run: Logged) -> Html:
    """The table that the run printed, shares in per cent."""
    cells = card.cells(run.results)
    if not cells:
        return tag("p", "No evaluation yet.", class_="note")
    used = [c for c in card.COLUMNS if any(c in columns for columns in cells.values())]
    body = []
    for row, columns in cells.items():
        shown = [card.shown(row, *columns[c], sign=c.startswith("gain")) if c in columns else "" for c in used]
        body.append([row, *shown])
    note = seed_stats.note(run.seeds).strip() or "errors are standard errors over test rows, draws or folds"
    notes = [f"Accuracies and recalls in per cent; {note}."]
    if not run.finished:
        notes.append("The run has not finished: the newest numbers so far, without baselines.")
    return join(rows(["", *(card.COLUMNS[c] for c in used)], body), tag("p", " ".join(notes), class_="note"))


def side_by_side(runs: Sequence[Logged]) -> Html:
    """The numbers of several runs, and their differences to the first."""
    base, others = runs[0], runs[1:]
    apart = [table.differences(run, base) for run in others]
    body = []
    for row in table.rows_of(runs):
        cells = [card.cells(run.results).get(row, {}).get("trained") for run in runs]
        shown = ["" if cell is None else card.shown(row, *cell) for cell in cells]
        body.append([row, *shown, *(_difference(row, d[row]) if row in d else "" for d in apart)])
    head = ["", *(run.name for run in runs), *(f"{run.name} − {base.name}" for run in others)]
    notes = [tag("li", table.pairing(run, base)) for run in others]
    if any(found.judged for d in apart for found in d.values()):
        notes.append(tag("li", "in bold: the interval does not hold zero"))
    return join(rows(head, body), tag("ul", *notes, class_="note"))


def _difference(row: str, found: table.Difference) -> str:
    text = table.of_difference(row, found)
    return tag("b", text) if found.judged and found.judged.verdict != "undecided" else text


def views(found: Mapping[str, Sequence[Any]]) -> Html:
    """A row an example, a column a view."""
    count = len(next(iter(found.values())))
    body = [
        tag("tr", tag("th", f"row {i}", scope="row"),
            *(tag("td", drawings.record(rows[i], f"{name} of row {i}")) for name, rows in found.items()))
        for i in range(count)
    ]  # fmt: skip
    head = tag("tr", tag("td", ""), *(tag("th", name, scope="col") for name in found))
    note = (
        "What the first rows of the first batch hold, as the towers get them. "
        "A normalised picture is shown over its own range."
    )
    whole = tag("table", tag("thead", head), tag("tbody", *body), class_="views")
    return join(tag("div", whole, class_="scroll", tabindex="0"), tag("p", note, class_="note"))


def _name(look: Look, kind: int) -> str:
    """The name of a class; its number where it has none."""
    if kind < 0:
        return "no class"
    return look.class_names[kind] if kind < len(look.class_names) else f"{look.label} {kind}"


def maps(look: Look) -> Html:
    """PCA and t-SNE of the test rows, by class."""
    if not look.maps:
        return tag("p", "Too few records, or all features are equal: there is no map.", class_="note")
    test, kinds = look.test, look.test.labels
    titles = [
        f"{name}: {_name(look, int(k))}" if look.label else str(name) for name, k in zip(test.names, kinds, strict=True)
    ]
    share = [f"{100 * s:.0f} % of variance" for s in look.explained]
    axes = {"PCA": (f"component 1, {share[0]}", f"component 2, {share[1]}"), "t-SNE": ("t-SNE 1", "t-SNE 2")}
    figures = []
    for way, points in look.maps.items():
        drawn = drawings.scatter(points, kinds, titles, axes[way], f"{way} of {len(points)} records")
        figures.append(tag("figure", tag("figcaption", way), drawn))
    picker = drawings.legend(kinds, lambda k: _name(look, k)) if look.label else join()
    note = (
        f"{look.view}.{look.output} of {len(kinds):,} records. "
        "t-SNE keeps neighbourhoods; distances between groups mean little in it."
    )
    return tag("div", picker, tag("div", *figures, class_="pair"), tag("p", note, class_="note"), class_="maps")


def neighbours(look: Look) -> Html:
    """Queries and the records nearest to them, with pictures and classes."""
    near = look.neighbours
    if near is None:
        return tag("p", "Too few records to find neighbours among.", class_="note")
    left = "a record" if look.test is look.bank else "a record of the test split"
    note = (
        f"Left, {left}; then the nearest of {len(look.bank.names):,} training records "
        f"by the cosine of {look.view}.{look.output}" + (", ✓ of its class and ✗ of another." if look.label else ".")
    )
    name = (lambda rows, at: _name(look, int(rows.labels[at]))) if look.label else _record
    return join(_hits(look.test, look.bank, near, name), tag("p", note, class_="note"))


def pair(found: Pair) -> Html:
    """Records that look for themselves in another view."""
    note = (
        f"Left, a record of the test split in the first view; then the nearest of {len(found.bank.names):,} in the "
        "second by the cosine: ✓ where it finds itself."
    )
    return join(_hits(found.test, found.bank, found.neighbours, _record), tag("p", note, class_="note"))


def _record(rows: Rows, at: int) -> str:
    """The name of a record; of a path its last part, which is what fits below a picture."""
    return str(rows.names[at]).rpartition("/")[2]


def _hits(test: Rows, bank: Rows, near: Neighbours, said_of: Callable[[Rows, int], str]) -> Html:
    """A row for each query: it, and what is nearest to it; right where the labels are equal."""
    of_query, of_bank = near.pictures

    def card_of(picture: Any, drawn: bool, rows: Rows, at: int, text: str, verdict: str = "") -> Html:
        name, said = str(rows.names[at]), said_of(rows, at)
        shown = [drawings.record(picture, f"{name}, {said}")] if drawn else []
        small = [] if text == said else [tag("small", text)]
        return tag("figure", *shown, tag("figcaption", tag("b", f"{verdict}{said}"), *small),
                   class_="card " + {"✓ ": "right", "✗ ": "wrong"}.get(verdict, ""), title=name)  # fmt: skip

    body = []
    for query, found, cosine in zip(near.queries, near.found, near.cosine, strict=True):
        own = int(test.labels[query])
        cards = [card_of(of_query.get(int(query)), bool(of_query), test, query, _record(test, query))]
        for row, similar in zip(found, cosine, strict=True):
            kind = int(bank.labels[row])
            verdict = "" if own < 0 or kind < 0 else "✓ " if kind == own else "✗ "
            cards.append(card_of(of_bank.get(int(row)), bool(of_bank), bank, row, f"cos {similar:.2f}", verdict))
        body.append(tag("div", *cards, class_="hits"))
    return join(*body)


def confusion(look: Look) -> Html:
    """The matrix in per cent of each true class; of many classes the most frequent confusions."""
    found = look.confusion
    if found is None:
        return tag("p", "There are no classes to confuse.", class_="note")
    counts, names = found.counts, [_name(look, int(c)) for c in found.classes]
    right = 100 * np.trace(counts) / max(counts.sum(), 1)
    note = tag(
        "p", f"{right:.1f} % right: {found.how}. Of a sample, so it can differ from the result table.", class_="note"
    )
    if len(names) > MOST_SHOWN:
        return join(_often(found, names), note)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    body = []
    for i, name in enumerate(names):
        cells = []
        for j, other in enumerate(names):
            level = 0 if not counts[i, j] else 1 + min(int(shares[i, j] * 5), 4)
            said = f"{counts[i, j]} of {name} taken for {other}"
            text = f"{100 * shares[i, j]:.0f}" if counts[i, j] else "·"
            cells.append(tag("td", text, class_=f"n h{level}" + (" on" if i == j else ""), title=said))
        body.append(
            tag("tr", tag("th", name, scope="row"), *cells, tag("td", f"{counts[i].sum():,}", class_="n total"))
        )
    head = tag(
        "tr",
        tag("td", "true ↓ guess →"),
        *(tag("th", n, scope="col", class_="n") for n in names),
        tag("th", "records", class_="n"),
    )
    whole = tag(
        "table",
        tag("caption", "Per cent of each true class"),
        tag("thead", head),
        tag("tbody", *body),
        class_="confusion",
    )
    return join(tag("div", whole, class_="scroll", tabindex="0"), note)


def _often(found: Confusion, names: Sequence[str]) -> Html:
    wrong = found.counts * (1 - np.eye(len(names), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:OFTEN]
    pairs = [divmod(int(at), len(names)) for at in order if wrong.ravel()[at]]
    body = [
        [names[i], names[j], f"{wrong[i, j]}", f"{100 * wrong[i, j] / found.counts[i].sum():.0f}"] for i, j in pairs
    ]
    caption = f"The most frequent confusions of {len(names)} classes"
    return rows(["true", "guess", "records", "% of the class"], body, caption=caption, words=2)
