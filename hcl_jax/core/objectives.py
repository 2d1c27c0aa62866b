"""Objectives: outputs -> weighted loss. An objective is a loss bound to the names that it reads."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hcl_jax.errors import InputError, nearest
from hcl_jax.losses import WEIGHTS
from hcl_jax.losses.spread import spread

RESERVED = ("loss", "inputs", "weight", "pairs", "row_weights", "engine")
WEIGHTS_RESERVED = ("weights", "inputs")
GIVEN = ("ids", "row_weights", "engine", "present")  # keywords of a loss that the model fills in, not the recipe


class Reference(NamedTuple):
    """`a.z` -> ("output", "a", "z"); also target, memory, views, labels, index. `image.memory.queue.prototypes`, a head
    over the rows of a slot, is ("memory", "image", "queue.prototypes")."""

    kind: str
    owner: str = ""
    name: str = ""


def parse(text: str) -> Reference | None:
    """Reads a name that an objective may use; None when it has none of the forms."""
    match text.split("."):
        case ["index"]:
            return Reference("index")
        case ["labels", name]:
            return Reference("labels", "", name)
        case ["views", view, field]:
            return Reference("views", view, field)
        case [tower, "memory", slot]:
            return Reference("memory", tower, slot)
        case [tower, "memory", slot, head]:
            return Reference("memory", tower, f"{slot}.{head}")
        case [view, "target", output]:
            return Reference("target", view, output)
        case [view, output]:
            return Reference("output", view, output)
    return None


def read(text: str, *, batch: Mapping, outputs: Mapping, target: Mapping, memory: Mapping) -> jax.Array:
    """The array that a reference names."""
    reference = parse(text)
    assert reference is not None, text  # validate.py has refused it before
    kind, owner, name = reference
    match kind:
        case "index":
            return batch["index"]
        case "labels":
            return batch["labels"][name]
        case "memory":
            return memory[owner][name]["rows"]
    made = {"views": batch["views"], "target": target, "output": outputs}[kind][owner]
    if name not in made:  # only the encoder and the operations know these names
        raise InputError("config.objectives or memory", f"{text!r}, which is not made", nearest(name, made))
    return jax.lax.stop_gradient(made[name]) if kind == "target" else made[name]


def is_learned(value: Any) -> bool:
    """A hyper-parameter given as {"learn": "exp" | "linear" | "simplex", "init": x, "min": y, "max": z} is trained."""
    return isinstance(value, Mapping) and "learn" in value


def is_scheduled(value: Any) -> bool:
    """A hyper-parameter given as {"schedule": "linear" | "cosine", "start": a, "end": b, "steps": n} moves."""
    return isinstance(value, Mapping) and "schedule" in value


def init(spec: Mapping[str, Any], dtype: Any) -> dict[str, jax.Array]:
    """The trained hyper-parameters of an objective.

    log(x) for "exp", x for "linear", s for an uncertainty weight; zeros [x] for "simplex", x probabilities that start
    equal.
    """
    params = {}
    for name, value in spec.items():
        if is_learned(value):
            start = jnp.asarray(value["init"], dtype)
            match value["learn"]:
                case "exp":
                    params[name] = jnp.log(start)
                case "linear":
                    params[name] = start
                case "simplex":
                    params[name] = jnp.zeros((value["init"],), dtype)
    return params


def value_of(value: Any, name: str, learned: Mapping[str, jax.Array], step: jax.Array) -> Any:
    """What a hyper-parameter is at a step.

    Learned: exp(p), p, or softmax(p); the optimizer holds the first two between "min" and "max" (`limits`). Scheduled,
    with s = min(h floor(step / h) / n, 1), h = 1 where none is said: a + (b - a) s, or a + (b - a) (1 - cos(pi s)) / 2.
    Else the value itself.
    """
    if is_learned(value):
        param = learned[name]
        if value["learn"] == "simplex":
            return jax.nn.softmax(param)
        made = jnp.exp(param) if value["learn"] == "exp" else param
        if value.get("min") is None and value.get("max") is None:
            return made
        # Weights from elsewhere may be past a limit. The gradient passes, or they would stay there.
        return made + jax.lax.stop_gradient(jnp.clip(made, value.get("min"), value.get("max")) - made)
    if is_scheduled(value):
        hold = value.get("hold", 1)
        held = jnp.asarray(step if hold == 1 else step // hold * hold, jnp.result_type(float))
        share = jnp.minimum(held / value["steps"], 1.0)
        share = share if value["schedule"] == "linear" else (1 - jnp.cos(jnp.pi * share)) / 2
        return value["start"] + (value["end"] - value["start"]) * share
    return value


def limits(specs: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """{path of a trained hyper-parameter: (least, most) that it may be after an update}, of those that have a limit.

    Of "exp" the limits of p are the logarithms of "min" and "max", so that exp(p) is within them.
    """
    found = {}
    for objective, spec in specs.items():
        for name, value in spec.items():
            if is_learned(value) and not (value.get("min") is None and value.get("max") is None):
                low, high = value.get("min"), value.get("max")
                if value["learn"] == "exp":
                    low, high = (None if x is None else math.log(x) for x in (low, high))
                ends = (-math.inf if low is None else low, math.inf if high is None else high)
                found[f"objectives/{objective}/{name}"] = ends
    return found


def arguments(loss: Callable) -> set[str]:
    """The keywords that a recipe may give to a loss."""
    parameters = inspect.signature(loss).parameters.values()
    return {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)} - set(GIVEN)


def array_names(function: Callable) -> tuple[str, ...]:
    """The names of the arrays that a loss takes by position; those behind a `*` have none."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


