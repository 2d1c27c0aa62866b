"""A claim file: what is said, which runs test it, what is measured on them, and what must come out.

    title = "The signal is linear"
    finding = "..."                    what the source says, in a sentence
    source = "..."
    minutes = 5                        on 2 cores, all seeds
    seeds = 8
    measure = "linear_signal"          a name of claims.measures.MEASURES
    note = "..."                       what a reader of the verdict should know (optional)
    axes = ["labels", "top-1"]         of the curves, for their plot (optional)

    [runs.ssl]                         an arm: a recipe with other fields
    config = "simclr:digits"
    set = { "train.epochs" = 30.0 }
    vary = { "data.flipped" = [0.0, 0.1] }      one run for each value of one field (optional)

    [arguments]                        of the measure
    run = "ssl"

    [[statements]]
    says = "after training a mean classifier is within 5 points of the probe"
    quantity = "gap"                   a number that the measure makes for each seed
    below = 0.05                       or above = ...
    test = "mean"                      of verdict.TESTS; "mean" when left out

    [small]                            laid over the rest by --small: a form for CI that proves nothing
    seeds = 2

A claim that shares its runs with another says `like = "other"`: every table that it lacks is the other's.
"""

import dataclasses
import hashlib
import inspect
import math
import pathlib
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hcl_jax.config.fields import check, fields, filled, setting
from hcl_jax.config.schema import Data
from hcl_jax.config.specs import EvaluationView
from hcl_jax.disk.reading import readable
from hcl_jax.errors import InputError, nearest
from hcl_jax.views import VIEWS


class Statement(NamedTuple):
    """One thing that must come out: `quantity` above or below `threshold`."""

    says: str
    quantity: str
    direction: str
    threshold: float
    test: str


class Arm(NamedTuple):
    """Runs of one recipe: one, or one for each value of a field.

    Attributes:
      config: recipe and argument.
      fields: dotted field -> value.
      vary: (dotted field, its values), or None.
      seeds: of one program; None: those of the claim.
      per_seed: a program for each seed, where the data differ from seed to seed.
      untrained: the features before the first step are read too.
      views: which of the claim's views are read; None: all, or the recipe's own where the claim has none.
    """

    config: str
    fields: Mapping[str, Any]
    vary: tuple[str, tuple[Any, ...]] | None
    seeds: int | None
    per_seed: bool
    untrained: bool
    views: tuple[str, ...] | None


class Claim(NamedTuple):
    """A claim file, checked."""

    name: str
    title: str
    finding: str
    source: str
    minutes: float
    seeds: int
    measure: str
    arms: dict[str, Arm]
    views: dict[str, Mapping[str, Any]]
    arguments: Mapping[str, Any]
    statements: tuple[Statement, ...]
    note: str
    axes: tuple[str, str]
    sha256: str


