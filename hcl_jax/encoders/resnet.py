"""ResNet-18 to 152, v1.5 (a bottleneck's stride sits in its 3x3 convolution), NHWC.

Names: `stem_conv/kernel`, `stem_norm/scale`, `stage{1..4}_block{0..}/conv{1,2,3}/kernel`, `.../norm{1,2,3}/scale|bias`,
`.../shortcut_conv/kernel`, `.../shortcut_norm/scale|bias`. No convolution has a bias: a norm follows each.
Padding is symmetric, as in torchvision and not "SAME" (which pads a stride-2 convolution on one side).
"""

from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hcl_jax.encoders.batch_norm import BatchNorm
from hcl_jax.encoders.initial import scaled_normal
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


class Block(nn.Module):
    """y = relu(x' + f(x)); f has two 3x3 convolutions, or 1x1, 3x3, 1x1 with 4 times the channels out (bottleneck).

    x' is x, or a strided 1x1 convolution and norm of x where the shape changes.

    Reference: He et al. 2016, "Deep residual learning", figure 5.
    """

    channels: int
    stride: int
    bottleneck: bool
    zero_init_residual: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], rows: Rows) -> Float[Array, "n h2 w2 c2"]:
        """x [n, H, W, C] -> [n, H/stride, W/stride, channels or 4 channels]."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(BatchNorm, **types)
        last = partial(norm, scale_init=nn.initializers.zeros) if self.zero_init_residual else norm
        if self.bottleneck:
            out = 4 * self.channels
            y = nn.relu(norm(name="norm1")(convolution(self.channels, 1, 1, name="conv1", **types)(x), rows))
            y = convolution(self.channels, 3, self.stride, name="conv2", **types)(y)
            y = nn.relu(norm(name="norm2")(y, rows))
            y = last(name="norm3")(convolution(out, 1, 1, name="conv3", **types)(y), rows)
        else:
            out = self.channels
            y = convolution(out, 3, self.stride, name="conv1", **types)(x)
            y = nn.relu(norm(name="norm1")(y, rows))
            y = last(name="norm2")(convolution(out, 3, 1, name="conv2", **types)(y), rows)
        if x.shape != y.shape:
            x = convolution(out, 1, self.stride, name="shortcut_conv", **types)(x)
            x = norm(name="shortcut_norm")(x, rows)
        return nn.relu(x + y)


def convolution(features: int, kernel: int, stride: int, **kwargs: Any) -> nn.Conv:
    """A square convolution without bias, padded by (kernel - 1) / 2 on every side."""
    pad = (kernel - 1) // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        (stride, stride),
        ((pad, pad), (pad, pad)),
        use_bias=False,
        kernel_init=scaled_normal(2.0, "out"),
        **kwargs,
    )


class ResNet(nn.Module):
    """Residual network; h is the mean over positions of the last grid.

    Args:
      depth: 18, 34, 50, 101 or 152.
      stem: "imagenet" (7x7 stride 2, then 3x3 max pool stride 2) or "small" (3x3 stride 1, no pool; for 32 pixels).
      width: multiplies every number of channels (2 and 4 in SimCLR).
      zero_init_residual: the last scale of a block starts at 0, so that the block starts as its shortcut.
      remat: recompute a block's activations in the backward pass: memory falls, time rises by about a third.

    Reference: He et al. 2016, "Deep residual learning", table 1; Goyal et al. 2017, section 5.1 (stride, zero scale).
    """

    depth: int = 50
    stem: str = "imagenet"
    width: float = 1.0
    zero_init_residual: bool = True
    remat: bool = False
    dtype: Any = "float32"
    param_dtype: Any = "float32"

    reads: ClassVar[tuple[str, ...]] = ("image",)

    @nn.compact
    def __call__(self, view: dict[str, Any], rows: Rows) -> dict[str, jax.Array]:
        """view["image"] [n, H, W, C] -> {"h": [n, D], "tokens": [n, H' W', D]}, D = 512 width (2048 from depth 50 on).

        Raises:
          InputError: unknown depth or stem, no image.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        bottleneck, blocks = choose(DEPTHS, self.depth, "resnet.depth")
        kernel, stride, pool = choose(STEMS, self.stem, "resnet.stem")
        x = read_field(view, "image", (4,), "resnet").astype(self.dtype)
        base = max(1, round(64 * self.width))
        x = convolution(base, kernel, stride, name="stem_conv", **types)(x)
        x = nn.relu(BatchNorm(name="stem_norm", **types)(x, rows))
        if pool:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        block = nn.remat(Block) if self.remat else Block
        for stage, count in enumerate(blocks):
            for i in range(count):
                x = block(
                    channels=base * 2**stage,
                    stride=2 if stage > 0 and i == 0 else 1,
                    bottleneck=bottleneck,
                    zero_init_residual=self.zero_init_residual,
                    name=f"stage{stage + 1}_block{i}",
                    **types,
                )(x, rows)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        return {"h": jnp.mean(tokens, axis=1), "tokens": tokens}
