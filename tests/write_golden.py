"""Writes tests/golden/, every packaged recipe flattened: `make golden`, after a default was changed on purpose."""

import pathlib

from hcl_jax import config as configs
from tests.config.test_load import GOLDEN, RECIPES


def main() -> None:
    """One file a recipe; files of recipes that are gone are removed."""
    GOLDEN.mkdir(exist_ok=True)
    for old in pathlib.Path(GOLDEN).glob("*.txt"):
        old.unlink()
    for recipe in RECIPES:
        flat = configs.flatten(configs.complete(configs.load(recipe)).to_dict())
        (GOLDEN / f"{recipe.replace(':', '-')}.txt").write_text("".join(f"{k} = {v!r}\n" for k, v in flat.items()))


if __name__ == "__main__":
    main()
