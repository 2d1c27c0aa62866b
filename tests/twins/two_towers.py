"""An image tower and a text tower, or two halves of a picture: each a net "Net2"."""

import dataclasses
from typing import Any

import flax.linen as nn
import numpy as np

from configs import clip
from hcl_jax.config import defaults
from tests.twins.harness import Read, Run, Twin, batches, of_weights
from tests.twins.official import blocks, dense, net2, norm, patches
from tests.twins.pairs import NET

SCALE = {"scale": "logit_scale"}  # our name of a learned number: theirs


def two(twin: Twin) -> list[dict[str, Any]]:
    """Views image and text."""
    views = {name: {"image": twin[f"batch/{name}"]} for name in ("image", "text")}
    return batches(views["image"]["image"].shape[1], twin.steps, views)


def _towers(c: Any) -> None:
    clip.pair(c, (), ())
    clip.towers(c, NET, NET, 8)
    for tower in c.towers.values():
        tower.heads.z.use_bias = True


def big_vision_siglip(twin: Twin) -> Run:
    """SigLIP; its decay is not multiplied by the rate: weight_decay is wd / lr here."""
    h, c = twin.hyper, defaults()
    _towers(c)
    scale, bias = {"learn": "exp", "init": h["temperature_init"]}, {"learn": "linear", "init": h["bias_init"]}
    c.objectives = {"contrast": {"loss": "siglip", "inputs": ("image.z", "text.z"), "scale": scale, "bias": bias}}
    c.optimizer.learning_rate, c.optimizer.warmup_steps, c.optimizer.clip = h["lr"], h["warmup_steps"], 1.0
    c.optimizer.weight_decay, c.optimizer.b1, c.optimizer.b2 = h["wd"] / h["lr"], h["b1"], h["b2"]

    def params(g: Read) -> dict[str, Any]:
        def layer(name: str) -> dict[str, Any]:
            return {leaf: g(f"{name}/{leaf}") for leaf in ("kernel", "bias")}

        def tower(name: str) -> dict[str, Any]:
            return {"encoder": {"dense1": layer(f"{name}/dense")}, "heads": {"z": {"dense": layer(f"{name}/head")}}}

        learned = {"contrast": {"scale": g("t").reshape(()), "bias": g("b").reshape(())}}
        return {"image": tower("img"), "text": tower("txt"), "objectives": learned}

    return Run(
        config=c,
        batches=two(twin),
        **of_weights(twin, params),
    )


def cmc_memory_moco(twin: Twin) -> Run:
    """Keys of a second net, which does not train, and a queue of them."""
    h, c = twin.hyper, defaults()
    c.views = {v: {"kind": "image", "field": v, "ops": ()} for v in ("l", "ab")}
    head = {"z": {"name": "linear", "features": 8}}
    queue = {"kind": "fifo", "reads": "ab.z", "size": h["K"]}
    c.towers = {
        "l": {"views": ("l",), "encoder": NET, "heads": head},
        "ab": {"views": ("ab",), "encoder": NET, "heads": head, "memory": {"queue": queue}},
    }
    inputs = ("l.z", "ab.z", "ab.memory.queue")
    c.objectives = {"contrast": {"loss": "info_nce", "inputs": inputs, "temperature": h["T"]}}
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.momentum = "sgd", h["lr"], h["sgd_momentum"]
    c.optimizer.weight_decay, c.optimizer.exclude, c.optimizer.schedule = h["weight_decay"], (), "constant"
    c.optimizer.rules = (("^ab/", 0.0),)

    def params(g: Read) -> dict[str, Any]:
        return {name: net2(g, f"{name}.") for name in ("l", "ab")}

    def memory(rows: np.ndarray, step: int) -> dict[str, Any]:
        return {"ab": {"queue": {"rows": rows, "next": np.asarray(step * 16 % h["K"], np.int32)}}}

    return Run(
        config=c,
        batches=batches(16, twin.steps, {v: {"image": twin[f"batch/{v}"]} for v in ("l", "ab")}),
        start={"params": params(twin.at("init")), "memory": memory(twin["init_memory/l"], 0)},
        after=lambda t: {"params": params(twin.after(t)), "memory": memory(twin["step/memory"][t], t + 1)},
        final={"params": params(twin.at("final"))},
    )


def _open_clip_optimizer(c: Any, h: Any) -> None:
    c.optimizer.learning_rate, c.optimizer.weight_decay = h["lr"], h["weight_decay"]
    if "warmup" in h:
        c.optimizer.warmup_steps, c.optimizer.warmup_form = h["warmup"], "ahead"
    else:
        c.optimizer.schedule = "constant"
    (c.optimizer.b1, c.optimizer.b2), c.optimizer.eps = h["betas"], h["eps"]


def _open_clip(twin: Twin, **learned: Any) -> Run:
    """Two nets, AdamW, a warm-up whose first rate is not 0, and a scale that is held between 1 and 100."""
    h, c = twin.hyper, defaults()
    _towers(c)
    _open_clip_optimizer(c, h)
    c.objectives.contrast.scale.init = h.get("init_scale", 1 / 0.07)

    return Run(
        config=c,
        batches=two(twin),
        **of_weights(twin, lambda g: _params(g, learned)),
    )


