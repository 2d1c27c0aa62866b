"""The generated tables of docs/config.md and docs/parts.md, between their markers: `make golden` writes them."""

import pathlib
import re

from hcl_jax.config import schema, specs
from hcl_jax.config.fields import Field, allowed, fields
from hcl_jax.parts.catalogue import KINDS, catalogue
from hcl_jax.views.frameworks import DEFAULTS, FRAMEWORKS

DOCS = pathlib.Path(__file__).parents[1] / "docs"
# A section of the config -> what its fields are called on the command line; of those by name, the field alone.
PREFIXES = {
    "Config": "",
    **{f.kind.__name__: f"{n}." for n, f in fields(schema.Config).items() if isinstance(f.kind, type)},
}


def cell(text):
    return " ".join(str(text).split()).replace("|", "\\|")


def row(prefix, name, f: Field):
    shown = "" if not isinstance(f.default, (bool, int, float, str, tuple, dict, type(None))) else repr(f.default)
    shown = f.rule.shown or (shown.replace("'", '"') if isinstance(f.default, str | tuple) else shown)
    words = f.rule.words + (f"; 0 {f.rule.zero}" if f.rule.zero else "") + ("; *open*" if f.rule.open else "")
    limits = allowed(f.kind, f.rule).partition(";")[0]
    return f"| `{prefix}{name}` | {cell(shown)} | {cell(limits)} | {cell(words)} |"


def section_table(name):
    """| field | default | allowed | meaning | of a dataclass of the schema; sections in it have tables of their own."""
    section = getattr(schema, name, None) or getattr(specs, name)
    rows = [row(PREFIXES.get(name, ""), n, f) for n, f in fields(section).items()
            if name != "Config" or f.kind in (int, str)]  # fmt: skip
    return "\n".join(["| field | default | allowed | meaning |", "|---|---|---|---|", *rows])


def parts_table(kind):
    """| name | arguments | what | of a kind of part."""
    rows = []
    for part in catalogue(kind).values():
        arguments = ", ".join(f"`{k}={v}`" if v else f"`{k}`" for k, v in part.arguments.items())
        rows.append(f"| `{part.name}` | {cell(arguments)} | {cell(part.line)} |")
    return "\n".join([f"| {kind} | arguments | what |", "|---|---|---|", *rows])


def frameworks_table():
    """| argument | operations | of none, and of each framework |; operations with the same row share it."""
    ops: dict[tuple, list[str]] = {}
    for op, arguments in DEFAULTS.items():
        for argument, by in arguments.items():
            ops.setdefault((argument, *by.values()), []).append(f"`{op}`")
    rows = [
        "| " + " | ".join([f"`{argument}`", ", ".join(ops[key]), *(f"`{value!r}`" for value in values)]) + " |"
        for key in ops
        for argument, *values in [key]
    ]
    return "\n".join(["| argument | op | `like=None` | " + " | ".join(FRAMEWORKS) + " |", "|" + "---|" * 6, *rows])


def renewed(page):
    """A page of the docs with its tables as the code has them now."""

    def table(match):
        name = match.group(1)
        made = parts_table(name) if name in KINDS else frameworks_table() if name == "like" else section_table(name)
        return f"<!-- table: {name} -->\n{made}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", table, page, flags=re.S)


PAGES = ("config.md", "parts.md")
