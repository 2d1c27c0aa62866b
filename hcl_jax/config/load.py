"""A run's configuration: defaults, recipes, overrides, and the frozen JSON that a workdir keeps.

A recipe is a Python file with `get_config(arg) -> ConfigDict`. It is run once; what it gives is completed, checked
(validate.py) and written to `config.json`. Everything after that reads the JSON and runs no recipe.
"""

import ast
import dataclasses
import hashlib
import importlib.util
import json
import pathlib
import re
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from hcl_jax.compat.fields import BEFORE, OLD_FIELDS, old_value, translated
from hcl_jax.config.fields import Field, Rule, allowed, check_value, fields, filled, members, open_fields
from hcl_jax.config.fields import at as kind_at
from hcl_jax.config.schema import Config
from hcl_jax.disk.reading import readable
from hcl_jax.errors import InputError, nearest

# Fields that may differ when a run is started again with --config: they change speed, output or what is measured, never
# what is trained. (The views of data.generated are compared by fingerprint, wherever they lie; so are the
# parts and shares of a mixture.)
OPEN_FIELDS = tuple(
    name
    for section, f in fields(Config).items()
    for name in ([f"{section}."] if f.rule.open else open_fields(f.kind, f"{section}."))
)

SIZED = ("random_resized_crop", "centre_crop", "resize")  # ops whose `size` may be that of the data


def defaults() -> ConfigDict:
    """Every field of a run with its default. A recipe starts here and fills in views, towers and objectives."""
    return ConfigDict(dataclasses.asdict(Config()))


def _frozen(value: Mapping[str, Any]) -> ConfigDict:
    """Sorted keys, tuples for lists, no new fields. (FrozenConfigDict refuses dicts inside tuples.)"""
    try:
        return ConfigDict({k: _tuples(value[k]) for k in sorted(value)}, convert_dict=True).lock()
    except (ValueError, KeyError) as error:  # a dot in a name, or a name that ConfigDict has itself, such as "items"
        raise InputError("config", _line(error), "names of letters, digits and _") from None


def _line(error: Exception) -> str:
    return str(error.args[0] if error.args else error)


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _tuples(value[k]) for k in sorted(value)}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def complete(config: ConfigDict) -> ConfigDict:
    """A copy with the defaults of all that is left out filled in: sorted keys, tuples, locked."""
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    try:
        c = json.loads(json.dumps(plain, default=_jsonable))
    except InputError:
        raise
    except (TypeError, ValueError, RecursionError) as error:  # a number of 5,000 digits, a dict that holds itself
        raise InputError("config", _line(error), "fields by name") from None
    if isinstance(c.setdefault("evaluate", {}), dict):
        c["evaluate"] = _with_evaluators(translated(c["evaluate"]))
    c = filled(Config, c)
    for views in (c.get("views"), c["evaluate"].get("views") if isinstance(c.get("evaluate"), dict) else None):
        for name, view in views.items() if isinstance(views, dict) else ():
            if isinstance(view, dict):
                view["draws"] = view["draws"] or name
                _size_ops(view.get("ops"), c["data"])
    return _frozen(c)


def _size_ops(ops: Any, data: Any) -> None:
    """Gives the ops that take the size of a picture and name none that of the data, in place."""
    size = data.get("size") if isinstance(data, dict) else None
    for op in ops if size and isinstance(ops, list | tuple) else ():
        if isinstance(op, dict) and op.get("op") in SIZED:
            op.setdefault("size", size)


def _with_evaluators(evaluate: dict[str, Any]) -> dict[str, Any]:
    """Entries of evaluators that are None are off; one that names no evaluator has the name of its own."""
    entries = evaluate.get("evaluators", BEFORE)
    if isinstance(entries, dict):
        named = {k: {"evaluator": k, **v} if isinstance(v, dict) else v for k, v in entries.items() if v is not None}
        evaluate["evaluators"] = named
    return evaluate


def check_section(config: ConfigDict, section: str) -> None:
    """Raises InputError for a field of one section, where that is needed before the whole can be checked."""
    f = fields(Config)[section]
    check_value(f"config.{section}", filled(f.kind, config.to_dict().get(section, {})), f.kind, f.rule)


def _jsonable(value: object) -> object:
    found = f"{value!r} of type {type(value).__name__}"
    raise InputError("config", found, "numbers, strings, booleans, None, tuples and dicts of them")


def to_json(config: ConfigDict) -> str:
    """The frozen text of a config: sorted, indented, one trailing newline."""
    return json.dumps(config.to_dict(), indent=1, sort_keys=True) + "\n"


