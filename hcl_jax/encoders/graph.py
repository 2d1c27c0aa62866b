"""Graph encoders: GCN (mean of neighbours by degree) and GIN (sum of neighbours, then an MLP).

A view holds one graph, whose nodes are the rows (nodes [n, F], edges [n, k, 2], edge_mask [n, k]), or a graph in each
row (nodes [n, V, F], node_mask [n, V], edges [n, E, 2], edge_mask [n, E]). One graph is one row of the second form.
Shapes are static: masked edges are dropped in the sum, so a step compiles once for any graph.
An edge from a node that is not in the batch gives nan, not a wrong number: one graph needs data.order="whole". Its
views do not go through side by side, which would number their nodes anew: `apart`.

Names, GCN: `conv{1..}/kernel|bias`, and `slope` with prelu.
Names, GIN: `layer{1..}_dense1|layer{1..}_dense2/kernel|bias`, `norm{1..}/scale|bias`, and `epsilon{1..}` if learned.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from hcl_jax.encoders.batch_norm import BatchNorm
from hcl_jax.encoders.inputs import Rows, choose, read_field
from hcl_jax.errors import InputError

FIELDS = ("nodes", "node_mask", "edges", "edge_mask")


def one_graph(view: Mapping[str, Any]) -> bool:
    """Whether the rows of a view are the nodes of one graph."""
    return view["nodes"].ndim == 2


class Graphs(NamedTuple):
    """Graphs of V nodes and E edges at most.

    Fields:
      nodes: zeros where absent.
      node_mask: [g, V], the nodes that are present.
      source, destination: numbers of nodes, 0..V-1; 0 and V where there is no edge.
      edge_mask: [g, E], the edges that are present.
      whole: the rows of the batch are the nodes of one graph (g = 1).
    """

    nodes: Float[Array, "g v f"]
    node_mask: Bool[Array, "g v"]
    source: Integer[Array, "g e"]
    destination: Integer[Array, "g e"]
    edge_mask: Bool[Array, "g e"]
    whole: bool


def read_graphs(view: Mapping[str, Any], rows: Rows, where: str, dtype: Any) -> Graphs:
    """The graphs of a view of either form.

    Raises:
      InputError: a field that is absent or of another rank.
    """
    nodes = read_field(view, "nodes", (2, 3), where)
    edges, edge_mask = read_field(view, "edges", (3,), where), read_field(view, "edge_mask", (2,), where)
    present = jnp.ones(nodes.shape[0], bool) if rows.present is None else rows.present
    whole = one_graph(view)
    if whole:
        nodes, node_mask, edges, edge_mask = (
            nodes[None],
            present[None],
            edges.reshape(1, -1, 2),
            edge_mask.reshape(1, -1),
        )
    else:
        node_mask = read_field(view, "node_mask", (2,), where) & present[:, None]
    return Graphs(
        nodes=jnp.where(node_mask[..., None], nodes, 0).astype(dtype),
        node_mask=node_mask,
        source=jnp.where(edge_mask, edges[..., 0], 0),
        destination=jnp.where(edge_mask, edges[..., 1], nodes.shape[1]),
        edge_mask=edge_mask,
        whole=whole,
    )


def gathered(x: jax.Array, places: jax.Array) -> jax.Array:
    """x [g, V, C] at places [g, E]: [g, E, C]; nan at a place that does not exist."""
    return jnp.take_along_axis(x, places[..., None], axis=1, mode="fill")


def sum_into(messages: jax.Array, graphs: Graphs) -> jax.Array:
    """Messages [g, E, C] summed at the destinations of their edges: [g, V, C], in float32 at least."""
    size = graphs.nodes.shape[1]
    messages = messages.astype(jnp.promote_types(messages.dtype, jnp.float32))
    messages = jnp.where(graphs.edge_mask[..., None], messages, 0)
    # Destination V, that of masked edges, is outside and dropped.
    return jax.vmap(lambda m, d: jax.ops.segment_sum(m, d, size))(messages, graphs.destination)


class GraphConvolution(nn.Module):
    """y_i = b + sum_{j -> i} W x_j / sqrt(d_j d_i) + W x_i / d_i; d = 1 + the number of edges into a node."""

    features: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "g v c"], graphs: Graphs, weight: Float[Array, "g e 1"], own: Float[Array, "g v 1"]
    ) -> Float[Array, "g v features"]:
        """x [g, V, C], weights of the edges [g, E, 1] and of the nodes themselves [g, V, 1] -> [g, V, features]."""
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), (x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        x = x @ kernel.astype(self.dtype)
        y = sum_into(gathered(x, graphs.source) * weight, graphs) + x * own
        return (y + bias.astype(y.dtype)[None, None]).astype(self.dtype)


def _prelu(x: jax.Array, slope: jax.Array) -> jax.Array:
    return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)


ACTIVATIONS = {"relu": lambda x, slope: nn.relu(x), "elu": lambda x, slope: nn.elu(x), "prelu": _prelu}


class GCN(nn.Module):
    """Graph convolutions, each followed by the activation; an edge from a node to itself counts once, as its own term.

        X <- f(D^-1/2 (A + I) D^-1/2 X W + b)

    Args:
      widths: of the layers; the last is that of h (GRACE on Cora 256, 128).
      activation: f, "relu", "elu" or "prelu" (one learned slope for all layers, 0.25 at first).
      last_activation: whether h goes through f too.

    Reference: Kipf & Welling 2017, arXiv 1609.02907, equation 2.
    """

    widths: Sequence[int] = (256, 128)
    activation: str = "relu"
    last_activation: bool = True
    dtype: Any = "float32"
    param_dtype: Any = "float32"

    reads: ClassVar[tuple[str, ...]] = FIELDS
    apart: ClassVar[Callable[[Mapping[str, Any]], bool]] = staticmethod(one_graph)

    @nn.compact
    def __call__(self, view: dict[str, Any], rows: Rows) -> dict[str, jax.Array]:
        """One graph -> {"h": [n, D]}; many -> {"h": [n, D], "tokens": [n, V, D]}, h the mean over the nodes.

        Raises:
          InputError: a field that is absent, an unknown activation, no width.
        """
        f = choose(ACTIVATIONS, self.activation, "gcn.activation")
        if not self.widths:
            raise InputError("gcn.widths", self.widths, "one width or more")
        graphs = read_graphs(view, rows, "gcn", self.dtype)
        graphs = graphs._replace(edge_mask=graphs.edge_mask & (graphs.source != graphs.destination))
        wide = jnp.promote_types(self.dtype, jnp.float32)
        into = sum_into(graphs.edge_mask.astype(wide)[..., None], graphs)
        scale = jax.lax.rsqrt(1 + into)
        # An end outside of the batch has no degree: nan.
        ends = jnp.where(graphs.edge_mask, graphs.destination, 0)
        weight = (gathered(scale, graphs.source) * gathered(scale, ends)).astype(self.dtype)
        own = (scale * scale).astype(self.dtype)
        slope = self.param("slope", nn.initializers.constant(0.25), (), self.param_dtype) if f is _prelu else None
        x = graphs.nodes
        for i, width in enumerate(self.widths, start=1):
            x = GraphConvolution(width, self.dtype, self.param_dtype, name=f"conv{i}")(x, graphs, weight, own)
            if i < len(self.widths) or self.last_activation:
                x = f(x, slope)
        x = jnp.where(graphs.node_mask[..., None], x, 0)
        if graphs.whole:
            return {"h": x[0]}
        return {"h": pooled(x, graphs, "mean"), "tokens": x}


POOLS = ("sum", "mean")


def pooled(x: jax.Array, graphs: Graphs, pool: str) -> jax.Array:
    """The sum or mean over the nodes that are present, [g, V, C] (zeros elsewhere) -> [g, C]; 0 of an empty graph."""
    total = jnp.sum(x, axis=1, dtype=jnp.promote_types(x.dtype, jnp.float32))
    if pool == "mean":
        total = total / jnp.maximum(graphs.node_mask.sum(1, keepdims=True), 1).astype(total.dtype)
    return total.astype(x.dtype)


class GIN(nn.Module):
    """Layers x <- norm(relu(W_2 relu(W_1 ((1 + e) x_i + sum_{j -> i} x_j)))); h has the pool of each layer.

    The norm counts the nodes that are present.

    Args:
      hidden: width of every layer; h has depth hidden numbers (GraphCL 32).
      depth: number of layers (GraphCL 3).
      pool: "sum" or "mean" over the nodes.
      learn_epsilon: e of each layer is learned from 0; else it is 0.

    Reference: Xu et al. 2019, arXiv 1810.00826, equations 4.1 and 4.2; order and pools as the code of You et al. 2020
      (GraphCL), after Sun et al. 2020 (InfoGraph).
    """

    hidden: int = 32
    depth: int = 3
    pool: str = "sum"
    learn_epsilon: bool = False
    dtype: Any = "float32"
    param_dtype: Any = "float32"

    reads: ClassVar[tuple[str, ...]] = FIELDS
    apart: ClassVar[Callable[[Mapping[str, Any]], bool]] = staticmethod(one_graph)

    @nn.compact
    def __call__(self, view: dict[str, Any], rows: Rows) -> dict[str, jax.Array]:
        """Many graphs -> {"h": [n, depth hidden], "tokens": [n, V, depth hidden]}; one graph -> {"h"}, of its nodes.

        Raises:
          InputError: a field that is absent, an unknown pool.
        """
        if self.pool not in POOLS:
            raise InputError("gin.pool", repr(self.pool), ", ".join(POOLS))
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        graphs = read_graphs(view, rows, "gin", self.dtype)
        present = graphs.node_mask[..., None]
        nodes = dataclasses.replace(rows, present=graphs.node_mask.reshape(-1), keys=None)
        x, layers = graphs.nodes, []
        for i in range(1, self.depth + 1):
            own = x
            if self.learn_epsilon:
                own = x * (1 + self.param(f"epsilon{i}", nn.initializers.zeros, (), self.param_dtype)).astype(x.dtype)
            x = own + sum_into(gathered(x, graphs.source), graphs).astype(x.dtype)
            for k in (1, 2):
                kernel = nn.initializers.glorot_uniform()
                x = nn.relu(nn.Dense(self.hidden, kernel_init=kernel, name=f"layer{i}_dense{k}", **types)(x))
            x = BatchNorm(name=f"norm{i}", **types)(x.reshape(-1, self.hidden), nodes).reshape(x.shape)
            x = jnp.where(present, x, 0)
            layers.append(x)
        x = jnp.concatenate(layers, axis=-1)
        if graphs.whole:
            return {"h": x[0]}
        return {"h": pooled(x, graphs, self.pool), "tokens": x}
