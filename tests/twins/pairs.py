"""Losses of two views on the net "Net2": dense, ReLU, dense."""

from typing import Any

import numpy as np

from configs import simclr
from hcl_jax.config import defaults
from tests.twins.harness import Run, Twin, batches
from tests.twins.official import net2

NET = {"name": "mlp", "widths": (16,), "batch_norm": False}


def pair(
    twin: Twin, objective: dict[str, Any], optimizer: dict[str, Any], labels: Any = None, features: int = 8
) -> Run:
    """Views a and b, one after the other through one tower with a linear head, and an objective on z."""
    x = twin["batch/x"]
    c = defaults()
    simclr.views(c, a=(), b=())
    simclr.towers(c, NET, 0, 0)
    c.towers.image.heads.z = {"name": "linear", "features": features}
    c.objectives = {"o": {"inputs": ("a.z", "b.z"), **objective}}
    c.optimizer.update({"schedule": "constant", "exclude": (), **optimizer})
    given = {} if labels is None else {"label": labels}
    return Run(
        config=c,
        batches=batches(x.shape[2], twin.steps, {"a": {"image": x[:, 0]}, "b": {"image": x[:, 1]}}, **given),
        start={"params": {"image": net2(twin.at("init"))}},
        after=lambda t: {"params": {"image": net2(twin.after(t))}},
        final={"params": {"image": net2(twin.at("final"))}},
    )


def sgd(twin: Twin) -> dict[str, Any]:
    """SGD with momentum and the decay of every parameter."""
    h = twin.hyper
    return {"name": "sgd", "learning_rate": h["lr"], "momentum": h["momentum"], "weight_decay": h["weight_decay"]}


def spectral(twin: Twin) -> Run:
    """Spectral contrastive loss, rows cut to length sqrt(mu)."""
    return pair(twin, {"loss": "spectral", "mu": twin.hyper["mu"]}, sgd(twin))


def decoupled(twin: Twin) -> Run:
    """DCL; the code adds both directions, each a mean over its rows: twice the mean over all rows."""
    return pair(twin, {"loss": "decoupled", "temperature": twin.hyper["temperature"], "weight": 2.0}, sgd(twin))


def stablerep(twin: Twin) -> Run:
    """SupCon on both views; the code keeps the label mask of its first batch, so the labels are the same in each."""
    h = twin.hyper
    labels = np.tile(twin["batch/labels"][:16], (twin.steps, 1))
    adamw = {"learning_rate": h["lr"], "weight_decay": h["weight_decay"], "b1": 0.9, "b2": 0.98, "eps": h["eps"]}
    objective = {"loss": "sup_con", "temperature": h["temperature"], "pairs": "labels.label"}
    return pair(twin, objective, adamw, labels)
