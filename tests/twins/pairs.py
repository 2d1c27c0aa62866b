"""Losses of two views on the net "Net2": dense, ReLU, dense."""

import dataclasses
from typing import Any

import numpy as np

from configs import simclr
from hcl_jax.config import defaults
from tests.twins.harness import Run, Twin, batches, of_weights
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
        **of_weights(twin, lambda g: {"image": net2(g)}),
    )


def sgd(twin: Twin) -> dict[str, Any]:
    """SGD with momentum and the decay of every parameter."""
    h = twin.hyper
    rate = h["lr"] if "lr" in h else h["learning_rate"]
    return {"name": "sgd", "learning_rate": rate, "momentum": h["momentum"], "weight_decay": h["weight_decay"]}


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


def supcon(twin: Twin) -> Run:
    """SupCon; batches where all labels differ, or all are the same, or one row is alone."""
    h = twin.hyper
    temperatures = {k: h[k] for k in ("temperature", "base_temperature")}
    objective = {"loss": "sup_con", "pairs": "labels.label", **temperatures}
    rate = {
        "schedule": "cosine",
        "schedule_by": "epoch_end",
        "cosine_over": "run",
        "end_rate": 0.1**3 * h["learning_rate"],
    }
    warmup = {"warmup_epochs": float(h["warm_epochs"]), "warmup_start": 0.01}
    run = pair(twin, objective, {**sgd(twin), **rate, **warmup}, twin["batch/labels"])
    return dataclasses.replace(run, steps_per_epoch=h["steps_per_epoch"])


def _adam(twin: Twin, **more: Any) -> dict[str, Any]:
    """torch's Adam: the decay of every parameter in the gradient."""
    rate, decay = twin.hyper["lr"], twin.hyper["weight_decay"]
    return {"name": "adamw", "decay": "gradient", "learning_rate": rate, "weight_decay": decay, **more}


def dcl(twin: Twin) -> Run:
    """Debiased contrastive learning."""
    h = twin.hyper
    objective = {"loss": "debiased", "temperature": h["temperature"], "tau_plus": h["tau_plus"]}
    return pair(twin, objective, _adam(twin))


def hcl(twin: Twin) -> Run:
    """Hard negatives."""
    h = twin.hyper
    objective = {"loss": "hard_negative", "temperature": h["temperature"], "tau_plus": h["tau_plus"], "beta": h["beta"]}
    return pair(twin, objective, _adam(twin))


def ts_tcc_contextual(twin: Twin) -> Run:
    """TS-TCC's contextual contrast: NT-Xent."""
    b1, b2 = twin.hyper["betas"]
    objective = {"loss": "nt_xent", "temperature": twin.hyper["temperature"]}
    return pair(twin, objective, _adam(twin, b1=b1, b2=b2))


def w_mse(twin: Twin) -> Run:
    """W-MSE without shrinkage: 0 is refused here, 1e-15 is the rounding of the covariance."""
    return pair(twin, {"loss": "w_mse", "epsilon": 1e-15}, _adam(twin), features=twin.hyper["emb"])
