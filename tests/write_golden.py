"""Writes every packaged recipe flattened, and the tables of the docs: `make golden`, after a change on purpose."""

import pathlib

from tables import DOCS, PAGES, renewed

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
    for page in PAGES:
        (DOCS / page).write_text(renewed((DOCS / page).read_text()))


if __name__ == "__main__":
    main()
