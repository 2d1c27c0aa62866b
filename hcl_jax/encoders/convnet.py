"""A small strided convolutional encoder for laptops: 10 million multiply-adds for a 32-pixel image.

Names: `stage{1..}_conv/kernel`, `stage{1..}_norm/scale|bias`, and with `extra` `stage{1..}_extra_conv|extra_norm`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from hcl_jax.encoders.batch_norm import BatchNorm
from hcl_jax.encoders.inputs import Rows, read_field
from hcl_jax.encoders.resnet import convolution


class ConvNet(nn.Module):
    """Stages of a 3x3 stride-2 convolution, norm and relu; h is the mean over positions of the last grid.

    Args:
      widths: channels of each stage; each halves height and width.
      extra: a second 3x3 convolution, stride 1, in every stage (1.1 M parameters in place of 0.37 M).
      kernel: width of the convolutions, odd.
    """

    widths: Sequence[int] = (64, 128, 256)
    extra: bool = False
    kernel: int = 3
    dtype: Any = "float32"
    param_dtype: Any = "float32"

    reads: ClassVar[tuple[str, ...]] = ("image",)

    @nn.compact
    def __call__(self, view: dict[str, Any], rows: Rows) -> dict[str, jax.Array]:
        """view["image"] [n, H, W, C] -> {"h": [n, widths[-1]], "tokens": [n, H' W', widths[-1]]}.

        Raises:
          InputError: no image.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = read_field(view, "image", (4,), "convnet").astype(self.dtype)
        for i, width in enumerate(self.widths, start=1):
            x = convolution(width, self.kernel, 2, name=f"stage{i}_conv", **types)(x)
            x = nn.relu(BatchNorm(name=f"stage{i}_norm", **types)(x, rows))
            if self.extra:
                x = convolution(width, self.kernel, 1, name=f"stage{i}_extra_conv", **types)(x)
                x = nn.relu(BatchNorm(name=f"stage{i}_extra_norm", **types)(x, rows))
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        return {"h": jnp.mean(tokens, axis=1), "tokens": tokens}