NAME = re.compile(r"[A-Za-z0-9_.-]+")
# Fields of a config that a claim sets itself: its seeds, devices for whole runs, no evaluation.
OWN_FIELDS = ("train.seeds", "mesh.", "evaluate.", "log.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClaimFields:
    """The fields of a claim file."""

    title: str = setting(...)
    finding: str = setting(...)
    source: str = setting(...)
    minutes: float = setting(..., above=0, cap=1e6)
    seeds: int = setting(..., "intervals are over seeds", least=2, cap=2**12)
    measure: str = setting(...)
    runs: dict[str, dict] = setting(...)
    views: dict[str, dict] = setting({})
    arguments: dict[str, Any] = setting({})
    statements: tuple[dict, ...] = setting(...)
    note: str = setting("")
    axes: tuple[str, str] = setting(("", ""))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArmFields:
    """The fields of an arm."""

    config: str = setting(...)
    set: dict[str, Any] = setting({})
    vary: dict[str, tuple] = setting({})
    seeds: int = setting(0, least=0, zero="takes those of the claim")
    per_seed: bool = setting(False)
    untrained: bool = setting(False)
    views: tuple[str, ...] = setting(())


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewFields(EvaluationView):
    """The fields of an evaluation's view, and those that are a claim's own."""

    splits: tuple[str, ...] = setting(("train", "test"), choices=("train", "test"))
    data: dict[str, Any] = setting({})
    label: str = setting("")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StatementFields:
    """The fields of a statement."""

    says: str = setting(...)
    quantity: str = setting(...)
    above: float | None = setting(None, least=-math.inf)
    below: float | None = setting(None, least=-math.inf)
    test: str = setting("mean")


OWN_OF_VIEW = tuple(fields(ViewFields).keys() - fields(EvaluationView).keys())


def folders() -> list[pathlib.Path]:
    """Where packaged claims lie: inside the installed package, or beside it in a clone."""
    here = pathlib.Path(__file__).resolve().parent.parent
    return [p for p in (here / "claim_files", here.parent / "claims") if p.is_dir()]


def files(folder: pathlib.Path | None = None) -> dict[str, pathlib.Path]:
    """Claim files by name: those of a folder, or the packaged ones."""
    if folder is not None and not folder.is_dir():
        raise InputError("--claims", f"no folder {folder}", "a folder with claim files (.toml)")
    found = [p for f in ([folder] if folder else folders()) for p in sorted(f.glob("*.toml")) if p.is_file()]
    for path in found:
        if not NAME.fullmatch(path.stem) or path.stem.endswith(".small"):
            raise InputError(str(path), "such a name", "letters, digits, _, - and . (not .small at the end)")
    return {p.stem: p for p in found}


def chosen(names: list[str], known: Mapping[str, pathlib.Path]) -> list[str]:
    """The claims that names mean: a claim, or all that begin with it (`labels` = labels-digits, ...)."""
    out: list[str] = []
    for name in filter(None, names):
        some = [k for k in known if k == name or k.startswith(f"{name}-")]
        if not some:
            raise InputError("claim", repr(name), nearest(name, known, most=20))
        out += [k for k in some if k not in out]
    return out


def read(name: str, known: Mapping[str, pathlib.Path], *, small: bool = False) -> Claim:
    """Reads and checks a claim.

    Raises:
      InputError: naming file and field.
    """
    # Late: they import jax, which waits for what the command line sets before (backend.prepare).
    from hcl_jax.claims.measures import MEASURES
    from hcl_jax.claims.verdict import TESTS

    path = known[name]
    raw = _merged(path, known)
    over = raw.pop("small", {})
    if small and not over:
        raise InputError(f"{path}: small", "nothing", "a table small, or no --small")
    raw = _over(raw, over) if small else raw
    given = _checked(ClaimFields, raw, f"{path}: ")
    arms = {k: _arm(v, given["views"], f"{path}: runs.{k}") for k, v in given["runs"].items()}
    if not arms:
        raise InputError(f"{path}: runs", "nothing", "a table for each arm")
    if given["measure"] not in MEASURES:
        raise InputError(f"{path}: measure", repr(given["measure"]), nearest(given["measure"], MEASURES))
    _check_arguments(given["arguments"], MEASURES[given["measure"]], f"{path}: arguments")
    for text in ("title", "finding", "source"):
        if not given[text].strip():
            raise InputError(f"{path}: {text}", "nothing", "a few words")
    if not given["statements"]:
        raise InputError(f"{path}: statements", "nothing", "one or more, each with above or below")
    for view, spec in given["views"].items():
        _check_view(spec, f"{path}: views.{view}")
    statements = tuple(_statement(s, f"{path}: statements[{i}]", TESTS) for i, s in enumerate(given["statements"]))
    text = repr(_plain({k: given[k] for k in sorted(given)}))
    return Claim(
        name=name,
        title=given["title"],
        finding=given["finding"],
        source=given["source"],
        minutes=float(given["minutes"]),
        seeds=given["seeds"],
        measure=given["measure"],
        arms=arms,
        views=given["views"],
        arguments=given["arguments"],
        statements=statements,
        note=given["note"],
        axes=(given["axes"][0], given["axes"][1]),
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )


def has_small(name: str, known: Mapping[str, pathlib.Path]) -> bool:
    """Whether a claim has a small form."""
    return bool(_merged(known[name], known).get("small"))


def _check_arguments(given: Mapping[str, Any], measure: Callable[..., Any], where: str) -> None:
    known = {k: p for k, p in inspect.signature(measure).parameters.items() if p.kind is p.KEYWORD_ONLY}
    for name in given:
        if name not in known:
            raise InputError(where, repr(name), nearest(name, known))
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in given:
            raise InputError(where, f"no {name}", f"every one of {', '.join(known)}")


def _merged(path: pathlib.Path, known: Mapping[str, pathlib.Path]) -> dict[str, Any]:
    raw = _toml(path)
    like = raw.pop("like", None)
    if like is None:
        return raw
    others = [k for k in known if k != path.stem]
    if not isinstance(like, str) or like not in others:
        raise InputError(f"{path}: like", repr(like), f"another claim: {nearest(str(like), others)}")
    other = _toml(known[like])
    if "like" in other:
        raise InputError(f"{path}: like", f"{like!r}, which is like {other['like']!r}", "a claim with its own runs")
    for table in ("runs", "views", "small", "seeds"):
        if table in other:
            raw.setdefault(table, other[table])
    return raw


def _toml(path: pathlib.Path) -> dict[str, Any]:
    with readable(path, "a claim file; claims/README.md shows one", "no TOML"):
        return tomllib.loads(path.read_text(encoding="utf-8"))


def _over(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {**below, **{k: _over(below[k], v) if k in below else v for k, v in above.items()}}


def _checked(section: type, raw: Any, where: str) -> dict[str, Any]:
    """The fields of a table with their defaults. Raises InputError for one that the section does not allow."""
    whole = filled(section, raw)
    check(section, whole, where)
    return whole


def _arm(raw: Any, known: Mapping[str, Any], where: str) -> Arm:
    given = _checked(ArmFields, raw, where)
    for field in given["set"]:
        if field == "seed" or field.startswith(OWN_FIELDS):
            raise InputError(f"{where}.set", repr(field), "other fields: the claim sets this one")
    for view in given["views"]:
        if view not in known:
            raise InputError(f"{where}.views", repr(view), nearest(view, known))
    views = tuple(given["views"]) or tuple(known) or None
    vary = None
    if given["vary"]:
        if len(given["vary"]) != 1:
            raise InputError(f"{where}.vary", ", ".join(given["vary"]), "one field with a list of values")
        ((name, values),) = given["vary"].items()
        if not values or len(set(map(str, values))) < len(values):
            raise InputError(f"{where}.vary.{name}", repr(values), "a list of different values")
        vary = (name, tuple(values))
    return Arm(
        given["config"], given["set"], vary, given["seeds"] or None, given["per_seed"], given["untrained"], views
    )


def _check_view(raw: Any, where: str) -> None:
    """A view's fields; whether a model has its tower and output is known later."""
    from hcl_jax.config.check_views import check_ops  # late, as in `read`

    given = _checked(ViewFields, raw, where)
    if "/" in where.rpartition(": views.")[2]:
        raise InputError(where, "a name with /", "letters, digits and _")
    if not given["splits"]:
        raise InputError(f"{where}.splits", "none", 'a list of "train" and "test"')
    check_ops(f"{where}.ops", given["ops"], VIEWS)
    known = fields(Data)
    for field in given["data"]:
        if field not in known:
            raise InputError(f"{where}.data.{field}", "an unknown field", nearest(field, known))


def evaluation_view(view: Mapping[str, Any]) -> dict[str, Any]:
    """A view as `evaluate.views` takes it."""
    return {k: v for k, v in view.items() if k not in OWN_OF_VIEW}


def _statement(raw: Any, where: str, tests: Mapping[str, Any]) -> Statement:
    given = _checked(StatementFields, raw, where)
    directions = [d for d in ("above", "below") if given[d] is not None]
    if len(directions) != 1:
        raise InputError(where, " and ".join(directions) or "no threshold", "above or below, one of them")
    if given["test"] not in tests:
        raise InputError(f"{where}.test", repr(given["test"]), nearest(given["test"], tests))
    (direction,) = directions
    return Statement(given["says"], given["quantity"], direction, float(given[direction]), given["test"])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(value[k]) for k in sorted(value)}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
