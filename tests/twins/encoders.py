"""Twins whose encoder is a subject too: graphs, series, a vision transformer, words, features reshaped by an MLP."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from configs import grace as grace_recipe
from configs import graphcl as graphcl_recipe
from configs import nmtune as nmtune_recipe
from configs import ts2vec as ts2vec_recipe
from hcl_jax.config import defaults
from tests.twins.harness import Read, Run, Twin, batches, of_weights
from tests.twins.official import blocks, conv1d, dense, norm, patches


def graphcl(twin: Twin) -> Run:
    """GIN; a graph as it is finds its augmented one among those: one direction, the positive not in the denominator."""
    h = twin.hyper
    c = graphcl_recipe.motifs()
    c.towers.graph.encoder.hidden, c.towers.graph.encoder.depth = h["hidden"], h["layers"]
    width = h["hidden"] * h["layers"]
    c.towers.graph.heads.z.hidden = c.towers.graph.heads.z.features = width
    c.objectives.contrast.temperature, c.optimizer.learning_rate = h["T"], h["lr"]

    def tower(g: Read) -> dict[str, Any]:
        encoder, head = {}, {"dense1": dense(g, "proj_head.0"), "dense2": dense(g, "proj_head.2")}
        for i in range(h["layers"]):
            encoder[f"norm{i + 1}"] = norm(g, f"encoder.bns.{i}")
            for k in (1, 2):
                encoder[f"layer{i + 1}_dense{k}"] = dense(g, f"encoder.convs.{i}.nn.{2 * k - 2}")
        return {"graph": {"encoder": encoder, "heads": {"z": head}}}

    x, edges, graph = twin["batch/x"], twin["batch/edges"], twin["batch/graph"]
    views = {
        name: [_graphs(x[t, v], edges[t, v], graph[t], h["graphs"]) for t in range(twin.steps)]
        for v, name in enumerate("ab")
    }
    stacked = {name: {k: np.stack([view[k] for view in each]) for k in each[0]} for name, each in views.items()}
    return Run(
        config=c,
        batches=batches(h["graphs"], twin.steps, stacked),
        **of_weights(twin, tower),
    )


def _graphs(x: np.ndarray, edges: np.ndarray, graph: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Many graphs as one list of nodes and edges -> a row each: 8 nodes and 40 edges at most."""
    nodes, node_mask = np.zeros((count, 8, x.shape[-1])), np.zeros((count, 8), bool)
    made, edge_mask = np.zeros((count, 40, 2), np.int32), np.zeros((count, 40), bool)
    place = {}
    for n, g in enumerate(graph):
        if g >= 0:
            place[n] = (g, node_mask[g].sum())
            nodes[place[n]], node_mask[place[n]] = x[n], True
    for a, b in edges.T:
        if a >= 0:
            (g, i), (_, j) = place[a], place[b]
            at = g, edge_mask[g].sum()
            made[at], edge_mask[at] = (i, j), True
    return {"nodes": nodes, "node_mask": node_mask, "edges": made, "edge_mask": edge_mask}


def ts2vec(twin: Twin) -> Run:
    """TS2Vec without dropout; its masks come in as missing steps, whose latent is 0 too."""
    h = twin.hyper
    c = ts2vec_recipe.get_config("ItalyPowerDemand")
    c.towers.series.encoder.update({"features": h["output_dims"], "hidden": h["hidden_dims"], "depth": h["depth"]})
    c.towers.series.encoder.update({"mask": 0.0, "dropout": 0.0})
    c.optimizer.learning_rate, c.optimizer.weight_decay = h["lr"], h["weight_decay"]

    def tower(g: Read) -> dict[str, Any]:
        encoder: dict[str, Any] = {"input": dense(g, "input_fc")}
        for i in range(h["depth"] + 1):
            block = f"feature_extractor.net.{i}"
            encoder[f"block{i}"] = {k: conv1d(g, f"{block}.{k}.conv") for k in ("conv1", "conv2")}
        shortcut = conv1d(g, f"{block}.projector")
        encoder[f"block{i}"]["shortcut"] = {"kernel": shortcut["kernel"][0], "bias": shortcut["bias"]}
        return {"series": {"encoder": encoder, "heads": {}}}

    return Run(
        config=c,
        batches=batches(h["batch_size"], twin.steps, {side: _crops(twin, side) for side in "ab"}),
        start={"params": tower(twin.at("init"))},
        after=lambda t: {"params": tower(twin.after(t)), "average": tower(twin.after(t, "average"))},
        final={"params": tower(twin.at("final")), "average": tower(twin.at("final_average"))},
    )


