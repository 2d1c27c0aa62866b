"""SwAV on images: each view predicts the balanced prototype assignments of the others; small crops are cheap views.

Command:  python -m hcl_jax.main --config=swav:digits --workdir=runs/swav
Arguments: digits (two views), fashion_mnist (2 x 28 + 4 x 16 pixels), imagenet (2 x 224 + 6 x 96)
Hardware: digits and fashion_mnist on 2 CPU cores; imagenet on 64 V100 GPUs.
Expected: see docs/results.md; imagenet as published: 75.3 % linear top-1 after 800 epochs at batch 4096 (49 h).
Source:   Caron et al. 2020, "Unsupervised learning of visual features by contrasting cluster assignments", arXiv
          2006.09882, and its code. Not here: prototypes kept as they are for the first 313 steps, and a last rate of
          0.0048 (it ends at 0). If the loss stays at log(number of prototypes), the authors advise a smaller epsilon.
"""

from hcl_jax.config import choose, defaults


def method(c, encoder, hidden, features, prototypes, large, small=(), count=0):
    """Two large and `count` small crops in one tower; those of one size go through it together."""
    names = ("a", "b", *(f"small{i}" for i in range(1, count + 1)))
    c.views = {
        name: {"kind": "image", "field": "image", "ops": large if name in ("a", "b") else small} for name in names
    }
    projector = {"name": "projector", "hidden": hidden, "features": features, "last_batch_norm": False}
    c.towers = {
        "image": {
            "views": names,
            "encoder": encoder,
            "heads": {
                "z": {**projector, "last_bias": True},
                "prototypes": {"name": "prototypes", "reads": "z", "features": prototypes},
            },
        }
    }
    inputs = tuple(f"{name}.prototypes" for name in names)
    c.objectives = {"swap": {"loss": "swav", "inputs": inputs, "crops": 2, "temperature": 0.1, "epsilon": 0.05}}
    c.optimizer.unit_norm = ("heads/prototypes/kernel$",)


def evaluate(c, ops, per_class, draws=10):
    """kNN, linear probe and few-label probes of h, every example once."""
    c.evaluate.views = {"image": {"kind": "image", "field": "image", "ops": ops, "tower": "image"}}
    c.evaluate.per_class, c.evaluate.draws = per_class, draws


def digits():
    """1,437 images of 8 x 8, too small for small crops: minutes on a laptop."""
    c = defaults()
    c.data.name, c.data.batch_size = "digits", 256
    affine = {"op": "random_affine", "rotation": 15.0, "scale": (0.85, 1.15), "translation": 0.12}
    light = {"op": "color_jitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.0, "hue": 0.0, "p": 0.8}
    ops = (affine, light, {"op": "noise", "std": 0.1})
    method(c, {"name": "convnet", "widths": (64, 128, 256)}, 256, 64, 60, ops)
    c.optimizer.learning_rate, c.optimizer.warmup_epochs = 2e-3, 5.0
    c.train.epochs, c.log.every = 60.0, 50
    evaluate(c, (), (1, 10, 100), draws=20)
    return c


def fashion_mnist():
    """60,000 images of 28 x 28 from the IDX files, 100 prototypes."""
    c = defaults()
    c.data.name, c.data.batch_size = "fashion_mnist", 512
    light = {"op": "color_jitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.0, "hue": 0.0, "p": 0.8}
    large, small = (
        ({"op": "random_resized_crop", "size": size, "scale": scale}, {"op": "flip"}, light)
        for size, scale in ((28, (0.3, 1.0)), (16, (0.1, 0.3)))
    )
    method(c, {"name": "convnet", "widths": (32, 128, 256)}, 512, 128, 100, large, small, 4)
    c.optimizer.learning_rate, c.optimizer.warmup_epochs = 2e-3, 1.0
    c.train.epochs, c.checkpoint.every = 10.0, 100
    evaluate(c, (), (1, 10, 100))
    return c


def imagenet():
    """The paper's run: ResNet-50, batch 4096, 3,000 prototypes, LARS 4.8, 800 epochs."""
    c = defaults()
    c.data.name, c.data.batch_size, c.data.in_memory = "imagenet2012", 4096, False
    c.data.test_split, c.data.shape, c.data.num_classes = "validation", (224, 224, 3), 1000
    normal = {"op": "normalise", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    large, small = (
        (
            {"op": "random_resized_crop", "size": size, "scale": scale},
            {"op": "flip"},
            {"op": "color_jitter", "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "p": 0.8},
            {"op": "grey", "p": 0.2},
            {"op": "blur", "p": 0.5},
            normal,
        )
        for size, scale in ((224, (0.14, 1.0)), (96, (0.05, 0.14)))
    )
    method(c, {"name": "resnet50"}, 2048, 128, 3000, large, small, 6)
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.weight_decay = "lars", 4.8, 1e-6
    c.optimizer.exclude, c.optimizer.warmup_epochs = (), 10.0  # the authors' code excludes nothing
    c.train.epochs, c.train.compute_dtype = 800.0, "bfloat16"
    evaluate(c, ({"op": "centre_crop", "size": 224}, normal), ())
    return c


ARGUMENTS = {f.__name__: f for f in (digits, fashion_mnist, imagenet)}


def get_config(argument="digits"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
