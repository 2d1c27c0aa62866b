"""The sheet of all claims: docs/claims.md, docs/claims.json and a plot of each."""

import json
import pathlib
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from hcl_jax.claims import study
from hcl_jax.claims.verdict import LEVEL
from hcl_jax.errors import InputError
from hcl_jax.run import Parts
from hcl_jax.workdir import files

HEAD = """# Claims

What the papers behind this package say, as programs: `claims/NAME.toml` has the runs, the measured quantity and the
threshold, written before the run (how to write one: `claims/README.md`). A verdict reads the 95 % interval of the
mean over paired seeds (each number is a difference, a ratio or a rank *within* one seed): *holds* when it lies on the
stated side of the threshold, *fails* on the other, *undecided* when the threshold is inside. `sign` is an exact sign
test over the seeds, `each` asks every seed. These are small runs on small data: they say what happens here, not what
happens at the papers' scale; and of this many statements, each at 95 %, some are wrong by chance. In the plots a dot is
a seed, the square their mean with its interval, the dashed line the threshold.

"""
SMALL = "**The small form: it shows that the claims run, and proves nothing.**\n\n"


def write(
    names: list[str],
    known: Mapping[str, pathlib.Path],
    *,
    output: pathlib.Path,
    cache: pathlib.Path,
    dirs: Mapping[str, str],
    small: bool = False,
    parts: Parts | None = None,
) -> str:
    """Writes the sheet of the claims that have run, from the cache or from the sheet in `output`.

    A result that was measured with other code or data stays, and is listed as such; a claim that has not run, or whose
    file has changed since, is listed without a result.

    Returns:
      A line that says what was written.

    Raises:
      InputError: no claim has run.
    """
    results, missing, since = {}, {}, {}
    sheet = (files.read_json(output / "claims.json", "claims") or {"claims": {}})["claims"]
    options = {"cache": cache, "dirs": dirs, "small": small, "parts": parts, "sheet": sheet}
    for name in names:
        try:
            results[name], since[name] = study.state_of(name, known, **options)
        except InputError as error:
            missing[name] = error
    if not results:
        raise InputError(f"--cache {cache}", "no claim with a result", "python -m hcl_jax.claims run NAME first")
    for result in results.values():
        _plot(result, output / "claims" / f"{result['name']}.png")
    text = HEAD + (SMALL if small else "") + _table(results) + _total(results)
    if missing:
        text += "\n## Without a result\n\n" + "\n".join(f"- `{n}`: {e}" for n, e in missing.items()) + "\n"
    if any(since.values()):
        lines = (f"- `{name}`: {what}" for name, what in since.items() if what)
        text += "\n## Measured before\n\nThese results stand as they were measured.\n\n" + "\n".join(lines) + "\n"
    text += "".join(_section(result, output) for result in results.values())
    files.keep(output / "claims.md", text)
    # Without the folders of this machine.
    written = {name: {k: v for k, v in result.items() if k != "dirs"} for name, result in results.items()}
    files.keep(output / "claims.json", json.dumps({"claims": written}, indent=1) + "\n")
    judged = [s["verdict"] for r in results.values() for s in r["statements"]]
    counts = ", ".join(f"{judged.count(v)} {v}" for v in ("holds", "fails", "undecided") if v in judged)
    return (
        f"{output / 'claims.md'}: {len(results)} claims, {counts}; "
        f"{sum(map(bool, since.values()))} measured before, {len(missing)} without a result"
    )


def _table(results: Mapping[str, Any]) -> str:
    rows = ["| claim | statement | found | asked | verdict | seeds |", "|---|---|---|---|---|---|"]
    for name, result in results.items():
        for s in result["statements"]:
            asked = study.asked_of(s) + (f" ({s['test']})" if s["test"] != "mean" else "")
            link = f"[{name}](#{_anchor(name)})"
            rows.append(f"| {link} | {s['says']} | {_found(s)} | {asked} | **{s['verdict']}** | {result['seeds']} |")
    return "\n".join(rows) + "\n"


def _found(s: Mapping[str, Any]) -> str:
    if s["test"] == "sign":
        if not s["n"]:
            return "every seed on the threshold"
        p = "" if s["p"] is None else f", p {s['p']:.3f}"
        return f"{round(s['value'] * s['n']) if s['n'] else 0} of {s['n']}{p}"
    if s["test"] == "each":
        return f"{s['low']:.3g} to {s['high']:.3g}"
    return f"{s['value']:+.3f} ± {s['half_width']:.3f}"


def _total(results: Mapping[str, Any]) -> str:
    machines = {f"{r['machine']['cores']} {r['machine']['processor']} cores" for r in results.values()}
    versions = {f"jax {r['machine']['versions']['jax']}" for r in results.values()}
    return (
        f"\n± is half of the interval. Machine: {', '.join(sorted(machines))}, {', '.join(sorted(versions))}. "
        "Minutes are wall time, and trainings that claims share count in each.\n"
    )


def _anchor(name: str) -> str:
    return name.lower()


