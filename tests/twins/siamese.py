"""Methods on two or more views of a picture, on the trunk "Tiny" (dense, BatchNorm, ReLU)."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from configs import moco, simclr, simsiam
from hcl_jax.config import defaults
from hcl_jax.losses import quality_weights
from hcl_jax.losses.foreground import pair_quality
from tests.twins.harness import Read, Run, Twin, batches
from tests.twins.official import dense, norm, running, tiny

TINY = {"name": "mlp", "widths": (16,)}


def two_views(twin: Twin, **labels: Any) -> list[dict[str, Any]]:
    """Views a and b of batch/x [T, 2, B, D]."""
    x = twin["batch/x"]
    return batches(x.shape[2], twin.steps, {"a": {"image": x[:, 0]}, "b": {"image": x[:, 1]}}, **labels)


def moco_v2(twin: Twin) -> Run:
    """A queue, and keys of a moving average; the key encoder of step t + 1 is our target after step t."""
    h, c = twin.hyper, defaults()
    head = {"hidden": 16, "features": h["dim"], "batch_norm": False, "last_batch_norm": False, "last_bias": True}
    moco.method(c, TINY, head, h["m"], h["K"], h["T"], ())
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.momentum = "sgd", h["lr"], h["momentum"]
    c.optimizer.weight_decay, c.optimizer.exclude = h["weight_decay"], ()

    def tower(g: Read) -> dict[str, Any]:
        return {"image": {"encoder": tiny(g), "heads": {"z": {"dense1": dense(g, "fc.0"), "dense2": dense(g, "fc.2")}}}}

    def queue(rows: np.ndarray, step: int) -> dict[str, Any]:
        return {"image": {"queue": {"rows": rows.T, "next": np.asarray(step * 16 % h["K"], np.int32)}}}

    def of(prefix: str, net: str) -> Read:
        return lambda name: twin[f"{prefix}/{net}.{name}"]

    def after(t: int) -> dict[str, Any]:
        known = {"params": tower(twin.after(t)), "memory": queue(twin["step/queue"][t], t + 1)}
        return known if t + 1 == twin.steps else {**known, "target": tower(twin.after(t + 1, "key"))}

    return Run(
        config=c,
        batches=two_views(twin),
        start={"params": tower(of("init", "encoder_q")), "memory": queue(twin["init_buffer/queue"], 0)},
        after=after,
        final={
            "params": tower(of("final", "encoder_q")),
            "stats": {"image": {"encoder": {"norm1": running(of("final_buffer", "encoder_q"), "norm", 16, 20)}}},
        },
        steps_per_epoch=h["steps_per_epoch"],
    )


def simclr_google(twin: Twin) -> Run:
    """Google's SimCLR; both of its losses are added up, and its variables have numbers in the model's order."""
    h, c = twin.hyper, defaults()
    names = sorted(k.removeprefix("init/") for k in twin.arrays if k.startswith("init/"))
    places = [("encoder", "dense1/kernel"), ("encoder", "norm1/scale"), ("encoder", "norm1/bias")]
    for layer in (1, 2, 3):
        places += [("z", f"norm{layer}/{leaf}") for leaf in ("scale", "bias")[: 1 if layer == 3 else 2]]
        places += [("z", f"dense{layer}/kernel")]
    simclr.views(c, a=(), b=())
    simclr.towers(c, TINY, 16, h["proj_out_dim"])
    c.towers.image.heads.z.layers = h["num_proj_layers"]
    simclr.nt_xent(c, h["temperature"])
    c.objectives.contrast.convention = "sum_of_halves"
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.scaling = "lars", h["learning_rate"], h["scaling"]
    c.optimizer.weight_decay, c.optimizer.warmup_steps = h["weight_decay"], h["warmup_steps"]

    def tower(g: Read) -> dict[str, Any]:
        parts: dict[str, Any] = {"encoder": {}, "z": {}}
        for name, (part, place) in zip(names, places, strict=True):
            layer, leaf = place.split("/")
            parts[part].setdefault(layer, {})[leaf] = g(name)
        return {"image": {"encoder": parts["encoder"], "heads": {"z": parts["z"]}}}

    return Run(
        config=c,
        batches=two_views(twin),
        start={"params": tower(twin.at("init"))},
        after=lambda t: {"params": tower(twin.after(t))},
        final={"params": tower(twin.at("final"))},
    )


def _simsiam(twin: Twin, c: Any, **labels: Any) -> Run:
    """SimSiam's net and optimizer; the fixed bias of its projector's last layer is taken out by the norm."""
    h = twin.hyper
    simsiam.method(c, TINY, h["dim"], h["pred_dim"], 3, ())
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.momentum = "sgd", h["lr"], h["momentum"]
    c.optimizer.weight_decay, c.optimizer.exclude = h["weight_decay"], ()

    def tower(g: Read) -> dict[str, Any]:
        def layers(prefix: str, count: int) -> dict[str, Any]:
            found = {f"dense{i + 1}": dense(g, f"{prefix}.{3 * i}", False) for i in range(count)}
            return found | {f"norm{i + 1}": norm(g, f"{prefix}.{3 * i + 1}") for i in range(count - 1)}

        p = layers("predictor", 2)
        p["dense2"] = dense(g, "predictor.3")
        return {"image": {"encoder": tiny(g, "encoder."), "heads": {"z": layers("encoder.fc", 3), "p": p}}}

    # Two passes a step, one a view.
    steps = 2 * twin.steps
    moved = {"encoder": {"norm1": running(twin.at("final_buffer"), "encoder.norm", 16, steps)}}
    return Run(
        config=c,
        batches=two_views(twin, **labels),
        start={"params": tower(twin.at("init"))},
        after=lambda t: {"params": tower(twin.after(t))},
        final={"params": tower(twin.at("final")), "stats": {"image": moved}},
        steps_per_epoch=h.get("steps_per_epoch", 1),
    )


def simsiam_facebook(twin: Twin) -> Run:
    """SimSiam; its rate moves once an epoch."""
    return _simsiam(twin, defaults())


def genview_simsiam(twin: Twin) -> Run:
    """SimSiam with rows weighted by the quality of their pair, the direction of the foreground given beforehand."""
    tokens, direction = twin["batch/tokens"], jnp.asarray(twin["direction"])
    quality = [pair_quality(jnp.asarray(x[0]), jnp.asarray(x[1]), direction) for x in tokens]
    weights = np.stack([quality_weights(q, gamma=twin.hyper["gamma"]) for q in quality])
    run = _simsiam(twin, defaults(), quality=weights)
    run.config.objectives.match.row_weights = "labels.quality"
    run.config.data.labels = ("quality",)
    run.config.optimizer.schedule = "constant"
    return run
