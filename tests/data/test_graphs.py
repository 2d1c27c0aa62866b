"""Graph readers: what they give, and one line for each kind of bad file."""

import shutil

import numpy as np
import pytest
from refusals import refused_source as refused

from hcl_jax import data
from hcl_jax.data import graphs

EDGES = [(0, 1), (1, 0), (3, 1), (1, 3), (2, 0), (4, 4), (0, 2)]


def everything(made):
    return {
        k: {p: v.numpy() for p, v in f.items()} if isinstance(f, dict) else f.numpy()
        for k, f in made.fetch(np.arange(made.num_examples)).items()
    }


def planetoid_file(path, **changes):
    arrays = {
        "feature_indptr": np.array([0, 2, 2, 3, 4, 6]),
        "feature_indices": np.array([0, 3, 1, 2, 0, 2]),
        "feature_values": np.array([1, 3, 1, 5, 1, 1], np.float32),
        "feature_shape": np.array([5, 4]),
        "edges": np.array(EDGES),
        "labels": np.array([0, 2, 1, 1, 0]),
        "train_index": np.array([3, 0]),
        "validation_index": np.array([1]),
        "test_index": np.array([2, 4]),
    }
    arrays = {k: v for k, v in (arrays | changes).items() if v is not None}
    np.savez(path, **arrays)


def listed(graph):
    """The edges of a graph in the first form, in order."""
    return [tuple(e) for e in graph["edges"].reshape(-1, 2)[graph["edge_mask"].reshape(-1)].tolist()]


def test_planetoid(config, tmp_path):
    planetoid_file(tmp_path / "any.npz")
    wanted = {"train": [0, -1, -1, 1, -1], "validation": [-1, 2, -1, -1, -1], "test": [-1, -1, 1, -1, 0]}
    for split, labels in wanted.items():
        made = data.open_source(config(name="planetoid", dir=str(tmp_path)), split)
        assert made.num_examples == 5 and made.labels == {"label": 3}
        got = everything(made)
        np.testing.assert_array_equal(got["label"], labels)
        graph = got["graph"]
        assert graph["edges"].shape == (5, 2, 2) and graph["edges"].dtype == np.int32
        assert listed(graph) == sorted(EDGES, key=lambda e: (e[1], e[0]))
        rows = [[0.25, 0, 0, 0.75], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0.5, 0, 0.5, 0]]
        np.testing.assert_array_equal(graph["nodes"], np.array(rows, np.float32))
    planetoid_file(tmp_path / "cora.npz", edges=np.zeros((0, 2), int))  # cora.npz is taken first
    graph = everything(data.open_source(config(name="planetoid", dir=str(tmp_path)), "test"))["graph"]
    assert graph["edges"].shape == (5, 1, 2) and not graph["edge_mask"].any()


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"edges": np.array([(0, 1), (1, 5)])}, r"cora.npz: edges: edge 2: found 1, 5; allowed: nodes 0 to 4"),
        ({"edges": np.array([(0, -1)])}, r"edge 1: found 0, -1"),
        ({"edges": np.array([0, 1])}, r"edges: found shape \(2,\)"),
        ({"edges": np.zeros((3, 2))}, r"edges: found dtype float64"),
        ({"labels": np.zeros(4, int)}, r"labels: found shape \(4,\); allowed: 5 rows"),
        ({"labels": None}, r"found no array 'labels'"),
        ({"test_index": np.array([5])}, r"test_index: found 5 to 5; allowed: 0 to 4"),
        ({"feature_indptr": np.array([0, 6])}, r"feature_indptr: found 2 numbers; allowed: 6"),
        ({"feature_values": np.ones(5)}, r"found 6 indices and 5 values; allowed: 6 of both"),
        ({"feature_indices": np.full(6, 4)}, r"feature_indices: found 4 to 4; allowed: 0 to 3"),
        ({"feature_shape": np.array([5])}, r"feature_shape: found \[5\]"),
        ({"feature_values": np.full(6, np.nan)}, r"field graph/nodes: found a number that is not finite"),
        ({"labels": np.array([None] * 5)}, r"pickled objects"),
    ],
)
def test_bad_planetoid_files(config, tmp_path, changes, pattern):
    planetoid_file(tmp_path / "cora.npz", **changes)
    refused(pattern, config(name="planetoid", dir=str(tmp_path)), "test")


