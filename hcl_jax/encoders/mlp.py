"""Fully connected encoder of any field of a view, flattened.

Names: `dense{1..}/kernel|bias`, `norm{1..}/scale|bias`. A dense layer before a norm has no bias.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from hcl_jax.encoders.batch_norm import BatchNorm
from hcl_jax.encoders.inputs import Rows, read_field


class MLP(nn.Module):
    """h = relu(norm(W_k ... relu(norm(W_1 x)))).

    Args:
      field: which field of the view is read.
      widths: of the layers; the last is that of h.
      batch_norm: a norm after each dense layer.
      last_relu: whether h is rectified too.
    """

    field: str = "image"
    widths: Sequence[int] = (512, 512)
    batch_norm: bool = True
    last_relu: bool = True
    dtype: Any = "float32"
    param_dtype: Any = "float32"

    @property
    def reads(self) -> tuple[str, ...]:
        """The field that is read."""
        return (self.field,)

    @nn.compact
    def __call__(self, view: dict[str, Any], rows: Rows) -> jax.Array:
        """view[field] [n, ...] -> h [n, widths[-1]].

        Raises:
          InputError: no such field.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = read_field(view, self.field, (), "mlp").astype(self.dtype)
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.widths, start=1):
            last = i == len(self.widths)
            x = nn.Dense(width, use_bias=not self.batch_norm, name=f"dense{i}", **types)(x)
            if self.batch_norm:
                x = BatchNorm(name=f"norm{i}", **types)(x, rows)
            if not last or self.last_relu:
                x = nn.relu(x)
        return x
