"""What the command lines share: --config=RECIPE with --config.FIELD=VALUE beside it, or a workdir's frozen config."""

import argparse
import contextlib
import inspect
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, TextIO

from hcl_jax import config as configs
from hcl_jax import workdir as folders
from hcl_jax.compat.fields import check_once
from hcl_jax.errors import InputError

LOG = logging.getLogger("hcl_jax")


@contextlib.contextmanager
def plain_log(stream: TextIO | None = None, level: int = logging.WARNING) -> Iterator[None]:
    """What the package logs is a line of `stream`, without the "WARNING:hcl_jax:" that absl puts before, as long as the
    command runs: the stream of a later one in this process may be another. None is standard error."""
    if LOG.handlers:  # whoever set them shows the lines
        yield
        return
    handler, before = logging.StreamHandler(sys.stderr if stream is None else stream), (LOG.propagate, LOG.level)
    LOG.addHandler(handler)
    LOG.propagate = False
    LOG.setLevel(level)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.propagate = before[0]
        LOG.setLevel(before[1])


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with a flag in one line, as all that is refused; --help has the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"hcl_jax: {' '.join(message.split())}\n")


def command_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of python -m hcl_jax.COMMAND, whose help is the docstring of its module as it stands."""
    return OneLineParser(
        f"python -m hcl_jax.{command}", description=description, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


def recipe_parser(command: str, description: str | None, workdir: str = "") -> argparse.ArgumentParser:
    """The parser of a command that takes a recipe and fields of its config; `read_config` reads what it finds.

    Args:
      command: its module below hcl_jax.
      description: its docstring.
      workdir: help of --workdir, where the folder of a run will do too; without it --config is required.
    """
    parser = command_parser(command, description)
    recipe = "a packaged recipe, or a .py file with get_config"
    parser.add_argument("--config", metavar="RECIPE[:ARG]", required=not workdir, help=recipe)
    parser.add_argument("--config.FIELD", metavar="VALUE", dest="_field", help="sets one field of the config")
    if workdir:
        parser.add_argument("--workdir", metavar="DIR", type=os.path.expanduser, help=workdir)
    else:
        parser.set_defaults(workdir=None)
    return parser


def with_overrides(
    parser: argparse.ArgumentParser, arguments: list[str]
) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """The parser's own flags, and [(field, text)] of every --config.FIELD=VALUE beside them."""
    known, rest = parser.parse_known_args(arguments)
    overrides = []
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if not flag.startswith("--config."):
            parser.error(f"unknown argument {flag}; --help lists the known ones")
        if not equals and not rest:
            parser.error(f"{flag} without a value")
        overrides.append((flag.removeprefix("--config."), value if equals else rest.pop(0)))
    return known, overrides


def read_config(known: argparse.Namespace, overrides: list[tuple[str, str]]) -> Any:
    """The config that the flags ask for: a recipe, or the frozen config of the workdir, with overrides."""
    if known.config:
        config = configs.load(known.config)
    elif known.workdir:
        config = folders.resume_config(known.workdir)
        config = configs.ConfigDict(config.to_dict()) if overrides else config
    else:
        raise InputError("--config", "nothing", f"a recipe, such as {', '.join(configs.recipe_names())}")
    check_once(field for field, _ in overrides)
    before = {field: dict(part) for field, _ in overrides if (part := _named_part(config, field)) is not None}
    for field, text in overrides:
        configs.override(config, field, text)
    for field, part in before.items():
        _drop_strangers(config, field, part, {other for other, _ in overrides})
    given = {field for field, _ in overrides}
    if "train.epochs" in given and "train.steps" not in given and config.train.get("steps"):
        steps = config.train.steps
        if known.config:
            allowed = f"train.steps, which is {steps} and wins; or --config.train.steps=0 beside it"
            raise InputError("config.train.epochs", f"{config.train.epochs:g}", allowed)
        # A run that goes on keeps its steps, and may not have fewer.
        LOG.warning("config.train.epochs is not read, for train.steps is %s; train.steps makes the run longer", steps)
    return config


def _named_part(config: Any, field: str) -> Any:
    """The encoder or head whose name a field is; None for any other field."""
    match field.split("."):
        case ["towers", tower, "encoder", "name"] if tower in config.towers:
            return config.towers[tower].encoder
        case ["towers", tower, "heads", head, "name"] if tower in config.towers:
            return config.towers[tower].heads.get(head)
    return None


def _drop_strangers(config: Any, field: str, before: Mapping[str, Any], given: set[str]) -> None:
    """Takes out the recipe's arguments that the module of another name has not, and says so."""
    from hcl_jax.encoders import ENCODERS, HEADS

    now, prefix = _named_part(config, field), field.removesuffix("name")
    table: Mapping[str, Any] = ENCODERS if prefix.endswith(".encoder.") else HEADS
    if now["name"] == before.get("name") or now["name"] not in table:
        return
    own = ("name", "reads", *inspect.signature(table[now["name"]]).parameters)
    lost = [argument for argument in before if argument not in own and f"{prefix}{argument}" not in given]
    for argument in lost:
        del now[argument]
    if lost:
        LOG.warning("config.%s%s: of %s, left out", prefix, ", ".join(lost), before.get("name"))
