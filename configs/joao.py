"""JOAO: GraphCL whose distribution over augmentations plays against the encoder.

Command:  python -m hcl_jax.main --config=joao:mutag --config.data.dir=DIR --workdir=runs/joao
Arguments: mutag (DIR holds MUTAG_A.txt and so on; any set in the TU format), motifs (generated graphs, no files)
Hardware: 2 CPU cores.
Expected: see docs/results.md.
Source:   You et al. 2021, "Graph contrastive learning automated", arXiv 2106.07594, and its code
          (unsupervised_TU/joao.py): the graph as it is finds one of five versions of itself, in one direction, the
          positive left out of the denominator. Otherwise than there: a step sees every augmentation, so that the
          weighted sum stands in the place of drawing one for each graph, and the distribution, a softmax, ascends in
          each step (there it moves once an epoch, by projected gradient); masked attributes are zeros in place of noise
          around 0.5, and nodes have no loops of their own.
"""

from hcl_jax.config import choose, defaults

# The view "same" is the graph as it is.
AUGMENTATIONS = {
    "same": None,
    "nodes": "drop_nodes",
    "edges": "drop_edges",
    "masked": "mask_nodes",
    "part": "subgraph",
}


def recipe(name):
    """GIN of 3 layers x 32; the graph as it is beside 5 versions of it (itself among them), gamma 0.1."""
    c = defaults()
    c.data.name, c.data.batch_size, c.data.test_split = name, 128, "test"
    c.views = {}
    for view, op in AUGMENTATIONS.items():
        strength = {"keep": 0.8} if op == "subgraph" else {"p": 0.2}
        ops = ({"op": op, **strength},) if op else ()
        c.views[view] = {"kind": "graph", "field": "graph", "ops": ops}
    projector = {"name": "projector", "hidden": 96, "features": 96, "last_bias": True, "kernel_init": "xavier_uniform"}
    c.towers = {
        "graph": {
            "views": tuple(AUGMENTATIONS),
            "encoder": {"name": "gin", "hidden": 32, "depth": 3},
            "heads": {"z": {**projector, "batch_norm": False, "last_batch_norm": False}},
            "batching": "per_view",
        }
    }
    c.objectives = {
        "game": {
            "loss": "min_max",
            "inputs": tuple(f"{view}.z" for view in AUGMENTATIONS),
            "compare": "first",
            "distribution": {"learn": "simplex", "init": len(AUGMENTATIONS)},
            "temperature": 0.2,
            "gamma": 0.1,
            "denominator": "negatives",
        }
    }
    # The other player: its parameters go up the same gradient.
    c.optimizer.rules = (("objectives/game/distribution", -1.0),)
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
