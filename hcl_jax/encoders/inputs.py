"""What an encoder or a head is told about the rows of its batch, and how it reads a field of a view."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Bool, Float, Key

from hcl_jax.errors import InputError, nearest


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["present", "keys", "momentum"],
    meta_fields=["train", "bn_groups", "drop"],
)
@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a batch: which are present, their randomness, and how batch statistics are taken.

    Args:
      present: bool [n]; False rows enter no batch statistic. None: all are present.
      keys: PRNG keys [n], one a row, for dropout. None: nothing may be dropped.
      train: batch statistics and dropout (True) or running statistics and none (False). Static.
      bn_groups: number of contiguous groups of rows with batch statistics of their own. Static.
      momentum: [], share of the running statistics that this pass keeps. None: as each module says.
      drop: whether a training pass has dropout and stochastic depth. Static.
    """

    present: Bool[Array, " n"] | None = None
    keys: Key[Array, " n"] | None = None
    train: bool = False
    bn_groups: int = 1
    momentum: Float[Array, ""] | None = None
    drop: bool = True


def read_field(view: Mapping[str, Any], field: str, ranks: tuple[int, ...], where: str) -> jax.Array:
    """One array of a view, refused with the reason when it is absent or has another rank.

    Args:
      view: {field: array [n, ...]}.
      field: the name to read.
      ranks: allowed numbers of axes, the rows' own among them; empty allows any.
      where: the encoder, for the error text.

    Raises:
      InputError: no such field, or another rank.
    """
    if field not in view:
        raise InputError(f"{where} input", f"no field {field!r}", f"a field of the view: {nearest(field, view)}")
    x = view[field]
    if ranks and x.ndim not in ranks:
        allowed = f"{' or '.join(map(str, ranks))} axes, rows first"
        raise InputError(f"{where} input {field!r}", f"shape {x.shape}", allowed)
    return x


def choose(table: Mapping[Any, Any], name: Any, where: str) -> Any:
    """`table[name]`; an unknown name is refused with the known ones.

    Raises:
      InputError: `name` is not in the table.
    """
    try:
        return table[name]
    except (KeyError, TypeError):
        raise InputError(where, repr(name), nearest(str(name), table)) from None
