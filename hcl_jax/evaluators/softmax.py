"""Multinomial logistic regression by full-batch L-BFGS: the one solver behind the probes."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

MAX_ITERATIONS = 300
TOLERANCE = 3e-4
MEMORY = 30  # a third fewer steps than 10 on pixels, for 2 * 30 * c * d floats


class Solution(NamedTuple):
    """A solved problem.

    Attributes:
      weights: [c, d].
      bias: [c].
      value: the objective, nats a row.
      gradient_norm: of the preconditioned gradient, at the end.
      iterations: L-BFGS steps taken.
    """

    weights: jax.Array
    bias: jax.Array
    value: jax.Array
    gradient_norm: jax.Array
    iterations: jax.Array


def _objective(params, x, y, rows, inverse, l2):
    """params = (v [c, d], bias [c]) with weights = v inverse; x [n, d], y [n], rows [n] -> scalar."""
    weights = jnp.matmul(params[0], inverse, precision="highest")
    logits = jnp.matmul(x, weights.T, precision="highest") + params[1][None, :]
    right = jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0]
    loss = jnp.sum(rows * (jax.nn.logsumexp(logits, axis=1) - right)) / jnp.sum(rows)
    return loss + 0.5 * l2 * jnp.sum(weights * weights)


@jax.jit
def gram(x: jax.Array, rows: jax.Array) -> jax.Array:
    """Second moment of the rows, X^T diag(rows) X / sum(rows): x [n, d], rows [n] -> [d, d]."""
    return jnp.matmul((x * rows[:, None]).T, x, precision="highest") / jnp.sum(rows)


@jax.jit
def row_space(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Coordinates within the span of fewer rows than dimensions, x = z q^T with q^T q = I.

    An l2 penalty puts the optimum into that span, so a problem of 10 rows in 3072 dimensions is one of 10 x 10. Two
    rounds of q^T <- L^-1 q^T with L L^T = q^T q: jnp.linalg.qr of 1000 rows in 3072 dimensions took 19 s on two busy
    cores, this 2 s.

    Args:
      x: [m, d], m <= d; rows may repeat.

    Returns:
      (z [m, m], q [d, m]).

    Reference: Yamamoto et al. 2015, Electronic Transactions on Numerical Analysis 44, algorithm 2 (CholeskyQR2).
    """
    eye = jnp.eye(x.shape[0], dtype=x.dtype)
    basis = x
    for _ in range(2):
        inner = jnp.matmul(basis, basis.T, precision="highest")
        jitter = 4 * jnp.finfo(x.dtype).eps * jnp.trace(inner)
        factor = jnp.linalg.cholesky(inner + jitter * eye)
        basis = jax.lax.linalg.triangular_solve(factor, basis, left_side=True, lower=True)
    return jnp.matmul(x, basis.T, precision="highest"), basis.T


@partial(jax.jit, static_argnames="max_iterations")
def solve(
    x: jax.Array,
    moment: jax.Array,
    y: jax.Array,
    rows: jax.Array,
    l2: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    tolerance: jax.Array,
    max_iterations: int = MAX_ITERATIONS,
) -> Solution:
    """Minimise the weighted mean cross-entropy with an l2 penalty on the weights.

    min_{W, b} sum_i rows_i (logsumexp(W x_i + b) - (W x_i + b)_{y_i}) / sum_i rows_i + l2 / 2 |W|^2, b not penalised.

    The search runs over V with W = V L^-1 and L L^T = moment / c + l2 I, near the Hessian at uniform predictions:
    correlated features, whose plain L-BFGS takes thousands of steps, take tens. The optimum is that of W whatever L
    is. It stops when the norm of the gradient by V is at most `tolerance`, when three steps in a row no longer lower
    the objective in float32, or after `max_iterations`. Cost of a step: about two passes over x. Compiles once for
    each (n, d, c).

    Args:
      x: [n, d] float32, about standardised.
      moment: [d, d], `gram(x, rows)`; any symmetric positive matrix is right, only slower.
      y: [n] int32 in 0..c-1.
      rows: [n] float32 weight of each row; 0 = not there.
      l2: scalar; scikit-learn's C is 1 / (l2 sum(rows)).
      weights: [c, d], the start.
      bias: [c], the start.
      tolerance: scalar.
      max_iterations: limit of steps.

    Returns:
      `Solution`.

    Reference: Liu and Nocedal 1989, Mathematical Programming 45, algorithm 2.1; the bound on the Hessian is Boehning
    1992, Annals of the Institute of Statistical Mathematics 44, equation 2.4.
    """
    dims, classes = x.shape[1], weights.shape[0]
    eye = jnp.eye(dims, dtype=x.dtype)
    # Float32 moments have eigenvalues down to about minus eps times the largest one; the trace bounds that.
    jitter = 4 * jnp.finfo(x.dtype).eps * jnp.trace(moment)
    factor = jnp.linalg.cholesky(moment / classes + (l2 + jitter) * eye)
    # The inverse is made once: a batched triangular solve inside a loop can hang XLA:CPU (jax 0.10.2, two cores).
    inverse = jax.lax.linalg.triangular_solve(factor, eye, left_side=True, lower=True)
    start = jnp.matmul(weights, factor, precision="highest"), bias

    def objective(params):
        return _objective(params, x, y, rows, inverse, l2)

    optimizer = optax.lbfgs(memory_size=MEMORY)

    def unfinished(carry):
        _, _, _, grad, stalled, step = carry
        return (optax.tree.norm(grad) > tolerance) & (stalled < 3) & (step < max_iterations)

    def body(carry):
        params, state, value, grad, stalled, step = carry
        updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=objective)
        params = optax.apply_updates(params, updates)
        # The line search has already evaluated the point that it accepts.
        new, grad = optax.tree.get(state, "value"), optax.tree.get(state, "grad")
        flat = value - new <= jnp.finfo(x.dtype).eps * jnp.abs(value)
        return params, state, new, grad, jnp.where(flat, stalled + 1, 0), step + 1

    value, grad = jax.value_and_grad(objective)(start)
    zero = jnp.zeros((), jnp.int32)
    params, _, value, grad, _, step = jax.lax.while_loop(
        unfinished, body, (start, optimizer.init(start), value, grad, zero, zero)
    )
    weights = jnp.matmul(params[0], inverse, precision="highest")
    return Solution(weights, params[1], value, optax.tree.norm(grad), step)


def standardiser(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation by column, in blocks so that no float64 copy of x is made.

    Args:
      x: [n, d] float32.

    Returns:
      (mean [d], scale [d]) float32; a column whose deviation is rounding only (<= 1e-5 of its mean's size) has scale 1.
    """
    block = max(1, 2**22 // x.shape[1])
    parts = range(0, len(x), block)
    mean = sum(x[i : i + block].sum(axis=0, dtype=np.float64) for i in parts) / len(x)
    square = sum(((x[i : i + block] - mean[None, :]) ** 2).sum(axis=0) for i in parts) / len(x)
    deviation = np.sqrt(square)
    scale = np.where(deviation > 1e-5 * np.abs(mean), deviation, 1.0)
    return mean.astype(np.float32), scale.astype(np.float32)
