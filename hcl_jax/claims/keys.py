"""What a result stands on: config, data and code, as hashes. Equal keys are equal numbers."""

import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.claims import code_version
from hcl_jax.errors import InputError
from hcl_jax.losses import WEIGHTS
from hcl_jax.run import Parts

STEP_CODE = ("hcl_jax.run", "hcl_jax.workdir.init_from", "hcl_jax.data.pipeline")
FEATURES_CODE = "hcl_jax.claims.features"
PATHS = ("data.dir", "init_from.path")  # known by what lies there


def sha(*parts: Any) -> str:
    """sha256 of values as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def trained_fields(config: Any) -> dict[str, Any]:
    """The leaves that decide what is trained."""
    # As the keys of stored results spell a list item.
    flat = {re.sub(r"\[(\d+)\]", r".\1", k): v for k, v in configs.flatten(config.to_dict()).items()}
    return {k: v for k, v in flat.items() if not k.startswith(configs.OPEN_FIELDS) and k not in (*PATHS, "name")}


def begun_from(path: str) -> list[Any]:
    """Weights that lie elsewhere: which files, how long, how old."""
    if not path:
        return []
    at = pathlib.Path(path)
    files = [at] if at.is_file() else sorted(p for p in (at / "checkpoints").rglob("*") if p.is_file())
    return [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]


class Prints:
    """Fingerprints of data as they lie there now; what several arms read is read once.

    Args:
      dirs: {data set: folder}, for data.dir of those that need one.
      parts: tables of parts.
    """

    def __init__(self, dirs: Mapping[str, str], parts: Parts):
        self.dirs, self.parts = dirs, parts
        self._known: dict[str, str] = {}

    def of(self, spec: Any, where: str) -> str:
        """Of both splits of `config.data`. Raises InputError naming `where` for data that are not there."""
        name = sha(spec.to_dict())
        if name not in self._known:
            try:
                splits = (spec.train_split, spec.test_split)
                self._known[name] = sha([data.open_source(spec, s, self.parts.sources).fingerprint for s in splits])
            except InputError as error:
                hint = f"{error.allowed} (--dir {spec.name}=DIR)" if "dir" in error.where else error.allowed
                raise error.below(where, hint) from None
        return self._known[name]

    def other(self, fields: Mapping[str, Any]) -> Any:
        """`config.data` of another data set that a view reads."""
        spec = configs.defaults().data
        for field, value in fields.items():
            spec[field] = tuple(value) if isinstance(value, list) else value
        spec.dir = spec.dir or self.dirs.get(spec.name, "")
        return spec


def views_key(views: Mapping[str, Any], prints: Prints, where: str) -> str:
    """What features depend on beside the run: the views, the data sets that some read, and the code that reads."""
    others = [(n, prints.of(prints.other(v["data"]), f"{where}: views.{n}")) for n, v in views.items() if v.get("data")]
    used = [prints.parts.views[op["op"]] for view in views.values() for op in view.get("ops", ())]
    used += [prints.parts.sources.get(v["data"].get("name")) for v in views.values() if v.get("data")]
    modules = sorted({code_version.module_of(u) for u in used if u is not None})
    return sha(views, others, code_version.version([FEATURES_CODE, *modules]))


def step_code(config: Any, parts: Parts) -> str:
    """The code of a step and of the parts that a config names."""
    used = [parts.sources.get(config.data.name)]
    used += [parts.views[op["op"]] for view in config.views.values() for op in view.ops]
    for tower in config.towers.values():
        used.append(parts.encoders[tower.encoder["name"]])
        used += [parts.heads[head["name"]] for head in tower.heads.values()]
    for spec in config.objectives.values():
        used.append(parts.losses[spec["loss"]])
        if isinstance(spec["row_weights"], Mapping):
            used.append(WEIGHTS[spec["row_weights"]["weights"]])
    modules = sorted({code_version.module_of(u) for u in used if u is not None})
    return code_version.version((*STEP_CODE, *modules))