def from_json(text: str, where: str) -> ConfigDict:
    """Reads a frozen config. Raises InputError naming `where` when the text is no JSON object."""
    with readable(where, "the config.json that a run wrote", "no JSON"):
        value = json.loads(text)
        if not isinstance(value, dict):
            raise InputError(where, type(value).__name__, "the config.json that a run wrote")
        return _frozen(value)


def with_younger(plain: Mapping[str, Any], where: str = "config.json") -> ConfigDict:
    """A frozen config with the fields that are younger than it: their default is how the run was begun.

    Raises:
      InputError: naming `where`, for a section that every run has.
    """
    for section, f in fields(Config).items():
        if section not in plain and not f.rule.younger:
            raise InputError(where, f"no field {section!r}", "the config.json that a run wrote")
    plain = dict(plain)
    for section, values in before(plain).items():
        plain[section] = {**plain[section], **values}
    return complete(ConfigDict(plain))


def before(plain: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a run did before some fields were there, by section: of those that its frozen config lacks."""
    found: dict[str, dict[str, Any]] = {}
    for section, f in fields(Config).items():
        for name, inner in (
            fields(f.kind).items() if isinstance(f.kind, type) and dataclasses.is_dataclass(f.kind) else ()
        ):
            given = plain.get(section)
            if inner.rule.before is not None and isinstance(given, Mapping) and name not in given:
                found.setdefault(section, {})[name] = inner.rule.before
    return found


def as_begun(config: ConfigDict, plain: Mapping[str, Any]) -> tuple[ConfigDict, list[str]]:
    """A config for a run that was begun before some fields were there, and what is worth saying of it.

    Args:
      config: completed.
      plain: the frozen config of the run.

    Returns:
      (the config, in which fields that `plain` lacks and that are at their defaults are as that run had them; a line
      for each).
    """
    made, lines = config.to_dict(), []
    for section, values in before(plain).items():
        for name, value in values.items():
            if made[section][name] == fields(fields(Config)[section].kind)[name].default != value:
                made[section][name] = value
                lines.append(f"config.{section}.{name} is {value!r}: the run was begun before there was such a field")
    return _frozen(made) if lines else config, lines


def texts(config: ConfigDict) -> dict[str, str]:
    """Every leaf as text, {"config.optimizer.learning_rate": "0.3", ...}."""
    return {f"config.{k}": repr(v) for k, v in flatten(config.to_dict()).items()}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"optimizer.learning_rate": 0.3, "views.a.ops[0].op": "flip", ...}`: each leaf by its name."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.") or {name: {}}
        elif isinstance(value, (list, tuple)) and any(isinstance(v, Mapping) for v in value):
            for i, entry in enumerate(value):
                flat |= flatten(entry, f"{name}[{i}].") if isinstance(entry, Mapping) else {f"{name}[{i}]": entry}
        else:
            flat[name] = tuple(value) if isinstance(value, list) else value
    return flat


def differences(old: ConfigDict, new: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Dotted field -> (old, new) for every leaf that differs; `None` stands for a leaf that one side lacks."""
    a, b = flatten(old.to_dict()), flatten(new.to_dict())
    return {k: (a.get(k), b.get(k)) for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)}


def recipe_folders() -> list[pathlib.Path]:
    """Where packaged recipes lie: inside the installed package, or beside it in a clone."""
    here = pathlib.Path(__file__).resolve().parents[1]
    return [p for p in (here / "configs", here.parent / "configs") if p.is_dir()]


def recipe_names() -> list[str]:
    """The packaged recipes, by name."""
    return sorted({p.stem for folder in recipe_folders() for p in folder.glob("*.py") if not p.stem.startswith("_")})


def _siblings(path: pathlib.Path) -> str:
    """A package of the files beside a recipe, and of the packaged ones: what its `from ._image import ...` looks in."""
    folder = path.resolve().parent
    name = f"hcl_jax_recipes_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = [str(folder), *map(str, recipe_folders())]
        sys.modules[name] = package
    return name


def load(text: str) -> ConfigDict:
    """`simclr:digits` or `path/to/recipe.py:argument` -> what its get_config gives. Runs that file, once."""
    name, _, argument = text.partition(":")
    path = _recipe_path(name)
    module = read_recipe(path)
    try:
        config = module.get_config(argument) if argument else module.get_config()
        config.name = path.stem
    except InputError:
        raise
    except Exception as error:
        found = f"{text}: {type(error).__name__}: {error}"
        raise InputError("--config", found, "an argument that get_config takes") from error
    # Copied: views that share a recipe's operations, or towers a head, must not share their overrides.
    return ConfigDict(_tuples(config.to_dict()))