def test_planetoid_that_is_not_there(config, tmp_path):
    at = config(name="planetoid", dir=str(tmp_path))
    refused("found nothing; allowed: a folder with cora.npz", config(name="planetoid"))
    refused("0 files .npz", at)
    (tmp_path / "a.npz").write_bytes(b"no zip")
    refused("no .npz at all", at)
    (tmp_path / "a.npz").write_bytes(b"PK\3\4 cut")
    refused("a.npz: found an unreadable file", at)
    shutil.copy(tmp_path / "a.npz", tmp_path / "b.npz")
    refused("2 files .npz", at)
    refused("'valid'; allowed: validation", at, "valid")
    refused("num_examples: found 3; allowed: 0", config(name="planetoid", dir=str(tmp_path), num_examples=3))


def test_cora(config, real_data):
    folder = real_data("cora.npz").removesuffix("cora.npz")
    for split, count in (("train", 140), ("validation", 500), ("test", 1000)):
        made = data.open_source(config(name="planetoid", dir=folder), split)
        got = everything(made)
        assert made.num_examples == 2708 and made.labels == {"label": 7} and (got["label"] >= 0).sum() == count
    graph = got["graph"]
    assert graph["nodes"].shape == (2708, 1433) and graph["edge_mask"].sum() == 10556
    np.testing.assert_allclose(graph["nodes"].sum(1), 1, rtol=1e-5)
    edges = set(listed(graph))
    assert len(edges) == 10556 and {(b, a) for a, b in edges} == edges


TU = {
    "A": "1, 2\n2, 1\n3, 5\n5,3\n4, 6\n",
    "graph_indicator": "2\n2\n1\n3\n1\n3\n1\n",
    "graph_labels": "-1\n7\n-1\n",
    "node_labels": "0\n4\n4\n0\n9\n0\n0\n",
}


def tu_folder(folder, **changes):
    for name, text in (TU | changes).items():
        if text is not None:
            (folder / f"DS_{name}.txt").write_text(text)


def test_tu(config, tmp_path):
    tu_folder(tmp_path)
    made = data.open_source(config(name="tu", dir=str(tmp_path)), "train")
    assert made.num_examples == 3 and made.labels == {"label": 2} and made.class_names == {"label": ("-1", "7")}
    got = everything(made)
    np.testing.assert_array_equal(got["label"], [0, 1, 0])
    graph = got["graph"]
    # Graph 1 has nodes 3, 5, 7 in this order, graph 2 nodes 1, 2, graph 3 nodes 4, 6.
    np.testing.assert_array_equal(graph["node_mask"], [[1, 1, 1], [1, 1, 0], [1, 1, 0]])
    kinds = np.eye(3)[[1, 2, 0, 0, 1, 0, 0]]
    np.testing.assert_array_equal(graph["nodes"][graph["node_mask"]], kinds)
    assert not graph["nodes"][~graph["node_mask"]].any()
    np.testing.assert_array_equal(graph["edge_mask"], [[1, 1], [1, 1], [1, 0]])
    np.testing.assert_array_equal(graph["edges"][0], [[0, 1], [1, 0]])
    np.testing.assert_array_equal(graph["edges"][1:, 0], [[0, 1], [0, 1]])
    for split in ("test", "all"):
        other = everything(data.open_source(config(name="tu", dir=str(tmp_path)), split))
        np.testing.assert_array_equal(other["graph"]["edges"], graph["edges"])


