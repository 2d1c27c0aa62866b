"""The rows of a plan as text and as a picture."""

import pathlib
from collections.abc import Sequence
from typing import Any

GIB, HOUR = 2**30, 3600.0
COLUMNS = (
    *("topology", "batch", "chips", "hosts", "GiB/chip", "temp", "GFLOP", "HBM GB", "wire MB"),
    *("step ms", "no overlap", "roofline", "ratio", "encoder", "loss", "optimizer", "wire", "rows/s", "hours"),
)


def text(rows: Sequence[dict[str, Any]], price: float | None = None) -> str:
    """A table, a line a topology and batch size, and what its words mean."""
    head: tuple[str, ...] = COLUMNS
    head = (*head, "cost") if price is not None else head
    lines = [head, *(_cells(row, price, len(head)) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    table = ["  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    for row in rows:
        if not row["fits"]:
            needs = row["needs"]
            over = (needs["used"] - needs["there"]) / GIB
            helps = " ".join(row.get("helps", ())) or "nothing that was tried"
            table.append(f"{row['topology']}, batch {row['batch_size']}: {over:.2f} GiB too much; helps: {helps}")
    return "\n".join(table)


def _cells(row: dict[str, Any], price: float | None, width: int) -> tuple[str, ...]:
    first = (row["topology"], str(row["batch_size"]), str(row["chips"]), str(row["hosts"]))
    if not row["fits"]:
        needs = row["needs"]
        return (*first, f"{needs['used'] / GIB:.2f}", "does not fit", *[""] * (width - 6))
    memory = row["memory"]
    cells = [*first, f"{sum(memory.values()) / GIB:.2f}", f"{memory['temporaries'] / GIB:.2f}",
             f"{row['flops'] / 1e9:.0f}", f"{row['bytes'] / 1e9:.2f}"]  # fmt: skip
    if "estimate" not in row:
        return (*cells, *[""] * (width - len(cells)))
    e = row["estimate"]
    wires = sum(w["bytes"] for w in e["wires"])
    exposed = sum(w["exposed"] for w in e["wires"])
    hours = row["steps"] * e["step"] / HOUR
    seconds = [e["compute"].get(part, 0.0) for part in ("encoder", "objective", "optimizer")] + [exposed]
    cells += [f"{wires / 1e6:.1f}"]
    cells += [f"{e[k] * 1e3:.2f}" for k in ("step", "unhidden", "roofline")]
    cells += [f"{e['step'] / e['roofline']:.2f}", *(f"{s / e['step']:.1%}" for s in seconds)]
    cells += [f"{row['batch_size'] / e['step']:,.0f}", f"{hours:.2f}"]
    if price is not None:
        cells.append(f"{hours * row['chips'] * price:,.0f}")
    return tuple(cells)


def chart(rows: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """Stacked bars of the parts of each step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [r for r in rows if "estimate" in r]
    parts = sorted({p for r in shown for p in r["estimate"]["compute"]})
    figure, axes = pyplot.subplots(figsize=(max(4, 1 + len(shown)), 4), layout="constrained")
    names = [f"{r['topology']}\n{r['batch_size']}" for r in shown]
    bottom = [0.0] * len(shown)
    for part in (*parts, "wire"):
        values = [_milliseconds(r["estimate"], part) for r in shown]
        axes.bar(names, values, bottom=bottom, label=part)
        bottom = [a + b for a, b in zip(bottom, values, strict=True)]
    axes.set_ylabel("estimated ms a step")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _milliseconds(estimate: dict[str, Any], part: str) -> float:
    seconds = sum(w["exposed"] for w in estimate["wires"]) if part == "wire" else estimate["compute"].get(part, 0.0)
    return seconds * 1e3
