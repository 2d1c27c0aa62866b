"""CLIP: an image tower and a text tower, symmetric cross entropy with a learned scale; and SigLIP, by pairs.

Command:  python -m hcl_jax.main --config=clip:emoji --config.data.dir=DIR --workdir=runs/clip
          python -m hcl_jax.tokenizer --config=clip:icons --config.data.dir=DIR, then the same with hcl_jax.main
Arguments: emoji, icons, pairs, csv (your own, by a table of paths and texts), vit_b, siglip_b
Hardware: emoji and icons on 2 CPU cores; vit_b on 128 A100 or as many TPU chips (36 h for ViT-B/32 at batch 32768).
Expected: emoji and icons, see docs/results.md; vit_b on LAION-400M as published by open_clip: ViT-B/32 62.96 %
          zero-shot ImageNet. SigLIP's data (WebLI) are not public: no published number is of siglip_b on LAION-400M.
Twins:    docs/twins.md, the authors' code beside these words, step by step: open_clip, open_clip_towers and others.
Source:   Radford et al. 2021, "Learning transferable visual models from natural language supervision", 2103.00020;
          open_clip's ViT-B-32-quickgelu (laion400m_e32). Zhai et al. 2023, "Sigmoid loss for language image
          pre-training", 2303.15343; google-research/big_vision trainers/proj/image_text/siglip.py.
"""

from hcl_jax.config import choose, defaults

# s = exp(t), starts at 1 / 0.07, clipped at 100 (section 2.5).
SCALE = {"learn": "exp", "init": 1 / 0.07, "max": 100.0}


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
    c.objectives = {"contrast": {"loss": "clip", "inputs": ("image.z", "text.z"), "scale": SCALE}}


def held_out(c, image_ops, text_ops, **retrieval):
    """Retrieval both ways among the held-out pairs."""
    c.evaluate.views = {
        "image": {"kind": "image", "field": c.views.image.field, "ops": image_ops, "tower": "image"},
        "text": {"kind": "text", "field": c.views.text.field, "ops": text_ops, "tower": "text"},
    }
    c.evaluate.evaluators.retrieval = {"views": (("image.z", "text.z"),), **retrieval}


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
    held_out(c, (white, {"op": "resize", "size": 32}), (words,))
    c.evaluate.labels = "category"
    return c


def icons():
    """5,233 icons with a name and tags, read as byte pairs; data.dir is icons.zip or its folder. `python -m
    hcl_jax.tokenizer` with the same flags learns the tokenizer first."""
    c = defaults()
    c.data.name, c.data.batch_size, c.data.labels = "icons", 256, ()
    c.data.tokenizer = "icons_tokenizer.json"
    words = {"op": "tokens", "length": 32}
    pair(c, ({"op": "random_resized_crop", "size": 32, "scale": (0.6, 1.0)},), ({"op": "drop_words", "p": 0.3}, words))
    c.views["image"]["field"], c.views["text"]["field"] = "outline", "caption"
    towers(c, {"name": "convnet", "widths": (32, 64, 128)},
           {"name": "text_transformer", "vocab_size": 4096, "width": 128, "depth": 2, "heads": 4}, 128)  # fmt: skip
    c.optimizer.learning_rate, c.optimizer.warmup_epochs, c.optimizer.weight_decay = 1e-3, 5.0, 0.1
    c.train.epochs = 40.0
    held_out(c, ({"op": "resize", "size": 32},), (words,), ks=(1, 5, 10))
    c.evaluate.labels, c.evaluate.evaluators = "", {"retrieval": c.evaluate.evaluators.retrieval}
    return c


def pairs():
    """Your own image-text pairs: data.dir holds train.npz and test.npz with `image` [N, H, W, C] and `text` [N]."""
    c = emoji()
    c.data.name, c.data.labels = "npz", ()
    c.views.image.field, c.views.text.field = "image", "text"
    c.views.image.ops = ({"op": "to_rgb"}, *c.views.image.ops[1:])
    held_out(c, ({"op": "to_rgb"}, {"op": "resize", "size": 32}), c.views.text.ops)
    c.evaluate.labels, c.evaluate.evaluators = "", {"retrieval": c.evaluate.evaluators.retrieval}
    return c


def csv():
    """Your own pairs by a table, --config.data.dir=PAIRS.csv: columns filepath (data.picture) and title (data.text)."""
    c = defaults()
    c.data.name, c.data.batch_size, c.data.labels, c.data.in_memory = "pairs_csv", 128, (), False
    c.data.picture, c.data.text, c.data.held_out = "filepath", "title", 0.2
    c.data.size, c.data.shape = 64, (96, 128, 3)
    words = {"op": "tokens", "length": 96}
    pair(c, ({"op": "random_resized_crop", "scale": (0.6, 1.0)},), (words,))
    towers(c, {"name": "convnet", "widths": (32, 64, 128, 256)},
           {"name": "text_transformer", "vocab_size": 259, "width": 128, "depth": 3, "heads": 4}, 128)  # fmt: skip
    c.optimizer.learning_rate, c.optimizer.warmup_epochs, c.optimizer.weight_decay = 1e-3, 2.0, 0.1
    c.train.epochs = 30.0
    held_out(c, ({"op": "resize"},), (words,), ks=(1, 5, 10))
    c.evaluate.labels, c.evaluate.evaluators = "", {"retrieval": c.evaluate.evaluators.retrieval}
    return c


