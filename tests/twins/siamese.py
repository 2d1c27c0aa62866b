"""Methods on two or more views of a picture, on the trunk "Tiny" (dense, BatchNorm, ReLU)."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from configs import byol, moco, simclr, simsiam
from hcl_jax.config import defaults
from hcl_jax.losses import quality_weights
from hcl_jax.losses.foreground import pair_quality
from tests.twins.harness import Read, Run, Twin, batches, of_weights
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
    c.optimizer.schedule_by = "epoch"

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
        final={"params": tower(of("final", "encoder_q"))},
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
        **of_weights(twin, tower),
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
        **of_weights(twin, tower, {"image": moved}),
        steps_per_epoch=h.get("steps_per_epoch", 1),
    )


def simsiam_facebook(twin: Twin) -> Run:
    """SimSiam; its rate moves once an epoch."""
    run = _simsiam(twin, defaults())
    run.config.optimizer.schedule_by = "epoch"
    return run


def genview_simsiam(twin: Twin) -> Run:
    """SimSiam with rows weighted by the quality of their pair, the direction of the foreground given beforehand."""
    tokens, direction = twin["batch/tokens"], jnp.asarray(twin["direction"])
    quality = [pair_quality(jnp.asarray(x[0]), jnp.asarray(x[1]), direction) for x in tokens]
    weights = np.stack([quality_weights(q, gamma=twin.hyper["gamma"]) for q in quality])
    run = _simsiam(twin, defaults(), quality=weights)
    run.config.objectives.match.row_weights = "labels.quality"
    run.config.data.labels = ("quality",)
    run.config.optimizer.schedule = "constant"
    theirs = twin["step/sim_foreground"] - twin["step/sim_background"]
    return dataclasses.replace(run, beside=((np.stack(quality), theirs), (weights, twin["step/weight"])))


def _lars(c: Any, rate: float, decay: float, momentum: float) -> None:
    """LARS with the rate outside of the momentum."""
    c.optimizer.name, c.optimizer.momentum_form = "lars", "rate_outside"
    c.optimizer.learning_rate, c.optimizer.weight_decay, c.optimizer.momentum = rate, decay, momentum


def byol_deepmind(twin: Twin) -> Run:
    """BYOL; the target starts from weights of its own, and the code's classifier beside it is left out."""
    h, c = twin.hyper, defaults()
    net, o, schedule = h["network_config"], h["optimizer_config"], h["lr_schedule_config"]
    simclr.views(c, a=(), b=())
    byol.method(c, TINY, net["projector_hidden_size"], net["projector_output_size"], h["base_target_ema"])
    _lars(c, schedule["base_learning_rate"], o["weight_decay"], o["momentum"])
    c.optimizer.scaling, c.optimizer.trust_coefficient = "linear", o["eta"]
    c.optimizer.warmup_steps = schedule["warmup_steps"]

    named = {"z": "projector", "p": "predictor"}

    def layers(g: Read, name: str, batch_norm: str) -> dict[str, Any]:
        first = {"kernel": g(f"{name}/linear/w")}
        return {"dense1": first, "norm1": {"scale": g(f"{batch_norm}/scale")[0], "bias": g(f"{batch_norm}/offset")[0]}}

    def tower(g: Read, *heads: str) -> dict[str, Any]:
        found = {}
        for head in heads:
            name = named[head]
            found[head] = layers(g, name, f"{name}/batch_norm") | {"dense2": {"kernel": g(f"{name}/linear_1/w")}}
        return {"image": {"encoder": layers(g, "tiny_trunk", "tiny_trunk/batchnorm"), "heads": found}}

    def average(name: str, bias: Any = 0.0) -> dict[str, Any]:
        # Theirs starts at 0, ours at 1; 40 passes. A bias before a norm does nothing but move the mean.
        kept = net["bn_config"]["decay_rate"] ** (2 * twin.steps)
        mean, var = (twin[f"final_state/{name}/~/{k}_ema/hidden"][0] for k in ("mean", "var"))
        return {"norm1": {"mean": mean - (1 - kept) * bias, "var": var + kept}}

    heads = {k: average(f"{v}/batch_norm", twin[f"final/{v}/linear/b"]) for k, v in named.items()}
    stats = {"image": {"encoder": average("tiny_trunk/batchnorm"), "heads": heads}}
    return Run(
        config=c,
        batches=two_views(twin),
        start={"params": tower(twin.at("init"), "z", "p"), "target": tower(twin.at("init_target"), "z")},
        after=lambda t: {
            "params": tower(twin.after(t), "z", "p"),
            "target": tower(twin.after(t, "target"), "z"),
        },
        final={
            "params": tower(twin.at("final"), "z", "p"),
            "target": tower(twin.at("final_target"), "z"),
            "stats": stats,
        },
    )


