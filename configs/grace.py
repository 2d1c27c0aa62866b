"""GRACE: contrast of the nodes of one graph between two corruptions of it.

Command:  python -m hcl_jax.main --config=grace:cora --config.data.dir=DIR --workdir=runs/grace
Arguments: cora (DIR holds cora.npz), graph (your own: DIR holds edges.csv and nodes.csv), blocks (a generated graph, no
          files)
Hardware: 2 CPU cores.
Expected: cora 79.9 % +- 0.8 on the public split (140 labelled nodes, 1,000 test nodes; seeds 0 to 4; untrained encoder
          63.0 +- 1.3 %, raw features 60.0 %), some minutes. The paper's numbers are of random splits, 10 % labelled.
Twins:    docs/twins.md, the authors' code beside these words, step by step: grace.
Source:   Zhu et al. 2020, "Deep graph contrastive representation learning", arXiv 2006.04131; its code's settings. Its
          loss is NT-Xent over both views.
"""

from hcl_jax.config import choose, defaults


def corruption(edges, features):
    """Edges and feature columns dropped with these probabilities."""
    return ({"op": "drop_edges", "p": edges}, {"op": "mask_features", "p": features})


def recipe(nodes, hidden, features):
    """GRACE of a graph with at most that many nodes: every step sees all of them."""
    c = defaults()
    c.data.order, c.data.batch_size, c.data.train_split = "whole", nodes, "train"
    ops = {"a": corruption(0.2, 0.3), "b": corruption(0.4, 0.4)}
    c.views = {name: {"kind": "graph", "field": "graph", "ops": of} for name, of in ops.items()}
    projector = {"name": "projector", "hidden": features, "features": features, "activation": "elu"}
    plain = {"batch_norm": False, "last_batch_norm": False, "last_bias": True}
    c.towers = {
        "graph": {
            "views": ("a", "b"),
            "encoder": {"name": "gcn", "widths": (hidden, features), "activation": "relu"},
            "heads": {"z": {**projector, **plain}},
        }
    }
    c.objectives = {"contrast": {"loss": "nt_xent", "inputs": ("a.z", "b.z"), "temperature": 0.4}}
    c.optimizer.learning_rate, c.optimizer.weight_decay, c.optimizer.schedule = 5e-4, 1e-5, "constant"
    c.optimizer.decay, c.optimizer.exclude = "gradient", ()  # torch's Adam
    c.train.epochs = 200.0
    c.evaluate.views = {"graph": {"kind": "graph", "field": "graph", "ops": (), "tower": "graph"}}
    c.evaluate.batch_size = nodes
    # Its code puts the rows of h to unit length before the probe.
    c.evaluate.evaluators = {"spread": {}, "linear": {"scaling": "rows"}}
    return c


def cora():
    """2,708 papers, 10,556 directed citations, 7 classes; 2712 rows, which 8 devices divide."""
    c = recipe(2712, 256, 128)
    c.data.name = "planetoid"
    return c


def graph():
    """Your own graph of up to 2,048 nodes: DIR holds edges.csv (source, target) and nodes.csv (id, features, label)."""
    c = recipe(2048, 128, 64)
    c.data.name = "graph_csv"
    return c


def blocks():
    """A generated graph of 300 nodes in 5 communities: seconds."""
    c = recipe(304, 64, 32)
    c.data.name = "blocks"
    return c


ARGUMENTS = {f.__name__: f for f in (cora, graph, blocks)}


def get_config(argument="blocks"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
