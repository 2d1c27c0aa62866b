"""The training programs of a claim: their configs, the keys that they are cached under, and their training.

A value of `set` may point at another run of the claim, which must stand before it in the file:

    "init_from.path" = "run:judge"                  the folder of a run of one seed
    "data.dir" = "features:noisy@0.2/image"         features of that run (of the value 0.2 where it varies) and view:
                                                    train.npz, and in test.npz those of every view, told by `domain`
"""

import dataclasses
import gc
import hashlib
import json
import math
import os
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from hcl_jax import config as configs
from hcl_jax import data, validate
from hcl_jax.claims import code
from hcl_jax.claims.claim import Arm, Claim
from hcl_jax.errors import InputError, nearest
from hcl_jax.run import Parts
from hcl_jax.train import train_and_evaluate

POINTER = re.compile(r"^(run|features):([^@/]+)(?:@([^/]+))?(?:/(.+))?$")
STEP_CODE = ("hcl_jax.run", "hcl_jax.init_from", "hcl_jax.data.pipeline")


@dataclasses.dataclass(frozen=True)
class Program:
    """One training: an arm at one value, of all seeds or of one.

    Attributes:
      arm, value: whose; the value of the varied field, or None.
      seeds: of the runs in it.
      config: completed; a pointer at features is still one.
      why: {"config", "data", "code"}: hashes of what the numbers depend on.
      key: of all three; the name of its folder in the cache.
      needs: keys of the programs that it points at.
    """

    arm: str
    value: Any
    seeds: tuple[int, ...]
    config: Any
    why: Mapping[str, str]
    key: str
    needs: tuple["Program", ...]

    @property
    def title(self) -> str:
        """For a line of progress."""
        of = "" if self.value is None else f" {self.value}"
        seeds = f"seed {self.seeds[0]}" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        return f"{self.arm}{of}, {seeds}"


