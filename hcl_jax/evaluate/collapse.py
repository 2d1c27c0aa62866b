"""Have the embeddings collapsed to a point?"""

import math

import jax
import numpy as np

from hcl_jax.evaluate.neighbours import unit_rows
from hcl_jax.evaluate.rows import features_of


def spread(embeddings: jax.typing.ArrayLike) -> float:
    """How far L2-normalised embeddings spread over the sphere.

    spread = sqrt(d) mean_j std_i(z_ij / |z_i|); 1 = even over the sphere, 0 = all rows the same direction.

    Args:
      embeddings: [n, d].

    Returns:
      A float from 0 to 1.

    Raises:
      InputError: not [n, d], or values that are not finite.

    Reference: Chen and He 2020, arXiv 2011.10566, section 4.1 and figure 2.
    """
    z = unit_rows(features_of(embeddings, "embeddings"))
    return float(math.sqrt(z.shape[1]) * z.std(axis=0, dtype=np.float64).mean())
