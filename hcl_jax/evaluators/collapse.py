"""Have the embeddings collapsed to a point?"""

import jax

from hcl_jax.evaluators.result import Result, Splits
from hcl_jax.evaluators.rows import features_of
from hcl_jax.losses.spread import spread as spread_of


def spread(embeddings: jax.typing.ArrayLike) -> float:
    """How far L2-normalised embeddings spread over the sphere.

    spread = sqrt(d) mean_j std_i(z_ij / |z_i|); 1 = even over the sphere, 0 = all rows the same direction; the number
    that a run logs of its training batches.

    Args:
      embeddings: [n, d].

    Returns:
      A float from 0 to 1.

    Raises:
      InputError: not [n, d], or values that are not finite.

    Example:
      >>> round(spread(np.eye(2)), 4)  # sqrt(2) times a deviation of 1 / 2
      0.7071

    Reference: Chen and He 2020, arXiv 2011.10566, section 4.1 and figure 2.
    """
    return float(spread_of(jax.device_put(features_of(embeddings, "embeddings"))))


def spread_of_features(features: Splits) -> Result:
    """How far the test features [n, d] spread over the sphere: `spread`; 0 is collapse."""
    return Result({"spread": spread(features.test)})