def _crops(twin: Twin, side: str) -> dict[str, np.ndarray]:
    """The overlap is the end of crop a and the start of crop b; what lies behind a crop's length is outside.

    A step where one channel is missing is missing in all, as in the code; ours would see the other channels.
    """
    x, seen = twin[f"batch/crops_{side}"], twin[f"batch/mask_{side}"]
    seen = seen & ~np.isnan(x).any(-1)
    length, overlap = twin[f"batch/length_{side}"], twin["batch/overlap"]
    inside = np.broadcast_to(np.arange(x.shape[2]) < length[:, None, None], x.shape[:3])
    x = np.where(inside[..., None], np.where(seen[..., None], x, np.nan), 0)
    begin = length - overlap if side == "a" else np.zeros_like(length)
    of_rows = np.broadcast_to(np.stack([begin, overlap], -1)[:, None], (*x.shape[:2], 2))
    return {"series": x, "inside": inside, "overlap": of_rows}


def dino_vit(twin: Twin) -> Run:
    """A vision transformer drawn to given class tokens."""
    h, c = twin.hyper, defaults()
    c.views = {"a": {"kind": "image", "field": "image", "ops": ()}}
    sizes = {"width": h["embed_dim"], "depth": h["depth"], "heads": h["heads"], "mlp": h["mlp_ratio"] * h["embed_dim"]}
    encoder = {"name": "vit", "variant": "ti", "patch": h["patch"], "class_position": True, **sizes}
    c.towers = {"image": {"views": ("a",), "encoder": encoder}}
    c.objectives = {"o": {"loss": "mean_squared_error", "inputs": ("a.h", "labels.target")}}
    c.data.labels = ("target",)
    c.optimizer.learning_rate, c.optimizer.weight_decay, c.optimizer.schedule = h["lr"], 0.0, "constant"

    def tower(g: Read) -> dict[str, Any]:
        names = "norm1 norm2 attn.qkv.weight attn.qkv.bias attn.proj mlp.fc1 mlp.fc2"
        positions, side = g("pos_embed"), h["img"] // h["patch"]
        encoder = {
            "patch": {"kernel": patches(g, "patch_embed.proj"), "bias": g("patch_embed.proj.bias")},
            "position": positions[:, 1:].reshape(1, side, side, -1),
            "cls": g("cls_token"),
            "cls_position": positions[:, :1],
            "transformer": {**blocks(g, h["depth"], "blocks", names), "norm": norm(g, "norm")},
        }
        return {"image": {"encoder": encoder, "heads": {}}}

    pictures = np.moveaxis(twin["batch/large"], 2, -1)
    return Run(
        config=c,
        batches=batches(2, twin.steps, {"a": {"image": pictures}}, target=twin["batch/target_large"]),
        **of_weights(twin, tower),
    )


class Sentence(nn.Module):
    """The twin's net: embedding, dense, plus the masked mean of the tokens; tanh of a dense layer on the first one."""

    field: str = "tokens"
    dtype: Any = "float32"
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, view, rows):
        del rows
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.Dense(16, name="mix", **types)(nn.Embed(20, 16, name="embed", **types)(view[self.field]))
        mask = view["mask"][..., None].astype(x.dtype)
        x = x + jnp.sum(x * mask, 1, keepdims=True) / jnp.sum(mask, 1, keepdims=True)
        return jnp.tanh(nn.Dense(16, name="dense", **types)(x[:, 0]))