def test_tu_features(config, tmp_path):
    tu_folder(tmp_path, node_labels=None)
    read = config(name="tu", dir=str(tmp_path))
    graph = everything(data.open_source(read, "train"))["graph"]
    np.testing.assert_array_equal(graph["nodes"][..., 0], graph["node_mask"])
    tu_folder(tmp_path, node_attributes="".join(f"{i}.5, -1\n" for i in range(7)))
    graph = everything(data.open_source(read, "train"))["graph"]
    assert graph["nodes"].shape == (3, 3, 5)
    np.testing.assert_array_equal(graph["nodes"][0, :, 3:], [[2.5, -1], [4.5, -1], [6.5, -1]])
    tu_folder(tmp_path, A="")
    graph = everything(data.open_source(read, "train"))["graph"]
    assert graph["edges"].shape == (3, 1, 2) and not graph["edge_mask"].any()


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"A": "1, 2\n2, 8\n"}, r"DS_A.txt: edge 2: found 2, 8; allowed: nodes 1 to 7"),
        ({"A": "0, 2\n"}, r"DS_A.txt: edge 1: found 0, 2"),
        ({"A": "1, 2\n2, 1\n1, 3\n"}, r"DS_A.txt: edge 3: found nodes of two graphs"),
        ({"A": "1 2\n"}, r"DS_A.txt: found .*; allowed: lines of numbers"),
        ({"A": "1, 2, 3\n"}, r"DS_A.txt: found 3 numbers a line; allowed: two"),
        ({"A": "1, 2\n3\n"}, r"DS_A.txt: found .*number of columns changed"),
        ({"A": None}, r"0 files \*_A.txt"),
        ({"graph_labels": None}, r"DS_graph_labels.txt: found no such file"),
        ({"graph_labels": "1, 2\n"}, r"DS_graph_labels.txt: found 2 numbers a line; allowed: one"),
        ({"graph_labels": "1\n2\n"}, r"graph_indicator.txt: found graphs without a label, or without a node"),
        ({"graph_labels": "1\n2\n1\n1\n"}, r"allowed: 1 to 4, a graph for each label"),
        ({"graph_indicator": "0\n1\n2\n3\n1\n1\n1\n"}, r"graph_indicator.txt"),
        ({"graph_indicator": ""}, r"graph_indicator.txt"),
        ({"node_labels": "0\n1\n"}, r"DS_node_labels.txt: found shape \(2, 1\); allowed: 7 rows"),
        ({"node_attributes": "0\n1\n"}, r"DS_node_attributes.txt: found shape \(2, 1\); allowed: 7 rows"),
        ({"node_attributes": "nan\n" * 7}, r"field graph/nodes: found a number that is not finite"),
    ],
)
def test_bad_tu_files(config, tmp_path, changes, pattern):
    tu_folder(tmp_path, **changes)
    refused(pattern, config(name="tu", dir=str(tmp_path)))


def test_tu_that_is_not_there(config, tmp_path):
    refused("found nothing; allowed: a folder", config(name="tu"))
    tu_folder(tmp_path)
    shutil.copy(tmp_path / "DS_A.txt", tmp_path / "OTHER_A.txt")
    refused(r"2 files \*_A.txt", config(name="tu", dir=str(tmp_path)))
    refused("'validation'; allowed: ", config(name="tu", dir=str(tmp_path)), "validation")


def test_mutag(config, real_data):
    made = data.open_source(config(name="tu", dir=real_data("mutag")), "train")
    got = everything(made)
    assert made.num_examples == 188 and np.bincount(got["label"]).tolist() == [63, 125]
    graph = got["graph"]
    assert graph["nodes"].shape == (188, 28, 7) and graph["node_mask"].sum() == 3371
    assert graph["edge_mask"].sum() == 7442
    np.testing.assert_array_equal(graph["nodes"].sum(-1), graph["node_mask"])
    ends = np.take_along_axis(graph["node_mask"], graph["edges"].reshape(188, -1), 1).reshape(188, -1, 2)
    assert ends[graph["edge_mask"]].all()