def _params(g: Read, learned: dict[str, str]) -> dict[str, Any]:
    made = {name: net2(g, f"{name}.") for name in ("image", "text")}
    return {**made, "objectives": {"contrast": {k: g(name) for k, name in learned.items()}}}


def open_clip(twin: Twin) -> Run:
    """CLIP's loss."""
    return _open_clip(twin, **SCALE)


def open_clip_2_ranks(twin: Twin) -> Run:
    """The same on two processes there, on two devices here."""
    return dataclasses.replace(open_clip(twin), devices=2)


def open_clip_siglip(twin: Twin) -> Run:
    """SigLIP's loss with a learned bias."""
    run = _open_clip(twin, **SCALE, bias="logit_bias")
    contrast = run.config.objectives.contrast
    contrast.loss, contrast.bias = "siglip", {"learn": "linear", "init": -10.0}
    return run


def open_clip_towers(twin: Twin) -> Run:
    """CLIP's vision and text transformers, trained by its loss; the decay spares what has one axis."""
    h, c = twin.hyper, defaults()
    clip.pair(c, (), ())
    size = {"width": h["width"], "depth": h["layers"], "heads": h["heads"], "mlp": h["mlp_ratio"] * h["width"]}
    image = {"name": "vit", "variant": "b", "patch": h["patch"], "pre_norm": True, "patch_bias": False}
    text = {"name": "text_transformer", "vocab_size": h["vocabulary"], "causal": True, "pool": "max_id"}
    common = {"epsilon": 1e-5, **size}
    clip.towers(c, {**image, "class_position": True, **common}, {**text, "hide_padding": False, **common}, h["embed"])
    _open_clip_optimizer(c, h)
    c.optimizer.exclude = ("bias$", "scale$", "cls$")

    def transformer(g: Read, net: str, last: str, **more: Any) -> dict[str, Any]:
        names = "ln_1 ln_2 attn.in_proj_weight attn.in_proj_bias attn.out_proj mlp.c_fc mlp.c_proj"
        made = blocks(g, h["layers"], f"{net}.transformer.resblocks", names)
        return {**made, "norm": norm(g, last), **more}

    def params(g: Read) -> dict[str, Any]:
        table, side = g("visual.positional_embedding"), h["image"] // h["patch"]
        image = {
            "patch": {"kernel": patches(g, "visual.conv1")},
            "cls": g("visual.class_embedding")[None, None],
            "cls_position": table[None, :1],
            "position": table[1:].reshape(1, side, side, -1),
            "transformer": transformer(g, "visual", "visual.ln_post", pre_norm=norm(g, "visual.ln_pre")),
        }
        text = {
            "token": {"embedding": g("text.token_embedding.weight")},
            "position": g("text.positional_embedding")[None],
            "transformer": transformer(g, "text", "text.ln_final"),
        }
        heads = {"image": g("visual.proj"), "text": g("text.text_projection")}
        found = {
            name: {"encoder": encoder, "heads": {"z": {"dense": {"kernel": heads[name]}}}}
            for name, encoder in (("image", image), ("text", text))
        }
        return {**found, "objectives": {"contrast": {"scale": g("logit_scale")}}}

    pictures = {"image": np.moveaxis(twin["batch/image"], 2, -1)}
    return Run(
        config=c,
        batches=batches(h["batch"], twin.steps, {"image": pictures, "text": {"tokens": twin["batch/ids"]}}),
        **of_weights(twin, params),
    )


def open_clip_2_ranks_no_gradient(twin: Twin) -> Run:
    """Each process differentiates the loss by its own rows only, so that the towers get half of the batch's gradient.

    Adam takes a factor out of its update but for epsilon: twice that says the half. The scale, whose gradient is whole,
    gets it too, and is off by 1e-8.
    """
    run = open_clip_2_ranks(twin)
    run.config.optimizer.eps = twin.hyper["ranks"] * twin.hyper["eps"]
    return run


class Captions(nn.Module):
    """Logits of 11 words at 5 places from one dense layer."""

    dtype: Any = "float32"
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x, rows):
        del rows
        return nn.Dense(55, dtype=self.dtype, param_dtype=self.param_dtype, name="dense")(x).reshape(-1, 5, 11)


def open_clip_coca(twin: Twin) -> Run:
    """CoCa's loss: CLIP's, and twice the cross entropy of captions; their head is a user's own."""
    h, run = twin.hyper, _open_clip(twin, **SCALE)
    c = run.config
    c.towers.image.heads.caption = {"name": "captions"}
    c.objectives.contrast.weight = h["clip_loss_weight"]
    inputs = ("image.caption", "labels.caption")
    c.objectives.caption = {"loss": "cross_entropy", "inputs": inputs, "weight": h["caption_loss_weight"]}
    c.data.labels, c.optimizer.exclude = ("caption",), ()

    def params(g: Read) -> dict[str, Any]:
        made = _params(g, SCALE)
        made["image"]["heads"]["caption"] = {"dense": dense(g, "caption")}
        return made

    words = twin["batch/labels"]
    for batch, caption in zip(run.batches, np.where(words == h["pad_id"], -1, words), strict=True):
        batch["labels"]["caption"] = caption
    return dataclasses.replace(
        run,
        **of_weights(twin, params),
        heads={"captions": Captions},
        parts={
            "loss/contrast": twin["step/contrastive"],
            "loss/caption": twin["step/caption"] / h["caption_loss_weight"],
        },
    )
