"""An image tower and a text tower, or two halves of a picture: each a net "Net2"."""

from typing import Any

import numpy as np

from configs import clip
from hcl_jax.config import defaults
from tests.twins.harness import Read, Run, Twin, batches
from tests.twins.official import net2
from tests.twins.pairs import NET


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
        start={"params": params(twin.at("init"))},
        after=lambda t: {"params": params(twin.after(t))},
        final={"params": params(twin.at("final"))},
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
