"""Memory slots: what objectives read of earlier steps. Pure functions of arrays; written after the step."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from hcl_jax.losses.masking import unit_length


def reads(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """The outputs that a slot is written from: one name or several."""
    return (spec["reads"],) if isinstance(spec["reads"], str) else tuple(spec["reads"])


def init_fifo(key: jax.Array, size: int, width: int, dtype: Any, zeros: bool = False) -> dict[str, jax.Array]:
    """A queue of unit rows [size, width], random until written (as MoCo starts) or zeros (as SwAV), and the place of
    the next row."""
    if zeros:
        return {"rows": jnp.zeros((size, width), dtype), "next": jnp.zeros((), jnp.int32)}
    rows = jax.random.normal(key, (size, width), dtype)
    return {"rows": rows * jax.lax.rsqrt(jnp.sum(rows * rows, -1, keepdims=True)), "next": jnp.zeros((), jnp.int32)}


def write_fifo(slot: Mapping[str, jax.Array], rows: jax.Array, present: jax.Array | None) -> dict[str, jax.Array]:
    """First in, first out, in the order of the global batch; absent rows take no place.

    Args:
      slot: {"rows": [size, D], "next": int32 []}.
      rows: [B, D], normalised here; B <= size.
      present: bool [B], or None when no row is absent.
    """
    size = slot["rows"].shape[0]
    unit = unit_length(rows).astype(slot["rows"].dtype)
    mask = jnp.ones(rows.shape[0], bool) if present is None else present
    rank = jnp.cumsum(mask) - 1
    place = jnp.where(mask, (slot["next"] + rank) % size, size)  # `size` lies outside: dropped
    return {
        "rows": slot["rows"].at[place].set(unit, mode="drop"),
        "next": ((slot["next"] + jnp.sum(mask)) % size).astype(jnp.int32),
    }


def init_mean(width: int, dtype: Any) -> dict[str, jax.Array]:
    """A centre [width], zero at the start; float32 at least, for bfloat16 rounds a step of 1 - m away."""
    return {"rows": jnp.zeros((width,), jnp.promote_types(dtype, jnp.float32))}


def write_mean(
    slot: Mapping[str, jax.Array], rows: jax.Array, present: jax.Array | None, momentum: float
) -> dict[str, jax.Array]:
    """c <- m c + (1 - m) mean of the present rows; unchanged when no row is present.

    Reference: Caron et al. 2021, "Emerging properties in self-supervised vision transformers", equation 4.
    """
    mask = jnp.ones(rows.shape[0], bool) if present is None else present
    count = jnp.sum(mask)
    rows = rows.astype(slot["rows"].dtype)
    mean = jnp.sum(jnp.where(mask[:, None], rows, 0), 0) / jnp.maximum(count, 1)
    new = momentum * slot["rows"] + (1 - momentum) * mean
    return {"rows": jnp.where(count > 0, new, slot["rows"]).astype(slot["rows"].dtype)}
