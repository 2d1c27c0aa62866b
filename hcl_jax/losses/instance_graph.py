"""The graph of nearest rows of a batch, as lists of positives for `multi_positive`. Targets, not a loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.errors import InputError
from hcl_jax.losses import masking
from hcl_jax.similarity import DEFAULT, Engine
from hcl_jax.similarity.tiles import lowest


class Targets(NamedTuple):
    """Positives int [N, P], -1 = none, and their weights [N, P], as `multi_positive` takes them."""

    positives: Integer[Array, "n p"]
    weights: Float[Array, "n p"]


def instance_graph(
    z: Float[Array, "n d"], *, k: int, ids: Integer[Array, " n"] | None = None, engine: Engine = DEFAULT
) -> Targets:
    """Each row and its k nearest rows, weighted by the normalised adjacency of the batch; no gradient.

    A_ij = max(0, u_i . u_j) where j is one of the k nearest rows of i, else 0;   u = z / |z|
    G = D^-1/2 (A + I) D^-1/2,   D_ii = sum_j (A + I)_ij;   weights_ij = G_ij / sum_j G_ij

    A is not made symmetric: row i of G has at most k + 1 numbers, and no N x N matrix is kept. With k = 0 each row has
    itself alone, and `multi_positive` is `info_nce`.

    Args:
      z: [N, D].
      k: neighbours of each row, 0 to N - 1.
      ids: int [N]; -1 = ignored row, no row's neighbour. Other values change nothing.
      engine: finds the neighbours.

    Returns:
      Targets, P = k + 1; the row itself comes first, then its neighbours, nearest first. A missing neighbour (fewer
      rows than k) is -1 with weight 0. A neighbour at a right angle or beyond has weight 0.

    Raises:
      InputError: z is no matrix, k not in 0..N - 1.

    Example:
      >>> graph = instance_graph(jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), k=1)
      >>> print(graph.positives.tolist(), graph.weights.round(4).tolist())
      [[0, 1], [1, 0], [2, 0]] [[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]]

    Reference: multiple-instances discrimination on an instance graph, arXiv 2312.11939; the normalisation is Kipf and
    Welling 2017, arXiv 1609.02907, equation 2. A, D and the weights as above are this package's reading of it.
    """
    n, _ = masking.check_matrices(z=z)
    if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k < n:
        raise InputError("k", repr(k), f"a whole number in 0..{n - 1}, the number of other rows")
    valid = masking.valid_rows(ids, n)
    u = jax.lax.stop_gradient(masking.unit(z, valid))
    itself = jnp.where(valid, jnp.arange(n), -1)[:, None]
    edge = valid[:, None].astype(u.dtype)
    if k == 0:
        return Targets(itself, edge)
    near = engine.nearest(u, k=k, query_ids=jnp.where(valid, 0, -1))
    exists = near.logits != lowest(u.dtype)
    positives = jnp.concatenate([itself, jnp.where(exists, near.rows, -1)], axis=1)
    edges = jnp.concatenate([edge, jnp.where(exists, jnp.maximum(near.logits, 0), 0)], axis=1)
    # D_ii of the row itself is a factor of its whole row of G: it cancels in the weights.
    degree = jnp.maximum(jnp.sum(edges, axis=1), 1)
    weights = edges * jax.lax.rsqrt(degree[jnp.maximum(positives, 0)])
    return Targets(positives, weights / jnp.where(valid, jnp.sum(weights, axis=1), 1)[:, None])
