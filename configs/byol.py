"""BYOL on images: a predictor on one view guesses a moving average's output on the other; no negatives.

Command:  python -m hcl_jax.main --config=byol:digits --workdir=runs/byol
Arguments: digits, fashion_mnist, imagenet; digits_no_predictor and digits_no_stop_gradient leave out what keeps the
          method from a constant output: the first shrinks `spread` in metrics.jsonl, the second takes it to 0.
Hardware: digits and fashion_mnist on 2 CPU cores; imagenet on 512 TPU v3 cores.
Expected: see docs/results.md; imagenet as published: 74.3 % linear top-1 after 1000 epochs at batch 4096 (8 h).
Source:   Grill et al. 2020, "Bootstrap your own latent", arXiv 2006.07733, section 3.3 and appendix B; without
          predictor or stop-gradient: Chen and He 2021, "SimSiam", arXiv 2011.10566, sections 4.1 and 4.2.
"""

from hcl_jax.config import choose, defaults


def light(strength):
    """Brightness and contrast, for grey pictures."""
    jitter = {"brightness": strength, "contrast": strength, "saturation": 0.0, "hue": 0.0, "p": 0.8}
    return {"op": "color_jitter", **jitter}


def views(c, a, b):
    """Views a and b of the image."""
    c.views = {name: {"kind": "image", "field": "image", "ops": ops} for name, ops in (("a", a), ("b", b))}


def method(c, encoder, hidden, features, momentum):
    """One tower with projector z, predictor p and a target of the projector; each view predicts the other."""
    c.towers = {
        "image": {
            "views": ("a", "b"),
            "encoder": encoder,
            "heads": {
                "z": {"name": "projector", "hidden": hidden, "features": features, "last_batch_norm": False}
                | {"last_bias": True},
                "p": {"name": "predictor", "reads": "z", "hidden": hidden},
            },
            "target": {"momentum": momentum, "schedule": "cosine", "heads": ("z",)},
        }
    }
    c.objectives = {"match": {"loss": "byol", "inputs": ("a.p", "b.target.z", "b.p", "a.target.z")}}


def evaluate(c, ops, per_class, draws=10):
    """kNN, linear probe and few-label probes of h, every example once."""
    c.evaluate.views = {"image": {"kind": "image", "field": "image", "ops": ops, "tower": "image"}}
    c.evaluate.per_class, c.evaluate.draws = per_class, draws


def digits():
    """1,437 images of 8 x 8: minutes on a laptop."""
    c = defaults()
    c.data.name, c.data.batch_size = "digits", 256
    affine = {"op": "random_affine", "rotation": 15.0, "scale": (0.85, 1.15), "translation": 0.12}
    ops = (affine, light(0.4), {"op": "noise", "std": 0.1})
    views(c, ops, ops)
    method(c, {"name": "convnet", "widths": (64, 128, 256)}, 256, 64, 0.99)
    c.optimizer.learning_rate, c.optimizer.warmup_epochs = 2e-3, 5.0
    c.train.epochs, c.log.every = 60.0, 50
    evaluate(c, (), (1, 10, 100), draws=20)
    return c


def digits_no_predictor():
    """`digits` where the projector itself has to meet the target: its outputs shrink together, but not to a point."""
    c = digits()
    del c.towers.image.heads["p"]
    c.objectives.match.inputs = ("a.z", "b.target.z", "b.z", "a.target.z")
    return c


def digits_no_stop_gradient():
    """`digits` without predictor and target, both views trained towards each other: a constant is the easiest way."""
    c = digits_no_predictor()
    c.towers.image.target = None
    c.objectives = {"match": {"loss": "byol", "inputs": ("a.z", "b.z"), "stop_gradient": False}}
    return c


def fashion_mnist():
    """60,000 images of 28 x 28 from the IDX files."""
    c = defaults()
    c.data.name, c.data.batch_size = "fashion_mnist", 512
    ops = ({"op": "random_resized_crop", "size": 28, "scale": (0.3, 1.0)}, {"op": "flip"}, light(0.4))
    views(c, ops, ops)
    method(c, {"name": "convnet", "widths": (32, 128, 256)}, 512, 128, 0.99)
    c.optimizer.learning_rate, c.optimizer.warmup_epochs = 2e-3, 1.0
    c.train.epochs, c.checkpoint.every = 10.0, 100
    evaluate(c, (), (1, 10, 100))
    return c


def imagenet():
    """The paper's run: ResNet-50, batch 4096, LARS 0.2 x B/256 = 3.2, target momentum 0.996, 1000 epochs."""
    c = defaults()
    c.data.name, c.data.batch_size, c.data.in_memory = "imagenet2012", 4096, False
    c.data.test_split, c.data.shape, c.data.num_classes = "validation", (224, 224, 3), 1000
    crop = ({"op": "random_resized_crop", "size": 224, "scale": (0.08, 1.0)}, {"op": "flip"})
    jitter = {"op": "color_jitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "p": 0.8}
    colour, normal = (jitter, {"op": "grey", "p": 0.2}), {"op": "normalise", "mean": MEAN, "std": STD}
    views(
        c,
        (*crop, *colour, {"op": "blur", "p": 1.0}, normal),
        (*crop, *colour, {"op": "blur", "p": 0.1}, {"op": "solarise", "p": 0.2}, normal),
    )
    method(c, {"name": "resnet50"}, 4096, 256, 0.996)
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.scaling = "lars", 0.2, "linear"
    c.optimizer.weight_decay, c.optimizer.warmup_epochs = 1.5e-6, 10.0
    c.train.epochs, c.train.compute_dtype = 1000.0, "bfloat16"
    evaluate(c, ({"op": "centre_crop", "size": 224}, normal), ())
    return c


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ARGUMENTS = {f.__name__: f for f in (digits, digits_no_predictor, digits_no_stop_gradient, fashion_mnist, imagenet)}


def get_config(argument="digits"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