def laion(c, batch_size):
    """LAION-400M as TFDS has it, its first 10,000 pairs held out: 224 x 224 pixels, as they are stored."""
    c.data.name, c.data.batch_size, c.data.in_memory, c.data.labels = "laion400m", batch_size, False, ()
    c.data.train_split, c.data.test_split = "train[10000:]", "train[:10000]"
    c.data.shape, c.data.upright = (224, 224, 3), False
    c.train.compute_dtype, c.evaluate.labels = "bfloat16", ""


def vit_b():
    """open_clip's ViT-B-32-quickgelu at batch 32,768, with the paper's settings (table 19): 151,277,313 parameters.

    data.tokenizer is the path of CLIP's merges, whose ids are kept: 0 is "!" and what fills a row. Position tables
    decay as in legacy_main.py (main.py of today spares them). Other than there: the first weights are drawn from other
    distributions, and the first 10,000 pairs are held out.
    """
    c = defaults()
    laion(c, 32768)
    c.data.tokenizer = "bpe_simple_vocab_16e6.txt.gz"
    words = {"op": "tokens", "length": 77, "keep_ids": True}
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    normal = {"op": "normalise", "mean": mean, "std": std}
    crop = {"op": "random_resized_crop", "size": 224, "scale": (0.9, 1.0), "like": "pillow"}
    pair(c, (crop, normal), (words,))
    c.views.text.field = "caption"
    blocks = {"activation": "quick_gelu", "epsilon": 1e-5}
    towers(c, {"name": "vit", "variant": "b/32", "class_position": True, "patch_bias": False, "pre_norm": True,
            **blocks},
           {"name": "text_transformer", "vocab_size": 49408, "width": 512, "depth": 12, "heads": 8, "causal": True,
            "pool": "max_id", "hide_padding": False, **blocks}, 512)  # fmt: skip
    c.objectives.contrast.scale = {**SCALE, "min": 1.0}
    c.optimizer.learning_rate, c.optimizer.weight_decay, c.optimizer.eps = 5e-4, 0.2, 1e-6
    c.optimizer.b1, c.optimizer.b2 = 0.9, 0.98
    c.optimizer.warmup_steps, c.optimizer.warmup_form = 2000, "ahead"
    c.optimizer.exclude = ("bias$", "scale$", "(^|/)objectives/", "cls$")  # position tables decay
    c.train.epochs = 32.0
    middle = {"op": "centre_crop", "size": 224, "fraction": 1.0, "like": "pillow", "order": "resize"}
    held_out(c, (middle, normal), (words,), ks=(1, 5, 10))
    return c


def siglip_b():
    """SigLIP's ViT-B/16 and a text transformer of that size as big_vision builds them, 9 billion pairs at batch 32,768.

    data.tokenizer is the path of a tokenizer.json of at most 32,000 ids. The decay is 1e-4 of the relative rate there,
    not of the rate: 0.1 here. The config of that run is not public: sizes, first scale, first bias and pictures are
    those of SigLIP_demo.ipynb, rate, clip and the warm-up's 3 % those of siglip_lit_coco.py; decay, b2, batch and
    number of pairs stand in no code of theirs and are taken for the paper's. Other than there: LAION-400M for WebLI,
    rows are filled with 0 and not with the end token, the first weights are drawn from other distributions, and the
    first 10,000 pairs are held out.
    """
    c = defaults()
    laion(c, 32768)
    c.data.tokenizer = "tokenizer.json"
    words = {"op": "tokens", "length": 64, "keep_ids": True}
    half = (0.5, 0.5, 0.5)
    pixels = (
        {"op": "resize", "size": 224, "like": "tensorflow", "antialias": False},  # bilinear: `resize(224)` there
        {"op": "normalise", "mean": half, "std": half},
    )
    pair(c, pixels, (words,))
    c.views.text.field = "caption"
    towers(c, {"name": "vit", "variant": "b/16", "pool": "map", "activation": "gelu_tanh"},
           {"name": "text_transformer", "vocab_size": 32000, "width": 768, "depth": 12, "heads": 12, "pool": "last",
            "hide_padding": False, "activation": "gelu_tanh"}, 768)  # fmt: skip
    c.towers.image.heads.z, c.towers.text.heads.z = {"name": "identity"}, {"name": "linear", "features": 768}
    c.objectives.contrast = {
        "loss": "siglip",
        "inputs": ("image.z", "text.z"),
        "scale": {"learn": "exp", "init": 10.0},
        "bias": {"learn": "linear", "init": -10.0},
    }
    c.optimizer.learning_rate, c.optimizer.weight_decay, c.optimizer.clip = 1e-3, 0.1, 1.0
    c.optimizer.b1, c.optimizer.b2 = 0.9, 0.95
    c.optimizer.exclude = (*c.optimizer.exclude, "embedding$", "probe$")  # kernels alone decay
    c.train.steps = 9 * 10**9 // c.data.batch_size
    c.optimizer.warmup_steps = int(0.03 * c.train.steps)
    held_out(c, pixels, (words,), ks=(1, 5, 10))
    return c


ARGUMENTS = {f.__name__: f for f in (emoji, icons, pairs, csv, vit_b, siglip_b)}


def get_config(argument="emoji"):
    """The run that `argument` names."""
    return choose(argument, ARGUMENTS)()
