"""Transformer over token ids; 0 is padding, which is hidden, or a token like the others (`hide_padding`).

Names: `token/embedding` [V, D], `position` [1, L, D], `transformer/...` (see transformer.py).
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hcl_jax.encoders.dropout import Dropout
from hcl_jax.encoders.initial import normal
from hcl_jax.encoders.inputs import Rows, choose, read_field
from hcl_jax.encoders.transformer import Transformer
from hcl_jax.errors import InputError


def _mean(x: jax.Array, tokens: jax.Array, there: jax.Array) -> jax.Array:
    mask = there[..., None].astype(jnp.promote_types(x.dtype, jnp.float32))
    return ((x * mask).sum(1) / jnp.maximum(mask.sum(1), 1)).astype(x.dtype)


def _at(x: jax.Array, place: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x, place[:, None, None], axis=1)[:, 0]


def _last(x: jax.Array, tokens: jax.Array, there: jax.Array) -> jax.Array:
    return _at(x, jnp.max(there * jnp.arange(tokens.shape[1])[None], axis=1))


def _max_id(x: jax.Array, tokens: jax.Array, there: jax.Array) -> jax.Array:
    del there
    return _at(x, jnp.argmax(tokens, axis=1))


def _first(x: jax.Array, tokens: jax.Array, there: jax.Array) -> jax.Array:
    del tokens, there
    return x[:, 0]


POOLS = {"mean": _mean, "last": _last, "max_id": _max_id, "first": _first}


class TextTransformer(nn.Module):
    """Token ids -> transformer -> h. Hidden padding is not attended to and enters no mean: it does not change h.

    Args:
      vocab_size: V; an id that is not below it gives nan, not a wrong row.
      width, depth, heads: of the transformer.
      mlp: hidden width of its MLPs; 0 is 4 width.
      length: number of learned positions; 0 is the length of the batch at initialisation.
      causal: a token sees itself and those before (CLIP).
      pool: h is the mean over the tokens ("mean"), or the output at the last token ("last"), at the largest id
        ("max_id": CLIP, whose end token has the largest id), or at the first token ("first").
      hide_padding: False: 0 is a token like the others, seen by all and pooled (SigLIP, whose "last" is then the last
        place), or hidden by `causal` alone (CLIP, whose 0 is also "!").
      dropout: on the embedding and on the branches of the blocks.
      activation: of the blocks' MLPs, "gelu", "gelu_tanh", "quick_gelu" (CLIP) or "relu".
      epsilon: added to the variance in every norm (CLIP 1e-5).
      remat: recompute a block's activations in the backward pass.

    Reference: Radford et al. 2021, "Learning transferable visual models" (CLIP), section 2.4.
    """

    vocab_size: int = 32768
    width: int = 256
    depth: int = 4
    heads: int = 4
    mlp: int = 0
    length: int = 0
    causal: bool = False
    pool: str = "mean"
    hide_padding: bool = True
    dropout: float = 0.0
    activation: str = "gelu"
    epsilon: float = 1e-6
    remat: bool = False
    dtype: Any = "float32"
    param_dtype: Any = "float32"

    reads: ClassVar[tuple[str, ...]] = ("tokens",)

    @nn.compact
    def __call__(self, view: dict[str, Any], rows: Rows) -> dict[str, jax.Array]:
        """view["tokens"] int [n, L] -> {"h": [n, D], "tokens": [n, L, D]}; outputs at hidden padding mean nothing.

        Raises:
          InputError: unknown pool; more tokens than positions.
        """
        pool = choose(POOLS, self.pool, "text_transformer.pool")
        tokens = read_field(view, "tokens", (2,), "text_transformer")
        count = length = tokens.shape[1]
        if self.has_variable("params", "position"):
            length = self.get_variable("params", "position").shape[1]
        elif self.length:
            length = self.length
        if count > length:
            raise InputError("text_transformer.length", f"{count} tokens a row", f"at most {length}, as learned")
        table = self.param("position", normal(0.01), (1, length, self.width), self.param_dtype)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.Embed(self.vocab_size, self.width, embedding_init=normal(0.02), name="token", **types)(tokens)
        x = jnp.where((tokens < 0)[:, :, None], jnp.nan, x)  # as for ids beyond the table: a negative one would wrap
        x = x + table[:, :count].astype(self.dtype)
        x = Dropout(self.dropout, name="dropout")(x, rows)
        there = tokens != 0 if self.hide_padding else jnp.ones(tokens.shape, bool)
        mask = None
        if self.hide_padding:
            # A row without a token sees its first place, so that its output depends on no padding either.
            mask = there.at[:, 0].max(~there.any(axis=1))[:, None, None, :]
        if self.causal:
            earlier = jnp.asarray(np.tril(np.ones((1, 1, count, count), bool)))
            mask = earlier if mask is None else mask & earlier
        (x,) = Transformer(
            depth=self.depth,
            heads=self.heads,
            mlp=self.mlp or 4 * self.width,
            dropout=self.dropout,
            activation=self.activation,
            epsilon=self.epsilon,
            remat=self.remat,
            name="transformer",
            **types,
        )(x, mask, rows)
        return {"h": pool(x, tokens, there), "tokens": x}
