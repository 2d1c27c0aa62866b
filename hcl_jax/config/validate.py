"""Checks a whole config before anything is built. The first fault found is one line that names the field."""

import importlib.util
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jaxtyping import AbstractArray

from hcl_jax import config as configs
from hcl_jax.core import memory_bank, objectives
from hcl_jax.core.towers import head_order, with_read
from hcl_jax.errors import InputError, nearest
from hcl_jax.losses import WEIGHTS
from hcl_jax.similarity import ENGINES

KINDS = ("image", "series", "text", "graph", "features")
# A loss divides by these or scales logits with them.
POSITIVE = (
    *("temperature", "student_temperature", "teacher_temperature", "base_temperature"),
    *("scale", "beta", "epsilon"),
)
PART_FIELDS = (  # of data that a part of a mixture may have of its own
    *("name", "dir", "train_split", "test_split", "num_examples", "labels", "num_classes"),
    *("shape", "text", "standardise", "in_memory", "prepare"),
)
SPEC_FIELDS = {
    "view": ("kind", "field", "ops", "draws", "missing", "swapped"),
    "evaluation view": ("kind", "field", "ops", "draws", "missing", "tower", "output"),
    "tower": ("views", "encoder", "heads", "target", "memory", "batching", "bn_groups", "frozen"),
    "target": ("momentum", "schedule", "heads", "stats"),
}


def check(
    config: Any, *, encoders: Mapping, heads: Mapping, losses: Mapping, views: Mapping, kinds: Mapping | tuple = KINDS
) -> None:
    """Raises InputError at the first field that cannot be built.

    Args:
      config: completed and frozen (config.complete).
      encoders, heads, losses, views: the tables that names are looked up in.
      kinds: the known kinds of view.
    """
    c = config.to_dict()
    _structure(c)
    limits(config)
    _numbers(c)
    for name, view in c["views"].items():
        _view(f"config.views.{name}", view, views, kinds, SPEC_FIELDS["view"])
    _noise(c)
    _towers(c, encoders, heads)
    made = outputs_of(c)
    for name, spec in c["objectives"].items():
        _objective(f"config.objectives.{name}", spec, made, c, losses)
    _memory(c, made)
    _evaluate(c, made, views, kinds)


def outputs_of(c: Mapping[str, Any]) -> set[str]:
    """Every name that an objective may read: `a.h`, `a.z`, `a.target.z`, `image.memory.queue`."""
    names = set()
    for tower, spec in c["towers"].items():
        for view in spec["views"]:
            names |= {f"{view}.h", f"{view}.tokens"} | {f"{view}.{h}" for h in spec["heads"]}
            if spec["target"]:
                copied = with_read(spec["target"]["heads"], spec["heads"])
                names |= {f"{view}.target.h", f"{view}.target.tokens"} | {f"{view}.target.{h}" for h in copied}
        names |= {f"{tower}.memory.{slot}" for slot in spec["memory"]}
    return names


def limits(config: Any) -> None:
    """Raises InputError for a field of `limits` that is none: they are needed before the rest is checked."""
    reference = configs.defaults().limits.to_dict()
    found = config.to_dict().get("limits", reference)
    if not isinstance(found, Mapping):
        raise InputError("config.limits", repr(found), "fields by name")
    _same_fields("config.limits", found, reference)
    for field, least in (("watchdog", 0), ("heartbeat", 1), ("phase", 1), ("barrier", 1)):
        _same_type(f"config.limits.{field}", found[field], reference[field])
        _range(f"config.limits.{field}", found[field], found[field] >= least, f">= {least} seconds")


