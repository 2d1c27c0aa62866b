"""SimCLR on images: two augmented views, one tower, NT-Xent.

Command:  python -m hcl_jax.main --config=simclr:digits --workdir=runs/digits
Arguments: digits, fashion_mnist, cifar10, cifar10_paper, imagenet
Hardware: digits, fashion_mnist and cifar10 on 2 CPU cores; imagenet on 128 TPU v3 cores.
Expected: see the table in README.md; imagenet as published: 64.5 % linear top-1 after 100 epochs at batch 4096,
          69.3 % after 1000 (Table B.1 and section 6; 1.5 h for 100 epochs on 128 TPU v3 cores).
Source:   Chen et al. 2020, "A simple framework for contrastive learning of visual representations", arXiv 2002.05709.
"""

from hcl_jax.config import choose, defaults


def crop(size, scale, flip=True):
    """SimCLR's random crop and horizontal flip."""
    return ({"op": "random_resized_crop", "size": size, "scale": scale}, *(({"op": "flip"},) if flip else ()))


def colour(strength):
    """SimCLR's colour distortion: jitter 0.8 S, 0.8 S, 0.8 S, 0.2 S with p 0.8, then grey with p 0.2 (appendix A)."""
    return (
        {
            "op": "color_jitter",
            "brightness": 0.8,
            "contrast": 0.8,
            "saturation": 0.8,
            "hue": 0.2,
            "p": 0.8,
            "strength": strength,
        },
        {"op": "grey", "p": 0.2},
    )


def light(strength):
    """Brightness and contrast, for grey pictures."""
    jitter = {"brightness": strength, "contrast": strength, "saturation": 0.0, "hue": 0.0, "p": 0.8}
    return ({"op": "color_jitter", **jitter},)


def two_views(c, ops):
    """Views a and b of the image, by the same operations and different draws."""
    c.views = {name: {"kind": "image", "field": "image", "ops": ops} for name in ("a", "b")}


def towers(c, encoder, hidden, features):
    """One tower for both views: encoder and a two-layer projector."""
    projector = {"name": "projector", "hidden": hidden, "features": features}
    c.towers = {"image": {"views": ("a", "b"), "encoder": encoder, "heads": {"z": projector}}}


def nt_xent(c, temperature):
    """The objective: NT-Xent over both views of the batch."""
    c.objectives = {"contrast": {"loss": "nt_xent", "inputs": ("a.z", "b.z"), "temperature": temperature}}


def evaluate(c, ops, per_class=(1, 10, 100), draws=10):
    """kNN, linear probe and few-label probes of h, every example once."""
    c.evaluate.views = {"image": {"kind": "image", "field": "image", "ops": ops, "tower": "image"}}
    c.evaluate.per_class, c.evaluate.draws = per_class, draws


def digits():
    """1,437 images of 8 x 8: minutes on a laptop."""
    c = defaults()
    c.data.name, c.data.batch_size = "digits", 256
    affine = {"op": "random_affine", "rotation": 15.0, "scale": (0.85, 1.15), "translation": 0.12}
    two_views(c, (affine, *light(0.4), {"op": "noise", "std": 0.1}))
    towers(c, {"name": "convnet", "widths": (64, 128, 256)}, 256, 64)
    nt_xent(c, 0.2)
    c.optimizer.learning_rate, c.optimizer.warmup_epochs = 2e-3, 5.0
    c.train.epochs, c.log.every = 60.0, 50
    evaluate(c, (), per_class=(1, 10, 100), draws=20)
    return c


def fashion_mnist():
    """60,000 images of 28 x 28 from the IDX files."""
    c = defaults()
    c.data.name, c.data.batch_size = "fashion_mnist", 512
    two_views(c, (*crop(28, (0.3, 1.0)), *light(0.4)))
    towers(c, {"name": "convnet", "widths": (32, 128, 256)}, 512, 128)
    nt_xent(c, 0.2)
    c.optimizer.learning_rate, c.optimizer.warmup_epochs = 2e-3, 1.0
    c.train.epochs, c.checkpoint.every = 10.0, 100
    evaluate(c, ())
    return c


def cifar10():
    """50,000 images of 32 x 32; --config.data.name=folder --config.data.dir=DIR reads an image folder, not TFDS."""
    c = defaults()
    c.data.name, c.data.batch_size = "cifar10", 512
    two_views(c, (*crop(32, (0.08, 1.0)), *colour(0.5)))
    towers(c, {"name": "convnet", "widths": (32, 128, 256)}, 512, 128)
    nt_xent(c, 0.2)
    c.optimizer.learning_rate, c.optimizer.warmup_epochs = 2e-3, 1.0
    c.train.epochs, c.checkpoint.every = 5.0, 100
    evaluate(c, ({"op": "resize", "size": 32},))  # changes nothing here, and lets a folder hold other sizes
    return c


def cifar10_paper():
    """The paper's CIFAR-10 run (appendix B.9): ResNet-50, batch 1024, learning rate 1.0, 1000 epochs; 94.0 % linear."""
    c = cifar10()
    c.data.batch_size = 1024
    towers(c, {"name": "resnet50", "stem": "small"}, 2048, 128)
    nt_xent(c, 0.5)
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.weight_decay = "lars", 1.0, 1e-6
    c.optimizer.scaling, c.optimizer.warmup_epochs, c.train.epochs = "none", 10.0, 1000.0
    return c


def imagenet():
    """The paper's default: ResNet-50, batch 4096, LARS 0.3 x B/256 = 4.8, 10 epochs of warm-up, temperature 0.1."""
    c = defaults()
    c.data.name, c.data.batch_size, c.data.in_memory = "imagenet2012", 4096, False
    c.data.test_split, c.data.shape, c.data.num_classes = "validation", (224, 224, 3), 1000
    two_views(c, (*crop(224, (0.08, 1.0)), *colour(1.0), {"op": "blur", "p": 0.5}))
    towers(c, {"name": "resnet50"}, 2048, 128)
    nt_xent(c, 0.1)
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.scaling = "lars", 0.3, "linear"
    c.optimizer.weight_decay, c.optimizer.warmup_epochs = 1e-6, 10.0
    c.train.epochs, c.train.compute_dtype, c.train.similarity_mib = 100.0, "bfloat16", 1024  # dense up to 65,536 on 256
    evaluate(c, ({"op": "centre_crop", "size": 224},), per_class=())
    return c


ARGUMENTS = {f.__name__: f for f in (digits, fashion_mnist, cifar10, cifar10_paper, imagenet)}


def get_config(argument="digits"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
