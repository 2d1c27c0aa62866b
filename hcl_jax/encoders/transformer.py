"""Pre-norm transformer blocks for images, text and series.

Names: `block{0..}/attention/query|key|value|out/kernel|bias` (kernels [D, D], heads side by side in the last axis of
query, key, value and in the first of out), `block{0..}/mlp/up|down/kernel|bias`, `block{0..}/norm1|norm2/scale|bias`,
`pre_norm|norm/scale|bias`. To split over a tensor axis: the last axis of query, key, value and up; the first of out and
down.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hcl_jax.encoders.dropout import Dropout
from hcl_jax.encoders.initial import INITIALISERS
from hcl_jax.encoders.inputs import Rows, choose
from hcl_jax.errors import InputError

# "quick_gelu" is CLIP's x / (1 + exp(-1.702 x)); "gelu_tanh" the approximation of GPT-2, BERT's code and big_vision.
ACTIVATIONS = {
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_tanh": partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "relu": nn.relu,
}


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(d) + mask) V for each head, d = D / heads.

    The softmax is in float32 at least, in float64 for float64 (jax.nn.dot_product_attention always takes float32).

    Reference: Vaswani et al. 2017, "Attention is all you need", equation 1 and section 3.2.2.
    """

    heads: int
    dtype: Any
    param_dtype: Any
    kernel_init: str = "xavier_uniform"

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
        start = choose(INITIALISERS, self.kernel_init, "kernel_init")
        return nn.Dense(width, True, self.dtype, self.param_dtype, kernel_init=start, name=name)


class Mlp(nn.Module):
    """down(f(up(x))), f = gelu with the error function unless `activation` says otherwise.

    Reference: Vaswani et al. 2017, "Attention is all you need", equation 2, with gelu for relu.
    """

    hidden: int
    dtype: Any
    param_dtype: Any
    activation: str = "gelu"
    kernel_init: str = "xavier_uniform"

    @nn.compact
    def __call__(self, x: Float[Array, "n t d"]) -> Float[Array, "n t d"]:
        """x [n, T, D] -> [n, T, D].

        Raises:
          InputError: unknown activation or kernel_init.
        """
        start = choose(INITIALISERS, self.kernel_init, "kernel_init")
        y = nn.Dense(self.hidden, True, self.dtype, self.param_dtype, kernel_init=start, name="up")(x)
        y = choose(ACTIVATIONS, self.activation, "activation")(y)
        return nn.Dense(x.shape[-1], True, self.dtype, self.param_dtype, kernel_init=start, name="down")(y)


class Block(nn.Module):
    """x = x + drop(attention(norm(x))); x = x + drop(mlp(norm(x)))."""

    heads: int
    mlp: int
    dropout: float
    drop_path: float
    dtype: Any
    param_dtype: Any
    activation: str = "gelu"
    epsilon: float = 1e-6
    kernel_init: str = "xavier_uniform"

    @nn.compact
    def __call__(
        self, x: Float[Array, "n t d"], mask: Bool[Array, "#n #heads #t t"] | None, rows: Rows
    ) -> Float[Array, "n t d"]:
        """x [n, T, D] -> [n, T, D]."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = layer_norm("norm1", epsilon=self.epsilon, **types)(x)
        y = Attention(self.heads, kernel_init=self.kernel_init, name="attention", **types)(y, y, mask)
        x = x + self._drop(y, rows, 1)
        mlp = Mlp(self.mlp, activation=self.activation, kernel_init=self.kernel_init, name="mlp", **types)
        y = mlp(layer_norm("norm2", epsilon=self.epsilon, **types)(x))
        return x + self._drop(y, rows, 2)

    def _drop(self, y: jax.Array, rows: Rows, branch: int) -> jax.Array:
        y = Dropout(self.dropout, name=f"dropout{branch}")(y, rows)
        return Dropout(self.drop_path, whole_row=True, name=f"drop_path{branch}")(y, rows)


def layer_norm(name: str, dtype: Any, param_dtype: Any, epsilon: float = 1e-6) -> nn.LayerNorm:
    """Layer norm with the variance in two passes, float32 at least."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, param_dtype=param_dtype, use_fast_variance=False, name=name)


class Transformer(nn.Module):
    """`depth` blocks and a last norm; stochastic depth grows linearly to `drop_path` at the last block.

    Args:
      depth: number of blocks.
      heads: attention heads; they divide the width.
      mlp: hidden width of the blocks' MLP.
      dropout: on the output of both branches of a block.
      drop_path: stochastic depth of the last block.
      pre_norm: a norm before the first block (CLIP's ln_pre).
      activation: of the MLPs, "gelu" (error function), "gelu_tanh", "quick_gelu" (CLIP) or "relu".
      epsilon: added to the variance in every norm.
      kernel_init: of the blocks' layers, "xavier_uniform", "normal_0.02" (DINO) or another of `initial.INITIALISERS`.
      remat: recompute a block's activations in the backward pass.
    """

    depth: int
    heads: int
    mlp: int
    dropout: float = 0.0
    drop_path: float = 0.0
    pre_norm: bool = False
    activation: str = "gelu"
    epsilon: float = 1e-6
    kernel_init: str = "xavier_uniform"
    remat: bool = False
    dtype: Any = "float32"
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "n t d"], mask: Bool[Array, "#n #heads #t t"] | None, rows: Rows, last: int = 1
    ) -> list[Float[Array, "n t d"]]:
        """x [n, T, D], mask bool broadcast to [n, heads, T, T] or None -> [n, T, D] of each of the `last` blocks (of
        all, where there are fewer), in their order, each through the last norm."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        kind = {"activation": self.activation, "epsilon": self.epsilon, "kernel_init": self.kernel_init, **types}
        block = nn.remat(Block) if self.remat else Block
        if self.pre_norm:
            x = layer_norm("pre_norm", epsilon=self.epsilon, **types)(x)
        outputs = []
        for i in range(self.depth):
            drop_path = self.drop_path * i / max(self.depth - 1, 1)
            x = block(self.heads, self.mlp, self.dropout, drop_path, name=f"block{i}", **kind)(x, mask, rows)
            outputs.append(x)
        norm = layer_norm("norm", epsilon=self.epsilon, **types)
        return [norm(y) for y in outputs[-last:]]
