"""A run's configuration: what its fields are, how a recipe is read, and what is refused before anything is built."""

from ml_collections import ConfigDict

from hcl_jax.config.load import (
    OPEN_FIELDS,
    as_begun,
    check_section,
    choose,
    complete,
    defaults,
    differences,
    flatten,
    from_json,
    load,
    override,
    read_recipe,
    recipe_folders,
    recipe_names,
    texts,
    to_json,
    with_younger,
)  # fmt: skip

__all__ = [
    "ConfigDict", "OPEN_FIELDS", "as_begun", "check_section",
    "choose", "complete", "defaults", "differences", "flatten", "from_json", "load", "override", "read_recipe",
    "recipe_folders", "recipe_names", "texts", "to_json", "with_younger",
]  # fmt: skip