def _structure(c: Mapping[str, Any]) -> None:
    reference = configs.defaults().to_dict()
    free = ("views", "towers", "objectives")
    _same_fields("config", c, reference)
    for section, fields in reference.items():
        if not isinstance(fields, dict):
            _same_type(f"config.{section}", c[section], fields)
        else:
            if not isinstance(c[section], Mapping):
                raise InputError(f"config.{section}", repr(c[section]), "fields by name")
            if section not in free:
                _same_fields(f"config.{section}", c[section], fields)
                for name, default in fields.items():
                    _same_type(f"config.{section}.{name}", c[section][name], default)
    for section in free:
        if not c[section]:
            raise InputError(f"config.{section}", "none", "at least one entry by name")
        for name, spec in c[section].items():
            if not isinstance(spec, Mapping):
                raise InputError(f"config.{section}.{name}", repr(spec), "fields by name")
            if section in ("views", "towers") and not re.fullmatch(r"\w+", name):
                raise InputError(f"config.{section}", f"the name {name!r}", "letters, digits and _")
            if section in ("views", "towers") and name in (
                "views",
                "labels",
                "index",
                "memory",
                "target",
                "objectives",
            ):
                raise InputError(
                    f"config.{section}", f"the name {name!r}", "a name that references do not use themselves"
                )


def _same_fields(where: str, found: Mapping, known: Mapping | tuple, needed: Mapping | tuple | None = None) -> None:
    for name in found:
        if name not in known:
            raise InputError(f"{where}.{name}", "a field nobody reads", f"nearest {nearest(name, known)}")
    for name in known if needed is None else needed:
        if name not in found:
            raise InputError(f"{where}.{name}", "nothing", "this field is needed")


def _same_type(where: str, value: Any, default: Any) -> None:
    if isinstance(default, bool):
        good, text = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        good, text = isinstance(value, int) and not isinstance(value, bool), "a whole number"
    elif isinstance(default, float):
        good, text = _is_number(value), "a number"
    elif isinstance(default, str):
        good, text = isinstance(value, str), "text"
    elif isinstance(default, tuple | list):
        good, text = isinstance(value, tuple | list), "a list"
    else:
        good, text = value is None or isinstance(value, Mapping), "fields by name, or None"
    if not good:
        raise InputError(where, repr(value), text)


def _range(where: str, value: float, good: bool, allowed: str) -> None:
    if not good:
        raise InputError(where, value, allowed)


def _is_number(value: Any, whole: bool = False) -> bool:
    kinds = int if whole else int | float
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


def _number(where: str, value: Any, good: Callable[[Any], bool], allowed: str, whole: bool = False) -> None:
    """As _range, for a value of a spec, which may be of any type."""
    if not _is_number(value, whole) or not good(value):
        raise InputError(where, repr(value), allowed)


def _list(where: str, value: Any, allowed: str) -> None:
    if not isinstance(value, tuple | list):
        raise InputError(where, repr(value), allowed)


