"""Lists the parts that a recipe can name.

python -m hcl_jax.parts                          the kinds, and how many there are of each
python -m hcl_jax.parts losses                   all losses with their arguments, defaults and one line
python -m hcl_jax.parts losses nt_xent           one in full
"""

import argparse
import os
import sys
import textwrap

from hcl_jax.errors import InputError, nearest

KINDS = ("encoders", "heads", "losses", "weights", "views", "evaluators", "sources", "optimizers", "recipes")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m hcl_jax.parts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", nargs="?", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("name", nargs="?", metavar="NAME", help="one of them, shown in full")
    asked = parser.parse_args(arguments)
    try:
        print(text(asked.kind, asked.name), flush=True)
    except BrokenPipeError:  # of `| head`: the reader has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except InputError as error:
        print(f"hcl_jax: {error}", file=sys.stderr)
        return 2
    return 0


def text(kind: str | None, name: str | None) -> str:
    """What the command prints. Raises InputError for a kind or a name that does not exist."""
    if kind is not None and kind not in KINDS:
        raise InputError("KIND", repr(kind), nearest(kind, KINDS))
    # Late: the tables import jax and flax, which --help does not need.
    from hcl_jax.parts.catalogue import catalogue

    if kind is None:
        return "\n".join(f"{k:<12} {len(catalogue(k))}" for k in KINDS)
    parts = catalogue(kind)
    if kind == "recipes" and name:
        name = name.partition(":")[0]  # as --config takes it: simclr:digits is the recipe simclr with its argument
    if name is None:
        lines = [f"{part.call}\n{textwrap.indent(textwrap.fill(part.line, 110), '    ')}" for part in parts.values()]
        return "\n".join(lines)
    if name not in parts:
        raise InputError(f"{kind} NAME", repr(name), nearest(name, parts))
    part = parts[name]
    likes = ""
    if kind == "views":
        from hcl_jax.views import frameworks

        likes = textwrap.indent(frameworks.text(name), "    ") + "\n\n" if name in frameworks.DEFAULTS else ""
    return f"{part.call}\n\n{textwrap.indent(part.doc, '    ')}\n\n{likes}    {part.home}"


if __name__ == "__main__":
    sys.exit(main())