def _section(result: Mapping[str, Any], output: pathlib.Path) -> str:
    name = result["name"]
    minutes = result["minutes"]
    text = [
        f"\n## {name}\n",
        f"{result['title']}. {result['finding']}\n",
        f"*Source*: {result['source']}\n",
        *([f"*Note*: {result['note']}\n"] if result["note"] else []),
        f"`python -m hcl_jax.claims run {name}{' --small' if result['small'] else ''}`: {result['seeds']} paired "
        f"seeds, {result['programs']} training programs, {minutes['training']:.0f} minutes (planned "
        f"{minutes['planned']:.0f}).\n",
        "| statement | mean | interval | p | verdict |",
        "|---|---|---|---|---|",
    ]
    for s in result["statements"]:
        p = "" if s["p"] is None else f"{s['p']:.2g}"
        value = "" if s["value"] is None else f"{s['value']:.4g}"
        text.append(f"| {s['says']} | {value} | {s['low']:.4g} to {s['high']:.4g} | {p} | {s['verdict']} |")
    numbers = _numbers(result)
    text += ["", "| quantity | mean over seeds | half-width |", "|---|---|---|"]
    text += [f"| {k} | {mean:.4g} | {half:.2g} |" for k, (mean, half) in numbers.items()]
    text += ["", f"![{result['title']}](claims/{name}.png)", ""]
    return "\n".join(text)


def _numbers(result: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Mean and half of the interval of every number that was measured."""
    per_seed = list(result["numbers"].values())
    found = {}
    for key, value in per_seed[0].items():
        if not isinstance(value, dict):
            x = np.array([n[key] for n in per_seed], np.float64)
            found[key] = float(x.mean()), half_width(x)
    return found


def half_width(x: np.ndarray) -> float:
    """Half of Student's interval of a mean; 0 where all are equal."""
    if len(x) < 2 or not np.ptp(x):
        return 0.0
    return float(stats.t.ppf((1 + LEVEL) / 2, len(x) - 1) * stats.sem(x))


def _plot(result: Mapping[str, Any], path: pathlib.Path) -> None:
    """Statements with each seed, the interval and the threshold; beside them the curves that the measure made."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    statements = result["statements"]
    curves = {k: v for k, v in next(iter(result["numbers"].values())).items() if isinstance(v, dict)}
    panels = len(statements) + len({_panel(k, result) for k in curves})
    across = min(panels, 3)
    down = -(-panels // across)
    figure, axes = pyplot.subplots(down, across, figsize=(4.0 * across, 3.2 * down), squeeze=False)
    cells = iter(axes.ravel())
    for s in statements:
        _statement(next(cells), s)
    drawn: dict[str, Any] = {}
    for key in curves:
        panel = _panel(key, result)
        if panel not in drawn:
            drawn[panel] = next(cells)
        _curve(drawn[panel], key, [n[key] for n in result["numbers"].values()])
    for cell in drawn.values():
        cell.legend(fontsize=7)
        cell.set_xlabel(result["axes"][0], fontsize=8)
        cell.set_ylabel(result["axes"][1], fontsize=8)
    for cell in cells:
        cell.axis("off")
    form = " (small form: proves nothing)" if result["small"] else ""
    figure.suptitle(f"{result['name']}: {result['title']}{form}", fontsize=10)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _panel(key: str, result: Mapping[str, Any]) -> str:
    """Curves over the same x with alike y stand in one panel."""
    curve = next(iter(result["numbers"].values()))[key]
    return str(curve["x"]) + ("small" if max(map(abs, curve["y"])) <= 1 else key)


def _statement(cell: Any, s: Mapping[str, Any]) -> None:
    values = np.array(s["values"])
    colour = {"holds": "tab:green", "fails": "tab:red", "undecided": "tab:grey"}[s["verdict"]]
    cell.plot(np.linspace(-0.25, 0.25, len(values)), values, "o", markersize=3, color="black", alpha=0.6)
    if s["test"] == "mean":
        cell.errorbar([0.45], [s["value"]], yerr=[[s["value"] - s["low"]], [s["high"] - s["value"]]], fmt="s",
                      markersize=4, capsize=3, color=colour)  # fmt: skip
    cell.axhline(s["threshold"], linewidth=0.8, linestyle="--", color="tab:blue")
    cell.set_xlim(-0.5, 0.7)
    cell.set_xticks([])
    cell.tick_params(labelsize=7)
    title = textwrap.fill(f"{s['says']}: {s['verdict']}", 44)
    cell.set_title(title, fontsize=8, color=colour)
    cell.set_ylabel(s["quantity"], fontsize=8)


def _curve(cell: Any, key: str, curves: list[Mapping[str, Any]]) -> None:
    x = [c["x"] for c in curves]
    cell.tick_params(labelsize=7)
    if any(a != x[0] for a in x):  # points of each seed, not one function of x
        for c in curves:
            cell.plot(c["x"], c["y"], ".", markersize=2, alpha=0.4, color="tab:blue")
        low, high = min(min(a) for a in x), max(max(a) for a in x)
        cell.plot([low, high], [low, high], linewidth=0.8, color="black", label=key)
        return
    y = np.array([c["y"] for c in curves])
    at = np.array(x[0], float)
    half = np.array([half_width(column) for column in y.T])
    cell.errorbar(at, y.mean(0), yerr=half, marker="o", markersize=3, linewidth=1, capsize=2, label=key)
    if at.min() > 0 and at.max() / at.min() > 30:
        cell.set_xscale("log")
