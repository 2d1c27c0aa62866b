"""Trains and evaluates a recipe.

python -m hcl_jax.main --config=simclr:digits --workdir=runs/digits
python -m hcl_jax.main --config=configs/simclr.py:cifar10 --config.optimizer.learning_rate=0.3 --workdir=DIR
python -m hcl_jax.main --workdir=DIR             goes on with the run that DIR holds
python -m hcl_jax.main --config=simclr:imagenet --steps=2
                                                 tries a recipe on random input of the right shape, without its data
"""

import argparse
import os
import sys
import tempfile

from hcl_jax import backend
from hcl_jax import config as configs
from hcl_jax import workdir as folders
from hcl_jax.errors import InputError


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """The flags, and the overrides [(field, text)] of --config.FIELD=VALUE. Exits with 0 on --help, 2 on a fault."""
    parser = argparse.ArgumentParser(
        "python -m hcl_jax.main", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Packaged recipes: {', '.join(configs.recipe_names())}. docs/config.md lists every field.",
    )  # fmt: skip
    parser.add_argument("--config", metavar="RECIPE[:ARG]", help="a packaged recipe, or a .py file with get_config")
    parser.add_argument("--config.FIELD", metavar="VALUE", dest="_field", help="sets one field of the config")
    parser.add_argument("--workdir", metavar="DIR", type=os.path.expanduser, help="the run's folder; a run goes on")
    parser.add_argument("--steps", type=int, metavar="N", help="N steps on random input, without data or evaluation")
    parser.add_argument("--profile", action="store_true", help="write a trace of ten steps to DIR/profile")
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


def read_config(known: argparse.Namespace, overrides: list[tuple[str, str]]) -> object:
    """The config that the flags ask for: a recipe with overrides, or the frozen one of the workdir."""
    if not known.config:
        if not known.workdir:
            raise InputError("--config", "nothing", f"a recipe, such as {', '.join(configs.recipe_names())}")
        if overrides:
            raise InputError(f"--config.{overrides[0][0]}", "an override without --config", "--config=RECIPE with it")
        return folders.resume_config(known.workdir)
    config = configs.load(known.config)
    for field, text in overrides:
        configs.override(config, field, text)
    return config


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    known, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        config = read_config(known, overrides)
        if known.workdir == "" or (known.workdir is None and known.steps is None):
            raise InputError("--workdir", "nothing", "the folder for this run")
        backend.prepare()
        backend.join()
        from hcl_jax.train import train_and_evaluate

        with tempfile.TemporaryDirectory() as scratch:
            train_and_evaluate(config, known.workdir or scratch, try_steps=known.steps, profile=known.profile)
    except (InputError, KeyboardInterrupt) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        print(f"hcl_jax: {f'stopped; --workdir={known.workdir} goes on' if stopped else error}", file=sys.stderr)
        return 130 if stopped else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
