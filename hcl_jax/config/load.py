"""A run's configuration: defaults, recipes, overrides, and the frozen JSON that a workdir keeps.

A recipe is a Python file with `get_config(arg) -> ConfigDict`. It is run once; what it gives is completed, checked
(validate.py) and written to `config.json`. Everything after that reads the JSON and runs no recipe.
"""

import ast
import importlib.util
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from hcl_jax.errors import InputError, nearest

# Fields that may differ when a run is started again with --config: they change speed, output or what is measured, never
# what is trained. (The views of data.generated are compared by fingerprint, wherever they lie; so are the
# parts and shares of a mixture.)
OPEN_FIELDS = (
    *("mesh.", "log.", "checkpoint.", "evaluate.", "limits."),
    *("data.dir", "data.in_memory", "data.prepare", "data.generated", "data.parts", "data.max_bad_records"),
    *("train.engine", "train.similarity_mib"),
)

YOUNGER_SECTIONS = ("limits",)  # which the first runs have not

# Below these, an override may name an argument that the recipe leaves at its default.
OPEN_SPECS = ("views.", "towers.", "objectives.", "evaluate.views.")

VIEW = {"draws": None, "missing": 0.0, "swapped": 0.0}
EVALUATION_VIEW = {"output": "h", "draws": None, "missing": 0.0}
TOWER: dict[str, Any] = {
    "heads": {},
    "target": None,
    "memory": {},
    "batching": "joint",
    "bn_groups": 1,
    "frozen": False,
}
HEAD = {"reads": "h"}
TARGET = {"momentum": 0.996, "schedule": "cosine", "heads": (), "stats": "own"}
MEMORY = {"kind": "fifo"}
OBJECTIVE = {"weight": 1.0, "pairs": "index", "row_weights": None}


def defaults() -> ConfigDict:
    """Every field of a run with its default. A recipe starts here and fills in views, towers and objectives."""
    return ConfigDict(
        {
            "name": "",
            "seed": 0,
            "data": {
                "name": "digits",  # a name of data.SOURCES, or any TFDS name
                "dir": "",
                "train_split": "train",
                "test_split": "test",
                "num_examples": 0,  # 0 = all; else the first n of the training split
                "batch_size": 256,  # global, in examples
                "labels": ("label",),
                "labelled": 1.0,  # share of the training examples that keep their labels; those of others are -1
                "sample": 0,  # 0 = all; else so many training examples, drawn by the seed
                "flipped": 0.0,  # share of the training labels that are replaced by another class, by the seed
                "flipped_keeps": False,  # the class that replaces one is drawn from all, the true one among them
                "num_classes": 0,  # 0 = as the source says
                "order": "shuffled",  # or "whole": each step holds every record once, in order (one graph)
                "generated": "",  # folder of views made offline (python -m hcl_jax.generate): the field "generated"
                "shape": (),  # of one example where the source cannot say (random input, folders)
                "text": "text",  # the column of a CSV or the key of an npz that holds the text
                "standardise": False,  # series: by the training split's mean and deviation of each channel
                "in_memory": True,
                "prepare": False,  # let TFDS download and prepare what is missing
                "max_bad_records": 16,  # so many may be replaced by others; one more ends the run
                "parts": {},  # of the source "mixture": name -> {"weight": w, and fields of data that are its own}
            },
            "views": {},
            "towers": {},
            "objectives": {},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1e-3,
                "scaling": "none",
                "weight_decay": 1e-4,
                "momentum": 0.9,
                "b1": 0.9,
                "b2": 0.999,
                "eps": 0.0,  # of adamw and lamb; 0 = 1e-8 and 1e-6
                "nesterov": False,
                "trust_coefficient": 1e-3,  # of lars
                "schedule": "cosine",
                "warmup_steps": 0,
                "warmup_epochs": 0.0,
                "clip": 0.0,  # global norm; 0 = off
                "average": 0.0,  # decay of the weight average that evaluation reads; 0 = off, 1 = mean of all
                "unit_norm": (),  # regexes: kernels whose columns are put back to unit length after each update
                "exclude": ("bias$", "scale$", "(^|/)objectives/", "position", "(cls|register)$"),
                "rules": (),  # (regex, learning-rate multiplier): 0 freezes, negative ascends
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "rules": ()},
            "train": {
                "steps": 0,  # 0 = from epochs
                "epochs": 10.0,
                "accumulate": 1,
                "engine": "auto",  # how losses sum over rows: dense, streamed, ring, or auto by bytes
                "similarity_mib": 64,  # engine auto: what the matrices of a loss may take on a device if dense
                "cache": 1,  # encoders in so many sub-batches, the loss of the whole batch
                "seeds": 1,  # so many runs in one program, with seeds seed, seed + 1, ...
                "compute_dtype": "float32",
                "param_dtype": "float32",
                "remat": False,
                "max_skipped": 10,  # stop after so many non-finite steps in a row
            },
            "init_from": {"path": "", "rename": (), "include": (".*",), "exclude": (), "frozen": False},
            "evaluate": {
                "every": 0,  # steps between evaluations; 0 = only at the end
                "batch_size": 256,
                "views": {},
                "labels": "label",
                "knn": {"k": 20, "temperature": 0.07},
                "linear": True,
                "scaling": "columns",  # before the linear probe: each column by its deviation, or "rows": unit rows
                "svm": False,  # RBF support vector machine, its C chosen on the training rows
                "folds": 0,  # of cross-validation over the training split, in place of a test split; 0 = off
                "objectives": False,  # the objectives on the test split, in evaluation mode
                "per_class": (),
                "draws": 5,
                "retrieval": (),
                "recall_at": (1, 5),
                "baselines": True,  # the untrained encoder and the raw input beside the trained one
                "nearest_neighbour": False,  # 1-NN Euclidean on the raw input, the usual baseline for series
            },
            "checkpoint": {
                "every": 1000,
                "keep": 2,  # of the newest
                "keep_best": 0,  # and so many with the best `best_metric`
                "best_metric": "",  # a name in metrics.jsonl that an evaluation gives
                "best_mode": "max",
                "keep_every": 0,  # and every step that is a multiple of this, for ever; 0 = none
                "on_error": "stop",  # what a save that failed does to the run, or "go_on"
                "check_replicas": True,  # before a save: do the devices agree, bit by bit, on what they share?
            },
            "log": {
                "every": 20,
                "tensorboard": True,
                "wandb": False,
                "spike": 10.0,  # warn of a loss so many robust deviations above the lines before; 0 = off
                "collapse": 0.05,  # warn of an output whose rows spread less over the sphere; 0 = off
            },
            "limits": {  # in seconds
                "watchdog": 300.0,  # without a step before a stuck process is ended; 0 = never
                "heartbeat": 100,  # without a sign of life before a process counts as dead
                "phase": 7200.0,  # that an evaluation or a save may take, before the watchdog calls it stuck
                "barrier": 600,  # that a process waits for the others before the first step and when a run goes on
            },
        }
    )