def references(inputs: Sequence[str] | Mapping[str, str]) -> tuple[str, ...]:
    """The references in `inputs`: a list of them, or {array of the function: reference}."""
    return tuple(inputs.values() if isinstance(inputs, Mapping) else inputs)


def bind(function: Callable, inputs: Sequence[str] | Mapping[str, str]) -> tuple[str | None, ...]:
    """The references in the order of a function's arrays; None stands for an optional one that is left out.

    Example: `loss(query, key, negatives=None)` with {"key": "b.z", "query": "a.p"} -> ("a.p", "b.z").
    """
    if not isinstance(inputs, Mapping):
        return tuple(inputs)
    names = array_names(function)
    count = 1 + max(map(names.index, inputs))
    return tuple(inputs.get(name) for name in names[:count])


def with_bound_inputs(specs: Mapping[str, Any], losses: Mapping[str, Callable]) -> dict[str, Any]:
    """Objectives with inputs by name written as the lists that they stand for, so that both spellings compare equal."""
    bound = dict(specs)
    for name, spec in specs.items():
        inputs, loss = spec.get("inputs"), losses.get(spec.get("loss"))
        if isinstance(inputs, Mapping) and loss is not None and set(inputs) <= set(array_names(loss)):
            bound[name] = {**spec, "inputs": bind(loss, inputs)}
    return bound


