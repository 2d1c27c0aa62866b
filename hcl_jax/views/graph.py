"""Changes of graphs: edges, features and nodes are dropped, hidden or rewired; shapes stay, masks tell what is left.

A graph is a dict in one of two forms, by the rank of `nodes`:
  one graph, rows are its nodes     nodes [n, F], edges int32 [n, k, 2], edge_mask bool [n, k]: each row carries a share
                                    of the list of edges (source, destination); numbers are rows of the global batch
  many graphs, rows are graphs      nodes [n, V, F], node_mask bool [n, V], edges [n, E, 2], edge_mask bool [n, E];
                                    numbers are places 0..V-1 in the row
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hcl_jax.errors import InputError
from hcl_jax.views.hashing import mix, uniform
from hcl_jax.views.lazy import tf
from hcl_jax.views.params import choice, number

PARTS = ("nodes", "edges", "edge_mask")


def drop_edges(x: Any, draws: Any, *, p: float = 0.2, undirected: bool = False) -> Any:
    """Drops edges, each with probability p.

    Args:
      x: a graph of either form.
      draws: "edge" [n, k] (dropped below p); with `undirected` "pair" [2], once for one graph, or [n, 2]: the seed of
        coins that are hashed from the two ends.
      p: probability for each directed edge.
      undirected: both directions of an edge share a coin.

    Returns:
      The graph with another edge_mask.

    Reference: Zhu et al. 2020 (GRACE), arXiv 2006.04131, section 3.2.1 (removing edges; a coin for each direction).
    """
    whole, p = _is_one_graph(x, "drop_edges"), number("drop_edges.p", p, 0.0, 1.0)
    if undirected:
        # The two directions may lie in rows that other hosts make: only the ends are known to both.
        seed = draws.shared("pair", (2,)) if whole else draws.uniform("pair", (2,))[:, None]
        ends = tf.cast(x["edges"], tf.int64)
        drawn = _hashed(seed, tf.reduce_min(ends, -1) * 2**32 + tf.reduce_max(ends, -1))
    else:
        drawn = draws.uniform("edge", (x["edges"].shape[1],))
    return {**x, "edge_mask": x["edge_mask"] & (drawn >= p)}


def mask_features(x: Any, draws: Any, *, p: float = 0.2) -> Any:
    """Puts columns of the node features to zero, the same ones for every node of the batch.

    Args:
      x: a graph of either form.
      draws: "column" [F], once for the whole batch (zero below p).
      p: probability for each column.

    Returns:
      The graph with other nodes.

    Reference: Zhu et al. 2020 (GRACE), arXiv 2006.04131, section 3.2.2 (masking node features).
    """
    _is_one_graph(x, "mask_features")
    keep_mask = draws.shared("column", (x["nodes"].shape[-1],)) >= number("mask_features.p", p, 0.0, 1.0)
    return {**x, "nodes": tf.where(keep_mask, x["nodes"], 0.0)}


def mask_nodes(x: Any, draws: Any, *, p: float = 0.2, target: bool = False) -> Any:
    """Puts all features of some nodes to zero; their edges stay.

    Args:
      x: a graph of either form.
      draws: "node" [n] (masked below p), or [n, V] (of a graph the floor(p V) nodes with the least numbers).
      p: probability for each node of one graph; share of the nodes of each of many.
      target: keep "mask" (bool [n] or [n, V], True = masked) and "clean" (the nodes before), for a reconstruction.

    Returns:
      The graph with other nodes.

    Reference: You et al. 2020 (GraphCL), arXiv 2010.13902, table 1, attribute masking.
    """
    p = number("mask_nodes.p", p, 0.0, 1.0)
    if _is_one_graph(x, "mask_nodes"):
        masked = draws.uniform("node") < p
    else:
        masked = _share(draws.uniform("node", (x["nodes"].shape[1],)), x["node_mask"], p)
    if target:
        draws.target("mask", masked)
        draws.target("clean", x["nodes"])
    return {**x, "nodes": tf.where(masked[..., None], 0.0, x["nodes"])}


def drop_nodes(x: Any, draws: Any, *, p: float = 0.2) -> Any:
    """Drops nodes with their edges.

    Args:
      x: a graph of either form.
      draws: "node" [2], once for the batch: the seed of coins hashed from the node's number; or [n, V] (of a graph the
        floor(p V) nodes with the least numbers go).
      p: probability for each node of one graph; share of the nodes of each of many.

    Returns:
      The graph; a dropped node has features 0, no edges, and node_mask False where there is one.

    Reference: You et al. 2020 (GraphCL), arXiv 2010.13902, table 1, node dropping.
    """
    p = number("drop_nodes.p", p, 0.0, 1.0)
    if not _is_one_graph(x, "drop_nodes"):
        gone = _share(draws.uniform("node", (x["nodes"].shape[1],)), x["node_mask"], p)
        return _only(x, x["node_mask"] & ~gone)
    seed = draws.shared("node", (2,))
    # A replayed batch is a whole one: row r is node r.
    rows = getattr(draws, "rows", None)
    rows = tf.range(tf.shape(x["nodes"])[0]) if rows is None else rows
    keep_mask, ends = (_hashed(seed, tf.cast(at, tf.int64)) >= p for at in (rows, x["edges"]))
    nodes = tf.where(keep_mask[:, None], x["nodes"], 0.0)
    return {**x, "nodes": nodes, "edge_mask": x["edge_mask"] & tf.reduce_all(ends, -1)}


def perturb_edges(x: Any, draws: Any, *, p: float = 0.2) -> Any:
    """Replaces a share of the directed edges of each graph by edges between random nodes.

    Args:
      x: many graphs.
      draws: "edge" [n, E] (the floor(p E) edges with the least numbers are replaced), "ends" [n, E, 2] (0..1, over the
        nodes, then over the other nodes).
      p: share of the edges of each graph.

    Returns:
      The graph with other edges, as many as before, less those drawn that are there already: edges are a set.

    Reference: You et al. 2020 (GraphCL), arXiv 2010.13902, table 1, edge perturbation (its code only drops).
    """
    _is_one_graph(x, "perturb_edges", allowed=False)
    size = x["edges"].shape[1]
    chosen = _share(draws.uniform("edge", (size,)), x["edge_mask"], number("perturb_edges.p", p, 0.0, 1.0))
    drawn = draws.uniform("ends", (size, 2))
    count = tf.reduce_sum(tf.cast(x["node_mask"], tf.int32), 1, keepdims=True)
    first = _pick(drawn[..., 0], count)
    second = (first + 1 + _pick(drawn[..., 1], count - 1)) % tf.maximum(count, 1)  # never the first
    new = tf.gather(_present_first(x["node_mask"]), tf.stack([first, second], -1), batch_dims=1)
    edges = tf.where(chosen[..., None], new, x["edges"])
    return {**x, "edges": edges, "edge_mask": x["edge_mask"] & ~_again(edges, x["edge_mask"], chosen)}


def subgraph(x: Any, draws: Any, *, keep: float = 0.8) -> Any:
    """Keeps a connected part of each graph: from a random node on, a random neighbour of the part is added each step.

    Args:
      x: many graphs.
      draws: "start" [n] (0..1, over the nodes), "step" [n, V] (0..1, over the neighbours of the part at each step).
      keep: the part has ceil(keep V) nodes, or all that can be reached.

    Returns:
      The graph; a node outside has features 0, no edges and node_mask False.

    Reference: You et al. 2020 (GraphCL), arXiv 2010.13902, table 1 and appendix A, algorithm 1, subgraph.
    """
    _is_one_graph(x, "subgraph", allowed=False)
    keep, present = number("subgraph.keep", keep, 0.0, 1.0), x["node_mask"]
    size, shape = present.shape[1], tf.shape(present)
    count = tf.reduce_sum(tf.cast(present, tf.int32), 1)
    wanted = tf.cast(tf.math.ceil(keep * tf.cast(count, tf.float64)), tf.int32)
    start = tf.gather(_present_first(present), _pick(draws.uniform("start"), count), batch_dims=1)
    part = tf.one_hot(start, size, on_value=True, off_value=False) & present
    steps = draws.uniform("step", (size,))
    into = tf.reshape(tf.range(shape[0])[:, None] * size + x["edges"][..., 1], [-1])

    def grow(t: Any, part: Any) -> Any:
        leaving = x["edge_mask"] & tf.gather(part, x["edges"][..., 0], batch_dims=1)
        hits = tf.math.unsorted_segment_sum(tf.cast(tf.reshape(leaving, [-1]), tf.int32), into, shape[0] * size)
        near = (tf.reshape(hits, shape) > 0) & ~part & present
        place = tf.cumsum(tf.cast(near, tf.int32), axis=1)
        pick = _pick(tf.gather(steps, t, axis=1), place[:, -1])
        more = tf.reduce_sum(tf.cast(part, tf.int32), 1) < wanted
        return t + 1, part | (near & (place == pick[:, None] + 1) & more[:, None])

    _, part = tf.while_loop(lambda t, part: t < tf.reduce_max(wanted) - 1, grow, (0, part), maximum_iterations=size)
    return _only(x, part & (wanted > 0)[:, None])


def augment_graph(
    x: Any,
    draws: Any,
    *,
    p: float = 0.2,
    of: Sequence[str] = ("drop_nodes", "subgraph", "perturb_edges", "mask_nodes"),
) -> Any:
    """One op for each graph, drawn from `of` with equal chances.

    Args:
      x: many graphs.
      draws: "which" [n] (0..1, over `of`), and the numbers of every op of `of`, below its name.
      p: the ops' strength; subgraph keeps 1 - p.
      of: names of ops: drop_nodes, subgraph, perturb_edges, mask_nodes, drop_edges, mask_features.

    Returns:
      The graph.

    Reference: You et al. 2020 (GraphCL), arXiv 2010.13902, section 3.1 ("random2" to "random4" of its code).
    """
    _is_one_graph(x, "augment_graph", allowed=False)
    p = number("augment_graph.p", p, 0.0, 1.0)
    if not of or isinstance(of, str):
        raise InputError("augment_graph.of", repr(of), f"names of {', '.join(CHOICES)}")
    for name in of:
        choice("augment_graph.of", name, tuple(CHOICES))
    which, out = _pick(draws.uniform("which"), len(of)), x
    for i, name in enumerate(of):
        changed = CHOICES[name](x, draws.scope(name), **({"keep": 1.0 - p} if name == "subgraph" else {"p": p}))
        out = {k: _by_row(which == i, changed[k], v) for k, v in out.items()}
    return out


CHOICES: dict[str, Callable[..., Any]] = {
    "drop_nodes": drop_nodes,
    "subgraph": subgraph,
    "perturb_edges": perturb_edges,
    "mask_nodes": mask_nodes,
    "drop_edges": drop_edges,
    "mask_features": mask_features,
}


def _is_one_graph(x: Any, op: str, allowed: bool = True) -> bool:
    """Whether the rows are the nodes of one graph. Raises InputError where x is no graph, or not of an allowed form."""
    if not isinstance(x, Mapping) or not all(part in x for part in PARTS):
        raise InputError(op, "no graph", f"{', '.join(PARTS)}: a view of kind graph")
    whole = x["nodes"].shape.rank == 2
    if whole and not allowed:
        raise InputError(op, "one graph whose nodes are the rows", "many graphs: nodes [n, V, F]")
    if not whole and "node_mask" not in x:
        raise InputError(op, "many graphs without node_mask", "node_mask [n, V]")
    return whole


def _hashed(seed: Any, key: Any) -> Any:
    """Uniform numbers in [0, 1) from two random numbers [..., 2] and whole numbers [...]: float64 like `key`."""
    bits = tf.cast(seed * 2.0**24, tf.uint64)  # float32 draws have 24 bits at most
    word = mix(bits[..., 0] * tf.constant(2**24, tf.uint64) + bits[..., 1])
    return uniform(tf.cast(key, tf.uint64), word)


def _share(drawn: Any, present: Any, p: float) -> Any:
    """Of each row the floor(p count) present entries with the smallest numbers: bool [n, m]."""
    order = tf.argsort(tf.where(present, drawn, 2.0), axis=1, stable=True)
    rank = tf.argsort(order, axis=1, stable=True)
    count = tf.reduce_sum(tf.cast(present, tf.float64), 1, keepdims=True)
    return tf.cast(rank, tf.float64) < tf.floor(p * count)


def _again(edges: Any, present: Any, chosen: Any) -> Any:
    """Which of the chosen edges are there already, among the others or earlier chosen ones: bool [n, E]."""
    size = tf.cast(tf.reduce_max(edges) + 1, tf.int64)
    code = tf.cast(edges[..., 0], tf.int64) * size + tf.cast(edges[..., 1], tf.int64)
    code = tf.where(present, code, -1 - tf.range(tf.shape(edges)[1], dtype=tf.int64))  # what is absent equals nothing
    order = tf.argsort(2 * code + tf.cast(chosen, tf.int64), axis=1, stable=True)
    ordered = tf.gather(code, order, batch_dims=1)
    same = tf.concat([tf.zeros_like(ordered[:, :1], tf.bool), ordered[:, 1:] == ordered[:, :-1]], axis=1)
    return chosen & tf.gather(same, tf.argsort(order, axis=1), batch_dims=1)


def _pick(drawn: Any, count: Any) -> Any:
    """floor(drawn count), 0..count - 1 (0 where count is 0): int32 like `drawn`."""
    count = tf.cast(count, tf.float32)
    return tf.cast(tf.maximum(tf.minimum(tf.floor(drawn * count), count - 1.0), 0.0), tf.int32)


def _present_first(present: Any) -> Any:
    """The places [n, V] of each row, present ones first, in order."""
    return tf.argsort(tf.cast(~present, tf.int32), axis=1, stable=True)


def _only(x: Any, keep_mask: Any) -> Any:
    """Many graphs with only the nodes `kept` [n, V] and the edges between them."""
    ends = tf.reduce_all(tf.gather(keep_mask, x["edges"], batch_dims=1), -1)
    nodes = tf.where(keep_mask[..., None], x["nodes"], 0.0)
    return {**x, "nodes": nodes, "node_mask": keep_mask, "edge_mask": x["edge_mask"] & ends}


def _by_row(chosen: Any, yes: Any, no: Any) -> Any:
    return tf.where(tf.reshape(chosen, [-1] + [1] * (yes.shape.rank - 1)), yes, no)
