"""GraphCL: each graph finds a random augmentation of itself among those of the batch.

Command:  python -m hcl_jax.main --config=graphcl:mutag --config.data.dir=DIR --workdir=runs/graphcl
Arguments: mutag (DIR holds MUTAG_A.txt and so on; any set in the TU format), motifs (generated graphs, no files)
Hardware: 2 CPU cores.
Expected: mutag 88.8 % +- 0.5 over 5 seeds (SVM, 10 folds; untrained encoder 84.3 % +- 1.0).
Twins:    docs/twins.md, the authors' code beside these words, step by step: graphcl.
Source:   You et al. 2020, "Graph contrastive learning with augmentations", arXiv 2010.13902, and its code
          (unsupervised_TU/gsimclr.py, aug "random4"): one of the two graphs is as it is, the other has a tenth of its
          nodes, edges or attributes taken, and the first finds the second in one direction, the positive left out of
          the denominator. (The paper augments both by 0.2 and has NT-Xent.) Otherwise than there: a subgraph keeps nine
          tenths of the nodes, masked attributes are zeros in place of noise around 0.5, and nodes have no loops of
          their own.
"""

from hcl_jax.config import choose, defaults


def recipe(name):
    """GIN of 3 layers x 32, a two-layer projector, temperature 0.2; one view augmented in one of four ways."""
    c = defaults()
    c.data.name, c.data.batch_size, c.data.test_split = name, 128, "test"
    ways = ("drop_nodes", "subgraph", "drop_edges", "mask_nodes")
    ops = {"a": (), "b": ({"op": "augment_graph", "p": 0.1, "of": ways},)}
    c.views = {view: {"kind": "graph", "field": "graph", "ops": of} for view, of in ops.items()}
    projector = {"name": "projector", "hidden": 96, "features": 96, "last_bias": True, "kernel_init": "xavier_uniform"}
    c.towers = {
        "graph": {
            "views": ("a", "b"),
            "encoder": {"name": "gin", "hidden": 32, "depth": 3},
            "heads": {"z": {**projector, "batch_norm": False, "last_batch_norm": False}},
            "batching": "per_view",
        }
    }
    inputs = {"query": "a.z", "key": "b.z"}
    c.objectives = {"contrast": {"loss": "info_nce", "inputs": inputs, "temperature": 0.2, "decoupled": True}}
    c.optimizer.learning_rate, c.optimizer.weight_decay, c.optimizer.schedule = 1e-2, 0.0, "constant"
    c.train.epochs = 20.0
    c.evaluate.views = {"graph": {"kind": "graph", "field": "graph", "ops": (), "tower": "graph"}}
    c.evaluate.evaluators, c.evaluate.folds = {"spread": {}, "linear": {}, "svm": {}}, 10
    return c


def mutag():
    """188 molecules of 28 atoms at most, 2 classes."""
    return recipe("tu")


def motifs():
    """200 generated graphs of 2 classes: seconds."""
    return recipe("motifs")


ARGUMENTS = {f.__name__: f for f in (mutag, motifs)}


def get_config(argument="motifs"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