def test_blocks_are_communities(config):
    parts = {s: everything(data.open_source(config(name="blocks"), s)) for s in ("train", "validation", "test")}
    labels = np.stack([p["label"] for p in parts.values()])
    assert ((labels >= 0).sum(0) == 1).all()
    assert [(x >= 0).sum() for x in labels] == [100, 50, 150]
    for split in ("validation", "test"):
        np.testing.assert_array_equal(parts[split]["graph"]["nodes"], parts["train"]["graph"]["nodes"])
    edges, label = np.array(listed(parts["train"]["graph"])), labels.max(0)
    same = label[edges[:, 0]] == label[edges[:, 1]]
    assert 4 < same.sum() / 300 < 6 and 1.5 < (~same).sum() / 300 < 2.5
    assert {(b, a) for a, b in edges.tolist()} == {(a, b) for a, b in edges.tolist()}
    few = data.open_source(config(name="blocks", num_examples=8), "train")
    assert few.num_examples == 8 and everything(few)["graph"]["edges"].max() < 8
    refused("'all'; allowed", config(name="blocks"), "all")


def test_motifs_hang_on_trees(config):
    got = everything(data.open_source(config(name="motifs"), "train"))
    nodes, edges = got["graph"]["node_mask"].sum(1), got["graph"]["edge_mask"].sum(1) // 2
    assert np.bincount(got["label"]).tolist() == [100, 100]
    # A tree has one edge fewer than nodes; a ring adds one, a clique of four three.
    np.testing.assert_array_equal(edges - nodes, np.where(got["label"] == 1, 2, 0))
    assert data.open_source(config(name="motifs", num_examples=5), "train").num_examples == 5
    refused("'validation'; allowed", config(name="motifs"), "validation")


def test_generated_sets_are_the_same_everywhere(config):
    prints = {n: data.open_source(config(name=n), "test").fingerprint[:8] for n in ("blocks", "motifs")}
    assert prints == {"blocks": "c23a0c20", "motifs": "8ad97046"}


def test_batches_of_a_whole_graph(config, view):
    """Every node in its row, absent rows at the end, any split of the rows the same."""
    source = data.open_source(config(name="blocks", num_examples=13), "train")
    views = {"a": view("graph", {"op": "drop_edges", "undirected": True}, {"op": "mask_features"}, kind="graph")}
    make = dict(seed=0, batch_size=16, start=0, stop=2, order="whole")
    whole = list(data.batches(source, views, rows=np.arange(16), **make))
    part = list(data.batches(source, views, rows=np.arange(8, 16), **make))
    for step in range(2):
        got = whole[step]
        np.testing.assert_array_equal(got["index"], [*range(13), -1, -1, -1])
        np.testing.assert_array_equal(got["present"]["a"], got["index"] >= 0)
        for key, value in got["views"]["a"].items():
            assert not value[13:].any()
            np.testing.assert_array_equal(value[8:], part[step]["views"]["a"][key])
    assert (whole[0]["views"]["a"]["edge_mask"] != whole[1]["views"]["a"]["edge_mask"]).any()


def test_graphs_of_readers_hold_every_edge_once():
    rng = np.random.default_rng(0)
    graph = np.sort(rng.integers(0, 4, 20))
    pairs = [(a, b) for a in range(20) for b in range(20) if graph[a] == graph[b] and a != b]
    edges = np.array(pairs)[rng.permutation(len(pairs))[:30]]
    made = graphs.many_graphs(np.arange(20)[:, None], graph, edges, 4)
    found = []
    for row in range(4):
        number = made["nodes"][row, :, 0].astype(int)
        found += [tuple(number[e]) for e in made["edges"][row][made["edge_mask"][row]]]
    assert sorted(found) == sorted(map(tuple, edges.tolist()))
