"""States of earlier layouts: what a checkpoint of each holds, and how it becomes a current state.

Bump state.LAYOUT when you change TrainState, and add to CHANGES, under the layout before, which fields it lacks.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hcl_jax.core.state import LAYOUT


class Change(NamedTuple):
    """From one layout to the next.

    Fields:
      added: fields of the state that the layout before lacks, with the number that each of their entries starts at.
    """

    added: dict[str, int]


# Layout 2 keeps which steps were skipped, and how many.
CHANGES = {1: Change({"skipped_total": 0, "skipped_steps": -1})}


def known(layout: Any) -> bool:
    """Whether a checkpoint of this layout can be read."""
    return type(layout) is int and (layout == LAYOUT or layout in CHANGES)


def before(layout: int, like: dict[str, Any]) -> dict[str, Any]:
    """The fields of the current state that a checkpoint of an earlier layout has.

    Args:
      layout: of the checkpoint.
      like: {field: anything} of the current state.
    """
    lacking = {name for older in range(layout, LAYOUT) for name in CHANGES[older].added}
    return {k: v for k, v in like.items() if k not in lacking}


def after(layout: int, restored: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """A restored state with the fields that its layout lacks.

    Args:
      layout: of the checkpoint.
      restored: {field: arrays}, as `before` names them.
      like: {field: jax.ShapeDtypeStruct with its sharding} of the current state.
    """
    for older in range(layout, LAYOUT):
        for name, start in CHANGES[older].added.items():
            at = like[name]
            make = jax.jit(lambda at=at, start=start: jnp.full(at.shape, start, at.dtype), out_shardings=at.sharding)
            restored = {**restored, name: make()}
    return restored
