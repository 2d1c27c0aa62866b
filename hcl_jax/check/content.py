"""What all processes of a run must read alike: digests of records, noise and tokenizers."""

import hashlib
import os
from collections.abc import Mapping

from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.disk.reading import readable
from hcl_jax.run import Run, noise_of
from hcl_jax.runtime import machine


def content_of(run: Run, source: data.Source, evaluated: Mapping[str, Mapping[str, data.Source]]) -> dict[str, str]:
    """{what: digest} of all that a run reads: records, noise, tokenizers. data/content.py says what that costs.

    Args:
      run: the run.
      source: what it trains on.
      evaluated: {data of an entry, "" for those of the run: {split: source}}.
    """
    config, found = run.config, {}

    def add(name: str, one: data.Source, digests: Mapping[str, str]) -> None:
        for what, digest in digests.items():
            found[f"{name} ({one.name}), {what}"] = f"{digest[:16]} of {one.num_examples} records"

    add("training data", source, data.content_of(source, config.seed))
    for entry, splits in evaluated.items():
        for split, one in splits.items():
            if entry or split != "train":
                of = f" of {entry}" if entry else ""
                add(f"{split} data{of}", one, data.content_of(one, config.seed))
    for seed in run.seeds:
        noise = noise_of(config, source, seed)
        arrays = {f"offsets/{k}": v for k, v in noise.offsets.items()} | {
            f"views/{k}": v for k, v in noise.borrowed.items()
        }
        rows = {} if noise.rows is None else {"rows": noise.rows}
        found[f"noise of seed {seed}"] = data.of_arrays({**arrays, **rows})[:16]
    for field, value in configs.flatten(config.to_dict()).items():
        if field.endswith(".tokenizer") and isinstance(value, str) and os.path.isfile(value):
            with readable(value, "a tokenizer.json"), open(value, "rb") as file:
                found[f"config.{field}"] = f"{value} {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
    if threads := machine.cpu_threads():
        # Sums that every process makes for itself, of the same numbers, would end in other bits.
        found["threads of XLA:CPU, which NPROC=n in the environment sets"] = str(threads)
    return found
