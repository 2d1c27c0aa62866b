"""MoCo v2 on images: the keys of a slowly moving encoder, kept in a queue, are the negatives.

Command:  python -m hcl_jax.main --config=moco:digits --workdir=runs/moco
Arguments: digits, fashion_mnist, imagenet_v2
Hardware: digits and fashion_mnist on 2 CPU cores; imagenet_v2 on 8 V100 GPUs.
Expected: see docs/results.md; imagenet_v2 as published: 67.5 +- 0.1 % linear top-1 after 200 epochs (53 h).
Source:   He et al. 2020, "Momentum contrast", arXiv 1911.05722; Chen et al. 2020, "Improved baselines with momentum
          contrastive learning", arXiv 2003.04297. Statistics of BatchNorm are of the whole batch of each encoder here;
          the authors shuffle the keys between GPUs with statistics of 32 rows instead.
"""

from hcl_jax.config import choose, defaults


def method(c, encoder, projector, momentum, size, temperature, ops):
    """Queries of view a, keys of view b through the moving average, and a queue of so many earlier keys."""
    c.views = {name: {"kind": "image", "field": "image", "ops": ops} for name in ("a", "b")}
    c.towers = {
        "image": {
            "views": ("a", "b"),
            "encoder": encoder,
            "heads": {"z": {"name": "projector", **projector}},
            "target": {"momentum": momentum, "schedule": "constant", "heads": ("z",)},
            "memory": {"queue": {"kind": "fifo", "reads": "b.target.z", "size": size}},
            "batching": "per_view",
        }
    }
    inputs = ("a.z", "b.target.z", "image.memory.queue")
    c.objectives = {"contrast": {"loss": "info_nce", "inputs": inputs, "temperature": temperature}}


def evaluate(c, ops, per_class, draws=10):
    """kNN, linear probe and few-label probes of h, every example once."""
    c.evaluate.views = {"image": {"kind": "image", "field": "image", "ops": ops, "tower": "image"}}
    c.evaluate.per_class, c.evaluate.draws = per_class, draws


def digits():
    """1,437 images of 8 x 8: minutes on a laptop. The queue holds two batches: a longer one knows every image."""
    c = defaults()
    c.data.name, c.data.batch_size = "digits", 256
    affine = {"op": "random_affine", "rotation": 15.0, "scale": (0.85, 1.15), "translation": 0.12}
    light = {"op": "color_jitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.0, "hue": 0.0, "p": 0.8}
    projector = {"hidden": 256, "features": 64}
    ops = (affine, light, {"op": "noise", "std": 0.1})
    method(c, {"name": "convnet", "widths": (64, 128, 256)}, projector, 0.99, 512, 0.2, ops)
    c.optimizer.learning_rate, c.optimizer.warmup_epochs = 2e-3, 5.0
    c.train.epochs, c.log.every = 60.0, 50
    evaluate(c, (), (1, 10, 100), draws=20)
    return c


def fashion_mnist():
    """60,000 images of 28 x 28 from the IDX files, a queue of 4,096."""
    c = defaults()
    c.data.name, c.data.batch_size = "fashion_mnist", 512
    light = {"op": "color_jitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.0, "hue": 0.0, "p": 0.8}
    ops = ({"op": "random_resized_crop", "size": 28, "scale": (0.3, 1.0)}, {"op": "flip"}, light)
    projector = {"hidden": 512, "features": 128}
    method(c, {"name": "convnet", "widths": (32, 128, 256)}, projector, 0.99, 4096, 0.2, ops)
    c.optimizer.learning_rate, c.optimizer.warmup_epochs = 2e-3, 1.0
    c.train.epochs, c.checkpoint.every = 10.0, 100
    evaluate(c, (), (1, 10, 100))
    return c


def imagenet_v2():
    """MoCo v2: ResNet-50, batch 256, SGD 0.03 with a cosine, queue 65,536, momentum 0.999, temperature 0.2."""
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
    # Two dense layers with a ReLU and no norm.
    projector = {"hidden": 2048, "features": 128, "batch_norm": False, "last_batch_norm": False, "last_bias": True}
    method(c, {"name": "resnet50"}, projector, 0.999, 65536, 0.2, ops)
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.weight_decay = "sgd", 0.03, 1e-4
    c.optimizer.exclude = ()  # the authors' code decays biases and norms too
    c.train.epochs = 200.0
    evaluate(c, ({"op": "centre_crop", "size": 224}, normal), ())
    return c


ARGUMENTS = {f.__name__: f for f in (digits, fashion_mnist, imagenet_v2)}


def get_config(argument="digits"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
