"""CLIP: an image tower and a text tower, symmetric cross entropy with a learned scale.

Command:  python -m hcl_jax.main --config=clip:emoji --config.data.dir=DIR --workdir=runs/clip
Arguments: emoji, pairs, vit_b
Hardware: emoji on 2 CPU cores; vit_b on 128 A100 or as many TPU chips (36 h for ViT-B/32 at batch 32768).
Expected: emoji, see docs/results.md; vit_b on LAION-400M as published by open_clip: ViT-B/32 62.96 % zero-shot
          ImageNet.
Source:   Radford et al. 2021, "Learning transferable visual models from natural language supervision", 2103.00020.
"""

from hcl_jax.config import choose, defaults


def pair(c, image_ops, text_ops):
    """Views image and text of one example."""
    c.views = {
        "image": {"kind": "image", "field": "image", "ops": image_ops},
        "text": {"kind": "text", "field": "text", "ops": text_ops},
    }


def towers(c, image_encoder, text_encoder, features):
    """Separate towers, each with a linear projection to the shared space."""
    head = {"name": "linear", "features": features, "use_bias": False}
    c.towers = {
        "image": {"views": ("image",), "encoder": image_encoder, "heads": {"z": head}},
        "text": {"views": ("text",), "encoder": text_encoder, "heads": {"z": head}},
    }
    # s = exp(t), starts at 1 / 0.07, clipped at 100 (section 2.5).
    scale = {"learn": "exp", "init": 1 / 0.07, "max": 100.0}
    c.objectives = {"contrast": {"loss": "clip", "inputs": ("image.z", "text.z"), "scale": scale}}


def emoji():
    """1,911 emoji and their English names; data.dir is the folder (or zip) that holds emoji.json and the drawings."""
    c = defaults()
    c.data.name, c.data.batch_size, c.data.labels = "emoji", 256, ("category", "subcategory")
    words = {"op": "tokens", "length": 48}
    crop = {"op": "random_resized_crop", "size": 32, "scale": (0.6, 1.0)}
    white = {"op": "flatten_alpha"}
    pair(c, (white, crop), (words,))
    c.views["image"]["field"], c.views["text"]["field"] = "google", "name"
    towers(c, {"name": "convnet", "widths": (64, 128, 256)},
           {"name": "text_transformer", "vocab_size": 259, "width": 128, "depth": 3, "heads": 4}, 128)  # fmt: skip
    c.optimizer.learning_rate, c.optimizer.warmup_epochs, c.optimizer.weight_decay = 1e-3, 5.0, 0.1
    c.train.epochs = 60.0
    c.evaluate.views = {
        "image": {"kind": "image", "field": "google", "ops": (white, {"op": "resize", "size": 32}), "tower": "image"},
        "text": {"kind": "text", "field": "name", "ops": (words,), "tower": "text"},
    }
    c.evaluate.labels = "category"
    c.evaluate.evaluators.retrieval = {"views": (("image.z", "text.z"),)}
    return c


def pairs():
    """Your own image-text pairs: data.dir holds train.npz and test.npz with `image` [N, H, W, C] and `text` [N]."""
    c = emoji()
    c.data.name, c.data.labels = "npz", ()
    c.views.image.field, c.views.text.field = "image", "text"
    c.views.image.ops = ({"op": "to_rgb"}, *c.views.image.ops[1:])
    for view, field in (("image", "image"), ("text", "text")):
        c.evaluate.views[view]["field"] = field
    c.evaluate.views["image"]["ops"] = ({"op": "to_rgb"}, {"op": "resize", "size": 32})
    c.evaluate.labels, c.evaluate.evaluators = "", {"retrieval": c.evaluate.evaluators.retrieval}
    return c


def vit_b():
    """ViT-B/32 and a 12-layer causal text transformer at batch 32,768: the paper's settings (table 19)."""
    c = defaults()
    c.data.name, c.data.batch_size, c.data.in_memory, c.data.labels = "laion400m", 32768, False, ()
    c.data.shape, c.data.upright = (224, 224, 3), False
    words = {"op": "tokens", "length": 77}
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    crop = {"op": "random_resized_crop", "size": 224, "scale": (0.9, 1.0)}
    pair(c, (crop, {"op": "normalise", "mean": mean, "std": std}), (words,))
    kind = {"activation": "quick_gelu", "epsilon": 1e-5}
    towers(c, {"name": "vit", "variant": "b/32", "pre_norm": True, "patch_bias": False, **kind},
           {"name": "text_transformer", "vocab_size": 49408, "width": 512, "depth": 12, "heads": 8, "causal": True,
            "pool": "last", **kind}, 512)  # fmt: skip
    c.objectives.contrast.scale.min = 1.0  # as open_clip
    c.optimizer.learning_rate, c.optimizer.weight_decay = 5e-4, 0.2
    c.optimizer.b1, c.optimizer.b2, c.optimizer.eps = 0.9, 0.98, 1e-6
    c.optimizer.warmup_steps, c.optimizer.warmup_form = 2000, "ahead"
    c.optimizer.exclude = ("bias$", "scale$", "^objectives/", "cls$")  # open_clip decays tables of positions too
    c.train.epochs, c.train.compute_dtype, c.evaluate.labels = 32.0, "bfloat16", ""
    return c


ARGUMENTS = {f.__name__: f for f in (emoji, pairs, vit_b)}


def get_config(argument="emoji"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
