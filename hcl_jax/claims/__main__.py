"""Runs claims: what a paper says, tested with paired seeds against thresholds that its file has.

python -m hcl_jax.claims list                                 the claims, and where each stands
python -m hcl_jax.claims run linear labels                    claims; labels is labels-digits, labels-fashion_mnist, ...
python -m hcl_jax.claims run noise --dir emoji=DIR            a data set that lies in a folder
python -m hcl_jax.claims run quality --small                  a form of minutes that proves nothing, to see that it runs
python -m hcl_jax.claims report                               docs/claims.md, claims.json and plots of all that have run

A claim is a file (claims/*.toml). Every training, its features and what is measured are kept in --cache by the content
of config, data and code: the same command goes on where it was killed.
"""

import argparse
import pathlib
import sys

from hcl_jax.claims import claim as claims
from hcl_jax.cli import command_parser
from hcl_jax.errors import InputError
from hcl_jax.runtime import distributed, programs


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = command_parser("claims", __doc__)
    made.add_argument("command", choices=("list", "run", "report"))
    made.add_argument("names", nargs="*", metavar="NAME", help="claims; none with report: all that have run")
    made.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("runs/claims"), metavar="DIR",
                      help="where everything that was made is kept (runs/claims)")  # fmt: skip
    made.add_argument("--claims", type=pathlib.Path, metavar="DIR", help="a folder of claim files of your own")
    made.add_argument("--dir", action="append", default=[], metavar="NAME=DIR", help="data.dir of the data set NAME")
    made.add_argument("--small", action="store_true", help="the small form of each claim")
    made.add_argument("--output", type=pathlib.Path, metavar="DIR",
                      help="of report: where claims.md, claims.json and claims/*.png go (docs)")  # fmt: skip
    return made


def folders(pairs: list[str]) -> dict[str, str]:
    """{data set: folder} of --dir NAME=DIR."""
    found = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not (name and equals and folder):
            raise InputError("--dir", repr(pair), "NAME=DIR, such as emoji=data")
        path = pathlib.Path(folder).expanduser()
        if not path.exists():
            raise InputError(f"--dir {name}", f"no folder {folder}", "the folder that holds the data set")
        if name in found:
            raise InputError("--dir", f"{name} twice", "each data set once")
        found[name] = str(path)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    flags = parser().parse_args(arguments)
    try:
        dirs = folders(flags.dir)
        known = claims.files(flags.claims)
        if not known:
            raise InputError("--claims", "no claim file", "a folder with .toml files")
        if flags.command == "list":
            return _list(known, flags)
        distributed.prepare()
        programs.keep()
        from hcl_jax.claims import report, study

        options = {"cache": flags.cache, "dirs": dirs, "small": flags.small}
        if flags.command == "run":
            if not flags.names:
                raise InputError("claims run", "no name", f"names of claims: {', '.join(known)}")
            for name in claims.chosen(flags.names, known):
                study.run(name, known, **options)
            return 0
        if (flags.names or flags.small) and flags.output is None:
            what = "claims by name" if flags.names else "--small"
            raise InputError("claims report", f"{what} without --output", "--output: docs/ holds the sheet of all")
        names = claims.chosen(flags.names, known) if flags.names else list(known)
        options["output"] = flags.output or pathlib.Path("docs")
        print(report.write(names, known, **options))
    except InputError as error:
        print(f"hcl_jax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hcl_jax: stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


def _list(known: dict[str, pathlib.Path], flags: argparse.Namespace) -> int:
    """A line a claim. Reads files alone; whether code and data are as they were is said by run and report."""
    from hcl_jax.claims.study import stored

    names = claims.chosen(flags.names, known) if flags.names else list(known)
    width = max(map(len, names))
    for name in names:
        if flags.small and not claims.has_small(name, known):
            print(f"{name:<{width}}  no small form")
            continue
        claim = claims.read(name, known, small=flags.small)
        result = stored(flags.cache, name, flags.small)
        state = "not run" if result is None else ", ".join(s["verdict"] for s in result["statements"])
        if result is not None and result["why"]["claim file"] != claim.sha256:
            state = "its file has changed since it ran"
        print(f"{name:<{width}}  {claim.minutes:4.0f} min  {claim.seeds} seeds  {state:<24}  {claim.title}")
    print("(as they last ran; report checks whether data and code are still the same)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
