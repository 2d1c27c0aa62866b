"""Looks at a recipe's data before it trains: what is there, what is odd, and what each evaluator will use.

python -m hcl_jax.check --config=simclr:digits
python -m hcl_jax.check --config=simclr:digits --config.data.name=folder --config.data.dir=PHOTOS
python -m hcl_jax.check --workdir=DIR --full      the data of a run, every record

Exits with 0, or with 2 and, last, one line for what a run would refuse. Nothing is written.
"""

import argparse
import logging
import sys
from typing import Any

from hcl_jax import config as configs
from hcl_jax.cli import plain_log, read_config, recipe_parser, with_overrides
from hcl_jax.errors import InputError
from hcl_jax.runtime import distributed, programs


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """The flags and the overrides; exits with 0 on --help and 2 on a fault."""
    parser = recipe_parser("check", __doc__, workdir="the folder of a run")
    parser.add_argument("--full", action="store_true", help="read every record (a sample of 2,000 otherwise)")
    return with_overrides(parser, arguments)


class _Collected(logging.Handler):
    """Keeps what sources say as they are opened."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def check(config: Any, workdir: str | None, full: bool) -> None:
    """Prints the page of a completed config's data. Raises InputError for what a run would refuse."""
    from hcl_jax.check.before_run import as_files, look_before_run
    from hcl_jax.config import validate
    from hcl_jax.config.as_found import as_found
    from hcl_jax.data.held_out import unread_test
    from hcl_jax.prepare import bound, open_splits
    from hcl_jax.run import Parts
    from hcl_jax.workdir.trackers import chosen

    parts, said, logger = Parts(), _Collected(), logging.getLogger("hcl_jax")
    validate.check(config, **parts.checked())
    chosen(config.log, parts.trackers)
    shown, logger.handlers = logger.handlers, [said]  # the page has these lines
    propagated, logger.propagate = logger.propagate, False
    try:
        source, test = open_splits(as_files(config, parts.sources), parts)
        page = look_before_run(as_found(config, source.labels), parts.evaluators, source, test, full=full)
    finally:
        logger.handlers = shown
        logger.propagate = propagated
    lines = dict.fromkeys([*said.lines, *(unread_test(config.data) if test is not None else ())])
    print("\n".join([page.text(), *(f"! {line}" for line in lines)]))
    if page.refusal is not None:
        raise page.refusal
    bound(config, workdir, parts, lambda: (source, test))


@plain_log()
def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    known, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        config = read_config(known, overrides)
        distributed.prepare()
        programs.keep(programs.word_of(config))
        check(configs.complete(config), known.workdir, known.full)
    except InputError as error:
        print(f"hcl_jax: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
