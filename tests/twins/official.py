"""Weights by the official names, as the parameters of our modules: torch's [out, in] turned, fused layers parted."""

from typing import Any

import numpy as np

from tests.twins.harness import Read


def dense(g: Read, name: str, bias: bool = True) -> dict[str, Any]:
    """nn.Linear: weight [out, in], bias [out]."""
    return {"kernel": g(f"{name}.weight").T} | ({"bias": g(f"{name}.bias")} if bias else {})


def norm(g: Read, name: str) -> dict[str, Any]:
    """nn.BatchNorm1d or nn.LayerNorm."""
    return {"scale": g(f"{name}.weight"), "bias": g(f"{name}.bias")}


def conv1d(g: Read, name: str) -> dict[str, Any]:
    """nn.Conv1d: weight [out, in, taps]."""
    return {"kernel": g(f"{name}.weight").transpose(2, 1, 0), "bias": g(f"{name}.bias")}


def patches(g: Read, name: str) -> np.ndarray:
    """nn.Conv2d [out, in, p, p] with stride p, as a dense kernel [p p in, out]."""
    w = g(f"{name}.weight")
    return w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0])


def attention(g: Read, weight: str, bias: str, out: str) -> dict[str, Any]:
    """One layer for query, key and value, one below the other, and the layer behind."""
    parts = zip(("query", "key", "value"), np.split(g(weight), 3), np.split(g(bias), 3), strict=True)
    return {name: {"kernel": w.T, "bias": b} for name, w, b in parts} | {"out": dense(g, out)}


def blocks(g: Read, count: int, of: str, names: str) -> dict[str, Any]:
    """Transformer blocks `of`.0, ...; `names` of norm 1 and 2, of weight, bias and output of the attention, and of the
    two layers of the MLP, parted by blanks."""
    made = {}
    for i in range(count):
        norm1, norm2, weight, bias, out, up, down = (f"{of}.{i}.{name}" for name in names.split())
        made[f"block{i}"] = {
            "norm1": norm(g, norm1),
            "norm2": norm(g, norm2),
            "attention": attention(g, weight, bias, out),
            "mlp": {"up": dense(g, up), "down": dense(g, down)},
        }
    return made


def tiny(g: Read, prefix: str = "") -> dict[str, Any]:
    """The trunk "Tiny" as our mlp of one layer: dense without bias, BatchNorm, ReLU."""
    return {"dense1": dense(g, f"{prefix}dense", False), "norm1": norm(g, f"{prefix}norm")}


def net2(g: Read, prefix: str = "") -> dict[str, Any]:
    """The net "Net2" as our mlp of one layer without a norm, and a linear head z."""
    return {"encoder": {"dense1": dense(g, f"{prefix}dense1")}, "heads": {"z": {"dense": dense(g, f"{prefix}dense2")}}}


def running(g: Read, name: str, rows: int, steps: int, momentum: float = 0.9) -> dict[str, np.ndarray]:
    """Running statistics of torch's BatchNorm after some passes: its variance is the unbiased one, ours the biased."""
    kept = momentum**steps
    unbiased = g(f"{name}.running_var") - kept
    return {"mean": g(f"{name}.running_mean"), "var": kept + unbiased * (rows - 1) / rows}
