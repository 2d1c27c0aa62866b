"""Training a program in its folder: once, and after a kill from where it stood."""

import json
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any

from hcl_jax import config as configs
from hcl_jax.claims.cache import forget
from hcl_jax.claims.programs import Program, run_folder
from hcl_jax.run import Parts
from hcl_jax.train import train_and_evaluate
from hcl_jax.workdir import files


def is_trained(cache: pathlib.Path, program: Program) -> bool:
    """Whether its training is finished, and there."""
    folder = run_folder(cache, program)
    return files.read_json(folder / "done.json", "minutes") is not None and _has_checkpoint(folder)


def minutes_of(cache: pathlib.Path, program: Program) -> float:
    """What its training took, all attempts together."""
    done = files.read_json(run_folder(cache, program) / "done.json", "minutes")
    return float(done["minutes"]) if done else 0.0


def train(
    program: Program, cache: pathlib.Path, data_dir: str | None, parts: Parts, say: Callable[[str], None]
) -> pathlib.Path:
    """Trains a program in its folder, or goes on there, or does nothing where it is done.

    Args:
      program: what to train.
      cache: folder of all results.
      data_dir: in place of a pointer at features.
      parts: tables of parts.
      say: where a line of progress goes.
    """
    folder = run_folder(cache, program)
    if is_trained(cache, program):
        return folder
    config = with_dir(program.config, data_dir)
    whole = _has_checkpoint(folder) and files.read_json(folder / "config.json") is not None
    if folder.exists() and not whole:
        shutil.rmtree(folder)  # killed before its first checkpoint, or damaged
    say(f"  train {program.title}: {folder}")
    began, before = time.monotonic(), _spent(folder)
    state = train_and_evaluate(config, folder, bar=False, **parts._asdict())
    del state
    files.keep(folder / "done.json", json.dumps({"minutes": before + (time.monotonic() - began) / 60}))
    forget()
    return folder


def with_dir(config: Any, data_dir: str | None) -> Any:
    """The config with its features' folder in place of the pointer."""
    if data_dir is None:
        return config
    plain = config.to_dict()
    plain["data"]["dir"] = data_dir
    return configs.complete(configs.ConfigDict(plain))


def _has_checkpoint(folder: pathlib.Path) -> bool:
    return any(p.name.isdigit() for p in (folder / "checkpoints").glob("*"))


def _spent(folder: pathlib.Path) -> float:
    """Minutes of the attempts before this one, as their log has them."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return 0.0
    lines = path.read_text(encoding="utf-8").splitlines()
    return max((json.loads(line).get("minutes", 0.0) for line in lines if line.endswith("}")), default=0.0)