def _filled(spec: Any, default: Mapping[str, Any]) -> Any:
    return {**default, **dict(spec)} if isinstance(spec, Mapping) else spec  # validate.py refuses what is no mapping


def _each_filled(specs: Any, default: Mapping[str, Any]) -> Any:
    return {k: _filled(v, default) for k, v in specs.items()} if isinstance(specs, Mapping) else specs or {}


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
    """A copy with the defaults of each view, tower, head and objective filled in: sorted keys, tuples, locked."""
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    try:
        c = json.loads(json.dumps(plain, default=_jsonable))
    except TypeError as error:
        raise InputError("config", _line(error), "fields by name") from None
    if isinstance(c.get("views"), dict):
        c["views"] = {k: _filled(v, {**VIEW, "draws": k}) for k, v in c["views"].items()}
    if isinstance(c.get("towers"), dict):
        for name, tower in c["towers"].items():
            tower = _filled(tower, TOWER)
            if isinstance(tower, dict):
                tower["heads"] = _each_filled(tower["heads"], HEAD)
                tower["memory"] = _each_filled(tower["memory"], MEMORY)
                tower["target"] = _filled(tower["target"], TARGET) if tower["target"] else None
            c["towers"][name] = tower
    if isinstance(c.get("objectives"), dict):
        c["objectives"] = {k: _filled(v, OBJECTIVE) for k, v in c["objectives"].items()}
    evaluate = c.get("evaluate")
    if isinstance(evaluate, dict) and isinstance(evaluate.get("views"), dict):
        evaluate["views"] = {k: _filled(v, {**EVALUATION_VIEW, "draws": k}) for k, v in evaluate["views"].items()}
    return _frozen(c)


def _jsonable(value: object) -> object:
    found = f"{value!r} of type {type(value).__name__}"
    raise InputError("config", found, "numbers, strings, booleans, None, tuples and dicts of them")


def to_json(config: ConfigDict) -> str:
    """The frozen text of a config: sorted, indented, one trailing newline."""
    return json.dumps(config.to_dict(), indent=1, sort_keys=True) + "\n"


def from_json(text: str, where: str) -> ConfigDict:
    """Reads a frozen config. Raises InputError naming `where` when the text is no JSON object."""
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(where, f"no JSON ({error})", "the config.json that a run wrote") from None
    if not isinstance(value, dict):
        raise InputError(where, type(value).__name__, "the config.json that a run wrote")
    return _frozen(value)


