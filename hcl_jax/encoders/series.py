"""Encoders of multivariate series: dilated convolutions (TCN) and a transformer over patches of steps.

Names, TCN: `input/kernel|bias`, `block{0..}/conv1|conv2/kernel|bias`, and `block{last}/shortcut/kernel|bias`.
Names, transformer: `patch/kernel|bias`, `position` [1, T, D], `transformer/...` (see transformer.py).
"""

from collections.abc import Callable
from math import prod, sqrt
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hcl_jax.encoders.dropout import Dropout, keep_mask, row_keys
from hcl_jax.encoders.initial import INITIALISERS, Initializer, normal, scaled_normal
from hcl_jax.encoders.inputs import Rows, choose, read_field
from hcl_jax.encoders.transformer import Transformer
from hcl_jax.errors import InputError


def _max(x: jax.Array, inside: jax.Array | None = None) -> jax.Array:
    """Maximum over steps, [n, T, D] -> [n, D]; over those inside, 0 where none is."""
    if inside is None:
        return jnp.max(x, axis=1)
    most = jnp.max(jnp.where(inside, x, -jnp.inf), axis=1)
    return jnp.where(inside.any(1), most, 0)


def _mean(x: jax.Array, inside: jax.Array | None = None) -> jax.Array:
    """Mean over steps, [n, T, D] -> [n, D]; over those inside, 0 where none is."""
    if inside is None:
        return jnp.mean(x, axis=1)
    count = jnp.maximum(jnp.sum(inside, axis=1), 1).astype(x.dtype)
    return jnp.sum(jnp.where(inside, x, 0), axis=1) / count


POOLS = {"max": _max, "mean": _mean}