def simcse(twin: Twin) -> Run:
    """SimCSE: a sentence finds itself among the second passes; the net is a user's own encoder."""
    h, c = twin.hyper, defaults()
    c.views = {v: {"kind": "text", "field": "text", "ops": ()} for v in ("a", "b")}
    c.towers = {"text": {"views": ("a", "b"), "encoder": {"name": "sentence"}}}
    c.objectives = {"contrast": {"loss": "info_nce", "inputs": ("a.h", "b.h"), "temperature": h["temp"]}}
    c.optimizer.learning_rate, c.optimizer.weight_decay, c.optimizer.schedule = h["lr"], h["weight_decay"], "constant"

    def tower(g: Read) -> dict[str, Any]:
        encoder = {"embed": {"embedding": g("embed.weight")}, "mix": dense(g, "mix"), "dense": dense(g, "mlp.dense")}
        return {"text": {"encoder": encoder, "heads": {}}}

    ids, mask = twin["batch/ids"], twin["batch/mask"]
    views = {name: {"tokens": ids[:, :, v], "mask": mask[:, :, v]} for v, name in enumerate("ab")}
    return Run(
        config=c,
        batches=batches(16, twin.steps, views),
        **of_weights(twin, tower),
        encoders={"sentence": Sentence},
    )


def nmtune(twin: Twin) -> Run:
    """NMTune's regularisers; weak and strong rows go through the code's MLP together, and are equal here."""
    h, rows = twin.hyper, twin["batch/weak"]
    twice = ((2 * h["batch"] - 2) / (2 * h["batch"] - 1)) ** 2  # as the recipe has it for its 64 rows
    c = nmtune_recipe.code()
    c.objectives.covariance.weight = h["cov_loss_weight"] * twice
    c.towers.head.heads.z.ratio = h["mlp_after_ratio"]
    c.towers.head.heads.y.features = h["classes"]
    c.optimizer.learning_rate, c.optimizer.weight_decay = h["lr"], h["weight_decay"]

    def tower(g: Read) -> dict[str, Any]:
        of = "image_encoder.mlp_after"
        mlp = {"dense1": dense(g, f"{of}.0", False), "norm1": norm(g, f"{of}.1"), "dense2": dense(g, f"{of}.3")}
        heads = {"z": {"scale": g("image_encoder.scale_after")[0], "mlp": mlp}}
        return {"head": {"encoder": {}, "heads": {**heads, "y": {"dense": dense(g, "classification_head")}}}}

    assert np.array_equal(rows, twin["batch/strong"])
    parts = {"labels": twin["step/ce"], "consistency": twin["step/mse"], "covariance": twin["step/cov"] / twice}
    return Run(
        config=c,
        batches=batches(rows.shape[1], twin.steps, {"features": {"features": rows}}, label=twin["batch/labels"]),
        **of_weights(twin, tower),
        parts={f"loss/{name}": x for name, x in parts.items()},
    )


def grace(twin: Twin) -> Run:
    """GRACE on one graph, edges and features dropped as given."""
    h = twin.hyper
    c = grace_recipe.recipe(h["nodes"], 2 * h["hidden"], h["hidden"])
    c.towers.graph.heads.z.hidden = c.towers.graph.heads.z.features = h["proj"]
    c.optimizer.learning_rate, c.optimizer.weight_decay = h["lr"], h["weight_decay"]

    def tower(g: Read) -> dict[str, Any]:
        layers = {}
        for i in (0, 1):
            name = f"encoder.conv.{i}"
            layers[f"conv{i + 1}"] = {"kernel": g(f"{name}.lin.weight").T, "bias": g(f"{name}.bias")}
        return {"graph": {"encoder": layers, "heads": {"z": {"dense1": dense(g, "fc1"), "dense2": dense(g, "fc2")}}}}

    x, edges = twin["graph/x"], twin["graph/edges"]
    n, count = len(x), edges.shape[1]
    each = -(-count // n)  # places of edges in a row of a batch
    ends = np.zeros((n * each, 2), np.int32)
    ends[:count] = edges.T
    views = {}
    for v, name in enumerate("ab"):
        kept = np.pad(twin["batch/keep_edges"][:, v], ((0, 0), (0, n * each - count)))
        nodes = np.where(twin["batch/keep_features"][:, v][:, None], x, 0)
        of_steps = np.broadcast_to(ends.reshape(n, each, 2), (twin.steps, n, each, 2))
        views[name] = {"nodes": nodes, "edges": of_steps, "edge_mask": kept.reshape(twin.steps, n, each)}
    return Run(
        config=c,
        batches=batches(n, twin.steps, views),
        **of_weights(twin, tower),
    )
