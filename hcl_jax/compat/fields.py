"""Fields of old configs, read and translated: the evaluators that were fields of `evaluate` before they were entries.

| before | now, in evaluate.evaluators |
|---|---|
| `knn = {"k": 20, "temperature": 0.07}`, None = off | `knn`, with these arguments |
| `linear`, `svm`, `objectives` = True or False | `linear`, `svm`, `objectives` |
| `nearest_neighbour` = True or False | `one_nn` |
| `per_class = (1, 10)`, () = off | `few_labels`, with this argument |
| `retrieval = (("image.z", "text.z"),)`, () = off | `retrieval`, with these views |
| `scaling`, `draws`, `recall_at` | arguments of `linear`, of `few_labels` and, as `ks`, of `retrieval` |
"""

from collections.abc import Iterable, Mapping
from typing import Any

from hcl_jax.errors import InputError

SWITCHES = {"linear": "linear", "svm": "svm", "objectives": "objectives", "nearest_neighbour": "one_nn"}
LISTS = {"per_class": ("few_labels", "per_class"), "retrieval": ("retrieval", "views")}
ARGUMENTS = {
    "scaling": ("linear", "scaling", "columns"),
    "draws": ("few_labels", "draws", 5),
    "recall_at": ("retrieval", "ks", (1, 5)),
}
OLD_FIELDS = ("knn", *SWITCHES, *LISTS, *ARGUMENTS)
# What every run had before: its config.json has no `evaluators`.
BEFORE = {"spread": {}, "knn": {"k": 20, "temperature": 0.07}, "linear": {}}
_KNN = {"k": 20, "temperature": 0.07}


def translated(evaluate: Mapping[str, Any]) -> dict[str, Any]:
    """The section `evaluate` with its old fields put into `evaluators`.

    Args:
      evaluate: a section, with any of the fields of OLD_FIELDS.

    Raises:
      InputError: an old field of a wrong type.
    """
    out = {k: v for k, v in evaluate.items() if k not in OLD_FIELDS}
    old = {k: evaluate[k] for k in OLD_FIELDS if k in evaluate}
    if not old or not isinstance(evaluate.get("evaluators", {}), Mapping):
        return out
    entries: dict[str, Any] = dict(out.get("evaluators", BEFORE))
    for field, value in old.items():
        _check(field, value)
    if "knn" in old:
        _put(entries, "knn", old["knn"])
    for field, name in SWITCHES.items():
        if field in old:
            _put(entries, name, {} if old[field] else None)
    for field, (name, argument) in LISTS.items():
        if field in old:
            _put(entries, name, {argument: old[field]} if old[field] else None)
    for field, (name, argument, default) in ARGUMENTS.items():
        if field not in old or entries.get(name) is None:
            continue
        value = tuple(old[field]) if isinstance(default, tuple) else old[field]
        if value != default or argument in entries[name]:
            _put(entries, name, {argument: value})
    if out.get("labels") == "" and "evaluators" not in out:  # of views without labels, retrieval alone was evaluated
        entries = {k: v for k, v in entries.items() if k in ("retrieval", "objectives")}
    return {**out, "evaluators": entries}


def check_once(fields: Iterable[str]) -> None:
    """Refuses what sets an evaluator by its old field and by its entry: one of the two would go without a word.

    Args:
      fields: those that one command sets, such as "evaluate.knn" and "evaluate.evaluators.knn.k".

    Raises:
      InputError: both names of one evaluator.
    """
    names = {"knn": "knn", **SWITCHES, **{old: new[0] for old, new in {**LISTS, **ARGUMENTS}.items()}}
    set_here = [tuple(field.split(".")) for field in fields]
    for path in set_here:
        if path[0] == "evaluate" and path[1:2] and path[1] in names:
            entry = ("evaluate", "evaluators", names[path[1]])
            other = next((".".join(p) for p in set_here if p[:3] == entry), None)
            if other:
                raise InputError(f"--config.{'.'.join(path)}", f"beside --config.{other}", "one of the two")


def old_value(evaluate: Mapping[str, Any], field: str) -> Any:
    """What an old field would be for this section: where its translation comes from."""
    entries = evaluate.get("evaluators", {})
    entries = entries if isinstance(entries, Mapping) else {}  # refused later, where all fields are checked
    if field == "knn":
        return {**_KNN, **_arguments(entries, "knn", _KNN)} if entries.get("knn") is not None else None
    if field in SWITCHES:
        return entries.get(SWITCHES[field]) is not None
    name, argument, default = ARGUMENTS[field] if field in ARGUMENTS else (*LISTS[field], ())
    return _arguments(entries, name, (argument,)).get(argument, default)


def _arguments(entries: Mapping[str, Any], name: str, known: Any) -> dict[str, Any]:
    entry = entries.get(name)
    return {k: entry[k] for k in known if k in entry} if isinstance(entry, Mapping) else {}


def _put(entries: dict[str, Any], name: str, arguments: Any) -> None:
    """Adds arguments to an entry, or takes it away where they are None."""
    if arguments is None:
        entries.pop(name, None)
    else:
        entries[name] = {**(entries.get(name) or {}), **arguments}


def _check(field: str, value: Any) -> None:
    if field in SWITCHES:
        good, text = isinstance(value, bool), "true or false"
    elif field == "knn":
        good, text = value is None or isinstance(value, Mapping), "fields by name, or None"
    elif field == "scaling":
        good, text = value in ("columns", "rows"), "columns, rows"
    elif field == "draws":
        good, text = _counts([value]), "a whole number >= 1"
    elif field == "retrieval":
        good, text = isinstance(value, tuple | list), "a list of pairs"
    else:
        good, text = isinstance(value, tuple | list) and _counts(value), "a list of whole numbers >= 1"
    if not good:
        raise InputError(f"config.evaluate.{field}", repr(value), text)


def _counts(values: Any) -> bool:
    return all(isinstance(v, int) and not isinstance(v, bool) and v >= 1 for v in values)