def _recipe_path(name: str) -> pathlib.Path:
    path = pathlib.Path(name)
    if path.suffix != ".py":
        found = [f / f"{name}.py" for f in recipe_folders() if (f / f"{name}.py").is_file()]
        if not found:
            allowed = f"a recipe, nearest {nearest(name, recipe_names())}; or a .py file"
            raise InputError("--config", repr(name), allowed)
        return found[0]
    if path.is_file():
        return path
    packaged = [f / path.name for f in recipe_folders() if path.parts[:1] == ("configs",)]
    for other in filter(pathlib.Path.is_file, packaged):
        return other
    allowed = f"a .py file, or a recipe, nearest {nearest(path.stem, recipe_names())}"
    raise InputError("--config", f"no file {name}", allowed)


def read_recipe(path: pathlib.Path) -> Any:
    """The module of a recipe file, run. Raises InputError when it fails, or has no get_config."""
    spec = importlib.util.spec_from_file_location(f"{_siblings(path)}.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError("--config", str(path), "a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:  # a user's file may fail in any way; the line says where
        found = f"{path} fails: {type(error).__name__}: {error}"
        raise InputError("--config", found, "a recipe that can be imported") from error
    if not hasattr(module, "get_config"):
        raise InputError("--config", f"{path} without get_config", "a file that defines get_config(arg) -> ConfigDict")
    return module


def choose(argument: str, table: Mapping[str, Any]) -> Any:
    """The entry of a recipe's table that its argument names. Raises InputError listing the known arguments."""
    if argument not in table:
        raise InputError("--config argument", repr(argument), f"one of {nearest(argument, table)}")
    return table[argument]


def override(config: ConfigDict, field: str, text: str) -> None:
    """Sets `field` ("optimizer.learning_rate", "views.a.ops[0].size") from the command line, in place.

    The field's type decides how the text is read; of an argument of a part, the type of the value that is there.
    """
    where = f"--config.{field}"
    _with_old(config, field)
    at: Any = config
    *path, last = re.sub(r"\[(\d+)\]", r".\1", field).split(".")
    for part in path:
        at = _child(at, part, where)
    if isinstance(at, tuple | list):
        raise InputError(where, "an entry of a list", f"the whole list --config.{'.'.join(path)}=(...)")
    if not hasattr(at, "keys"):
        raise InputError(where, f"{last!r} below a value", "an existing field")
    kind = _kind(where, (*path, last))
    # What is not there yet is an entry by name, or an argument that the recipe leaves at its default.
    value = _parse(text, kind, at.get(last), where)
    try:
        if hasattr(at, "ignore_type"):
            with at.ignore_type():  # None where there were fields, a mapping where there was a number
                at[last] = value
        else:
            at[last] = value
    except (ValueError, KeyError) as error:
        raise InputError(where, _line(error), "names of letters, digits and _") from None


def _with_old(config: ConfigDict, field: str) -> None:
    """Puts an old field of `evaluate` in its place, for `complete` to translate what is set there."""
    section, name = (*field.split("."), "")[:2]
    evaluate = config.get("evaluate")
    if section == "evaluate" and name in OLD_FIELDS and hasattr(evaluate, "keys") and name not in evaluate:
        config.evaluate[name] = old_value(config.evaluate.to_dict(), name)


def _kind(where: str, path: tuple[str, ...]) -> Any:
    """The annotation of a field; None for an argument, whose part is known later, and for an old field."""
    if path[0] == "evaluate" and path[1:2] and path[1] in OLD_FIELDS:
        return None
    try:
        found = kind_at(Config, path)
    except InputError as error:
        raise InputError(where, error.found, error.allowed) from None
    return found.kind if isinstance(found, Field) else found


def _child(at: Any, part: str, where: str) -> Any:
    if isinstance(at, tuple | list):
        if not part.isdecimal() or int(part) >= len(at):
            raise InputError(where, repr(part), f"0 to {len(at) - 1}")
        return at[int(part)]
    if not hasattr(at, "keys"):
        raise InputError(where, f"{part!r} below a value", "an existing field")
    if part not in at:
        raise InputError(where, f"unknown field {part!r}", f"nearest {nearest(part, at.keys())}")
    return at[part]


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _parse(text: str, kind: Any, old: Any, where: str) -> Any:
    if kind is None or kind is Any:
        kind = next((k for k in (bool, int, float, str) if type(old) is k), tuple if isinstance(old, tuple) else Any)
    kinds = members(kind)
    if kinds == (str,):
        return text
    value = _literal(text)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    is_list = any(k is tuple or typing.get_origin(k) is tuple for k in kinds) and str not in kinds
    if is_list and not (len(kinds) > 1 and isinstance(value, dict)):
        return tuple(value) if isinstance(value, tuple | list) else (value,)
    if kind in (bool, int, float) and not (isinstance(value, kind) and isinstance(value, bool) == (kind is bool)):
        raise InputError(where, text, allowed(kind, Rule()))
    return value
