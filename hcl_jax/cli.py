"""What the command lines share: --config=RECIPE with --config.FIELD=VALUE beside it, or a workdir's frozen config."""

import argparse
import inspect
import logging
import re
from collections.abc import Mapping
from typing import Any

from hcl_jax import config as configs
from hcl_jax import workdir as folders
from hcl_jax.compat.fields import check_once
from hcl_jax.errors import InputError

LOG = logging.getLogger("hcl_jax")


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
    before = {field: _part(config, field) for field, _ in overrides}
    for field, text in overrides:
        configs.override(config, field, text)
    for field, part in before.items():
        if part is not None:
            _drop_strangers(config, field, part, {other for other, _ in overrides})
    return config


def _part(config: Any, field: str) -> dict[str, Any] | None:
    """The encoder or head whose name a field is, as it is now; None for any other field."""
    match re.split(r"\.", field):
        case ["towers", tower, "encoder", "name"]:
            return dict(config.towers[tower].encoder) if tower in config.towers else None
        case ["towers", tower, "heads", head, "name"]:
            heads = config.towers[tower].heads if tower in config.towers else {}
            return dict(heads[head]) if head in heads else None
    return None


def _drop_strangers(config: Any, field: str, part: dict[str, Any], given: set[str]) -> None:
    """Takes out the recipe's arguments that the module of another name has not, and says so."""
    from hcl_jax.encoders import ENCODERS, HEADS

    _, tower, *where, _ = field.split(".")
    now = config.towers[tower].encoder if where == ["encoder"] else config.towers[tower].heads[where[-1]]
    table: Mapping[str, Any] = ENCODERS if where == ["encoder"] else HEADS
    if now["name"] == part.get("name") or now["name"] not in table:
        return
    own = inspect.signature(table[now["name"]]).parameters
    prefix = field.removesuffix("name")
    lost = [k for k in part if k not in ("name", "reads") and k not in own and f"{prefix}{k}" not in given]
    for argument in lost:
        del now[argument]
    if lost:
        LOG.warning("config.%s%s: of %s, left out", prefix, ", ".join(lost), part.get("name"))