def _uniform(fan: int) -> Initializer:
    """U(-b, b) with b = 1 / sqrt(fan): variance 1 / (3 fan)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = "float32") -> jax.Array:
        # Drawn in one axis: quicker to compile.
        return jax.random.uniform(key, (prod(shape),), dtype, -1, 1).reshape(shape) / sqrt(fan)

    return init


# Name -> the initialisers of a layer, given the inputs of an output and the layer's own kernel_init.
INITIAL: dict[str, Callable[[int, Initializer], dict[str, Any]]] = {
    "normal": lambda fan, own: {"kernel_init": own},
    "uniform": lambda fan, own: {"kernel_init": _uniform(fan), "bias_init": _uniform(fan)},
}
convolution, linear = scaled_normal(1.0, "in"), nn.initializers.lecun_normal()


class DilatedBlock(nn.Module):
    """y = x' + conv(gelu(conv(gelu(x)))); x' is x, or a 1x1 convolution of x where the width changes or `last`."""

    features: int
    kernel: int
    dilation: int
    causal: bool
    last: bool
    initial: str
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n t c"], inside: Bool[Array, "n t 1"] | None) -> Float[Array, "n t features"]:
        """x [n, T, C], inside bool [n, T, 1] or None (all) -> [n, T, features], zeros outside."""
        reach = (self.kernel - 1) * self.dilation
        pad = (reach, 0) if self.causal else (reach // 2, reach - reach // 2)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = x
        for name in ("conv1", "conv2"):
            # What is outside a crop is 0 for every convolution, as the padding at the ends of a series is.
            y = within(inside, nn.gelu(y, approximate=False))
            y = nn.Conv(
                self.features,
                (self.kernel,),
                padding=(pad,),
                kernel_dilation=(self.dilation,),
                name=name,
                **INITIAL[self.initial](self.kernel * y.shape[-1], convolution),
                **types,
            )(y)
        if self.last or x.shape[-1] != self.features:
            start = INITIAL[self.initial](x.shape[-1], linear)
            x = nn.Dense(self.features, name="shortcut", **start, **types)(x)
        return within(inside, x + y)


def within(inside: jax.Array | None, x: jax.Array) -> jax.Array:
    """x, with zeros outside."""
    return x if inside is None else jnp.where(inside, x, 0)


class TCN(nn.Module):
    """Linear map of each step, `depth` dilated blocks of `hidden` channels, one of `features`; dilations 1, 2, 4, ...

    A step without any value is missing: its latent is 0, as of a masked step. Where some channels are nan, these are 0
    and the others are seen. (TS2Vec's code drops the whole step: one silent sensor blinds it to all.)

    A view with "inside" bool [n, T] (a crop in a longer buffer) is encoded as if the steps inside were the whole
    series; tokens outside are 0 and h pools none.

    Args:
      features: width of the steps' outputs and of h.
      hidden: channels of the blocks before the last.
      depth: number of those blocks; the last block has dilation 2^depth.
      kernel: taps of a convolution.
      causal: a step sees itself and those before.
      mask: probability that a step's latent is zeroed in a training pass, without rescaling (TS2Vec 0.5).
      dropout: on the output (TS2Vec 0.1).
      pool: h is the "max" or the "mean" over steps.
      initial: "normal" (kernels N(0, 1 / fan), biases 0) or "uniform" (both U(-1 / sqrt(fan), 1 / sqrt(fan)), which is
        PyTorch's default and so TS2Vec's), fan = inputs of an output.
      field: which field of the view is read.

    Reference: Yue et al. 2022, "TS2Vec", section 3.1 and appendix (10 blocks, 64 channels, 320 features).
    """

    features: int = 320
    hidden: int = 64
    depth: int = 10
    kernel: int = 3
    causal: bool = False
    mask: float = 0.0
    dropout: float = 0.1
    pool: str = "max"
    initial: str = "normal"
    field: str = "series"
    dtype: Any = "float32"
    param_dtype: Any = "float32"

    @property
    def reads(self) -> tuple[str, ...]:
        """The fields that are read, the second where a view has it."""
        return (self.field, "inside")

    @nn.compact
    def __call__(self, view: dict[str, Any], rows: Rows) -> dict[str, jax.Array]:
        """view["series"] [n, T, C] -> {"h": [n, features], "tokens": [n, T, features]}, one token a step.

        Raises:
          InputError: unknown pool or initial; mask outside [0, 1); "inside" of another shape than the steps.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        pool = choose(POOLS, self.pool, "tcn.pool")
        initial = choose(INITIAL, self.initial, "tcn.initial")
        if not 0 <= self.mask < 1:
            raise InputError("tcn.mask", self.mask, "a probability in [0, 1)")
        x = read_field(view, self.field, (3,), "tcn").astype(self.dtype)
        there = ~jnp.isnan(x)
        present = there.any(-1, keepdims=True)
        inside = None
        if "inside" in view:
            inside = read_field(view, "inside", (2,), "tcn").astype(bool)[:, :, None]
            if inside.shape[:2] != x.shape[:2]:
                raise InputError("tcn input 'inside'", f"shape {inside.shape[:2]}", f"{x.shape[:2]}, rows and steps")
            present = present & inside
        start = initial(x.shape[-1], linear)
        x = nn.Dense(self.hidden, name="input", **start, **types)(jnp.where(there & present, x, 0))
        if rows.train and self.mask:
            present = present & keep_mask(row_keys(rows, self.path), (*self.path, "mask"), (x.shape[1], 1), self.mask)
        x = jnp.where(present, x, 0)
        for i in range(self.depth + 1):
            last = i == self.depth
            width = self.features if last else self.hidden
            shape = (width, self.kernel, 2**i, self.causal, last, self.initial)
            x = DilatedBlock(*shape, name=f"block{i}", **types)(x, inside)
        x = Dropout(self.dropout, name="dropout")(x, rows)
        return {"h": pool(x, inside), "tokens": x}


class SeriesTransformer(nn.Module):
    """Patches of `patch` steps -> transformer -> h. A missing value (nan) is 0.

    Args:
      width, depth, heads: of the transformer.
      mlp: hidden width of its MLPs; 0 is 4 width.
      patch: steps in a token. A series that is no multiple of it is continued with its last step.
      length: number of learned positions, in tokens; 0 is that of the batch at initialisation.
      pool: h is the "max" or the "mean" over tokens.
      dropout: on the embedding and on the branches of the blocks.
      remat: recompute a block's activations in the backward pass.
      field: which field of the view is read.

    Reference: Nie et al. 2023, "A time series is worth 64 words" (PatchTST), section 3.1, but channels are mixed.
    """

    width: int = 128
    depth: int = 4
    heads: int = 4
    mlp: int = 0
    patch: int = 8
    length: int = 0
    pool: str = "mean"
    dropout: float = 0.0
    remat: bool = False
    field: str = "series"
    dtype: Any = "float32"
    param_dtype: Any = "float32"

    @property
    def reads(self) -> tuple[str, ...]:
        """The field that is read."""
        return (self.field,)

    @nn.compact
    def __call__(self, view: dict[str, Any], rows: Rows) -> dict[str, jax.Array]:
        """view["series"] [n, T, C] -> {"h": [n, D], "tokens": [n, ceil(T / patch), D]}.

        Raises:
          InputError: unknown pool; a series longer than the positions.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        pool = choose(POOLS, self.pool, "series_transformer.pool")
        x = read_field(view, self.field, (3,), "series_transformer").astype(self.dtype)
        n, steps, channels = x.shape
        x = jnp.where(jnp.isnan(x), 0, x)
        x = jnp.pad(x, ((0, 0), (0, -steps % self.patch), (0, 0)), mode="edge")
        x = x.reshape(n, -1, self.patch * channels)
        count = length = x.shape[1]
        if self.has_variable("params", "position"):
            length = self.get_variable("params", "position").shape[1]
        elif self.length:
            length = self.length
        if count > length:
            raise InputError("series_transformer.length", f"{count} patches a row", f"at most {length}, as learned")
        table = self.param("position", normal(0.02), (1, length, self.width), self.param_dtype)
        x = nn.Dense(self.width, kernel_init=INITIALISERS["xavier_uniform"], name="patch", **types)(x)
        x = x + table[:, :count].astype(self.dtype)
        x = Dropout(self.dropout, name="dropout")(x, rows)
        (x,) = Transformer(
            depth=self.depth,
            heads=self.heads,
            mlp=self.mlp or 4 * self.width,
            dropout=self.dropout,
            remat=self.remat,
            name="transformer",
            **types,
        )(x, None, rows)
        return {"h": pool(x), "tokens": x}
