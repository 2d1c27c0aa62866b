"""The tables of docs/twins.md: what was run, and how far apart both are. Written anew by

PYTHONPATH=. python -m tests.twins.page
"""

import pathlib
import re
import sys

import jax

from tests.twins import harness
from tests.twins.twins import ABSENT, TWINS, opened

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "twins.md"
HEAD = "| twin | of | run there | in our words | loss | parameters | state | what to know of their code |"
KINDS = ("loss", "params", "state")


def line(name: str, found: dict[str, float]) -> str:
    """The line of a twin, numbers rounded up to one digit."""
    meta, entry = opened(name).meta, TWINS[name]
    numbers = [shown(found[k]) if k in found else "" for k in KINDS]
    cells = [name, f"{meta['repo']} {meta['commit'][:10]}", meta["exercised"], entry.words, *numbers, entry.slip]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def shown(x: float) -> str:
    """One digit, rounded up: 0.0000123 is 2e-05. What is shown is shown again as it is."""
    near = f"{x:.0e}"
    digit, power = near.split("e")
    return near if float(near) >= x else f"{float(f'{int(digit) + 1}e{power}'):.0e}"


def stated(text: str) -> dict[str, dict[str, float]]:
    """{twin: {"loss": ..., ...}}, the numbers of a page."""
    rows = (row[2:-2].split(" | ") for row in text.splitlines() if re.match(r"\| \w+ \| [\w-]+/", row))
    return {row[0]: {k: float(x) for k, x in zip(KINDS, row[4:7], strict=True) if x.strip()} for row in rows}


def table(lines: list[str]) -> str:
    """Lines below the head."""
    return "\n".join([HEAD, "|" + "---|" * 8, *lines])


def absent() -> str:
    """The files that are not ours yet."""
    return "\n".join(["| twin | what is missing |", "|---|---|", *(f"| {k} | {v} |" for k, v in ABSENT.items())])


def renewed(text: str, tables: dict[str, str]) -> str:
    """A page with these tables between their markers."""
    for name, rows in tables.items():
        text = re.sub(rf"(<!-- twins: {name} -->\n).*?(<!-- end -->)", rf"\g<1>{rows}\n\g<2>", text, flags=re.S)
    return text


def main(names: list[str]) -> None:
    """Measures the twins, or those named, and writes the page; the others keep their lines."""
    jax.config.update("jax_num_cpu_devices", 2)
    text = PAGE.read_text()
    kept = stated(text)
    for name in names or TWINS:
        with jax.enable_x64(True):
            twin = opened(name)
            kept[name] = harness.differences(twin, TWINS[name].say(twin))
        print(name, kept[name], flush=True)
    lines = [line(name, kept[name]) for name in sorted(TWINS)]
    PAGE.write_text(renewed(text, {"here": table(lines), "absent": absent()}))


if __name__ == "__main__":
    main(sys.argv[1:])
