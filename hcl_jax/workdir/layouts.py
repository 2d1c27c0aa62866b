"""States of earlier layouts: what a checkpoint of each holds, and how it becomes a state of today.

Who changes the state raises state.LAYOUT, and adds here, under the layout that was before, what such a checkpoint looks
like (`before`) and what fills the difference (`after`).
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
    """The fields of a state of today that a checkpoint of an earlier layout has.

    Args:
      layout: of the checkpoint.
      like: {field: anything} of today's state.
    """
    lacking = {name for older in range(layout, LAYOUT) for name in CHANGES[older].added}
    return {k: v for k, v in like.items() if k not in lacking}


def after(layout: int, restored: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """A restored state with the fields that its layout lacks.

    Args:
      layout: of the checkpoint.
      restored: {field: arrays}, as `before` names them.
      like: {field: jax.ShapeDtypeStruct with its sharding} of today's state.
    """
    for older in range(layout, LAYOUT):
        for name, start in CHANGES[older].added.items():
            at = like[name]
            make = jax.jit(lambda at=at, start=start: jnp.full(at.shape, start, at.dtype), out_shardings=at.sharding)
            restored = {**restored, name: make()}
    return restored
