"""The views that a run was trained on, of the first rows of its first step."""

from typing import Any

import numpy as np

from hcl_jax import data
from hcl_jax.compare.logged import Logged

ROWS = 6


def read(run: Logged, rows: int = ROWS) -> dict[str, list[Any]]:
    """{view: what each row holds, None for an absent one}, of step 0.

    Raises:
      InputError: the data are not where they were.
    """
    config = run.config
    source = data.open_source(config.data, config.data.train_split)
    size = config.data.batch_size
    taken = np.arange(min(rows, size, source.num_examples))
    options = {"start": 0, "stop": 1, "order": config.data.order} | data.noise_fields(config.data)
    bad = data.BadRecords(len(taken), "report")
    batch = next(data.batches(source, config.views, seed=config.seed, batch_size=size, rows=taken, bad=bad, **options))
    found = {}
    for name, view in batch["views"].items():
        there = batch["present"].get(name, np.ones(len(taken), bool))
        found[name] = [{k: np.asarray(v[i]) for k, v in view.items()} if there[i] else None for i in taken]
    return found
