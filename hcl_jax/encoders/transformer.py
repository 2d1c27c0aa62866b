"""Pre-norm transformer blocks for images, text and series.

Names: `block{0..}/attention/query|key|value|out/kernel|bias` (kernels [D, D], heads side by side in the last axis of
query, key, value and in the first of out), `block{0..}/mlp/up|down/kernel|bias`, `block{0..}/norm1|norm2/scale|bias`,
`norm/scale|bias`. To split over a tensor axis: the last axis of query, key, value and up; the first of out and down.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hcl_jax.encoders.dropout import Dropout
from hcl_jax.encoders.inputs import Rows
from hcl_jax.errors import InputError

xavier = nn.initializers.xavier_uniform()


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(d) + mask) V for each head, d = D / heads.

    The softmax is in float32 at least, in float64 for float64 (jax.nn.dot_product_attention always takes float32).

    Reference: Vaswani et al. 2017, "Attention is all you need", equation 1 and section 3.2.2.
    """

    heads: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "n q d"], source: Float[Array, "n k d"], mask: Bool[Array, "#n #heads #q k"] | None = None
    ) -> Float[Array, "n q d"]:
        """x [n, Q, D] looks at source [n, K, D]; mask bool, broadcast to [n, heads, Q, K], False hides -> [n, Q, D].

        Raises:
          InputError: D is no multiple of heads.
        """
        width = x.shape[-1]
        if width % self.heads:
            raise InputError("heads", self.heads, f"a divisor of the width {width}")
        q, k, v = (
            self._dense(width, name)(y).reshape(*y.shape[:2], self.heads, -1)
            for name, y in (("query", x), ("key", source), ("value", source))
        )
        wide = jnp.promote_types(q.dtype, jnp.float32)
        logits = jnp.einsum("nqhd,nkhd->nhqk", q * q.shape[-1] ** -0.5, k, preferred_element_type=wide)
        if mask is not None:
            # Finite, so that a row with everything hidden (an absent one) stays finite.
            logits = jnp.where(mask, logits, jnp.finfo(wide).min)
        weights = jax.nn.softmax(logits, axis=-1).astype(q.dtype)
        return self._dense(width, "out")(jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(x.shape))

    def _dense(self, width: int, name: str) -> nn.Dense:
        return nn.Dense(width, True, self.dtype, self.param_dtype, kernel_init=xavier, name=name)


class Mlp(nn.Module):
    """down(gelu(up(x))), gelu with the error function.

    Reference: Vaswani et al. 2017, "Attention is all you need", equation 2, with gelu for relu.
    """

    hidden: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n t d"]) -> Float[Array, "n t d"]:
        """x [n, T, D] -> [n, T, D]."""
        y = nn.Dense(self.hidden, True, self.dtype, self.param_dtype, kernel_init=xavier, name="up")(x)
        y = nn.gelu(y, approximate=False)
        return nn.Dense(x.shape[-1], True, self.dtype, self.param_dtype, kernel_init=xavier, name="down")(y)


class Block(nn.Module):
    """x = x + drop(attention(norm(x))); x = x + drop(mlp(norm(x)))."""

    heads: int
    mlp: int
    dropout: float
    drop_path: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "n t d"], mask: Bool[Array, "#n #heads #t t"] | None, rows: Rows
    ) -> Float[Array, "n t d"]:
        """x [n, T, D] -> [n, T, D]."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = layer_norm("norm1", **types)(x)
        y = Attention(self.heads, name="attention", **types)(y, y, mask)
        x = x + self._drop(y, rows, 1)
        y = Mlp(self.mlp, name="mlp", **types)(layer_norm("norm2", **types)(x))
        return x + self._drop(y, rows, 2)

    def _drop(self, y: jax.Array, rows: Rows, branch: int) -> jax.Array:
        y = Dropout(self.dropout, name=f"dropout{branch}")(y, rows)
        return Dropout(self.drop_path, whole_row=True, name=f"drop_path{branch}")(y, rows)


def layer_norm(name: str, dtype: Any, param_dtype: Any) -> nn.LayerNorm:
    """Layer norm with the variance in two passes, float32 at least."""
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, param_dtype=param_dtype, use_fast_variance=False, name=name)


class Transformer(nn.Module):
    """`depth` blocks and a last norm; stochastic depth grows linearly to `drop_path` at the last block.

    Args:
      depth: number of blocks.
      heads: attention heads; they divide the width.
      mlp: hidden width of the blocks' MLP.
      dropout: on the output of both branches of a block.
      drop_path: stochastic depth of the last block.
      remat: recompute a block's activations in the backward pass.
    """

    depth: int
    heads: int
    mlp: int
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = "float32"
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "n t d"], mask: Bool[Array, "#n #heads #t t"] | None, rows: Rows
    ) -> Float[Array, "n t d"]:
        """x [n, T, D], mask bool broadcast to [n, heads, T, T] or None -> [n, T, D]."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        block = nn.remat(Block) if self.remat else Block
        for i in range(self.depth):
            drop_path = self.drop_path * i / max(self.depth - 1, 1)
            x = block(self.heads, self.mlp, self.dropout, drop_path, name=f"block{i}", **types)(x, mask, rows)
        return layer_norm("norm", **types)(x)
