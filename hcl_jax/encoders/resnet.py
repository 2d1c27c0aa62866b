"""ResNet-18 to 152, v1.5 (a bottleneck's stride sits in its 3x3 convolution), NHWC.

Names: `stem_conv/kernel`, `stem_norm/scale`, `stage{1..4}_block{0..}/conv{1,2,3}/kernel`, `.../norm{1,2,3}/scale|bias`,
`.../shortcut_conv/kernel`, `.../shortcut_norm/scale|bias`. No convolution has a bias: a norm follows each.
Padding is symmetric, as in torchvision and not "SAME" (which pads a stride-2 convolution on one side), unless an
argument says otherwise.

Forms of the authors' codes, as arguments:
torchvision (SimSiam, MoCo v3; MoCo v1 and v2, SwAV: zero_init_residual False): the defaults.
Google's SimCLR: kernel_init "lecun_normal", pool_padding "same".
DeepMind's BYOL (haiku): kernel_init "cut_normal", padding "same", pool_padding "same".
"""

from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hcl_jax.encoders.batch_norm import BatchNorm
from hcl_jax.encoders.initial import INITIALISERS
from hcl_jax.encoders.inputs import Rows, choose, read_field

DEPTHS = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}
# kernel, stride, whether a 3x3/2 max pool follows
STEMS = {"imagenet": (7, 2, True), "small": (3, 1, False)}


def _symmetric(kernel: int) -> str | tuple[tuple[int, int], ...]:
    return (((kernel - 1) // 2,) * 2,) * 2


PADDINGS: dict[str, Any] = {"symmetric": _symmetric, "same": lambda kernel: "SAME"}


class Block(nn.Module):
    """y = relu(x' + f(x)); f has two 3x3 convolutions, or 1x1, 3x3, 1x1 with 4 times the channels out (bottleneck).

    x' is x, or a strided 1x1 convolution and norm of x where the shape changes.

    Reference: He et al. 2016, "Deep residual learning", figure 5.
    """

    channels: int
    stride: int
    bottleneck: bool
    zero_init_residual: bool
    convolution: Any
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], rows: Rows) -> Float[Array, "n h2 w2 c2"]:
        """x [n, H, W, C] -> [n, H/stride, W/stride, channels or 4 channels]."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm, convolution = partial(BatchNorm, **types), self.convolution
        last = partial(norm, scale_init=nn.initializers.zeros) if self.zero_init_residual else norm
        if self.bottleneck:
            out = 4 * self.channels
            y = nn.relu(norm(name="norm1")(convolution(self.channels, 1, 1, name="conv1")(x), rows))
            y = convolution(self.channels, 3, self.stride, name="conv2")(y)
            y = nn.relu(norm(name="norm2")(y, rows))
            y = last(name="norm3")(convolution(out, 1, 1, name="conv3")(y), rows)
        else:
            out = self.channels
            y = convolution(out, 3, self.stride, name="conv1")(x)
            y = nn.relu(norm(name="norm1")(y, rows))
            y = last(name="norm2")(convolution(out, 3, 1, name="conv2")(y), rows)
        if x.shape != y.shape:
            x = convolution(out, 1, self.stride, name="shortcut_conv")(x)
            x = norm(name="shortcut_norm")(x, rows)
        return nn.relu(x + y)


def convolution(features: int, kernel: int, stride: int, **kwargs: Any) -> nn.Conv:
    """A square convolution without bias, padded by (kernel - 1) / 2 on every side and begun as torchvision's unless
    the arguments say otherwise."""
    common = {"padding": _symmetric(kernel), "kernel_init": INITIALISERS["he_fan_out"], "use_bias": False, **kwargs}
    return nn.Conv(features, (kernel, kernel), (stride, stride), **common)


class ResNet(nn.Module):
    """Residual network; h is the mean over positions of the last grid.

    Args:
      depth: 18, 34, 50, 101 or 152.
      stem: "imagenet" (7x7 stride 2, then 3x3 max pool stride 2) or "small" (3x3 stride 1, no pool; for 32 pixels).
      width: multiplies every number of channels (2 and 4 in SimCLR).
      zero_init_residual: the last scale of a block starts at 0, so that the block starts as its shortcut.
      kernel_init: of all convolutions, "he_fan_out" (torchvision), "lecun_normal" (Google's SimCLR), "cut_normal"
        (haiku), "uniform", "normal_0.01", "normal_0.02" or "xavier_uniform".
      padding: of the convolutions, "symmetric" by (kernel - 1) / 2, or "same": with a stride of 2 one less in front.
      pool_padding: of the max pool, likewise.
      remat: recompute a block's activations in the backward pass: memory falls, time rises by about a third.

    Reference: He et al. 2016, "Deep residual learning", table 1; Goyal et al. 2017, section 5.1 (stride, zero scale).
    """

    depth: int = 50
    stem: str = "imagenet"
    width: float = 1.0
    zero_init_residual: bool = True
    kernel_init: str = "he_fan_out"
    padding: str = "symmetric"
    pool_padding: str = "symmetric"
    remat: bool = False
    dtype: Any = "float32"
    param_dtype: Any = "float32"

    reads: ClassVar[tuple[str, ...]] = ("image",)

    @nn.compact
    def __call__(self, view: dict[str, Any], rows: Rows) -> dict[str, jax.Array]:
        """view["image"] [n, H, W, C] -> {"h": [n, D], "tokens": [n, H' W', D]}, D = 512 width (2048 from depth 50 on).

        Raises:
          InputError: unknown depth, stem, kernel_init or padding; no image.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        bottleneck, blocks = choose(DEPTHS, self.depth, "resnet.depth")
        kernel, stride, pool = choose(STEMS, self.stem, "resnet.stem")
        x = read_field(view, "image", (4,), "resnet").astype(self.dtype)
        base = max(1, round(64 * self.width))
        padding = choose(PADDINGS, self.padding, "resnet.padding")
        pool_padding = choose(PADDINGS, self.pool_padding, "resnet.pool_padding")
        start = choose(INITIALISERS, self.kernel_init, "resnet.kernel_init")

        def make(features: int, kernel: int, stride: int, name: str) -> nn.Conv:
            return convolution(features, kernel, stride, name=name, padding=padding(kernel), kernel_init=start, **types)

        x = make(base, kernel, stride, name="stem_conv")(x)
        x = nn.relu(BatchNorm(name="stem_norm", **types)(x, rows))
        if pool:
            x = nn.max_pool(x, (3, 3), (2, 2), pool_padding(3))
        block = nn.remat(Block) if self.remat else Block
        for stage, count in enumerate(blocks):
            for i in range(count):
                x = block(
                    channels=base * 2**stage,
                    stride=2 if stage > 0 and i == 0 else 1,
                    bottleneck=bottleneck,
                    zero_init_residual=self.zero_init_residual,
                    convolution=make,
                    name=f"stage{stage + 1}_block{i}",
                    **types,
                )(x, rows)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        return {"h": jnp.mean(tokens, axis=1), "tokens": tokens}
