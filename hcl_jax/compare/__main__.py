"""Prints the numbers of runs beside each other, in per cent, with paired differences over their seeds.

python -m hcl_jax.compare RUN RUN [RUN ...]
"""

import os
import sys

from hcl_jax.cli import command_parser
from hcl_jax.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = command_parser("compare", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=os.path.expanduser, help="the folder of a run")
    known = parser.parse_args(arguments)
    from hcl_jax.compare import logged, table  # late: they import JAX, for which --help need not wait

    try:
        runs = logged.read(known.runs)
        if not table.rows_of(runs):
            raise InputError(", ".join(known.runs), "no evaluation yet", "runs that have evaluated")
        print(table.text(runs))
    except InputError as error:
        print(f"hcl_jax: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
