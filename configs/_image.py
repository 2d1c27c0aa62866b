"""What the recipes of images share: data sets with the settings of a run on them, operations, and the evaluation.

No recipe: its name starts with _. `from ._image import digits` works in a recipe beside it and in one copied elsewhere.
"""

from hcl_jax.config import defaults

NORMALISE = {"op": "normalise", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # of ImageNet
FLIP = {"op": "flip"}
# What `like` stands for: docs/parts.md. Operations of torchvision on PIL images, all but the crop, are Pillow's.
TENSORFLOW, PILLOW, TORCHVISION = {"like": "tensorflow"}, {"like": "pillow"}, {"like": "torchvision"}
# tf.image.resize_bicubic of TensorFlow 1 (tf.compat.v1 has it still): no antialiasing, corners aligned, no clipping.
TENSORFLOW_1 = {**TENSORFLOW, "method": "bicubic", "half_pixel": False, "cubic": -0.75}
AFFINE = {"op": "random_affine", "rotation": 15.0, "scale": (0.85, 1.15), "translation": 0.12}
DIGITS_ENCODER = {"name": "convnet", "widths": (64, 128, 256)}
FASHION_ENCODER = {"name": "convnet", "widths": (32, 128, 256)}


PHOTOS_ENCODER = {"name": "convnet", "widths": (32, 64, 128, 256)}


def crop(size, scale, **like):
    """A random part of the image, its area within `scale`, resized."""
    return {"op": "random_resized_crop", "size": size, "scale": scale, **like}


def jitter(brightness, contrast, saturation, hue, **like):
    """Colours changed in four of five images."""
    strength = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    return {"op": "color_jitter", **strength, "p": 0.8, **like}


def grey(**like):
    """No colours in one of five images."""
    return {"op": "grey", "p": 0.2, **like}


def blur(p, **like):
    """Blurred with that probability, sigma from 0.1 to 2 pixels."""
    return {"op": "blur", "p": p, **like}


def light(strength):
    """Brightness and contrast, for grey pictures."""
    return jitter(strength, strength, 0.0, 0.0)


DIGITS = (AFFINE, light(0.4), {"op": "noise", "std": 0.1})
PHOTOS = ({"op": "random_resized_crop", "scale": (0.2, 1.0)}, FLIP, jitter(0.4, 0.4, 0.4, 0.1), grey())  # of data.size
FASHION = (crop(28, (0.3, 1.0)), FLIP, light(0.4))


def views(c, **ops):
    """Views of the image by name, each by its own draws of its operations."""
    c.views = {name: {"kind": "image", "field": "image", "ops": of} for name, of in ops.items()}


def evaluate(c, ops=(), per_class=(1, 10, 100), draws=10):
    """kNN, linear probe and few-label probes of h, every example once."""
    c.evaluate.views = {"image": {"kind": "image", "field": "image", "ops": ops, "tower": "image"}}
    if per_class:
        c.evaluate.evaluators.few_labels = {"per_class": per_class, "draws": draws}


def digits():
    """1,437 images of 8 x 8, 60 epochs: minutes on a laptop."""
    c = defaults()
    c.data.name, c.data.batch_size = "digits", 256
    c.optimizer.learning_rate, c.optimizer.warmup_epochs = 2e-3, 5.0
    c.train.epochs, c.log.every = 60.0, 50
    evaluate(c, draws=20)
    return c


def fashion_mnist():
    """60,000 images of 28 x 28 from the IDX files, 10 epochs."""
    c = defaults()
    c.data.name, c.data.batch_size = "fashion_mnist", 512
    c.optimizer.learning_rate, c.optimizer.warmup_epochs = 2e-3, 1.0
    c.train.epochs, c.checkpoint.every = 10.0, 100
    evaluate(c)
    return c


def folder():
    """Pictures in a folder of any kind, 64 x 64: `data.size` is the side of all views."""
    c = defaults()
    c.data.name, c.data.batch_size, c.data.train_split, c.data.held_out = "folder", 64, "", 0.2
    c.data.size, c.data.shape, c.data.shrink = 64, (96, 128, 3), 256
    c.optimizer.learning_rate, c.optimizer.warmup_epochs = 2e-3, 2.0
    c.train.epochs = 50.0
    evaluate(c, ({"op": "centre_crop"},), per_class=(1, 10))
    return c


def imagenet(batch_size, *normal, **centre):
    """1,281,167 images of 224 x 224 from TFDS, evaluated on their centres; `normal` is the last operation, if any, and
    `centre` how the middle is cut out."""
    c = defaults()
    c.data.name, c.data.batch_size, c.data.in_memory = "imagenet2012", batch_size, False
    c.data.test_split, c.data.shape, c.data.num_classes = "validation", (224, 224, 3), 1000
    c.data.upright = False  # published numbers are of pictures as they are stored
    evaluate(c, ({"op": "centre_crop", "size": 224, **centre}, *normal), per_class=())
    return c