def moco_v3_resnet(twin: Twin) -> Run:
    """MoCo v3's ResNet form; the target moves ahead of the step, so that of step t + 1 is ours after step t."""
    h, c = twin.hyper, defaults()
    sizes = {"hidden": h["mlp_dim"], "features": h["dim"]}
    moco.method_v3(c, TINY, sizes, {**sizes, "features": 0}, h["T"], (0.2, 1.0))
    c.towers.image.target.momentum = h["moco_m"]
    _lars(c, h["lr"], h["weight_decay"], h["momentum"])
    c.optimizer.trust_coefficient, c.optimizer.warmup_epochs = h["trust_coefficient"], float(h["warmup_epochs"])

    def net(g: Read, of: str) -> dict[str, Any]:
        head = {"dense1": dense(g, f"{of}.fc.0", False), "norm1": norm(g, f"{of}.fc.1")}
        return {"encoder": tiny(g, f"{of}."), "heads": {"z": {**head, "dense2": dense(g, f"{of}.fc.3", False)}}}

    def params(g: Read) -> dict[str, Any]:
        made = net(g, "base_encoder")
        first = {"dense1": dense(g, "predictor.0", False), "norm1": norm(g, "predictor.1")}
        made["heads"]["p"] = {**first, "dense2": dense(g, "predictor.3", False)}
        return {"image": made}

    def after(t: int) -> dict[str, Any]:
        known = {"params": params(twin.after(t))}
        if t + 1 < twin.steps:
            known["target"] = {"image": net(twin.after(t + 1), "momentum_encoder")}
        return known

    moved = running(twin.at("final_buffer"), "base_encoder.norm", 16, 2 * twin.steps)
    return Run(
        config=c,
        batches=two_views(twin),
        start={"params": params(twin.at("init"))},
        after=after,
        final={"params": params(twin.at("final")), "stats": {"image": {"encoder": {"norm1": moved}}}},
        steps_per_epoch=h["steps_per_epoch"],
    )


def barlow_twins(twin: Twin) -> Run:
    """Barlow Twins; biases and norms have a rate of their own, and the cosine ends at a thousandth of the peak."""
    h, c = twin.hyper, defaults()
    simclr.views(c, a=(), b=())
    simclr.towers(c, TINY, 16, 8)
    c.towers.image.heads.z.update({"layers": 3, "last_batch_norm": False})
    c.towers.image.batching = "per_view"
    objective = {"loss": "barlow_twins", "inputs": ("a.z", "b.z"), "redundancy_weight": h["lambd"]}
    c.objectives = {"decorrelate": objective}
    _lars(c, h["learning_rate_weights"], h["weight_decay"], h["momentum"])
    c.optimizer.scaling, c.optimizer.warmup_steps, c.optimizer.end_share = "linear", h["warmup_epochs"], 0.001
    c.optimizer.rules = (("(bias|scale)$", h["learning_rate_biases"] / h["learning_rate_weights"]),)

    def tower(g: Read) -> dict[str, Any]:
        head = {f"dense{i + 1}": dense(g, f"projector.{3 * i}", False) for i in range(3)}
        head |= {f"norm{i + 1}": norm(g, f"projector.{3 * i + 1}") for i in range(2)}
        return {"image": {"encoder": tiny(g, "backbone."), "heads": {"z": head}}}

    moved = running(twin.at("final_buffer"), "backbone.norm", 16, 2 * twin.steps)
    return Run(
        config=c,
        batches=two_views(twin),
        **of_weights(twin, tower, {"image": {"encoder": {"norm1": moved}}}),
    )
