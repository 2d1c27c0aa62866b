"""What the command lines share: --config=RECIPE with --config.FIELD=VALUE beside it, or a workdir's frozen config."""

import argparse
from typing import Any

from hcl_jax import config as configs
from hcl_jax import workdir as folders
from hcl_jax.compat.fields import check_once
from hcl_jax.errors import InputError


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
    """The config that the flags ask for: a recipe with overrides, or the frozen one of the workdir."""
    if not known.config:
        if not known.workdir:
            raise InputError("--config", "nothing", f"a recipe, such as {', '.join(configs.recipe_names())}")
        if overrides:
            raise InputError(f"--config.{overrides[0][0]}", "an override without --config", "--config=RECIPE with it")
        return folders.resume_config(known.workdir)
    check_once(field for field, _ in overrides)
    config = configs.load(known.config)
    for field, text in overrides:
        configs.override(config, field, text)
    return config
