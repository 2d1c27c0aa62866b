"""Writes one HTML file on a run, or on several beside each other: curves, results, views, features, neighbours.

python -m hcl_jax.report RUN --output=report.html
python -m hcl_jax.report RUN RUN --output=report.html

The file fetches nothing. A run that still trains is shown as far as it is.
"""

import os
import sys

from hcl_jax.cli import command_parser, plain_log
from hcl_jax.errors import InputError
from hcl_jax.runtime import distributed, programs

RECORDS = 1000


@plain_log()
def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = command_parser("report", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=os.path.expanduser, help="the folder of a run")
    parser.add_argument(
        "--output", metavar="FILE", default="report.html", type=os.path.expanduser, help="an .html file"
    )
    parser.add_argument("--records", type=int, metavar="N", default=RECORDS, help="of each split, at most")
    known = parser.parse_args(arguments)
    if known.records < 10:
        parser.error("--records from 10 are allowed")
    distributed.prepare()
    programs.keep()
    from hcl_jax.report.written import report  # late: it imports JAX, for which --help need not wait

    try:
        report(known.runs, known.output, records=known.records, say=lambda text: print(text, file=sys.stderr))
    except InputError as error:
        print(f"hcl_jax: {error}", file=sys.stderr)
        return 2
    size = os.path.getsize(known.output) / 1e6
    print(f"{known.output}: {', '.join(known.runs)}, {size:.1f} MB; open it in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
