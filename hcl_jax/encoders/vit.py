"""Vision transformer, NHWC.

Names: `patch/kernel` [p p C, D] and `patch/bias`, `position` [1, H/p, W/p, D], `cls` [1, 1, D],
`registers` [1, R, D], `transformer/...` (see transformer.py), `map/probe|attention|norm|mlp/...`.
Patches are cut by a reshape and embedded by one matrix product: what a strided convolution computes.
With freeze_patch the patch layer gets no gradient, but weight decay would still shrink it: a rule of 0 for "patch/" in
optimizer.rules freezes it, and takes its moments away too.

The class token has no row in the position table, as other codes give it: row and token are summed, and the sum of two
parameters is one. A checkpoint's `cls` here is theirs plus their row. (Their token then learns at the sum of two rates,
and each of the two is decayed by itself: with class_position the row is here too, `cls_position` [1, 1, D].)
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hcl_jax.encoders.dropout import Dropout
from hcl_jax.encoders.initial import INITIALISERS, normal, of_layer
from hcl_jax.encoders.inputs import Rows, choose, read_field
from hcl_jax.encoders.positions import RESIZES, sincos2d
from hcl_jax.encoders.transformer import Attention, Mlp, Transformer, layer_norm
from hcl_jax.errors import InputError

# Dosovitskiy et al. 2021, table 1; "ti" and "s" from Touvron et al. 2021 (DeiT), table 1. MoCo v3's "s" has 12 heads.
VARIANTS = {
    "ti": {"width": 192, "depth": 12, "heads": 3, "mlp": 768},
    "s": {"width": 384, "depth": 12, "heads": 6, "mlp": 1536},
    "b": {"width": 768, "depth": 12, "heads": 12, "mlp": 3072},
    "l": {"width": 1024, "depth": 24, "heads": 16, "mlp": 4096},
}
PATCHES = {"2": 2, "4": 4, "8": 8, "14": 14, "16": 16, "32": 32}
POOLS = {"cls": 1, "gap": 0, "map": 0}  # number of class tokens
POSITIONS = ("learned", "sincos2d", "sincos2d_rows_first")


class ViT(nn.Module):
    """Patches -> transformer -> h.

    Args:
      variant: "ti", "s", "b" or "l", alone or with the patch size: "b/16".
      patch: patch size in pixels; 0 takes the variant's, or 16.
      width, depth, heads, mlp: in place of the variant's; 0 keeps those.
      pool: h is the class token ("cls"), the mean of the patch tokens ("gap"), or attention of a learned query ("map").
      class_position: a learned position of the class token (CLIP, DINO, DeiT), which only training sees.
      position: "learned" (sized from the image at initialisation), "sincos2d" (fixed; MAE) or "sincos2d_rows_first"
        (MoCo v3: the halves for columns and rows exchanged).
      resize: of learned positions to another image size, "antialiased" (timm, open_clip), "torch" or "dino"
        (positions.py).
      registers: number of extra tokens that no output reads (Darcet et al. 2024).
      freeze_patch: no gradient reaches the patch layer (MoCo v3, section 4.1).
      patch_bias: whether the patch layer has a bias (CLIP's has none).
      pre_norm: a norm between the embeddings and the first block (CLIP's ln_pre).
      activation: of the blocks' MLPs, "gelu", "gelu_tanh", "quick_gelu" (CLIP) or "relu".
      epsilon: added to the variance in every norm (CLIP 1e-5).
      kernel_init, patch_init: of the blocks' layers and of the patch layer, "xavier_uniform" (MoCo v3), "normal_0.02"
        and "uniform" (DINO: those of its blocks and of its patch layer) or another of `initial.INITIALISERS`.
      token_std: deviation of class token and registers at the start (MoCo v3 1e-6).
      dropout, drop_path: on the branches of the blocks, and stochastic depth of the last block.
      remat: recompute a block's activations in the backward pass.

    Reference: Dosovitskiy et al. 2021, "An image is worth 16x16 words", equations 1 to 4.
    """

    variant: str = "s/16"
    patch: int = 0
    width: int = 0
    depth: int = 0
    heads: int = 0
    mlp: int = 0
    pool: str = "cls"
    class_position: bool = False
    position: str = "learned"
    resize: str = "antialiased"
    registers: int = 0
    freeze_patch: bool = False
    patch_bias: bool = True
    pre_norm: bool = False
    activation: str = "gelu"
    epsilon: float = 1e-6
    kernel_init: str = "xavier_uniform"
    patch_init: str = "xavier_uniform"
    token_std: float = 0.02
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = "float32"
    param_dtype: Any = "float32"

    reads: ClassVar[tuple[str, ...]] = ("image",)
    more: ClassVar[tuple[str, ...]] = ("cls4",)  # outputs beside h that are rows of features

    @nn.compact
    def __call__(self, view: dict[str, Any], rows: Rows) -> dict[str, jax.Array]:
        """view["image"] [n, H, W, C] -> {"h": [n, D], "tokens": [n, (H/p) (W/p), D]}, patches only, row by row.

        With pool "cls" also "cls4" [n, 4 D]: the class tokens of the last four blocks (of all, where there are fewer),
        each through the last norm, the last one at the end. DINO's linear evaluation of ViT-S reads it; what reads
        nothing of it pays nothing for it.

        Raises:
          InputError: a word that is unknown; the patch does not divide the image.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        size, p = self._sizes()
        extra = choose(POOLS, self.pool, "vit.pool") + self.registers
        x = read_field(view, "image", (4,), "vit").astype(self.dtype)
        n, height, width, _ = x.shape
        if height % p or width % p:
            raise InputError(
                "vit.patch", f"{p} for {height}x{width} images", "a patch size that divides height and width"
            )
        grid = (height // p, width // p)
        x = patches(x, p)
        start = of_layer(self.patch_init, x.shape[-1], "vit.patch_init")
        x = nn.Dense(size["width"], self.patch_bias, name="patch", **types, **start)(x)
        if self.freeze_patch:
            x = jax.lax.stop_gradient(x)
        x = x + self._positions(grid, size["width"])
        if self.pool == "cls":
            token = self._token("cls", 1, n, size["width"])
            if self.class_position:
                token = token + self._token("cls_position", 1, n, size["width"])
            x = jnp.concatenate([token, x], axis=1)
        if self.registers:
            x = jnp.concatenate([self._token("registers", self.registers, n, size["width"]), x], axis=1)
        x = Dropout(self.dropout, name="dropout")(x, rows)
        kind = {"activation": self.activation, "epsilon": self.epsilon, "kernel_init": self.kernel_init, **types}
        outputs = Transformer(
            depth=size["depth"],
            heads=size["heads"],
            mlp=size["mlp"],
            dropout=self.dropout,
            drop_path=self.drop_path,
            pre_norm=self.pre_norm,
            remat=self.remat,
            name="transformer",
            **kind,
        )(x, None, rows, last=4 if self.pool == "cls" else 1)
        tokens = outputs[-1][:, extra:]
        if self.pool == "cls":
            classes = [y[:, extra - 1] for y in outputs]
            return {"h": classes[-1], "tokens": tokens, "cls4": jnp.concatenate(classes, axis=-1)}
        if self.pool == "gap":
            return {"h": tokens.mean(axis=1), "tokens": tokens}
        return {"h": AttentionPool(size["heads"], size["mlp"], name="map", **kind)(tokens), "tokens": tokens}

    def _sizes(self) -> tuple[dict[str, int], int]:
        name, _, patch = str(self.variant).partition("/")
        if name not in VARIANTS:
            known = f"one of {', '.join(VARIANTS)}, alone or with a patch size as in b/16"
            raise InputError("vit.variant", repr(self.variant), known)
        of_name = choose(PATCHES, patch, "vit.variant, patch size") if patch else 0
        if of_name and self.patch and of_name != self.patch:
            found = f"{self.patch} beside variant {self.variant!r}"
            raise InputError("vit.patch", found, f"{of_name}, or a variant without /")
        own = {"width": self.width, "depth": self.depth, "heads": self.heads, "mlp": self.mlp}
        return {k: own[k] or v for k, v in VARIANTS[name].items()}, self.patch or of_name or 16

    def _token(self, name: str, count: int, n: int, width: int) -> jax.Array:
        token = self.param(name, normal(self.token_std), (1, count, width), self.param_dtype)
        return jnp.broadcast_to(token.astype(self.dtype), (n, count, width))

    def _positions(self, grid: tuple[int, int], width: int) -> jax.Array:
        """[1, T, width]. The class token needs none: a position added to it is one more constant on a learned one."""
        if self.position not in POSITIONS:
            raise InputError("vit.position", repr(self.position), " or ".join(POSITIONS))
        resized = choose(RESIZES, self.resize, "vit.resize")
        if self.position != "learned":
            return jnp.asarray(sincos2d(grid, width, rows_first=self.position == "sincos2d_rows_first"), self.dtype)
        shape = (1, *grid, width)
        stored = self.get_variable("params", "position").shape if self.has_variable("params", "position") else shape
        table = self.param("position", normal(0.02), stored, self.param_dtype)
        if stored != shape:
            table = resized(table, grid)
        return table.reshape(1, -1, width).astype(self.dtype)


class AttentionPool(nn.Module):
    """h = y + mlp(norm(y)), y = attention of one learned query over the tokens.

    Reference: Zhai et al. 2022, "Scaling vision transformers", section 2.2 (MAP head).
    """

    heads: int
    mlp: int
    dtype: Any
    param_dtype: Any
    activation: str = "gelu"
    epsilon: float = 1e-6
    kernel_init: str = "xavier_uniform"

    @nn.compact
    def __call__(self, x: Float[Array, "n t d"]) -> Float[Array, "n d"]:
        """x [n, T, D] -> [n, D]."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        start = INITIALISERS["xavier_uniform"]
        probe = self.param("probe", start, (1, 1, x.shape[-1]), self.param_dtype).astype(self.dtype)
        probe = jnp.broadcast_to(probe, (x.shape[0], 1, x.shape[-1]))
        y = Attention(self.heads, kernel_init=self.kernel_init, name="attention", **types)(probe, x)
        mlp = Mlp(self.mlp, activation=self.activation, kernel_init=self.kernel_init, name="mlp", **types)
        return (y + mlp(layer_norm("norm", epsilon=self.epsilon, **types)(y)))[:, 0]


def patches(x: jax.Array, p: int) -> jax.Array:
    """[n, H, W, C] -> [n, (H/p) (W/p), p p C], row by row."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height // p, p, width // p, p, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, -1, p * p * channels)
