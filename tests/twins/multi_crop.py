"""Methods on large and small crops; a small one has 8 numbers and zeros behind, and a shape that parts the passes."""

from typing import Any

import numpy as np

from configs import dino as dino_recipe
from configs import swav as swav_recipe
from hcl_jax.config import defaults
from tests.twins.harness import Read, Run, Twin, batches, of_weights
from tests.twins.official import dense, norm, tiny
from tests.twins.siamese import TINY

NAMES = ("a", "b", "small1", "small2")


def crops(twin: Twin) -> list[dict[str, Any]]:
    """Two large and two small crops."""
    views = {}
    for i, name in enumerate(NAMES):
        x = twin[f"batch/crop{i}"]
        small = x.shape[-1] < 12
        views[name] = {"image": np.pad(x, ((0, 0), (0, 0), (0, 12 - x.shape[-1])))[..., None] if small else x}
    return batches(16, twin.steps, views)


def swav(twin: Twin) -> Run:
    """SwAV: LARC, prototypes that wait, and a head over all crops at once.

    The code puts the prototypes to unit length before each forward pass, ours after each update.
    """
    h, c = twin.hyper, defaults()
    swav_recipe.method(c, TINY, h["hidden_mlp"], h["feat_dim"], h["prototypes"], (), (), 2)
    c.objectives.swap.update({"temperature": h["temperature"], "epsilon": h["epsilon"]})
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.momentum = "larc", h["base_lr"], h["momentum"]
    c.optimizer.trust_coefficient, c.optimizer.weight_decay, c.optimizer.exclude = h["trust_coefficient"], h["wd"], ()
    c.optimizer.warmup_steps, c.optimizer.warmup_form = h["warmup_epochs"], "closed"
    c.optimizer.end_rate = h["final_lr"]
    c.optimizer.freeze_steps = (("prototypes", h["freeze_prototypes_niters"]),)

    def tower(g: Read) -> dict[str, Any]:
        rows = g("prototypes.weight")
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        head = {"dense1": dense(g, "projection_head.0", False), "norm1": norm(g, "projection_head.1")}
        z = {**head, "dense2": dense(g, "projection_head.3")}
        return {"image": {"encoder": tiny(g), "heads": {"z": z, "prototypes": {"kernel": unit.T}}}}

    return Run(
        config=c,
        batches=crops(twin),
        **of_weights(twin, tower),
    )


def dino(twin: Twin) -> Run:
    """DINO: each parameter clipped, a decay that grows, a last layer that waits, teacher and centre."""
    h, c = twin.hyper, defaults()
    net = {"name": "mlp", "widths": (16,), "batch_norm": False}
    projector = {"hidden": h["hidden"], "features": h["bottleneck"], "batch_norm": False, "activation": "gelu"}
    outputs = {"features": h["out_dim"], "normalise": True}
    # Temperatures hold still within an epoch, here a step, and reach their end in the last one of the warm-up.
    warmup = h["warmup_teacher_temp_epochs"] - 1
    dino_recipe.method(c, net, projector, outputs, h["momentum_teacher"], warmup, (), (), (), 2)
    c.optimizer.learning_rate, c.optimizer.end_rate = h["lr"], h["min_lr"]
    c.optimizer.warmup_steps, c.optimizer.warmup_form = h["warmup_epochs"], "closed"
    c.optimizer.weight_decay, c.optimizer.weight_decay_end = h["weight_decay"], h["weight_decay_end"]
    c.optimizer.clip, c.optimizer.clip_by = h["clip_grad"], "parameter"
    c.optimizer.freeze_steps = (("prototypes", h["freeze_last_layer"]),)

    def tower(g: Read) -> dict[str, Any]:
        z = {f"dense{i + 1}": dense(g, f"head.mlp.{2 * i}") for i in range(3)}
        heads = {"z": z, "prototypes": {"kernel": g("head.last_layer.weight_v").T}}
        return {"image": {"encoder": {"dense1": dense(g, "backbone.dense")}, "heads": heads}}

    def centre(rows: np.ndarray) -> dict[str, Any]:
        return {"image": {"centre": {"rows": rows}}}

    return Run(
        config=c,
        batches=crops(twin),
        start={"params": tower(twin.at("init")), "target": tower(twin.at("init_teacher"))},
        after=lambda t: {
            "params": tower(twin.after(t)),
            "target": tower(twin.after(t, "teacher")),
            "memory": centre(twin["step/center"][t].ravel()),
        },
        final={"params": tower(twin.at("final")), "target": tower(twin.at("final_teacher"))},
    )