def sha(*parts: Any) -> str:
    """sha256 of values as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def programs(
    claim: Claim, where: str, *, dirs: Mapping[str, str], cache: pathlib.Path, parts: Parts | None = None
) -> list[Program]:
    """Every training that a claim needs, in an order in which they can be made.

    Args:
      claim: a checked claim.
      where: its file, for messages.
      dirs: {data set: folder}, for data.dir of those that need one.
      cache: folder of all results.
      parts: tables of parts.

    Raises:
      InputError: an unknown recipe, field, data set or arm; data that are not there.
    """
    parts = parts or Parts()
    prints: dict[str, str] = {}
    made: dict[tuple[str, str], list[Program]] = {}
    for name, arm in claim.arms.items():
        for value in arm.vary[1] if arm.vary else (None,):
            every = tuple(range(arm.seeds or claim.seeds))
            for seeds in [(s,) for s in every] if arm.per_seed else [every]:
                program = _program(name, arm, value, seeds, made, f"{where}: runs.{name}", dirs, cache, parts, prints)
                made.setdefault((name, str(value)), []).append(program)
    return [p for some in made.values() for p in some]


def _program(
    name: str,
    arm: Arm,
    value: Any,
    seeds: tuple[int, ...],
    made: Mapping[tuple[str, str], list[Program]],
    where: str,
    dirs: Mapping[str, str],
    cache: pathlib.Path,
    parts: Parts,
    prints: dict[str, str],
) -> Program:
    try:
        config = configs.load(arm.config)
    except InputError as error:
        raise InputError(f"{where}.config", error.found, error.allowed) from None
    fields = {**arm.fields, **({arm.vary[0]: value} if arm.vary else {})}
    if config.data.name in dirs and "data.dir" not in fields:
        fields["data.dir"] = dirs[config.data.name]
    needs = []
    for field, given in fields.items():
        target = POINTER.match(given) if isinstance(given, str) else None
        if target:
            of = _pointed(target, seeds, made, f"{where}.set.{field}")
            needs.append(of)
            if target[1] == "run":
                given = str(run_folder(cache, of))
        try:
            configs.override(config, field, given if isinstance(given, str) else repr(_tuple(given)))
        except InputError as error:
            raise InputError(f"{where}.set.{field}", error.found, error.allowed) from None
    config.seed, config.train.seeds = seeds[0], len(seeds)
    config.evaluate.views, config.evaluate.objectives, config.evaluate.retrieval = {}, False, ()
    config.log.tensorboard = False
    # Whole runs on each device: the numbers do not depend on how many there are.
    config.mesh.data = math.gcd(len(seeds), jax.device_count())
    config = configs.complete(config)
    try:
        tables = {"encoders": parts.encoders, "heads": parts.heads, "losses": parts.losses, "views": parts.views}
        validate.check(config, **tables)
    except InputError as error:
        raise InputError(f"{where}: {error.where}", error.found, error.allowed) from None
    why = {
        "config": sha(_trained_fields(config), [n.key for n in needs], *_begun_from(config, needs)),
        "data": sha(*(n.key for n in needs)) if _of_features(config) else _fingerprint(config, parts, where, prints),
        "code": code.version((*STEP_CODE, *_modules(config, parts))),
    }
    return Program(name, value, seeds, config, why, sha(why)[:24], tuple(needs))


def _pointed(
    target: re.Match[str], seeds: tuple[int, ...], made: Mapping[tuple[str, str], list[Program]], where: str
) -> Program:
    _, name, value, _ = target.groups()
    some = made.get((name, str(value)))
    if some is None:
        known = [n if v == "None" else f"{n}@{v}" for n, v in made]
        raise InputError(where, repr(target[0]), f"runs above it: {nearest(name, known)}")
    fitting = [p for p in some if set(seeds) <= set(p.seeds)]
    one = [p for p in fitting if len(p.seeds) == 1] if target[1] == "run" else fitting
    if target[1] == "run" and not one:
        one = [p for p in some if len(p.seeds) == 1]
    if not one:
        raise InputError(where, f"{target[0]!r}, of other seeds", "a run of one seed, or of the same seeds")
    if target[1] == "features" and len(seeds) > 1:
        raise InputError(where, repr(target[0]), "per_seed = true: each seed has features of its own")
    return one[0]


def _tuple(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _tuple(v) for k, v in value.items()}
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def _of_features(config: Any) -> bool:
    return bool(POINTER.match(config.data.dir or ""))


def _trained_fields(config: Any) -> dict[str, Any]:
    """The leaves that decide what is trained; paths of folders are known by their content."""
    flat = configs.flatten(config.to_dict())
    paths = ("data.dir", "init_from.path")
    return {k: v for k, v in flat.items() if not k.startswith(configs.OPEN_FIELDS) and k not in (*paths, "name")}


def _begun_from(config: Any, needs: list[Program]) -> list[Any]:
    """Weights that lie elsewhere: which files, how long, how old. Those of another program are known by its key."""
    path = pathlib.Path(config.init_from.path)
    if not config.init_from.path or any(path.name == n.key for n in needs):
        return []
    files = [path] if path.is_file() else sorted(p for p in (path / "checkpoints").rglob("*") if p.is_file())
    return [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]


def _fingerprint(config: Any, parts: Parts, where: str, known: dict[str, str]) -> str:
    """Of both splits, as they lie there now; arms of one data set read it once."""
    name = sha(config.data.to_dict())
    if name not in known:
        try:
            splits = (config.data.train_split, config.data.test_split)
            known[name] = sha([data.open_source(config.data, s, parts.sources).fingerprint for s in splits])
        except InputError as error:
            raise InputError(f"{where}: {error.where}", error.found, f"{error.allowed} (--dir NAME=DIR)") from None
    return known[name]


def _modules(config: Any, parts: Parts) -> list[str]:
    """The files of the parts that a config names."""
    used = [parts.sources.get(config.data.name)]
    used += [parts.views[op["op"]] for view in config.views.values() for op in view.ops]
    for tower in config.towers.values():
        used.append(parts.encoders[tower.encoder["name"]])
        used += [parts.heads[head["name"]] for head in tower.heads.values()]
    for spec in config.objectives.values():
        used.append(parts.losses[spec["loss"]])
    return sorted({code.module_of(u) for u in used if u is not None})


def run_folder(cache: pathlib.Path, program: Program) -> pathlib.Path:
    """The workdir of a program."""
    return cache / "runs" / program.key


def is_trained(cache: pathlib.Path, program: Program) -> bool:
    """Whether its training is finished."""
    return (run_folder(cache, program) / "done.json").is_file()


def minutes_of(cache: pathlib.Path, program: Program) -> float:
    """What its training took, all attempts together."""
    return float(json.loads((run_folder(cache, program) / "done.json").read_text())["minutes"])


def train(
    program: Program, cache: pathlib.Path, data_dir: str | None, parts: Parts | None, say: Callable[[str], None]
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
    if folder.exists() and not (folder / "checkpoints").is_dir():
        shutil.rmtree(folder)  # killed before its first checkpoint
    say(f"  train {program.title}: {folder}")
    began, before = time.monotonic(), _spent(folder)
    state = train_and_evaluate(config, folder, bar=False, **(parts or Parts())._asdict())
    del state
    atomic(folder / "done.json", json.dumps({"minutes": before + (time.monotonic() - began) / 60}))
    forget()
    return folder


def with_dir(config: Any, data_dir: str | None) -> Any:
    """The config with its features' folder in place of the pointer."""
    if data_dir is None:
        return config
    plain = config.to_dict()
    plain["data"]["dir"] = data_dir
    return configs.complete(configs.ConfigDict(plain))


def _spent(folder: pathlib.Path) -> float:
    """Minutes of the attempts before this one, as their log has them."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return 0.0
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [json.loads(line).get("minutes", 0.0) for line in lines if line.endswith("}")]
    return max(found, default=0.0)


def forget() -> None:
    """Lets go of compiled programs: a claim compiles dozens, each with buffers of its own."""
    jax.clear_caches()
    gc.collect()


def atomic(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
