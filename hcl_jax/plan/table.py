"""The rows of a plan as text and as a picture."""

import pathlib
from collections.abc import Sequence
from typing import Any

from hcl_jax.plan import slices

GIB, HOUR = 2**30, 3600.0
COLUMNS = (
    *("topology", "batch", "chips", "hosts", "GiB", "temp", "GFLOP", "HBM GB", "wire MB"),
    *("step ms", "no overlap", "roofline", "ratio", "encoder", "loss", "optimizer", "wire", "rows/s", "host rows/s"),
    *("hours",),
)
MEANING = (
    "GiB: of a device, all and temporaries. GFLOP, HBM GB, wire MB: of a device and step. step: the compiler's cycles",
    "and the wire that no work hides; no overlap: all of the wire. roofline: FLOP, memory or wire at their peaks, the",
    "longest. encoder to wire: shares of the step. host rows/s: what each host's input must make. All are estimates.",
)


def text(rows: Sequence[dict[str, Any]], price: float | None = None, rate: float | None = None) -> str:
    """A table, a line a topology and batch size, and what its words mean; below it what does not fit and what helps.

    Args:
      rows: from hcl_jax.plan.
      price: of a chip and hour.
      rate: rows a second that one host's input makes.
    """
    head: tuple[str, ...] = COLUMNS
    head = (*head, "cost") if price is not None else head
    lines = [head, *(_cells(row, price, len(head)) for row in rows)]
    known = [i for i in range(len(head)) if any(line[i] for line in lines[1:])]  # a CPU has no peaks to divide by
    lines = [tuple(line[i] for i in known) for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(known))]
    table = ["  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    if any("estimate" in row for row in rows):
        table += MEANING
    return "\n".join(table + [note for row in rows for note in _notes(row, price, rate)])


def _cells(row: dict[str, Any], price: float | None, width: int) -> tuple[str, ...]:
    first = (row["topology"], str(row["batch_size"]), str(row["chips"]), str(row["hosts"]))
    if "refused" in row:
        return (*first, "", "refused", *[""] * (width - 6))
    if not row["fits"]:
        needs = row["needs"]
        return (*first, f"{needs['used'] / GIB:.2f}", "does not fit", *[""] * (width - 6))
    flops = sum(row["roofline"]["flops"].values()) if "roofline" in row else row["flops"]
    cells = [*first, "", "", f"{flops / 1e9:.{0 if flops >= 1e10 else 2}f}", ""]
    if "memory" in row:
        memory = row["memory"]
        cells[4:6] = f"{sum(memory.values()) / GIB:.2f}", f"{memory['temporaries'] / GIB:.2f}"
        cells[7] = f"{row['traffic'] / 1e9:.2f}"
    if "estimate" not in row:
        return (*cells, *[""] * (width - len(cells)))
    e = row["estimate"]
    exposed = sum(w["exposed"] for w in e["wires"])
    seconds = [e["compute"].get(part, 0.0) for part in ("encoder", "objective", "optimizer")] + [exposed]
    wire = sum(w["bytes"] for w in e["wires"]) or sum(row.get("roofline", {}).get("sent", {}).values())
    cells += [f"{wire / 1e6:.1f}"]
    cells += [f"{e[k] * 1e3:.2f}" for k in ("step", "unhidden", "roofline")]
    cells += [
        f"{e['step'] / e['roofline']:.2f}",
        *(f"{s / e['step']:.1%}" if e["from_cycles"] else "" for s in seconds),
    ]
    rows = row["rows"] / e["step"]
    hours = row["steps"] * e["step"] / HOUR
    cells += [f"{rows:,.0f}", f"{rows / row['hosts']:,.0f}", f"{hours:.2f}" if row["steps"] else ""]
    if price is not None:
        cells.append(f"{hours * row['chips'] * price:,.0f}" if row["steps"] else "")
    return tuple(cells)


def _notes(row: dict[str, Any], price: float | None, rate: float | None) -> list[str]:
    """What a row's cells do not say."""
    name = f"{row['topology']}, batch {row['batch_size']}"
    if "refused" in row:
        return [f"{name}: {row['refused']}"]
    notes = []
    if not row["fits"]:
        needs = row["needs"]
        notes.append(f"{name}: needs {needs['used'] / GIB:.2f} GiB, {needs['there'] / GIB:.2f} are there")
        for each in row.get("tried", ()):
            said = each.get("refused") or f"{each['needs']['used'] / GIB:.2f} GiB"
            notes.append(f"  with {flags(each['fields'])}: {said}")
        if "helps" in row:
            inside = sum(row["with_them"]["memory"].values()) / GIB
            step = row["with_them"].get("estimate", {}).get("step")
            speed = f", {step * 1e3:.2f} ms a step" if step else ""
            notes.append(f"  with {flags(row['helps'])}: fits, {inside:.2f} GiB{speed}")
        elif row.get("tried"):
            notes.append("  nothing that was tried makes it fit")
    elif "estimate" in row:
        notes += _of_estimate(name, row, rate)
    if not _is_rented(row["topology"]):
        notes.append(f"{name}: libtpu compiles for this shape, but no slice that launch knows has it")
    if row.get("fits") and not row["steps"]:
        notes.append(f"{name}: hours are left out, since the number of examples is not known without the data; "
                     "--config.data.num_examples=N tells it")  # fmt: skip
    return notes


def _is_rented(topology: str) -> bool:
    kind, _, shape = topology.rpartition("*")[2].partition(":")
    known = slices.GENERATIONS.get(kind)
    return known is None or shape in known.topologies


def _of_estimate(name: str, row: dict[str, Any], rate: float | None) -> list[str]:
    e = row["estimate"]
    limits = ", ".join(f"{k} {v * 1e3:.2f}" for k, v in e["limits"].items())
    notes = [f"{name}: limits in ms: {limits}; bound by {e['bound']}"]
    if e["accessed"]:
        share = e["step"] / e["accessed"]
        notes.append(f"  bytes accessed, VMEM's among them, at the memory's bandwidth: {e['accessed'] * 1e3:.2f} ms; "
                     f"the step is {share:.2f} times that")  # fmt: skip
    longest = ", ".join(f"{words} {s * 1e3:.2f}" for words, s in list(e["work"].items())[:5])
    if longest:
        notes.append(f"  longest, ms: {longest}")
    kinds: dict[tuple[str, str], list[float]] = {}
    for w in e["wires"]:
        at = kinds.setdefault((w["kind"], w["crosses"]), [0, 0.0, 0.0])
        at[0], at[1], at[2] = at[0] + 1, at[1] + w["bytes"], at[2] + w["seconds"]
    for (kind, crosses), (count, size, seconds) in kinds.items():
        notes.append(f"  {count} {kind} over the {crosses}: {size / 1e6:.2f} MB, {seconds * 1e3:.2f} ms")
    if "roofline" in row:
        notes.append(
            "  GPUs: no compiler says how long a kernel takes, so the step is the roofline, a bound from below"
        )
        if not row["program"]:
            state = row["roofline"]["state"] / GIB
            notes.append(f"  not compiled (pip install -e '.[plan-gpu]' for that): of the memory {state:.2f} GiB of "
                         "state are known, and bytes are those that products move")  # fmt: skip
    elif not e["from_cycles"]:
        notes.append(
            "  no cycles of this compiler, or no clock of this chip, are known: the step is the roofline and the wire"
        )
    if row.get("unknown_loops"):
        notes.append(f"  {row['unknown_loops']} loops of unknown length are counted once")
    if row.get("unknown_groups"):
        notes.append(f"  {row['unknown_groups']} collectives do not say among which devices: counted among all")
    feed = row["rows"] / e["step"] / row["hosts"]
    size = row["input_bytes"] / row["rows"] * feed
    verdict = "" if rate is None else ": the input keeps up" if rate >= feed else ": the input does not keep up"
    notes.append(f"  input: {feed:,.0f} rows/s and {size / 1e6:,.0f} MB/s a host{verdict}")
    return notes


def flags(fields: dict[str, Any]) -> str:
    """Changes of a config as one would give them."""
    return " ".join(f"--config.{field}={value}" for field, value in fields.items())


def chart(rows: Sequence[dict[str, Any]], path: pathlib.Path) -> bool:
    """Stacked bars of the parts of each step; whether there was one, else no file is written."""
    shown = [r for r in rows if "estimate" in r]
    if not shown:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [_milliseconds(r["estimate"]) for r in shown]
    parts = sorted({p for bar in bars for p in bar}, key=lambda p: (p == "wire", p))
    figure, axes = pyplot.subplots(figsize=(max(4, 1 + len(shown)), 4), layout="constrained")
    places = range(len(shown))  # bars of one name would lie upon each other
    bottom = [0.0] * len(shown)
    for part in parts:
        values = [bar.get(part, 0.0) for bar in bars]
        axes.bar(places, values, bottom=bottom, label=part)
        bottom = [a + b for a, b in zip(bottom, values, strict=True)]
    axes.set_xticks(places, [f"{r['topology']}\n{r['batch_size']}" for r in shown])
    axes.set_ylabel("estimated ms a step")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return True


def _milliseconds(estimate: dict[str, Any]) -> dict[str, float]:
    """The parts of a step; one that stands on no cycles is its roofline and, on a TPU, the wire."""
    if not estimate["from_cycles"]:
        wire = estimate["step"] - estimate["roofline"]
        return {f"bound by {estimate['bound']}": estimate["roofline"] * 1e3, "wire": wire * 1e3}
    parts = {**estimate["compute"], "wire": sum(w["exposed"] for w in estimate["wires"])}
    return {part: seconds * 1e3 for part, seconds in parts.items()}