def with_younger(plain: Mapping[str, Any], where: str = "config.json") -> ConfigDict:
    """A frozen config with the fields that are younger than it: their default is how the run was begun.

    Raises:
      InputError: naming `where`, for a section that every run has.
    """
    whole = dict(plain)
    for section, fields in defaults().to_dict().items():
        if section not in whole and section not in YOUNGER_SECTIONS:
            raise InputError(where, f"no field {section!r}", "the config.json that a run wrote")
        if isinstance(fields, dict) and isinstance(whole.get(section, {}), dict):
            whole[section] = {**fields, **whole.get(section, {})}
    return complete(ConfigDict(whole))


def texts(config: ConfigDict) -> dict[str, str]:
    """Every leaf as text, {"config.optimizer.learning_rate": "0.3", ...}."""
    return {f"config.{k}": repr(v) for k, v in flatten(config.to_dict()).items()}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"optimizer.learning_rate": 0.3, ...}`: each leaf by its dotted name, tuples of dicts by index."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.") or {name: {}}
        elif isinstance(value, (list, tuple)) and any(isinstance(v, Mapping) for v in value):
            flat |= flatten({str(i): v for i, v in enumerate(value)}, f"{name}.")
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


def load(text: str) -> ConfigDict:
    """`simclr:digits` or `path/to/recipe.py:argument` -> what its get_config gives. Runs that file, once."""
    name, _, argument = text.partition(":")
    path = pathlib.Path(name)
    if path.suffix != ".py":
        found = [f / f"{name}.py" for f in recipe_folders() if (f / f"{name}.py").is_file()]
        if not found:
            raise InputError(
                "--config", repr(name), f"a recipe, nearest {nearest(name, recipe_names())}; or a .py file"
            )
        path = found[0]
    elif not path.is_file():
        packaged = [
            f / path.name for f in recipe_folders() if path.parts[:1] == ("configs",) and (f / path.name).is_file()
        ]
        if not packaged:
            raise InputError(
                "--config", f"no file {name}", f"a .py file, or a recipe, nearest {nearest(path.stem, recipe_names())}"
            )
        path = packaged[0]
    spec = importlib.util.spec_from_file_location(f"hcl_jax_recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError("--config", name, "a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:  # a user's file may fail in any way; the line says where
        raise InputError(
            "--config", f"{path} fails: {type(error).__name__}: {error}", "a recipe that can be imported"
        ) from error
    if not hasattr(module, "get_config"):
        raise InputError("--config", f"{path} without get_config", "a file that defines get_config(arg) -> ConfigDict")
    try:
        config = module.get_config(argument) if argument else module.get_config()
        config.name = path.stem
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            "--config", f"{text}: {type(error).__name__}: {error}", "an argument that get_config takes"
        ) from error
    # Copied: views that share a recipe's operations, or towers a head, must not share their overrides.
    return ConfigDict(_tuples(config.to_dict()))


def choose(argument: str, table: Mapping[str, Any]) -> Any:
    """The entry of a recipe's table that its argument names. Raises InputError listing the known arguments."""
    if argument not in table:
        raise InputError("--config argument", repr(argument), f"one of {nearest(argument, table)}")
    return table[argument]


def override(config: ConfigDict, field: str, text: str) -> None:
    """Sets `field` ("optimizer.learning_rate") from the command line, in place; the type of the old value decides."""
    where = f"--config.{field}"
    at: Any = config
    *path, last = field.split(".")
    for part in path:
        at = _child(at, part, where)
    if isinstance(at, tuple | list):
        raise InputError(where, "an entry of a list", f"the whole list --config.{'.'.join(path)}=(...)")
    if field.startswith(OPEN_SPECS) and hasattr(at, "keys") and last not in at:
        value = _literal(text)  # an argument that the recipe leaves at its default; validate.py knows the names
    else:
        value = _parse(text, _child(at, last, where), where)
    try:
        if hasattr(at, "ignore_type"):
            with at.ignore_type():  # None where there were fields, a mapping where there was a number
                at[last] = value
        else:
            at[last] = value
    except (ValueError, KeyError) as error:
        raise InputError(where, _line(error), "names of letters, digits and _") from None


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


def _parse(text: str, old: Any, where: str) -> Any:
    if isinstance(old, str):
        return text
    value = _literal(text)
    if isinstance(old, bool) and not isinstance(value, bool):
        raise InputError(where, text, "true or false")
    if isinstance(old, int) and not isinstance(old, bool) and (isinstance(value, bool) or not isinstance(value, int)):
        raise InputError(where, text, "a whole number")
    if isinstance(old, float):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(where, text, "a number")
        return float(value)
    if isinstance(old, tuple | list):
        value = value if isinstance(value, tuple | list) else (value,)
        return tuple(value)
    return value
