"""Objectives: outputs -> weighted loss. An objective is a loss bound to the names that it reads."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hcl_jax.errors import InputError, nearest

RESERVED = ("loss", "inputs", "weight", "pairs", "row_weights", "engine")
GIVEN = ("ids", "row_weights", "engine", "present")  # keywords of a loss that the model fills in, not the recipe


class Reference(NamedTuple):
    """`a.z` -> ("output", "a", "z"); also target, memory, views, labels, index."""

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
    """A hyper-parameter given as {"learn": "exp" | "linear", "init": x, "max": y} is trained."""
    return isinstance(value, Mapping) and "learn" in value


def init(spec: Mapping[str, Any], dtype: Any) -> dict[str, jax.Array]:
    """The trained hyper-parameters of an objective: log(x) for "exp", x for "linear", s for an uncertainty weight."""
    params = {}
    for name, value in spec.items():
        if is_learned(value):
            start = jnp.asarray(value["init"], dtype)
            params[name] = jnp.log(start) if value["learn"] == "exp" else start
    return params


def value_of(learned: Any, param: jax.Array) -> jax.Array:
    """exp(p), clipped at "max" (CLIP's temperature is clipped at 100), or p."""
    value = jnp.exp(param) if learned["learn"] == "exp" else param
    return jnp.minimum(value, learned["max"]) if "max" in learned else value


def arguments(loss: Callable) -> set[str]:
    """The keywords that a recipe may give to a loss."""
    parameters = inspect.signature(loss).parameters.values()
    return {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)} - set(GIVEN)


def _masks(spec: Mapping[str, Any], present: Mapping[str, jax.Array], rows: int) -> list[jax.Array] | None:
    """For each input made from a view: which rows have it; None when no input can be absent."""
    owners = [r.owner for r in map(parse, spec["inputs"]) if r and r.kind in ("output", "target", "views")]
    if not any(o in present for o in owners):
        return None
    return [present.get(o, jnp.ones(rows, bool)) for o in owners]


def evaluate(
    spec: Mapping[str, Any],
    loss: Callable,
    top1: Callable | None,
    learned: Mapping[str, jax.Array],
    engine: Any,
    *,
    batch: Mapping,
    outputs: Mapping,
    target: Mapping,
    memory: Mapping,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of one objective over the whole batch, before its weight, and its metrics.

    Rows where a view that the objective reads is absent get the pair id -1: they enter nothing. A loss that has a
    `present` keyword takes the masks themselves and decides pair by pair.
    """
    sources = {"batch": batch, "outputs": outputs, "target": target, "memory": memory}
    inputs = [read(name, **sources) for name in spec["inputs"]]
    ids = read(spec["pairs"], **sources)
    keywords: dict[str, Any] = {
        k: value_of(v, learned[k]) if is_learned(v) else v for k, v in spec.items() if k not in RESERVED
    }
    accepted = inspect.signature(loss).parameters
    masks = _masks(spec, batch["present"], ids.shape[0])
    if "present" in accepted:
        keywords["present"] = None if masks is None else tuple(masks)
    elif masks is not None:
        ids = jnp.where(jnp.stack(masks).all(0), ids, -1)
    if "ids" in accepted:
        keywords["ids"] = ids
    if spec["row_weights"] and "row_weights" in accepted:
        keywords["row_weights"] = read(spec["row_weights"], **sources)
    if "engine" in accepted:
        keywords["engine"] = engine
    value = loss(*inputs, **keywords)
    metrics = {k: value_of(v, learned[k]) for k, v in spec.items() if k not in RESERVED and is_learned(v)}
    if top1 is not None:
        metrics["contrastive_top1"] = top1(*map(jax.lax.stop_gradient, inputs), **_constant(keywords))
    return value, metrics


def _constant(keywords: Mapping[str, Any]) -> dict[str, Any]:
    return {k: jax.lax.stop_gradient(v) if isinstance(v, jax.Array) else v for k, v in keywords.items()}


def weigh(spec: Mapping[str, Any], value: jax.Array, learned: Mapping[str, jax.Array]) -> jax.Array:
    """weight * L; with a learned weight exp(-s) L + s.

    Reference: Kendall, Gal and Cipolla 2018, "Multi-task learning using uncertainty", equation 7 (up to constants).
    """
    if is_learned(spec["weight"]):
        return jnp.exp(-learned["weight"]) * value + learned["weight"]
    return spec["weight"] * value
