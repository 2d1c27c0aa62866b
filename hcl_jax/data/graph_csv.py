"""One graph by two tables: a list of edges, and a line for each node with its features, label and split."""

import os
from typing import Any

import numpy as np

from hcl_jax.data.graphs import NODE_SPLITS, one_graph
from hcl_jax.data.source import Arrays, Source, folder_of, from_arrays, listed, unknown_split
from hcl_jax.data.tables import (
    ENDINGS,
    Table,
    check_column,
    check_named,
    finite_cells,
    label_columns,
    table,
    text_labels,
)
from hcl_jax.errors import InputError

ENDS = ("source", "target")
SPLIT = "split"


def graph_csv(data: Any, split: str) -> Source:
    """The graph of `<data.dir>/edges.csv` (columns source, target) and `nodes.csv`; a record is a node.

    A node has its name in the column `data.record` and may have labels and a split (train, validation, test, or blank);
    all other columns are features, numbers. Without features a node has 1 and log(1 + its neighbours). Edges have no
    direction and no weight: each counts once, both ways, and other columns of them are passed over. Without a column
    split all nodes with a label are the training split, of which `data.held_out` takes a share.

    Raises:
      InputError: a column or a node that is not there, two nodes of one name, a feature that is not a number, no split.
    """
    if data.num_examples:
        raise InputError("config.data.num_examples", data.num_examples, "0: graph_csv is one graph and cannot be cut")
    arrays, read = _graph(data)
    inside = _inside(read, split, data)
    labels = {k: np.where(inside, v, -1).astype(np.int32) for k, v in arrays.labels.items()}
    if "label" not in labels and data.labels in (("label",), "label"):  # the default may be absent
        data = type(data)({**data, "labels": ()})
    return from_arrays("graph_csv", arrays._replace(labels=labels), data, split)


def new_graph(data: Any, columns: tuple[str, ...] | None) -> Arrays:
    """The graph in `data.dir` with the classes of all nodes, for a run on another one.

    Args:
      data: `config.data` of the run, but for `dir`.
      columns: the features of the run's nodes, by name; () where they had none, None where they are not known.

    Raises:
      InputError: as `graph_csv`; other features.
    """
    return _graph(data, columns)[0]


def _graph(data: Any, wanted: tuple[str, ...] | None = None) -> tuple[Arrays, Table]:
    """Both tables, with the classes of all nodes; features as they stand, or those wanted, in that order."""
    folder = folder_of(data, "nodes.csv and edges.csv")
    nodes_path, edges_path = (_file(folder, name) for name in ("nodes", "edges"))
    read = table(nodes_path, data.max_array_bytes)
    nodes = read.columns
    labels, data = label_columns(data, nodes)
    if wanted is not None:  # of new nodes nothing need be known
        labels = tuple(label for label in labels if label in nodes)
    for field, names in {"record": (data.record,), "labels": labels}.items():
        for name in names:
            check_column(nodes_path, nodes, name, field)
    check_named(read, data.record)
    number = {name: i for i, name in enumerate(nodes[data.record])}
    count = len(nodes[data.record])
    if len(number) < count:
        first = next(i for i, n in enumerate(nodes[data.record]) if number[n] != i)
        twice = nodes[data.record][first]
        raise InputError(read.at(first), f"{data.record} {twice} more than once", "a name of its own for each node")
    edges = _edges(table(edges_path, data.max_array_bytes, {"": ENDS}), number)
    channels = tuple(name for name in nodes if name not in (data.record, SPLIT, *labels))
    if wanted is not None and set(wanted) != set(channels):
        found = f"the features {', '.join(channels)}" if channels else "no feature"
        raise InputError(nodes_path, found, f"{', '.join(wanted) or 'none'}, as the run's nodes have")
    channels = channels if wanted is None else wanted
    allowed = "a finite number: every column beside name, labels and split is a feature"
    features = [finite_cells(read, name, allowed) for name in channels]
    if not features:
        features = [np.ones(count), np.log1p(np.bincount(edges[:, 1], minlength=count))]
    kept = {label: text_labels(label, nodes[label], set(nodes[label]), set(), read.at) for label in labels}
    for label, (_, classes, _) in kept.items():
        if not classes:
            raise InputError(f"{nodes_path}: {label}", "numbers that are not whole", "classes")
    arrays = Arrays(
        fields={"graph": one_graph(np.stack(features, 1), edges)},
        labels={k: v[0] for k, v in kept.items()},
        classes={k: v[1] for k, v in kept.items()},
        licence="",
        citation="",
        class_names={k: v[2] for k, v in kept.items() if v[2]},
        names=[f"{data.record} {name}" for name in number],
        paths=list(number),
        whole=True,
        columns={"graph": channels},
    )
    return arrays, read


def _file(folder: str, name: str) -> str:
    files = listed(folder)
    found = [name + ending for ending in ENDINGS if name + ending in files]
    if len(found) != 1:
        there = " and ".join(found) or f"no {name}.csv"
        raise InputError("config.data.dir", f"{there} in {folder}", "one nodes.csv and one edges.csv, or .tsv")
    return os.path.join(folder, found[0])


def _edges(read: Table, number: dict[str, int]) -> np.ndarray:
    """int [E, 2], each edge both ways and once; one from a node to itself is none, for encoders add it."""
    ends = []
    for name in ENDS:
        for row, cell in enumerate(read.columns[name]):
            if cell not in number:
                raise InputError(f"{read.at(row)}: {name}", repr(cell), "a node of nodes.csv")
        ends.append(np.array([number[cell] for cell in read.columns[name]], np.int64))
    one = np.stack(ends, 1)
    one = one[one[:, 0] != one[:, 1]]
    return np.unique(np.concatenate([one, one[:, ::-1]]), axis=0)


def _inside(read: Table, split: str, data: Any) -> np.ndarray:
    """Which nodes are in a split: bool [N]."""
    cells = read.columns.get(SPLIT)
    if cells is None:
        if split == data.train_split:
            return np.ones(len(read.lines), bool)
        allowed = f"a share of the nodes with a label, such as 0.8, for {read.path} has no column {SPLIT!r}"
        raise InputError("config.data.held_out", data.held_out, allowed)
    if split not in NODE_SPLITS:
        raise unknown_split(split, NODE_SPLITS, read.path)
    for row, cell in enumerate(cells):
        if cell.strip() not in ("", *NODE_SPLITS):
            raise InputError(f"{read.at(row)}: {SPLIT}", repr(cell), f"{', '.join(NODE_SPLITS)}, or blank")
    return np.array([cell.strip() == split for cell in cells])
