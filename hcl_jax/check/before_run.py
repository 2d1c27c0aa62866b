"""What a run's config asks of a look at its data."""

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

from hcl_jax.check.look import Page, look
from hcl_jax.data import fields_read
from hcl_jax.data.source import Source
from hcl_jax.evaluators.entries import entries


def look_before_run(
    config: Any, evaluators: Mapping[str, Callable], source: Source, test: Source | None, *, full: bool = False
) -> Page:
    """A look at the data of a run: a sample of the records, or all of them.

    Args:
      config: completed and checked.
      evaluators: the table that its evaluators are names of.
      source, test: the training split, and the test split where something is evaluated.
      full: read every record.
    """
    limits: dict[str, Any] = {"most": sys.maxsize, "seconds": math.inf} if full else {}
    return look(
        {"train": source} | ({} if test is None else {"test": test}),
        seed=config.seed,
        listed=[entry for entry in entries(config.evaluate, evaluators) if not entry.source],
        folds=config.evaluate.folds,
        max_bad_records=config.data.max_bad_records,
        fields=frozenset(view["field"] for view in config.views.values()),
        vocabularies=_vocabularies(config, source),
        **limits,
    )


def as_files(config: Any, sources: Mapping[str, Callable]) -> Any:
    """The same config, with pictures opened as files, which say more than pixels and need not all be decoded."""
    if "in_memory" not in fields_read(config.data.name, sources):
        return config
    plain = config.to_dict()
    plain["data"] |= {"in_memory": False, "shrink": 0}
    return type(config)(plain)


def _vocabularies(config: Any, source: Source) -> dict[str, tuple[int, str]]:
    """Field of whole numbers -> (vocab_size, its field in the config) of the encoder that reads them as token ids."""
    found: dict[str, tuple[int, str]] = {}
    for name, tower in config.towers.items():
        size = tower["encoder"].get("vocab_size")
        fields = {config.views[view]["field"] for view in tower["views"] if view in config.views}
        for field in fields if size else ():
            shape, dtype = source.fields[field]
            if len(shape) == 1 and "int" in dtype:
                here = (size, f"config.towers.{name}.encoder.vocab_size")
                found[field] = min(found.get(field, here), here)
    return found
