"""One graph by two tables: nodes, edges both ways, splits, and tables that are refused."""

import numpy as np
import pytest
from refusals import refused_source as refused

from hcl_jax import data

NODES = "id,x,label,split,y\na,1,red,train,0.5\nb,2,,test,1\nc,3,blue,,0\nd,4,red,test,0\n"
EDGES = "source,weight,target\na,3,b\nb,1,a\nc,1,b\nd,2,d\n"
LINKS = [(0, 1), (1, 0), (1, 2), (2, 1)]  # of a, b and c; once, both ways, none to itself


@pytest.fixture
def asked(config, tmp_path):
    def make(nodes=NODES, edges=EDGES, **fields):
        (tmp_path / "nodes.csv").write_text(nodes)
        (tmp_path / "edges.csv").write_text(edges)
        return config(name="graph_csv", dir=str(tmp_path), **fields)

    return make


def links(graph):
    return sorted(map(tuple, graph["edges"].numpy()[graph["edge_mask"].numpy()].tolist()))


def test_the_tables_are_one_graph(asked):
    source = data.open_source(asked(), "train")
    got = source.fetch(np.arange(4))
    assert source.whole and links(got["graph"]) == LINKS
    np.testing.assert_array_equal(got["graph"]["nodes"], [[1, 0.5], [2, 1], [3, 0], [4, 0]])
    assert source.class_names == {"label": ("blue", "red")} and source.describe(2) == "id c"
    assert got["label"].numpy().tolist() == [1, -1, -1, -1]
    # b is in the test split and has no class.
    assert data.open_source(asked(), "test").fetch(np.arange(4))["label"].numpy().tolist() == [-1, -1, -1, 1]


def test_nodes_of_a_name_alone(asked):
    source = data.open_source(asked("name\na\nb\nc\nd\n", record="name"), "train")
    nodes = source.fetch(np.arange(4))["graph"]["nodes"].numpy()
    np.testing.assert_allclose(nodes, [[1, np.log1p(n)] for n in (1, 2, 1, 0)], rtol=1e-6)
    assert source.labels == {}


def test_without_splits_a_share_of_the_classes_is_held_out(asked):
    nodes = "id,x,label\n" + "".join(f"{n},1,{n}\n" for n in "abcd")
    fields = dict(held_out=0.5, held_out_seed=1)
    made = [data.open_source(asked(nodes, **fields), s).known_labels["label"] for s in ("train", "test")]
    np.testing.assert_array_equal(np.maximum(*made), np.arange(4))
    assert (np.minimum(*made) == -1).all() and all((m >= 0).any() for m in made)
    refused("data.held_out: found 0.0; allowed: a share of the nodes with a label, such as 0.8", asked(nodes), "test")


@pytest.mark.parametrize(
    "nodes, edges, line",
    [
        (NODES.replace("id", "node"), EDGES, "found no column 'id'; allowed: columns"),
        (NODES, EDGES.replace("source", "from"), "found no column 'source'; allowed: columns"),
        (NODES, EDGES.replace("c,1,b", "c,1,e"), "edges.csv line 4: target: found 'e'; allowed: a node of nodes.csv"),
        (NODES.replace("b,2", "a,2"), EDGES, "found id a more than once"),
        (NODES.replace("c,3", "c,three"), EDGES, "nodes.csv line 4: x: found 'three'; allowed: a finite number: every"),
        (NODES.replace("b,2", ",2"), EDGES, "line 3: id: found nothing; allowed: a name in each line"),
        (NODES.replace("c,3", "c,nan"), EDGES, "line 4: x: found 'nan'; allowed: a finite number"),
        (NODES.replace(",test", ",tset"), EDGES, "line 3: split: found 'tset'; allowed: train, validation, test, or"),
        ("id,label\na,0.5\nb,1\nc,2\nd,2\n", EDGES, "label: found numbers that are not whole; allowed: classes"),
    ],
)
def test_what_is_refused(asked, nodes, edges, line):
    refused(line, asked(nodes, edges))


def test_both_tables_must_be_there(asked, tmp_path):
    config = asked()
    (tmp_path / "edges.tsv").write_text("")
    refused("config.data.dir: found edges.csv and edges.tsv in", config)
    for name in ("edges.csv", "edges.tsv"):
        (tmp_path / name).unlink()
    refused("config.data.dir: found no edges.csv in .*; allowed: one nodes.csv and one edges.csv", config)
