"""SimSiam on images: a predictor on one view guesses the projection of the other, which takes no gradient.

Command:  python -m hcl_jax.main --config=simsiam:digits --workdir=runs/simsiam
Arguments: digits, fashion_mnist, imagenet
Hardware: digits and fashion_mnist on 2 CPU cores; imagenet on 8 GPUs.
Expected: digits, seed 0: linear top-1 98.9 %, spread of h 0.80 (0 would be collapse); imagenet as published: 68.1 %
          linear top-1 after 100 epochs, 70.0 % after 200 (table 4).
Source:   Chen and He 2021, "Exploring simple siamese representation learning", arXiv 2011.10566, section 3,
          and its code. Not here: a predictor whose learning rate stays as it is (an option of the code).
"""

from hcl_jax.config import choose, defaults


def method(c, encoder, width, hidden, layers, ops):
    """One tower with a projector z, whose last norm learns nothing, and a predictor p, a bottleneck."""
    c.views = {name: {"kind": "image", "field": "image", "ops": ops} for name in ("a", "b")}
    projector = {"name": "projector", "hidden": width, "features": width, "layers": layers, "last_affine": False}
    c.towers = {
        "image": {
            "views": ("a", "b"),
            "encoder": encoder,
            "heads": {"z": projector, "p": {"name": "predictor", "reads": "z", "hidden": hidden}},
            "batching": "per_view",
        }
    }
    c.objectives = {"match": {"loss": "negative_cosine", "inputs": ("a.p", "b.z", "b.p", "a.z")}}


def evaluate(c, ops, per_class, draws=10):
    """kNN, linear probe and few-label probes of h, every example once."""
    c.evaluate.views = {"image": {"kind": "image", "field": "image", "ops": ops, "tower": "image"}}
    c.evaluate.per_class, c.evaluate.draws = per_class, draws


def digits():
    """1,437 images of 8 x 8: minutes on a laptop."""
    c = defaults()
    c.data.name, c.data.batch_size = "digits", 256
    affine = {"op": "random_affine", "rotation": 15.0, "scale": (0.85, 1.15), "translation": 0.12}
    light = {"op": "color_jitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.0, "hue": 0.0, "p": 0.8}
    method(c, {"name": "convnet", "widths": (64, 128, 256)}, 256, 64, 2, (affine, light, {"op": "noise", "std": 0.1}))
    c.optimizer.learning_rate, c.optimizer.warmup_epochs = 2e-3, 5.0
    c.train.epochs, c.log.every = 60.0, 50
    evaluate(c, (), (1, 10, 100), draws=20)
    return c


def fashion_mnist():
    """60,000 images of 28 x 28 from the IDX files."""
    c = defaults()
    c.data.name, c.data.batch_size = "fashion_mnist", 512
    light = {"op": "color_jitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.0, "hue": 0.0, "p": 0.8}
    ops = ({"op": "random_resized_crop", "size": 28, "scale": (0.3, 1.0)}, {"op": "flip"}, light)
    method(c, {"name": "convnet", "widths": (32, 128, 256)}, 512, 128, 2, ops)
    c.optimizer.learning_rate, c.optimizer.warmup_epochs = 2e-3, 1.0
    c.train.epochs, c.checkpoint.every = 10.0, 100
    evaluate(c, (), (1, 10, 100))
    return c


def imagenet():
    """The paper's run: ResNet-50, projector 3 x 2048, predictor 512, SGD 0.05 x B/256, batch 256, 100 epochs."""
    c = defaults()
    c.data.name, c.data.batch_size, c.data.in_memory = "imagenet2012", 256, False
    c.data.test_split, c.data.shape, c.data.num_classes = "validation", (224, 224, 3), 1000
    normal = {"op": "normalise", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    ops = (
        {"op": "random_resized_crop", "size": 224, "scale": (0.2, 1.0)},
        {"op": "color_jitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "p": 0.8},
        {"op": "grey", "p": 0.2},
        {"op": "blur", "p": 0.5},
        {"op": "flip"},
        normal,
    )
    method(c, {"name": "resnet50"}, 2048, 512, 3, ops)
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.scaling = "sgd", 0.05, "linear"
    c.optimizer.weight_decay, c.optimizer.exclude = 1e-4, ()  # the authors' code decays biases and norms too
    c.train.epochs = 100.0
    evaluate(c, ({"op": "centre_crop", "size": 224}, normal), ())
    return c


ARGUMENTS = {f.__name__: f for f in (digits, fashion_mnist, imagenet)}


def get_config(argument="digits"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