def _mapping(where: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise InputError(where, repr(value), "fields by name")


def _numbers(c: Mapping[str, Any]) -> None:
    data, train, optimizer = c["data"], c["train"], c["optimizer"]
    _range("config.seed", c["seed"], 0 <= c["seed"] < 2**32, "0 to 2**32 - 1")
    _range("config.data.batch_size", data["batch_size"], data["batch_size"] >= 1, ">= 1")
    _range("config.data.num_examples", data["num_examples"], data["num_examples"] >= 0, ">= 0; 0 takes all")
    most = data["max_bad_records"]
    _range("config.data.max_bad_records", most, most >= 0, ">= 0; 0 ends the run at the first bad record")
    _parts(data)
    _range("config.evaluate.batch_size", c["evaluate"]["batch_size"], c["evaluate"]["batch_size"] >= 1, ">= 1")
    _range("config.train.similarity_mib", train["similarity_mib"], train["similarity_mib"] >= 0, ">= 0")
    fits = 0 <= train["steps"] < 2**31
    _range("config.train.steps", train["steps"], fits, ">= 0 and below 2**31; 0 counts from train.epochs")
    _range("config.train.epochs", train["epochs"], train["steps"] > 0 or train["epochs"] > 0, "> 0, or train.steps > 0")
    k = train["accumulate"]
    _range(
        "config.train.accumulate",
        k,
        k >= 1 and data["batch_size"] % k == 0,
        f"a divisor of data.batch_size {data['batch_size']}",
    )
    part, cache = data["batch_size"] // k, train["cache"]
    _range(
        "config.train.cache", cache, cache >= 1 and part % cache == 0, f"a divisor of the (accumulated) batch {part}"
    )
    for field in ("compute_dtype", "param_dtype"):
        _one_of(f"config.train.{field}", train[field], ("float32", "bfloat16", "float16", "float64"))
    _range("config.optimizer.learning_rate", optimizer["learning_rate"], optimizer["learning_rate"] > 0, "> 0")
    _one_of("config.train.engine", train["engine"], ENGINES)
    _one_of("config.optimizer.name", optimizer["name"], ("sgd", "adamw", "lars", "lamb"))
    _one_of("config.optimizer.scaling", optimizer["scaling"], ("none", "linear", "sqrt"))
    _one_of("config.optimizer.schedule", optimizer["schedule"], ("constant", "cosine"))
    for field in ("momentum", "b1", "b2"):
        _range(f"config.optimizer.{field}", optimizer[field], 0 <= optimizer[field] < 1, "0 <= x < 1")
    _range("config.optimizer.average", optimizer["average"], 0 <= optimizer["average"] <= 1, "0 <= x <= 1")
    _one_of("config.data.order", data["order"], ("shuffled", "whole"))
    _range("config.data.labelled", data["labelled"], 0 < data["labelled"] <= 1, "0 < x <= 1")
    for field in ("accumulate", "cache"):
        if data["order"] == "whole" and train[field] > 1:
            raise InputError(f"config.train.{field}", train[field], "1, for data.order is whole")
    _range("config.train.seeds", train["seeds"], train["seeds"] >= 1, ">= 1")
    _one_of("config.evaluate.scaling", c["evaluate"]["scaling"], ("columns", "rows"))
    folds = c["evaluate"]["folds"]
    _range("config.evaluate.folds", folds, folds == 0 or folds >= 2, "0, or 2 and more")
    if folds and c["evaluate"]["retrieval"]:
        raise InputError("config.evaluate.folds", folds, "0, for evaluate.retrieval is read on a test split")
    for field in ("weight_decay", "warmup_steps", "warmup_epochs", "clip", "eps", "trust_coefficient"):
        _range(f"config.optimizer.{field}", optimizer[field], optimizer[field] >= 0, ">= 0")
    for field in ("every", "keep"):
        _range(f"config.checkpoint.{field}", c["checkpoint"][field], c["checkpoint"][field] >= 1, ">= 1")
    for field in ("keep_best", "keep_every"):
        _range(f"config.checkpoint.{field}", c["checkpoint"][field], c["checkpoint"][field] >= 0, ">= 0")
    _one_of("config.checkpoint.best_mode", c["checkpoint"]["best_mode"], ("max", "min"))
    _one_of("config.checkpoint.on_error", c["checkpoint"]["on_error"], ("stop", "go_on"))
    if c["checkpoint"]["keep_best"] and not (c["checkpoint"]["best_metric"] and c["evaluate"]["every"]):
        found = f"{c['checkpoint']['keep_best']} without a best_metric, or with evaluate.every 0"
        raise InputError("config.checkpoint.keep_best", found, "a metric of the evaluations while the run trains")
    _range("config.log.every", c["log"]["every"], c["log"]["every"] >= 1, ">= 1")
    _range("config.log.spike", c["log"]["spike"], c["log"]["spike"] >= 0, ">= 0 deviations, 0 for no warning")
    _range("config.log.collapse", c["log"]["collapse"], 0 <= c["log"]["collapse"] < 1, "0 <= x < 1, 0 for no warning")
    if c["log"]["wandb"] and importlib.util.find_spec("wandb") is None:
        raise InputError("config.log.wandb", "true, but wandb is not installed", "pip install hcl_jax[wandb]")
    for size in data["shape"]:
        _number("config.data.shape", size, lambda x: x >= 1, "whole numbers >= 1", whole=True)
    for where, patterns in (
        ("config.optimizer.exclude", optimizer["exclude"]),
        ("config.optimizer.unit_norm", optimizer["unit_norm"]),
        ("config.optimizer.rules", [r[0] for r in _pairs("config.optimizer.rules", optimizer["rules"])]),
        ("config.mesh.rules", [r[0] for r in _pairs("config.mesh.rules", c["mesh"]["rules"])]),
        ("config.init_from.include", c["init_from"]["include"]),
        ("config.init_from.exclude", c["init_from"]["exclude"]),
        ("config.init_from.rename", [r[0] for r in _pairs("config.init_from.rename", c["init_from"]["rename"])]),
    ):
        for pattern in patterns:
            try:
                re.compile(pattern)
            except (re.error, TypeError):
                raise InputError(where, repr(pattern), "a regular expression") from None
    for pattern, replacement in c["init_from"]["rename"]:
        try:
            re.sub(pattern, replacement, "")
        except (re.error, TypeError, IndexError):
            allowed = f"text, with groups of its pattern {pattern!r}"
            raise InputError("config.init_from.rename", repr(replacement), allowed) from None


def _parts(data: Mapping[str, Any]) -> None:
    """The parts of a mixture: fields of data that a part may have of its own, and its weight."""
    where, parts = "config.data.parts", data["parts"]
    if bool(parts) != (data["name"] == "mixture"):
        found = f"{len(parts)} parts" if parts else "none"
        raise InputError(where, found, "parts by name where data.name is mixture, none elsewhere")
    if not parts:
        return
    for field, plain in {"sample": 0, "generated": "", "order": "shuffled"}.items():
        if data[field] != plain:
            raise InputError(f"config.data.{field}", repr(data[field]), f"{plain!r} for a mixture")
    own = {field: data[field] for field in PART_FIELDS}
    for name, part in parts.items():
        _mapping(f"{where}.{name}", part)
        _same_fields(f"{where}.{name}", part, (*own, "weight"), ("name",))
        for field, value in part.items():
            if field == "weight":
                _number(f"{where}.{name}.weight", value, lambda x: x > 0, "> 0")
            else:
                _same_type(f"{where}.{name}.{field}", value, own[field])
        if part["name"] == "mixture":
            raise InputError(f"{where}.{name}.name", "'mixture'", "a source that is no mixture")


def _noise(c: Mapping[str, Any]) -> None:
    """What noise.py takes; how many records and classes there are shows when the data are open."""
    data, whole = c["data"], c["data"]["order"] == "whole"
    sample, most, flipped = data["sample"], data["num_examples"], data["flipped"]
    _range("config.data.sample", sample, sample >= 0, ">= 0; 0 takes all")
    _range("config.data.sample", sample, not most or sample <= most, f"at most data.num_examples {most}")
    _range("config.data.sample", sample, not (whole and sample), "0, for data.order is whole")
    _range("config.data.flipped", flipped, 0 <= flipped <= 1, "0 <= x <= 1, a share of the labels")
    _range("config.data.flipped", flipped, not flipped or data["labels"], "0, for data.labels has none")
    for name, view in c["views"].items():
        where, share = f"config.views.{name}.swapped", "0 <= x <= 1, the share of examples with the view of another"
        _number(where, view["swapped"], lambda x: 0 <= x <= 1, share)
        _range(where, view["swapped"], not (whole and view["swapped"]), "0, for data.order is whole")


def _pairs(where: str, rules: Any) -> Any:
    for rule in rules:
        if not isinstance(rule, tuple | list) or len(rule) != 2:
            raise InputError(where, repr(rule), "pairs (regular expression, value)")
    return rules


def _one_of(where: str, value: Any, known: Any) -> None:
    if not isinstance(value, str) or value not in known:
        raise InputError(where, repr(value), nearest(value, known))


def _call(where: str, make: Callable, given: Mapping[str, Any], hidden: tuple[str, ...]) -> None:
    """Holds the keywords that a spec gives against the signature that will receive them."""
    parameters = inspect.signature(make).parameters
    known = [n for n, p in parameters.items() if n not in hidden and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
        for name in given:
            if name not in known:
                raise InputError(f"{where}.{name}", "an argument nobody reads", nearest(name, known))
    for name in known:
        if parameters[name].default is inspect.Parameter.empty and name not in given:
            raise InputError(f"{where}.{name}", "nothing", "this argument is needed")
        kind = parameters[name].annotation
        moving = name in given and (objectives.is_learned(given[name]) or objectives.is_scheduled(given[name]))
        fixed = kind is not inspect.Parameter.empty and not any(map(_is_array, (kind, *typing.get_args(kind))))
        if moving and fixed:
            raise InputError(f"{where}.{name}", repr(given[name]), "a fixed value: this argument cannot move")
        if name in given and not moving and not _fits(given[name], kind):
            text = re.sub(r"[\w.]+\.(?=[A-Z])", "", inspect.formatannotation(kind)).replace(" | Array", "")
            raise InputError(f"{where}.{name}", repr(given[name]), text)


def _is_array(kind: Any) -> bool:
    """Whether an annotation is an array, with its shape (Float[Array, "n d"]) or without (Array)."""
    return kind is jax.Array or (isinstance(kind, type) and issubclass(kind, AbstractArray))


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value from a config may be passed where `kind` is annotated; yes where that says nothing."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, k) for k in inside)
    if origin is typing.Literal:
        return value in inside
    if origin in (Sequence, list):
        return isinstance(value, tuple | list) and all(_fits(v, inside[0]) for v in value)
    if kind is types.NoneType or _is_array(kind):
        return value is None
    if kind in (bool, str):
        return isinstance(value, kind)
    return _is_number(value, whole=kind is int) if kind in (int, float) else True


def _view(where: str, view: Mapping, views: Mapping, kinds: Any, fields: tuple[str, ...]) -> None:
    _same_fields(where, view, fields)
    _one_of(f"{where}.kind", view["kind"], kinds)
    share = "0 <= x < 1, the share of examples without it"
    _number(f"{where}.missing", view["missing"], lambda x: 0 <= x < 1, share)
    for name in ("field", "draws"):
        if not isinstance(view[name], str):
            raise InputError(f"{where}.{name}", repr(view[name]), "text")
    _list(f"{where}.ops", view["ops"], 'a list of {"op": name, ...}')
    for i, op in enumerate(view["ops"]):
        if not isinstance(op, Mapping) or "op" not in op:
            raise InputError(f"{where}.ops.{i}", repr(op), '{"op": name, ...}')
        _one_of(f"{where}.ops.{i}.op", op["op"], views)
        function = views[op["op"]]
        hidden = tuple(inspect.signature(function).parameters)[:2]  # the pixels and the random numbers
        _call(f"{where}.ops.{i}", function, {k: v for k, v in op.items() if k != "op"}, hidden)


def _module(where: str, spec: Any, table: Mapping, extra: tuple[str, ...] = ()) -> None:
    if not isinstance(spec, Mapping) or "name" not in spec:
        raise InputError(where, repr(spec), '{"name": ..., ...}')
    _one_of(f"{where}.name", spec["name"], table)
    given = {k: v for k, v in spec.items() if k not in ("name", *extra)}
    _call(where, table[spec["name"]], given, ("parent", "name", "dtype", "param_dtype"))


def _towers(c: Mapping[str, Any], encoders: Mapping, heads: Mapping) -> None:
    owner: dict[str, str] = {}
    for name, spec in c["towers"].items():
        where = f"config.towers.{name}"
        _same_fields(where, spec, SPEC_FIELDS["tower"])
        _list(f"{where}.views", spec["views"], f"a list of some of {nearest('', c['views'])}")
        for part in ("heads", "memory", *(("target",) if spec["target"] is not None else ())):
            _mapping(f"{where}.{part}", spec[part])
        if not spec["views"]:
            raise InputError(f"{where}.views", "none", f"some of {nearest('', c['views'])}")
        for view in spec["views"]:
            _one_of(f"{where}.views", view, c["views"])
            if view in owner:
                raise InputError(
                    f"{where}.views", f"{view!r}, which tower {owner[view]!r} has", "each view in one tower"
                )
            owner[view] = name
        _one_of(f"{where}.batching", spec["batching"], ("joint", "per_view"))
        whole = "a whole number >= 1; 1 = over the whole batch"
        _same_type(f"{where}.frozen", spec["frozen"], False)
        _number(f"{where}.bn_groups", spec["bn_groups"], lambda x: x >= 1, whole, whole=True)
        if c["data"]["batch_size"] // c["train"]["accumulate"] % spec["bn_groups"]:
            raise InputError(f"{where}.bn_groups", spec["bn_groups"], "a divisor of the (accumulated) batch")
        _module(f"{where}.encoder", spec["encoder"], encoders)
        for head, h in spec["heads"].items():
            _module(f"{where}.heads.{head}", h, heads, ("reads",))
            _one_of(f"{where}.heads.{head}.reads", h["reads"], ("h", "tokens", *spec["heads"]))
        order = head_order(spec["heads"])
        for i, head in enumerate(order):
            if spec["heads"][head]["reads"] in order[i:]:
                raise InputError(
                    f"{where}.heads.{head}.reads", spec["heads"][head]["reads"], "heads that read no circle"
                )
        if spec["target"]:
            _target(f"{where}.target", spec)


def _target(where: str, spec: Mapping) -> None:
    target = spec["target"]
    _same_fields(where, target, SPEC_FIELDS["target"])
    _number(f"{where}.momentum", target["momentum"], lambda m: 0 <= m <= 1, "0 <= m <= 1")
    _one_of(f"{where}.schedule", target["schedule"], ("constant", "cosine"))
    _one_of(f"{where}.stats", target["stats"], ("own", "ema", "online"))
    _list(f"{where}.heads", target["heads"], "a list of heads")
    for head in target["heads"]:
        _one_of(f"{where}.heads", head, spec["heads"])


def _reference(where: str, text: Any, made: set[str], c: Mapping[str, Any]) -> None:
    reference = objectives.parse(text) if isinstance(text, str) else None
    if reference is None:
        raise InputError(
            where, repr(text), "view.output, view.target.output, tower.memory.slot, views.view.field, labels.name"
        )
    if reference.kind == "labels":
        if reference.name not in c["data"]["labels"]:
            raise InputError(
                where, repr(text), f"labels of data.labels: {nearest(reference.name, c['data']['labels'])}"
            )
    elif reference.kind == "views":
        _one_of(where, reference.owner, c["views"])
    elif reference.kind != "index" and text not in made:
        raise InputError(where, f"{text!r}, which no view or tower makes", f"nearest {nearest(text, made)}")


def _objective(where: str, spec: Mapping[str, Any], made: set[str], c: Mapping[str, Any], losses: Mapping) -> None:
    for field in ("loss", "inputs"):
        if field not in spec:
            raise InputError(f"{where}.{field}", "nothing", "this field is needed")
    _one_of(f"{where}.loss", spec["loss"], losses)
    _list(f"{where}.inputs", spec["inputs"] or None, "a list of names")
    for text in spec["inputs"]:
        _reference(f"{where}.inputs", text, made, c)
    _reference(f"{where}.pairs", spec["pairs"], made, c)
    if isinstance(spec["row_weights"], Mapping):
        _row_weights(f"{where}.row_weights", spec["row_weights"], made, c)
    elif spec["row_weights"] is not None:
        _reference(f"{where}.row_weights", spec["row_weights"], made, c)
    loss = losses[spec["loss"]]
    given = {k: v for k, v in spec.items() if k not in objectives.RESERVED}
    parameters = inspect.signature(loss).parameters
    _count(f"{where}.inputs", spec["inputs"], loss)
    for field, keyword, off in (("row_weights", "row_weights", None), ("pairs", "ids", "index")):
        if spec[field] != off and keyword not in parameters:
            raise InputError(f"{where}.{field}", repr(spec[field]), f"{off!r}: {spec['loss']} reads no {keyword}")
    if "engine" in spec:
        _one_of(f"{where}.engine", spec["engine"], ENGINES)
    _call(where, loss, given, (*_arrays(loss), *objectives.GIVEN))
    for name, value in {**given, "weight": spec["weight"]}.items():
        if isinstance(value, Mapping):
            (_scheduled if objectives.is_scheduled(value) else _learned)(f"{where}.{name}", value, name)
        elif name in POSITIVE and value is not None:
            _number(f"{where}.{name}", value, lambda x: x > 0, "a number > 0")
    weight = spec["weight"]
    if objectives.is_learned(weight) and (weight["learn"] != "linear" or "max" in weight):
        raise InputError(
            f"{where}.weight", repr(weight), "{learn: linear, init: 0}, the uncertainty weight exp(-s) L + s"
        )
    if not isinstance(spec["weight"], Mapping) and not _is_number(spec["weight"]):
        allowed = "a number, {learn: linear, init: 0}, or {schedule: linear, start: 0, end: 1, steps: 100}"
        raise InputError(f"{where}.weight", repr(spec["weight"]), allowed)


def _arrays(function: Callable) -> tuple[str, ...]:
    """The names of a function's arrays."""
    parameters = inspect.signature(function).parameters
    return tuple(n for n, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


def _count(where: str, inputs: Any, function: Callable) -> None:
    """Refuses more or fewer inputs than a function has arrays."""
    parameters, arrays = inspect.signature(function).parameters, _arrays(function)
    variadic = any(p.kind == p.VAR_POSITIONAL for p in parameters.values())
    needed = sum(parameters[n].default is inspect.Parameter.empty for n in arrays)
    if len(inputs) < needed or (len(inputs) > len(arrays) and not variadic):
        raise InputError(where, f"{len(inputs)} names", f"{len(arrays)} ({', '.join(arrays)})")


def _row_weights(where: str, spec: Mapping[str, Any], made: set[str], c: Mapping[str, Any]) -> None:
    """Row weights that a function makes of outputs: {"weights": name, "inputs": names, argument: value}."""
    for field in objectives.WEIGHTS_RESERVED:
        if field not in spec:
            raise InputError(f"{where}.{field}", "nothing", "this field is needed")
    _one_of(f"{where}.weights", spec["weights"], WEIGHTS)
    function = WEIGHTS[spec["weights"]]
    _list(f"{where}.inputs", spec["inputs"] or None, "a list of names")
    for text in spec["inputs"]:
        _reference(f"{where}.inputs", text, made, c)
    _count(f"{where}.inputs", spec["inputs"], function)
    given = {k: v for k, v in spec.items() if k not in objectives.WEIGHTS_RESERVED}
    _call(where, function, given, (*_arrays(function), *objectives.GIVEN))
    for name, value in given.items():
        if objectives.is_learned(value):
            raise InputError(f"{where}.{name}", repr(value), "a number or a schedule: weights take no gradient")
        if isinstance(value, Mapping):
            _scheduled(f"{where}.{name}", value, name)
    if "groups" in given:
        rows = [c["data"]["batch_size"] // c["train"]["accumulate"]]
        rows += [c["evaluate"]["batch_size"]] if c["evaluate"]["objectives"] else []
        good = given["groups"] >= 1 and not any(n % given["groups"] for n in rows)
        _range(f"{where}.groups", given["groups"], good, f"a divisor of {' and '.join(map(str, rows))} rows")


def _learned(where: str, value: Mapping[str, Any], name: str) -> None:
    _same_fields(where, value, ("learn", "init", "max"), ("learn", "init"))
    _one_of(f"{where}.learn", value["learn"], ("exp", "linear", "simplex"))
    if value["learn"] == "simplex":
        _number(f"{where}.init", value["init"], lambda n: n >= 2, "how many probabilities, 2 or more", whole=True)
        return
    positive = value["learn"] == "exp" or name in POSITIVE
    for field in ("init", *(("max",) if "max" in value else ())):
        allowed = "a number > 0" if positive else "a number"
        _number(f"{where}.{field}", value[field], lambda x: x > 0 or not positive, allowed)


def _scheduled(where: str, value: Mapping[str, Any], name: str) -> None:
    _same_fields(where, value, ("schedule", "start", "end", "steps"))
    _one_of(f"{where}.schedule", value["schedule"], ("linear", "cosine"))
    for field in ("start", "end"):
        allowed = "a number > 0" if name in POSITIVE else "a number"
        _number(f"{where}.{field}", value[field], lambda x: x > 0 or name not in POSITIVE, allowed)
    _number(f"{where}.steps", value["steps"], lambda n: n >= 1, "a whole number >= 1", whole=True)


def _memory(c: Mapping[str, Any], made: set[str]) -> None:
    fields = {"fifo": ("kind", "reads", "size"), "mean_ema": ("kind", "reads", "momentum")}
    for tower, spec in c["towers"].items():
        for slot, s in spec["memory"].items():
            where = f"config.towers.{tower}.memory.{slot}"
            _mapping(where, s)
            _one_of(f"{where}.kind", s["kind"], fields)
            _same_fields(where, s, fields[s["kind"]])
            if not isinstance(s["reads"], str):
                _list(f"{where}.reads", s["reads"] or None, "a name, or a list of names")
            names = memory_bank.reads(s)
            for name in names:
                _reference(f"{where}.reads", name, made, c)
                reference = objectives.parse(name)
                if reference is None or reference.kind not in ("output", "target"):
                    raise InputError(f"{where}.reads", repr(name), "an output of a view")
            if s["kind"] == "fifo":
                batch = c["data"]["batch_size"] * len(names)
                multiple = f"a multiple of the {batch} rows that a step writes"
                _number(f"{where}.size", s["size"], lambda x: x >= 1, multiple, whole=True)
                _range(f"{where}.size", s["size"], s["size"] % batch == 0, multiple)
            else:
                _number(f"{where}.momentum", s["momentum"], lambda m: 0 <= m < 1, "0 <= m < 1")


def _evaluate(c: Mapping[str, Any], made: set[str], views: Mapping, kinds: Any) -> None:
    spec = c["evaluate"]
    for name, view in spec["views"].items():
        where = f"config.evaluate.views.{name}"
        _mapping(where, view)
        _view(where, view, views, kinds, SPEC_FIELDS["evaluation view"])
        _one_of(f"{where}.tower", view["tower"], c["towers"])
        _one_of(f"{where}.output", view["output"], ("h", *c["towers"][view["tower"]]["heads"]))
    if spec["views"] and spec["labels"] and spec["labels"] not in c["data"]["labels"]:
        raise InputError(
            "config.evaluate.labels",
            repr(spec["labels"]),
            f"'' or one of {nearest(spec['labels'], c['data']['labels'])}",
        )
    for pair in spec["retrieval"]:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(
                "config.evaluate.retrieval", repr(pair), "pairs of evaluation outputs: ('image.z', 'text.z')"
            )
        for name in pair:
            view, _, output = str(name).partition(".")
            _one_of("config.evaluate.retrieval", view, spec["views"])
            _one_of("config.evaluate.retrieval", output, ("h", *c["towers"][spec["views"][view]["tower"]]["heads"]))
    for field in ("recall_at", "per_class"):
        for k in spec[field]:
            _number(f"config.evaluate.{field}", k, lambda x: x >= 1, "whole numbers >= 1", whole=True)
    if spec["retrieval"] and not spec["recall_at"]:
        raise InputError("config.evaluate.recall_at", "none", "at least one whole number, for evaluate.retrieval")
    _range("config.evaluate.draws", spec["draws"], spec["draws"] >= 1, ">= 1")
    if spec["knn"] is not None:
        _same_fields("config.evaluate.knn", spec["knn"], ("k", "temperature"))
        _number("config.evaluate.knn.k", spec["knn"]["k"], lambda k: k >= 1, "a whole number >= 1", whole=True)
        _number("config.evaluate.knn.temperature", spec["knn"]["temperature"], lambda t: t > 0, "a number > 0")
