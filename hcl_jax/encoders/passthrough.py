"""An encoder without layers: features made elsewhere, for a tower of trained heads on them (python -m hcl_jax.embed).

Names: no parameter.
"""

from typing import Any

import flax.linen as nn
import jax

from hcl_jax.encoders.inputs import Rows, read_field


class Passthrough(nn.Module):
    """h = view[field]: nothing is learned, and no gradient goes further.

    Args:
      field: which field of the view is read.
    """

    field: str = "features"

    @property
    def reads(self) -> tuple[str, ...]:
        """The field that is read."""
        return (self.field,)

    @nn.compact
    def __call__(self, view: dict[str, Any], rows: Rows) -> jax.Array:
        """view[field] [n, D] -> h [n, D], in the numbers' own type: heads cast what they read.

        Raises:
          InputError: no such field, or another rank.
        """
        del rows
        return read_field(view, self.field, (2,), "identity")
