"""Three views, some of them missing: two drawings of an emoji and its name, each pair contrasted.

Command:  python -m hcl_jax.main --config=three_views --config.data.dir=DIR --workdir=runs/three
Arguments: emoji
Hardware: 2 CPU cores.
Expected: see docs/results.md.
Source:   Tian et al. 2020, "Contrastive multiview coding", arXiv 1906.05849 (full graph).
"""

from hcl_jax.config import choose, defaults


def emoji():
    """Google's and Twitter's drawings share a tower; a quarter of the examples lack Twitter's, a quarter the name."""
    c = defaults()
    c.data.name, c.data.batch_size, c.data.labels = "emoji", 256, ("category", "subcategory")
    words = {"op": "tokens", "length": 48}
    drawing = ({"op": "flatten_alpha"}, {"op": "random_resized_crop", "size": 32, "scale": (0.6, 1.0)})
    c.views = {
        "google": {"kind": "image", "field": "google", "ops": drawing},
        "twitter": {"kind": "image", "field": "twitter", "ops": drawing, "missing": 0.25},
        "text": {"kind": "text", "field": "name", "ops": (words,), "missing": 0.25},
    }
    head = {"name": "linear", "features": 128, "use_bias": False}
    c.towers = {
        "image": {
            "views": ("google", "twitter"),
            "encoder": {"name": "convnet", "widths": (64, 128, 256)},
            "heads": {"z": head},
        },
        "text": {
            "views": ("text",),
            "encoder": {"name": "text_transformer", "vocab_size": 259, "width": 128, "depth": 3, "heads": 4},
            "heads": {"z": head},
        },
    }
    c.objectives = {
        "contrast": {"loss": "multi_view", "inputs": ("google.z", "twitter.z", "text.z"), "temperature": 0.1},
    }
    c.optimizer.learning_rate, c.optimizer.warmup_epochs, c.optimizer.weight_decay = 1e-3, 5.0, 0.1
    c.train.epochs = 60.0
    still = ({"op": "flatten_alpha"}, {"op": "resize", "size": 32})
    c.evaluate.views = {
        "google": {"kind": "image", "field": "google", "ops": still, "tower": "image"},
        "twitter": {"kind": "image", "field": "twitter", "ops": still, "tower": "image"},
        "text": {"kind": "text", "field": "name", "ops": (words,), "tower": "text"},
    }
    c.evaluate.labels = "category"
    pairs = (("google.z", "text.z"), ("twitter.z", "text.z"), ("google.z", "twitter.z"))
    c.evaluate.evaluators.retrieval = {"views": pairs}
    return c


ARGUMENTS = {f.__name__: f for f in (emoji,)}


def get_config(argument="emoji"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
