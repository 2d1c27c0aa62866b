"""Graphs: one graph whose nodes are the records (Planetoid), and many graphs that are records each (TU).

The field "graph" has the parts nodes, edges and edge_mask, and node_mask where records are graphs; views/graph.py says
what they hold. Two generated sets need no files: "blocks" and "motifs".
"""

import glob
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from hcl_jax.data.casts import finite_floats, whole_numbers
from hcl_jax.data.limits import check_bytes
from hcl_jax.data.npz import read_npz
from hcl_jax.data.source import Arrays, folder_of, listed, unknown_split
from hcl_jax.disk.reading import readable
from hcl_jax.errors import InputError

NODE_SPLITS = ("train", "validation", "test")
GRAPH_SPLITS = ("train", "test", "all")
KEYS = (
    *("feature_indptr", "feature_indices", "feature_values", "feature_shape", "edges", "labels"),
    *(f"{split}_index" for split in NODE_SPLITS),
)
LOG = logging.getLogger("hcl_jax")
BLOCKS, MOTIFS = 300, 200  # nodes, graphs when data.num_examples is 0


def one_graph(nodes: np.ndarray, edges: np.ndarray) -> dict[str, np.ndarray]:
    """One graph by its nodes: the list of edges in order of destination, in equal shares to the nodes.

    Args:
      nodes: [N, F].
      edges: int [E, 2], source and destination.

    Returns:
      {"nodes": float32 [N, F], "edges": int32 [N, k, 2], "edge_mask": bool [N, k]}, k = ceil(E / N), at least 1.
    """
    share = max(1, -(-len(edges) // len(nodes)))
    listed = np.zeros((len(nodes) * share, 2), np.int32)
    listed[: len(edges)] = edges[np.lexsort((edges[:, 0], edges[:, 1]))]
    return {
        "nodes": nodes.astype(np.float32),
        "edges": listed.reshape(len(nodes), share, 2),
        "edge_mask": (np.arange(len(listed)) < len(edges)).reshape(len(nodes), share),
    }


def many_graphs(nodes: np.ndarray, graph: np.ndarray, edges: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Graphs by record, each padded to the nodes and the edges of the largest.

    Args:
      nodes: [N, F], of all graphs.
      graph: int [N], 0..count-1, the graph of each node.
      edges: int [E, 2], source and destination, numbers of nodes of one graph.
      count: G, of graphs.

    Returns:
      {"nodes": float32 [G, V, F], "node_mask": bool [G, V], "edges": int32 [G, E, 2], "edge_mask": bool [G, E]}.
    """

    def places(owner: np.ndarray) -> tuple[np.ndarray, int]:
        """The place of each entry among those of its owner, in order, and how many the largest owner has."""
        sizes = np.bincount(owner, minlength=count)
        order = np.argsort(owner, kind="stable")
        place = np.empty(len(owner), np.int64)
        place[order] = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return place, max(1, int(sizes.max(initial=0)))

    place, size = places(graph)
    owner = graph[edges[:, 0]]
    slot, slots = places(owner)
    made: dict[str, np.ndarray] = {
        "nodes": np.zeros((count, size, nodes.shape[1]), np.float32),
        "node_mask": np.zeros((count, size), bool),
        "edges": np.zeros((count, slots, 2), np.int32),
        "edge_mask": np.zeros((count, slots), bool),
    }
    made["nodes"][graph, place], made["node_mask"][graph, place] = nodes, True
    made["edges"][owner, slot], made["edge_mask"][owner, slot] = place[edges], True
    return made


def planetoid(data: Any, split: str) -> Arrays:
    """Cora and its like from `<data.dir>/cora.npz`, or the only .npz there: a record is a node, a split all nodes.

    The file holds the plain arrays feature_indptr, feature_indices, feature_values, feature_shape (CSR, [N, F]), edges
    [E, 2] (each direction on its own), labels [N] and train_index, validation_index, test_index.
    Features are divided by the sum of their row, as Kipf & Welling do (of absolute values, for features that have
    negative ones); there is no option. Of an edge that is listed twice one is kept, and a line of the log counts them.

    Returns:
      The field graph; label int32 [N], -1 for the nodes outside of the split's index.
    """
    _check_split(split, NODE_SPLITS, "planetoid")
    _check_whole(data, "planetoid")
    made, chosen = _planetoid(data, split)
    return made._replace(labels={"label": _only(made.labels["label"], chosen)})


def new_planetoid(data: Any) -> Arrays:
    """The graph in `data.dir` with the labels of all nodes, for a run on another one."""
    return _planetoid(data, "train")[0]


def _planetoid(data: Any, split: str) -> tuple[Arrays, np.ndarray]:
    """(the graph with the labels of all nodes, the nodes of a split)."""
    path = _npz_path(folder_of(data, "cora.npz"))
    arrays = _read_npz(path, data.max_array_bytes)
    nodes, edges, labels = _features(path, arrays, data.max_array_bytes), arrays["edges"], arrays["labels"]
    _check_length(f"{path}: labels", labels, len(nodes))
    _check_edges(f"{path}: edges", edges, len(nodes), first=0)
    edges = _distinct(f"{path}: edges", edges)
    chosen = arrays[f"{split}_index"]
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(nodes):
        raise InputError(f"{path}: {split}_index", f"{chosen.min()} to {chosen.max()}", f"0 to {len(nodes) - 1}")
    made = Arrays(
        fields={"graph": one_graph(nodes, edges)},
        labels={"label": labels.astype(np.int32)},
        classes={"label": int(labels.max(initial=0)) + 1},
        licence="research use",
        citation="Sen et al. 2008, Collective classification in network data; split of Yang et al. 2016 (Planetoid)",
        whole=True,
    )
    return made, chosen


def tu(data: Any, split: str) -> Arrays:
    """A set in the TU format, DS_A.txt, DS_graph_indicator.txt, DS_graph_labels.txt in `data.dir`: records are graphs.

    Features are the one-hot of DS_node_labels.txt, followed by DS_node_attributes.txt; 1 where there is neither file.
    The format has one split: train, test and all are the same records, for cross-validation. As PyG reads it, an edge
    that is listed twice is one, and an edge from a node to itself is none; a line of the log counts both.

    Returns:
      The field graph; label int32 [G], 0..C-1 in the order of the labels of the file.
    """
    _check_split(split, GRAPH_SPLITS, "tu")
    folder = folder_of(data, "DS_A.txt and the other files of the TU format")
    found = sorted(glob.glob(os.path.join(glob.escape(folder), "*_A.txt")))
    if len(found) != 1:
        raise InputError("config.data.dir", f"{len(found)} files *_A.txt in {data.dir}", "exactly one")
    start = found[0][: -len("A.txt")]
    most = data.max_array_bytes
    graph = _column(f"{start}graph_indicator.txt", most) - 1
    classes = _column(f"{start}graph_labels.txt", most)
    edges = _table(found[0], np.int64, most)
    if edges.size == 0:
        edges = edges.reshape(0, 2)
    if edges.shape[1] != 2:
        raise InputError(found[0], f"{edges.shape[1]} numbers a line", "two, source and destination")
    inside = graph.size > 0 and 0 <= graph.min() <= graph.max() < len(classes)  # else bincount takes memory for it
    if not inside or not np.bincount(graph, minlength=len(classes)).all():
        wrong = "graphs without a label, or without a node"
        raise InputError(f"{start}graph_indicator.txt", wrong, f"1 to {len(classes)}, a graph for each label")
    _check_edges(found[0], edges, len(graph), first=1)
    edges = edges - 1
    across = np.flatnonzero(graph[edges[:, 0]] != graph[edges[:, 1]])
    if across.size:
        raise InputError(f"{found[0]}: edge {across[0] + 1}", "nodes of two graphs", "two nodes of one graph")
    edges = _distinct(found[0], edges, loops=False)
    names, (nodes, columns) = np.unique(classes), _tu_nodes(start, len(graph), most)
    largest = (
        int(np.bincount(graph).max()) * nodes.shape[1],
        2 * int(np.bincount(graph[edges[:, 0]], minlength=1).max()),
    )
    check_bytes(f"{found[0]}: graphs as large as the largest", 4 * len(classes) * sum(largest), most)
    return Arrays(
        fields={"graph": many_graphs(nodes, graph, edges, len(classes))},
        labels={"label": np.searchsorted(names, classes).astype(np.int32)},
        classes={"label": len(names)},
        licence="research use",
        citation="Morris et al. 2020, TUDataset, arXiv 2007.08663",
        class_names={"label": tuple(str(n) for n in names)},
        columns={"graph": columns},
    )


def stochastic_blocks(data: Any, split: str) -> Arrays:
    """A generated graph of 5 communities: data.num_examples nodes (0 = 300), 64 noisy binary features, label.

    A pair of nodes is linked with a probability that gives about 5 neighbours in the own and 2 in other communities; a
    feature is on with probability 0.15, or 0.3 for the 12 that go with the community. Of each community a third is the
    training, a sixth the validation and a half the test part; every split holds the whole graph.
    """
    _check_split(split, NODE_SPLITS, "blocks")
    count, rng = data.num_examples or BLOCKS, np.random.default_rng(0)
    labels = np.arange(count) % 5
    same = labels[:, None] == labels[None]
    chance = np.where(same, np.minimum(1.0, 25 / count), np.minimum(1.0, 2.5 / count))
    linked = np.triu(rng.random((count, count)) < chance, 1)
    on = rng.random((count, 64)) < np.where((np.arange(64) // 12)[None] == labels[:, None], 0.3, 0.15)
    place = np.arange(count) // 5 % 6
    chosen = {"train": place < 2, "validation": place == 2, "test": place > 2}[split]
    return Arrays(
        fields={"graph": one_graph(_normalised(on.astype(np.float32)), np.argwhere(linked | linked.T))},
        labels={"label": _only(labels, np.flatnonzero(chosen))},
        classes={"label": 5},
        licence="none",
        citation="",
        whole=True,
    )


def motifs(data: Any, split: str) -> Arrays:
    """Generated graphs of 2 classes: data.num_examples of them (0 = 200); a random tree with a ring or a clique on it.

    A tree of 8 to 16 nodes; class 0 has a ring of 5 nodes hung on it, class 1 a clique of 4. Features are the one-hot
    of a random kind, 0 to 2, that says nothing. As in the TU format, train, test and all are the same records.
    """
    _check_split(split, GRAPH_SPLITS, "motifs")
    count, rng = data.num_examples or MOTIFS, np.random.default_rng(0)
    labels = np.arange(count) % 2
    owner: list[int] = []
    edges: list[tuple[int, int]] = []
    for graph, label in enumerate(labels):
        first, tree = len(owner), int(rng.integers(8, 17))
        edges += [(first + i, first + int(rng.integers(i))) for i in range(1, tree)]
        motif = [first + tree + i for i in range(4 if label else 5)]
        ring = [(a, b) for a, b in zip(motif, motif[1:] + motif[:1], strict=True)]
        edges += [(a, b) for a in motif for b in motif if a < b] if label else ring
        edges.append((motif[0], first + int(rng.integers(tree))))
        owner += [graph] * (tree + len(motif))
    both = np.array(edges + [(b, a) for a, b in edges])
    nodes = np.eye(3, dtype=np.float32)[rng.integers(0, 3, len(owner))]
    return Arrays(
        fields={"graph": many_graphs(nodes, np.array(owner), both, count)},
        labels={"label": labels.astype(np.int32)},
        classes={"label": 2},
        licence="none",
        citation="",
        class_names={"label": ("ring", "clique")},
    )


def _check_split(split: str, known: Sequence[str], where: str) -> None:
    if split not in known:
        raise unknown_split(split, known, where)


def _check_whole(data: Any, where: str) -> None:
    if data.num_examples:
        raise InputError("config.data.num_examples", data.num_examples, f"0: {where} is one graph and cannot be cut")


def _distinct(where: str, edges: np.ndarray, loops: bool = True) -> np.ndarray:
    """Each edge once, where it stands first; without those from a node to itself unless `loops`."""
    kept = edges[np.sort(np.unique(edges, axis=0, return_index=True)[1])]
    twice = len(edges) - len(kept)
    if twice:
        LOG.warning("%s: %d of %d edges are listed more than once; each is read once", where, twice, len(edges))
    own = kept[:, 0] == kept[:, 1]
    if loops or not own.any():
        return kept
    LOG.warning("%s: %d edges from a node to itself passed over", where, own.sum())
    return kept[~own]


def _only(labels: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The labels of the chosen records, -1 elsewhere."""
    made = np.full(len(labels), -1, np.int32)
    made[chosen] = labels[chosen]
    return made


def _normalised(nodes: np.ndarray) -> np.ndarray:
    """Rows divided by the sum of their absolute values, which for counts is their sum; a row of zeros stays."""
    total = np.abs(nodes).sum(1, keepdims=True)
    return nodes / np.where(total == 0, 1, total)


def _check_length(where: str, values: np.ndarray, wanted: int) -> None:
    if values.shape[:1] != (wanted,):
        raise InputError(where, f"shape {values.shape}", f"{wanted} rows, one for each node")


def _check_edges(where: str, edges: np.ndarray, count: int, first: int) -> None:
    """Raises InputError with the number of the first edge (from 1) to a node that is not there."""
    if edges.ndim != 2 or edges.shape[1] != 2:
        raise InputError(where, f"shape {edges.shape}", "[edges, 2]")
    bad = np.flatnonzero(((edges < first) | (edges >= first + count)).any(1))
    if bad.size:
        found = f"{edges[bad[0], 0]}, {edges[bad[0], 1]}"
        raise InputError(f"{where}: edge {bad[0] + 1}", found, f"nodes {first} to {first + count - 1}")


def _npz_path(folder: str) -> str:
    files = [f for f in listed(folder) if f.endswith(".npz")]
    if "cora.npz" in files:
        return os.path.join(folder, "cora.npz")
    if len(files) != 1:
        raise InputError("config.data.dir", f"{len(files)} files .npz in {folder}", "cora.npz, or one .npz alone")
    return os.path.join(folder, files[0])


def _read_npz(path: str, max_bytes: int) -> dict[str, np.ndarray]:
    arrays = read_npz(path, KEYS, max_bytes)
    for key, array in arrays.items():
        if key != "feature_values" and array.dtype.kind not in "iu" and array.size:
            raise InputError(f"{path}: {key}", f"dtype {array.dtype}", "whole numbers")
        if key != "edges" and array.ndim != 1:
            raise InputError(f"{path}: {key}", f"shape {array.shape}", "one axis")
        if key == "feature_values" and array.dtype.kind not in "uifb":
            raise InputError(f"{path}: {key}", f"dtype {array.dtype}", "numbers")
    cast = {k: finite_floats if k == "feature_values" else whole_numbers for k in KEYS if k != "feature_shape"}
    # Of one signed type: differences of unsigned numbers go round.
    return {k: cast[k](f"{path}: {k}", v) if k in cast else v for k, v in arrays.items()}


def _features(path: str, arrays: dict[str, np.ndarray], max_bytes: int) -> np.ndarray:
    """The CSR features as a matrix with rows of sum 1."""
    start, column, value, shape = (arrays[f"feature_{k}"] for k in ("indptr", "indices", "values", "shape"))
    if shape.size != 2 or shape.min() < 1:
        raise InputError(f"{path}: feature_shape", shape.tolist(), "nodes and features")
    count, width = (int(n) for n in shape)
    if len(start) != count + 1 or start[0] != 0 or (np.diff(start) < 0).any():
        raise InputError(f"{path}: feature_indptr", f"{len(start)} numbers", f"{count + 1} numbers from 0 on, rising")
    if not len(column) == len(value) == start[-1]:
        found = f"{len(column)} indices and {len(value)} values"
        raise InputError(f"{path}: feature_indices, feature_values", found, f"{start[-1]} of both")
    if column.size and not 0 <= column.min() <= column.max() < width:
        raise InputError(f"{path}: feature_indices", f"{column.min()} to {column.max()}", f"0 to {width - 1}")
    check_bytes(f"{path}: feature_shape", 4 * count * width, max_bytes)
    nodes = np.zeros((count, width), np.float32)
    # Entries of one place are summed, as scipy defines them.
    np.add.at(nodes, (np.repeat(np.arange(count), np.diff(start)), column), value)
    return _normalised(nodes)


def _tu_nodes(start: str, count: int, max_bytes: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """float32 [N, F]: one-hot labels, then attributes, each where there is a file; 1 where there is none. And the names
    of the F columns: the labels that they stand for, and the places of attributes."""
    parts, words = [], []
    labels, attributes = f"{start}node_labels.txt", f"{start}node_attributes.txt"
    if os.path.exists(labels):
        kinds = _table(labels, np.int64, max_bytes)
        _check_length(labels, kinds, count)
        for place, column in enumerate(kinds.T):
            names = np.unique(column)
            check_bytes(labels, 4 * count * len(names), max_bytes)  # one-hot
            parts.append(np.eye(len(names), dtype=np.float32)[np.searchsorted(names, column)])
            words += [f"label {place} is {name}" for name in names]
    if os.path.exists(attributes):
        values = _table(attributes, np.float32, max_bytes)
        _check_length(attributes, values, count)
        parts.append(values)
        words += [f"attribute {place}" for place in range(values.shape[1])]
    return (np.concatenate(parts, 1), tuple(words)) if parts else (np.ones((count, 1), np.float32), ("1",))


def _column(path: str, max_bytes: int) -> np.ndarray:
    table = _table(path, np.int64, max_bytes)
    if table.size and table.shape[1] != 1:
        raise InputError(path, f"{table.shape[1]} numbers a line", "one")
    return table.reshape(-1)


def _table(path: str, dtype: Any, max_bytes: int) -> np.ndarray:
    """Lines of numbers with commas between them: [lines, numbers]."""
    if not os.path.isfile(path):
        raise InputError(path, "no such file", "a file of the TU format")
    size = os.path.getsize(path)
    if size == 0:  # loadtxt would warn
        return np.zeros((0, 0), dtype)
    check_bytes(path, size, max_bytes)
    with readable(path, "lines of numbers with commas between them"):
        return np.loadtxt(path, dtype, delimiter=",", ndmin=2, comments=None)
