"""SwAV: the prototypes of one view are predicted from another; no negatives."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.errors import InputError
from hcl_jax.losses import masking
from hcl_jax.losses.sinkhorn import sinkhorn


def swav(
    *scores: Float[Array, "n k"],
    temperature: float | Array = 0.1,
    epsilon: float | Array = 0.05,
    iterations: int = 3,
    crops: int = 2,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Swapped prediction of balanced assignments.

    loss = 1 / (C (V - 1)) sum_{c < C} sum_{v != c} mean_i -sum_k q_ik^c log softmax_k(s_i^v / t)
    q^c = sinkhorn(s^c), no gradient

    Args:
      scores: V >= 2 arrays [N, K], the scores of each view against K prototypes; the full-size views come first.
      temperature: t > 0 of the prediction, a number or a traced scalar.
      epsilon, iterations: of the assignments, see `sinkhorn`.
      crops: C, how many of the first views give assignments; every view is predicted from.
      ids: int [N]; -1 = ignored row. Other values change nothing.
      row_weights: [N], scale the loss of each row; the assignments count every valid row once.

    Returns:
      Scalar; mean over valid rows, weights not renormalised.

    Raises:
      InputError: fewer than two views, shapes that differ, crops not in 1..V, a temperature or epsilon not above 0.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{swav(x, x, temperature=1.0):.4f}")  # one prototype a row: log(e + 1) - 1
      0.3133

    Reference: Caron et al. 2020, arXiv 2006.09882, equations 1 to 3 and section 3.2; the mean over pairs of views is
    the authors' code's.
    """
    return _swapped(scores, (), temperature, epsilon, iterations, crops, ids, row_weights)


def swav_queue(
    queue_a: Float[Array, "m k"],
    queue_b: Float[Array, "m k"],
    *scores: Float[Array, "n k"],
    temperature: float | Array = 0.1,
    epsilon: float | Array = 0.05,
    iterations: int = 3,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """`swav` whose assignments are balanced over the rows of earlier steps too, for small batches.

    q^c = the last N rows of sinkhorn([queue c; s^c]), no gradient;   two crops give assignments

    Args:
      queue_a, queue_b: [M, K], the scores of earlier rows of the first and of the second view against the prototypes of
        now: `image.memory.a.prototypes` of a slot `a` of kind fifo that is written from `a.z` and starts with zeros. A
        queue with an empty row, whose scores are all 0, is not used: it counts from the step on at which it is full.
      scores: V >= 2 arrays [N, K], the scores of each view; the two that the queues belong to come first.
      temperature, epsilon, iterations, ids, row_weights: as in `swav`.

    Returns:
      Scalar; mean over valid rows, weights not renormalised.

    Raises:
      InputError: fewer than two views, shapes that differ, a temperature or epsilon not above 0.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{swav_queue(jnp.zeros((4, 2)), jnp.zeros((4, 2)), x, x, temperature=1.0):.4f}")  # empty: swav
      0.3133

    Reference: Caron et al. 2020, arXiv 2006.09882, section 4.1 ("small batch"); main_swav.py of facebookresearch/swav.
    """
    return _swapped(scores, (queue_a, queue_b), temperature, epsilon, iterations, 2, ids, row_weights)


def _swapped(
    scores: tuple[Array, ...],
    queues: tuple[Array, ...],
    temperature: float | Array,
    epsilon: float | Array,
    iterations: int,
    crops: int,
    ids: Array | None,
    row_weights: Array | None,
) -> Array:
    if len(scores) < 2:
        raise InputError("scores", len(scores), "two or more arrays [N, K]")
    n, k = masking.check_matrices(**{f"scores[{i}]": s for i, s in enumerate(scores)})
    for name, queue in zip(("queue_a", "queue_b"), queues, strict=False):
        if jnp.ndim(queue) != 2 or jnp.shape(queue)[1] != k:
            raise InputError(name, f"shape {jnp.shape(queue)}", f"[rows, {k}], the prototypes of the views")
    masking.check_positive("temperature", temperature)
    if isinstance(crops, bool) or not isinstance(crops, int) or not 1 <= crops <= len(scores):
        raise InputError("crops", repr(crops), f"1 to {len(scores)}, the number of views")
    valid = masking.valid_rows(ids, n)
    clean = [masking.mask(s, valid) for s in scores]
    log_p = [jax.nn.log_softmax(s / jnp.asarray(temperature, s.dtype), axis=1) for s in clean]
    values = jnp.zeros((n,), clean[0].dtype)
    for c in range(crops):
        if queues:
            rows = jax.lax.stop_gradient(jnp.asarray(queues[c])).astype(clean[c].dtype)
            full = jnp.all(jnp.any(rows != 0, axis=1))
            of_rows = jnp.concatenate([jnp.full(len(rows), jnp.where(full, 0, -1)), jnp.where(valid, 0, -1)])
            both = jnp.concatenate([rows, clean[c]])
            q = sinkhorn(both, epsilon=epsilon, iterations=iterations, ids=of_rows)[len(rows) :]
        else:
            q = sinkhorn(clean[c], epsilon=epsilon, iterations=iterations, ids=ids)
        # Linear in log p: one product with the sum over the other views.
        values -= jnp.sum(q * sum((p for v, p in enumerate(log_p) if v != c), jnp.zeros_like(q)), axis=1)
    return masking.mean(values / (crops * (len(scores) - 1)), valid, row_weights)
