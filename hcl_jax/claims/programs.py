"""The training programs of a claim: their configs, and the keys that they are cached under.

A value of `set` may point at another run of the claim, which must stand before it in the file:

    "init_from.path" = "run:judge"                  the folder of a run of one seed
    "data.dir" = "features:noisy@0.2/image"         features of that run (of the value 0.2 where it varies) and view:
                                                    train.npz, and in test.npz those of every view, told by `domain`
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax

from hcl_jax import config as configs
from hcl_jax.claims import keys
from hcl_jax.claims.claim import Arm, Claim
from hcl_jax.config import validate
from hcl_jax.errors import InputError, nearest

POINTER = re.compile(r"^(run|features):([^@/]+)(?:@([^/]+))?(?:/(.+))?$")


@dataclasses.dataclass(frozen=True)
class Program:
    """One training: an arm at one value, of all seeds or of one.

    Attributes:
      arm, value: whose; the value of the varied field, or None.
      seeds: of the runs in it.
      config: completed; a pointer at features is still one.
      why: {"config", "data", "code"}: hashes of what the numbers depend on.
      key: of all three; the name of its folder in the cache.
      needs: the programs that it points at.
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

    @property
    def points_at(self) -> tuple[str, str] | None:
        """(arm, view) of the features that it is trained on, or None."""
        target = POINTER.match(self.config.data.dir or "")
        return (target[2], target[4] or "") if target and target[1] == "features" else None


def views_of(arm: Arm, views: Mapping[str, Any]) -> dict[str, Any]:
    """The views whose features are read: those of the claim that the arm names, or those of its recipe's evaluation."""
    if arm.views is not None:
        return {name: dict(views[name]) for name in arm.views}
    return dict(configs.load(arm.config).evaluate.views.to_dict())


def programs(claim: Claim, where: str, *, prints: keys.Prints, cache: pathlib.Path) -> list[Program]:
    """Every training that a claim needs, in an order in which they can be made.

    Args:
      claim: a checked claim.
      where: its file, for messages.
      prints: of data, with their folders and the tables of parts.
      cache: folder of all results.

    Raises:
      InputError: an unknown recipe, field, data set or arm; data that are not there.
    """
    made: dict[tuple[str, str], list[Program]] = {}
    for name, arm in claim.arms.items():
        for value in arm.vary[1] if arm.vary else (None,):
            every = tuple(range(arm.seeds or claim.seeds))
            for seeds in [(s,) for s in every] if arm.per_seed else [every]:
                program = _program(claim, name, value, seeds, made, f"{where}: runs.{name}", prints, cache)
                made.setdefault((name, str(value)), []).append(program)
    return [p for some in made.values() for p in some]


def _program(
    claim: Claim,
    name: str,
    value: Any,
    seeds: tuple[int, ...],
    made: Mapping[tuple[str, str], list[Program]],
    where: str,
    prints: keys.Prints,
    cache: pathlib.Path,
) -> Program:
    arm, parts = claim.arms[name], prints.parts
    try:
        config = configs.load(arm.config)
    except InputError as error:
        raise InputError(f"{where}.config", error.found, error.allowed) from None
    fields = {**arm.fields, **({arm.vary[0]: value} if arm.vary else {})}
    if config.data.name in prints.dirs and "data.dir" not in fields:
        fields["data.dir"] = prints.dirs[config.data.name]
    needs: dict[str, Program] = {}
    for field, given in fields.items():
        table = "vary" if arm.vary and field == arm.vary[0] else "set"
        at = f"{where}.{table}.{field}"
        target = POINTER.match(given) if isinstance(given, str) else None
        if target:
            needs[field] = _pointed(target, seeds, made, at)
            if target[1] == "run":
                given = str(run_folder(cache, needs[field]))
        try:
            configs.override(config, field, given if isinstance(given, str) else repr(_tuple(given)))
        except InputError as error:
            raise InputError(at, error.found, error.allowed) from None
    config.seed, config.train.seeds = seeds[0], len(seeds)
    config.evaluate.views, config.evaluate.evaluators, config.evaluate.every = {}, {}, 0
    config.log.tensorboard = False
    # Whole runs on each device: the numbers do not depend on how many there are.
    config.mesh.data = math.gcd(len(seeds), jax.device_count())
    config = configs.complete(config)
    try:
        validate.check(config, **parts.checked())
    except InputError as error:
        raise error.below(where) from None
    begun = [] if "init_from.path" in needs else keys.begun_from(config.init_from.path)
    if "data.dir" in needs:
        source = needs["data.dir"]
        views = views_of(claim.arms[source.arm], claim.views)
        of = POINTER.match(fields["data.dir"])[4]  # type: ignore[index]
        if of not in views or "train" not in views[of].get("splits", ("train",)):
            raise InputError(
                f"{where}.set.data.dir", fields["data.dir"], f"/VIEW with a train split: {', '.join(views)}"
            )
        content = keys.sha(source.key, of, keys.views_key(views, prints, where))
    else:
        content = prints.of(config.data, where)
    why = {
        "config": keys.sha(keys.trained_fields(config), [n.key for n in needs.values()], *begun),
        "data": content,
        "code": keys.step_code(config, parts),
    }
    return Program(name, value, seeds, config, why, keys.sha(why)[:24], tuple(needs.values()))


def _pointed(
    target: re.Match[str], seeds: tuple[int, ...], made: Mapping[tuple[str, str], list[Program]], where: str
) -> Program:
    kind, name, value, _ = target.groups()
    some = made.get((name, str(value)))
    if some is None:
        known = [n if v == "None" else f"{n}@{v}" for n, v in made]
        raise InputError(where, repr(target[0]), f"runs above it: {nearest(name, known)}")
    if kind == "run":
        one = [p for p in some if p.seeds == seeds[:1]] or [p for p in some if len(p.seeds) == 1]
        if not one or len(one[0].seeds) > 1:
            raise InputError(where, f"{target[0]!r}, of {len(some[0].seeds)} seeds", "a run of one seed: seeds = 1")
        return one[0]
    if len(seeds) > 1:
        raise InputError(where, repr(target[0]), "per_seed = true: each seed has features of its own")
    fitting = [p for p in some if set(seeds) <= set(p.seeds)]
    if not fitting:
        raise InputError(where, f"{target[0]!r}, without seed {seeds[0]}", "a run of the same seeds")
    return fitting[0]


def _tuple(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _tuple(v) for k, v in value.items()}
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def run_folder(cache: pathlib.Path, program: Program) -> pathlib.Path:
    """The workdir of a program."""
    return cache / "runs" / program.key