def known_to(function: Callable, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the keywords that a function has."""
    accepted = inspect.signature(function).parameters
    return {k: v for k, v in keywords.items() if k in accepted}


def weight_names(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """The references that an objective's row weights are made of: one, or the inputs of a function of WEIGHTS."""
    given = spec["row_weights"]
    if isinstance(given, Mapping):
        return references(given["inputs"])
    return (given,) if given else ()


def names_read(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Every reference that an objective reads."""
    return (*references(spec["inputs"]), spec["pairs"], *weight_names(spec))


def _arrays(function: Callable, inputs: Sequence[str] | Mapping[str, str], sources: Mapping[str, Any]) -> list[Any]:
    """What a function is called with by position: the arrays of its inputs, defaults where one is left out."""
    parameters = inspect.signature(function).parameters
    defaults = [parameters[name].default for name in array_names(function)]
    names = bind(function, inputs)
    return [defaults[i] if name is None else read(name, **sources) for i, name in enumerate(names)]


def _masks(names: Sequence[str], present: Mapping[str, jax.Array], rows: int) -> list[jax.Array] | None:
    """For each of these references made from a view: which rows have it; None when none can be absent."""
    owners = [r.owner for r in map(parse, names) if r and r.kind in ("output", "target", "views")]
    if not any(o in present for o in owners):
        return None
    return [present.get(o, jnp.ones(rows, bool)) for o in owners]


def takes_absent(loss: Callable) -> bool:
    """Whether a loss is told which rows are absent: by ids of -1, or by masks."""
    return not {"ids", "present"}.isdisjoint(inspect.signature(loss).parameters)


def check_absent(where: str, spec: Mapping[str, Any], loss: Callable, present: Mapping[str, Any]) -> None:
    """Raises InputError for a loss that would take rows in which a view that it reads is absent.

    Args:
      where: the objective's field.
      spec: of the objective.
      loss: what it names.
      present: {view: mask} of the views that may be absent.
    """
    owners = {r.owner for r in map(parse, references(spec["inputs"])) if r and r.kind in ("output", "target", "views")}
    absent = sorted(owners & set(present))
    if absent and not takes_absent(loss):
        allowed = f"a loss with the keyword ids, which is -1 in rows without {' or '.join(absent)}"
        raise InputError(f"{where}.loss", f"{spec['loss']!r}, which reads no ids", allowed)


def _row_weights(
    given: str | Mapping[str, Any], ids: jax.Array, step: jax.Array, sources: Mapping[str, Any]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The row weights [B] of an objective, no gradient where they are made here; how unequal those are, and what of
    their arguments moves."""
    if not isinstance(given, Mapping):
        return read(given, **sources), {}
    keywords = {k: value_of(v, k, {}, step) for k, v in given.items() if k not in WEIGHTS_RESERVED}
    weights = WEIGHTS[given["weights"]]
    made = jax.lax.stop_gradient(weights(*_arrays(weights, given["inputs"], sources), ids=ids, **keywords))
    valid = ids != -1
    count = jnp.maximum(jnp.sum(valid, dtype=made.dtype), 1)
    deviation = jnp.where(valid, made - jnp.sum(jnp.where(valid, made, 0)) / count, 0)
    moving = {f"row_weights_{k}": keywords[k] for k, v in given.items() if is_scheduled(v)}
    return made, {"row_weights_std": jnp.sqrt(jnp.sum(deviation**2) / count), **moving}


def evaluate(
    spec: Mapping[str, Any],
    loss: Callable,
    measures: Mapping[str, Callable],
    learned: Mapping[str, jax.Array],
    engine: Any,
    *,
    step: jax.Array,
    batch: Mapping,
    outputs: Mapping,
    target: Mapping,
    memory: Mapping,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of one objective over the whole batch, before its weight, and its metrics.

    Rows where a view that the objective reads is absent get the pair id -1: they enter nothing. A loss that has a
    `present` keyword takes the masks of its inputs themselves and decides pair by pair.
    """
    sources = {"batch": batch, "outputs": outputs, "target": target, "memory": memory}
    inputs = _arrays(loss, spec["inputs"], sources)
    ids = read(spec["pairs"], **sources)
    given = {k: v for k, v in spec.items() if k not in RESERVED}
    keywords: dict[str, Any] = {k: value_of(v, k, learned, step) for k, v in given.items()}
    moving = {k: keywords[k] for k, v in given.items() if is_learned(v) or is_scheduled(v)}
    accepted = inspect.signature(loss).parameters
    masks = _masks([n for n in bind(loss, spec["inputs"]) if n], batch["present"], ids.shape[0])
    weighed = _masks(weight_names(spec), batch["present"], ids.shape[0]) or []
    if "present" in accepted:
        keywords["present"] = None if masks is None else tuple(masks)
    else:
        weighed += masks or []
    if weighed:
        ids = jnp.where(jnp.stack(weighed).all(0), ids, -1)
    if "ids" in accepted:
        keywords["ids"] = ids
    metrics: dict[str, jax.Array] = {}
    if spec["row_weights"] and "row_weights" in accepted:
        keywords["row_weights"], metrics = _row_weights(spec["row_weights"], ids, step, sources)
    if "engine" in accepted:
        keywords["engine"] = engine
    value = loss(*inputs, **keywords)
    metrics |= {k: v for k, v in moving.items() if not jnp.ndim(v)}
    # Of a distribution: how far it is from equal probabilities.
    metrics |= {f"{k}_max": jnp.max(v) for k, v in moving.items() if jnp.ndim(v)}
    for name, measure in measures.items():
        read_too = {k: jax.lax.stop_gradient(v) if isinstance(v, jax.Array) else v for k, v in keywords.items()}
        metrics[name] = measure(*map(jax.lax.stop_gradient, inputs), **known_to(measure, read_too))
    return value, metrics


def counted(spec: Mapping[str, Any], batch: Mapping[str, Any]) -> jax.Array:
    """How many rows an objective is a mean over: neither ignored, nor without a view or a label that it reads."""
    ids = read(spec["pairs"], batch=batch, outputs={}, target={}, memory={})
    inputs = references(spec["inputs"])
    masks = _masks((*inputs, *weight_names(spec)), batch["present"], ids.shape[0]) or []
    there = (ids >= 0) & (batch["index"] >= 0)
    for mask in masks:
        there &= mask
    for name in (n for n in inputs if n.startswith("labels.")):
        label = read(name, batch=batch, outputs={}, target={}, memory={})
        if jnp.issubdtype(label.dtype, jnp.integer):
            there &= (label >= 0).reshape(ids.shape[0], -1).any(axis=1)
    return jnp.sum(there)


def _weight(spec: Mapping[str, Any], learned: Mapping[str, jax.Array], step: jax.Array) -> Any:
    if is_learned(spec["weight"]):
        return jnp.exp(-learned["weight"])
    return value_of(spec["weight"], "weight", learned, step)


def moving_weights(
    specs: Mapping[str, Any], learned: Mapping[str, Mapping[str, jax.Array]], step: jax.Array
) -> dict[str, jax.Array]:
    """{"weight/contrast": ...} of the objectives whose weight is learned or scheduled."""
    moving = {name: spec for name, spec in specs.items() if isinstance(spec["weight"], Mapping)}
    return {f"weight/{name}": _weight(spec, learned[name], step) for name, spec in moving.items()}


def weigh(spec: Mapping[str, Any], value: jax.Array, learned: Mapping[str, jax.Array], step: jax.Array) -> jax.Array:
    """weight * L, the weight a number or a schedule; with a learned weight exp(-s) L + s.

    Reference: Kendall, Gal and Cipolla 2018, "Multi-task learning using uncertainty", equation 7 (up to constants).
    """
    weighted = _weight(spec, learned, step) * value
    return weighted + learned["weight"] if is_learned(spec["weight"]) else weighted


def spreads(specs: Mapping[str, Any], *, batch: Mapping, outputs: Mapping) -> dict[str, jax.Array]:
    """{"spread/a.z": ...} of every output [N, D], D > 1, that an objective reads: 0 is collapse."""
    found = {}
    for name in (n for spec in specs.values() for n in references(spec["inputs"])):
        reference = parse(name)
        if reference is None or reference.kind != "output" or f"spread/{name}" in found:
            continue
        z = outputs[reference.owner][reference.name]
        if z.ndim == 2 and z.shape[1] > 1:  # one number a row has a sign and no direction
            there = batch["present"].get(reference.owner, batch["index"] >= 0)
            found[f"spread/{name}"] = spread(z, jnp.where(there, 0, -1))
    return found
