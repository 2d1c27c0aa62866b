"""A change to a subset of the rows of a batch: only those are computed, then put back."""

from collections.abc import Callable
from typing import Any

from hcl_jax.views.lazy import tf
from hcl_jax.views.params import number
from hcl_jax.views.resample import from_planes, to_planes


def sometimes(x: Any, draws: Any, op: str, p: float, change: Callable[[Any, Any], Any]) -> Any:
    """Applies `change` to each row with probability p.

    Args:
      x: [n, ...].
      draws: gives the coin, named "coin".
      op: the op's name, for the error text.
      p: probability, 0 to 1.
      change: (rows of x [k, ...], their numbers [k]) -> [k, ...], of the same shape and dtype; it must accept k = 0.

    Returns:
      [n, ...].
    """
    p = number(f"{op}.p", p, 0.0, 1.0)
    coin = draws.coin("coin", p)
    if p == 0.0:
        return x
    if p == 1.0:
        return tf.ensure_shape(change(x, tf.range(tf.shape(x)[0])), x.shape)  # a change may forget how many rows it got
    return change_rows(x, coin, change)


def sometimes_planes(x: Any, draws: Any, op: str, p: float, change: Callable[[Any, Any], Any]) -> Any:
    """`sometimes` for a picture [n, H, W, C] and a change of its planes [k, C, H, W]."""
    planes = to_planes(x)
    made = sometimes(planes, draws, op, p, change)
    return x if made is planes else from_planes(made)


def change_rows(x: Any, chosen: Any, change: Callable[[Any, Any], Any]) -> Any:
    """`x` [n, ...] with `change(rows, numbers)` in the place of the `chosen` (bool [n]) rows."""
    where = tf.where(chosen)
    numbers = tf.cast(where[:, 0], tf.int32)
    changed = tf.tensor_scatter_nd_update(x, where, change(tf.gather(x, numbers), numbers))
    return tf.ensure_shape(changed, x.shape)


def column(values: Any, numbers: Any, rank: int) -> Any:
    """The `values` [n] of these rows as [k, 1, 1, ...] of the given rank."""
    return tf.reshape(tf.gather(values, numbers), [-1] + [1] * (rank - 1))
