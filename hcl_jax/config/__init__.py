"""A run's configuration: what its fields are, how a recipe is read, and what is refused before anything is built."""

from ml_collections import ConfigDict

from hcl_jax.config.load import (
    EVALUATION_VIEW,
    HEAD,
    MEMORY,
    OBJECTIVE,
    OPEN_FIELDS,
    TARGET,
    TOWER,
    VIEW,
    choose,
    complete,
    defaults,
    differences,
    flatten,
    from_json,
    load,
    override,
    recipe_folders,
    recipe_names,
    texts,
    to_json,
    with_younger,
)  # fmt: skip

__all__ = [
    "ConfigDict", "EVALUATION_VIEW", "HEAD", "MEMORY", "OBJECTIVE", "OPEN_FIELDS", "TARGET", "TOWER", "VIEW",
    "choose", "complete", "defaults", "differences", "flatten", "from_json", "load", "override", "recipe_folders",
    "recipe_names", "texts", "to_json", "with_younger",
]  # fmt: skip
