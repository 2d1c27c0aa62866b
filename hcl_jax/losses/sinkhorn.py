"""Sinkhorn-Knopp: scores of rows against prototypes as soft assignments that use every prototype equally."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.errors import InputError
from hcl_jax.losses import masking


def sinkhorn(
    scores: Float[Array, "n k"],
    *,
    epsilon: float | Array = 0.05,
    iterations: int = 3,
    ids: Integer[Array, " n"] | None = None,
) -> Float[Array, "n k"]:
    """Soft assignments near the optimal transport of the rows to the prototypes, no gradient.

    Q = diag(u) exp(S / epsilon) diag(v); each iteration makes the columns' sums equal, then every row's sum 1

    It runs on log Q, so that no epsilon overflows. The sums over rows are over the whole global batch.

    Args:
      scores: S, [N, K].
      epsilon: > 0, how soft; towards 0 each row goes to one prototype.
      iterations: of both steps; with 0 it is the softmax of each row.
      ids: int [N]; -1 = ignored row, which enters no sum. Other values change nothing.

    Returns:
      [N, K], float32 or wider: rows sum to 1, ignored rows are zeros. After many iterations columns sum to N / K.

    Raises:
      InputError: scores that are no matrix, epsilon not above 0, iterations below 0.

    Example:
      >>> print(np.asarray(sinkhorn(jnp.eye(2), epsilon=1.0)).round(2))  # even already: the softmax of each row
      [[0.73 0.27]
       [0.27 0.73]]

    Reference: Caron et al. 2020, arXiv 2006.09882, equation 5 and the listing in its appendix; Cuturi 2013, arXiv
    1306.0895, algorithm 1.
    """
    n, _ = masking.check_matrices(scores=scores)
    masking.check_positive("epsilon", epsilon)
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise InputError("iterations", repr(iterations), "a whole number of at least 0")
    valid = masking.valid_rows(ids, n)
    log_q = jax.lax.stop_gradient(masking.mask(scores, valid))
    log_q = log_q / jax.lax.stop_gradient(jnp.asarray(epsilon, log_q.dtype))
    any_valid = jnp.any(valid)

    def step(_: int, log_q: Array) -> Array:
        # Without a valid row the sum of a column is log 0.
        column = jax.nn.logsumexp(log_q, axis=0, keepdims=True, where=valid[:, None] | ~any_valid)
        return jax.nn.log_softmax(log_q - column, axis=1)

    log_q = jax.lax.fori_loop(0, iterations, step, log_q)
    return jnp.where(valid[:, None], jax.nn.softmax(log_q, axis=1), 0)
