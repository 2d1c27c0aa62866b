"""Dropout whose mask for a row depends on that row's key and the module's path, and on nothing else.

The same row gets the same mask in any batch, at any place in it, on any mesh, and when the pass is recomputed (remat,
cached gradients). A module called twice in one pass has one mask.
"""

import zlib
from math import prod

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from hcl_jax.encoders.inputs import Rows
from hcl_jax.errors import InputError


def keep_mask(
    keys: Key[Array, " n"], path: tuple[str, ...], shape: tuple[int, ...], rate: float
) -> Bool[Array, "n ..."]:
    """True with probability 1 - rate: bool [n, *shape], row i from fold_in(keys[i], crc32(path)).

    Compares random 32-bit words with a whole threshold, so that the mask is the same with and without 64-bit mode.

    Args:
      keys: PRNG keys [n].
      path: the module's path.
      shape: of one row.
      rate: probability of False, in [0, 1).
    """
    salt = np.uint32(zlib.crc32("/".join(path).encode()))
    threshold = np.uint32(min(round(rate * 2**32), 2**32 - 1))

    def row(key: jax.Array) -> jax.Array:
        return jax.random.bits(jax.random.fold_in(key, salt), (prod(shape),), jnp.uint32) >= threshold

    # Drawn flat: the same words, and random draws of many axes compile slowly on XLA:CPU.
    return jax.vmap(row)(keys).reshape(-1, *shape)


class Dropout(nn.Module):
    """y = x m / (1 - rate), m = keep_mask; y = x when rate is 0, or rows.train or rows.drop is False.

    Args:
      rate: probability that a number is dropped, in [0, 1).
      whole_row: one coin a row (stochastic depth of a residual branch) in place of one a number.

    Reference: Srivastava et al. 2014, "Dropout", section 4; Huang et al. 2016, "Deep networks with stochastic depth".
    """

    rate: float = 0.0
    whole_row: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, " n *shape"], rows: Rows) -> Float[Array, " n *shape"]:
        """x [n, ...] -> the same shape and dtype.

        Raises:
          InputError: rate outside [0, 1), or a training pass without keys.
        """
        if not 0 <= self.rate < 1:
            raise InputError(f"{'/'.join(self.path)}.rate", self.rate, "a dropout rate in [0, 1)")
        if not (rows.train and rows.drop) or self.rate == 0:
            return x
        shape = (1,) * (x.ndim - 1) if self.whole_row else x.shape[1:]
        keep = keep_mask(row_keys(rows, self.path), self.path, shape, self.rate)
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)


def row_keys(rows: Rows, path: tuple[str, ...]) -> Key[Array, " n"]:
    """rows.keys.

    Raises:
      InputError: there are none.
    """
    if rows.keys is None:
        raise InputError(f"{'/'.join(path)}: rows.keys", "None", "one PRNG key a row, in a training pass with dropout")
    return rows.keys
