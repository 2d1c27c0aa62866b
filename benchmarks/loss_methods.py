"""The methods that losses.py compares: ours by each engine, the textbook, and the losses of other libraries."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from turns import Built

BLOCK = 1024  # rows at a time in NumPy


class Spec(NamedTuple):
    """What a method is measured on. rows: of both views or modalities together, or of each side for neighbours."""

    rows: int
    dim: int
    temperature: float
    k: int
    seed: int
    devices: int


class Method(NamedTuple):
    """A row of a table: loss(spec, mesh or None) is a function of two arrays for jax, or build(spec) makes the call."""

    name: str
    loss: Callable[[Spec, Any], Callable[..., Any]] | None = None
    build: Callable[[Spec], Built] | None = None
    needs: str = ""  # a module
    extra_bytes: Callable[[Spec], float] = lambda spec: 0.0  # what a call takes, where no compiler says so
    devices: bool = False  # on the mesh of --devices


def inputs(spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """Two views [rows / 2, dim] whose pairs have a cosine of about 0.3: positives stand out, and not in every row."""
    draws = np.random.default_rng(spec.seed)
    a = draws.normal(size=(spec.rows // 2, spec.dim)).astype(np.float32)
    return a, a + 3 * draws.normal(size=a.shape).astype(np.float32)


def two_sets(spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """Queries and keys [rows, dim] each, at unit length."""
    z = np.random.default_rng(spec.seed).normal(size=(2, spec.rows, spec.dim)).astype(np.float32)
    q, k = z / np.linalg.norm(z, axis=-1, keepdims=True)
    return q, k


def cores() -> int:
    """Cores that this process may use: jax's own number of threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- methods of jax


def built(method: Method, spec: Spec) -> Built:
    """The call of a method."""
    if method.build is not None:
        return method.build(spec)
    import jax

    compiled, arrays = lowered(method, spec)
    a, b = arrays()
    return lambda: jax.block_until_ready(compiled(a, b)), temp_bytes(compiled)


def temp_bytes(compiled: Any) -> int | None:
    """What a compiled program takes beside inputs and outputs, where the compiler says so."""
    return getattr(compiled.memory_analysis(), "temp_size_in_bytes", None)


def lowered(method: Method, spec: Spec) -> tuple[Any, Callable[[], list[Any]]]:
    """The compiled value and gradient, and what makes its inputs."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

    from hcl_jax.parallel.mesh import BATCH_AXES, make_mesh

    mesh = make_mesh({"data": -1}) if method.devices else None
    place = SingleDeviceSharding(jax.devices()[0]) if mesh is None else NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    shape = jax.ShapeDtypeStruct((spec.rows // 2, spec.dim), np.float32, sharding=place)
    assert method.loss is not None
    step = jax.jit(jax.value_and_grad(method.loss(spec, mesh), argnums=(0, 1)))
    return step.lower(shape, shape).compile(), lambda: [jax.device_put(z, place) for z in inputs(spec)]


def ours(name: str, engine: str, **options: Any) -> Callable[[Spec, Any], Callable[..., Any]]:
    """A loss of hcl_jax with an engine."""

    def make(spec: Spec, mesh: Any) -> Callable[..., Any]:
        from hcl_jax import similarity
        from hcl_jax.losses import clip, nt_xent

        of_mesh = {"mesh": mesh} if engine == "ring" else {}
        chosen = getattr(similarity, engine)(**of_mesh, **options)
        if name == "nt_xent":
            return lambda a, b: nt_xent(a, b, temperature=spec.temperature, engine=chosen)
        return lambda a, b: clip(a, b, scale=1 / spec.temperature, engine=chosen)

    return make


def plain(spec: Spec, mesh: Any) -> Callable[..., Any]:
    """NT-Xent as the textbook has it."""
    import jax
    import jax.numpy as jnp

    def loss(a, b):
        z = jnp.concatenate([a, b])
        z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
        s = jnp.where(jnp.eye(len(z), dtype=bool), -jnp.inf, z @ z.T / spec.temperature)
        positive = jnp.sum(z * jnp.roll(z, len(a), axis=0), axis=1) / spec.temperature
        return jnp.mean(jax.nn.logsumexp(s, axis=1) - positive)

    return loss


def optax_loss(spec: Spec, mesh: Any) -> Callable[..., Any]:
    """Optax wants labels."""
    import jax.numpy as jnp
    import optax

    labels = jnp.tile(jnp.arange(spec.rows // 2), 2)
    return lambda a, b: optax.losses.ntxent(jnp.concatenate([a, b]), labels, spec.temperature)


def ours_nearest(engine: str) -> Callable[[Spec], Built]:
    """The nearest rows by an engine."""

    def build(spec: Spec) -> Built:
        import jax
        import jax.numpy as jnp

        from hcl_jax import similarity

        q, k = map(jnp.asarray, two_sets(spec))
        ids = jnp.arange(spec.rows)
        chosen = getattr(similarity, engine)()
        step = jax.jit(lambda q, k, ids: chosen.nearest(q, k, k=spec.k, query_ids=ids, key_ids=ids).rows)
        compiled = step.lower(q, k, ids).compile()
        return lambda: jax.block_until_ready(compiled(q, k, ids)), temp_bytes(compiled)

    return build


# ---- peers


def on_torch(make: Callable[[Spec], Callable[..., Any]]) -> Callable[[Spec], Built]:
    """make(spec) -> loss(a, b) of tensors, run with its gradient."""

    def build(spec: Spec) -> Built:
        import torch

        torch.set_num_threads(cores())
        loss = make(spec)
        a, b = (torch.tensor(z, requires_grad=True) for z in inputs(spec))

        def call() -> Any:
            value = loss(a, b)
            return value.detach(), torch.autograd.grad(value, (a, b))

        return call, None

    return build


def lightly_loss(spec: Spec) -> Callable[..., Any]:
    """Puts rows to unit length itself."""
    from lightly.loss import NTXentLoss

    return NTXentLoss(temperature=spec.temperature)


def metric_learning_loss(spec: Spec) -> Callable[..., Any]:
    """Wants labels; its cosine puts rows to unit length."""
    import torch
    from pytorch_metric_learning.losses import NTXentLoss

    loss, labels = NTXentLoss(temperature=spec.temperature), torch.arange(spec.rows // 2).repeat(2)
    return lambda a, b: loss(torch.cat([a, b]), labels)


def open_clip_loss(spec: Spec) -> Callable[..., Any]:
    """Takes rows at unit length."""
    from open_clip.loss import ClipLoss
    from torch.nn.functional import normalize

    loss = ClipLoss()
    return lambda a, b: loss(normalize(a, dim=1), normalize(b, dim=1), 1 / spec.temperature)


def numpy_nearest(block: int) -> Callable[[Spec], Built]:
    """The nearest rows by argpartition, `block` queries at a time; 0: all at once."""

    def build(spec: Spec) -> Built:
        q, k = two_sets(spec)
        step = block or spec.rows

        def call() -> np.ndarray:
            return np.concatenate([partition(q[i : i + step], k, spec.k) for i in range(0, spec.rows, step)])

        return call, None

    return build


def partition(q: np.ndarray, k: np.ndarray, n: int) -> np.ndarray:
    """Rows of the n largest products, in no order."""
    return np.argpartition(-(q @ k.T), n, axis=1)[:, :n]


def sklearn_nearest(spec: Spec) -> Built:
    """Brute force; at unit length the smallest distance is the largest product."""
    from sklearn.neighbors import NearestNeighbors

    q, k = two_sets(spec)
    index = NearestNeighbors(n_neighbors=spec.k, algorithm="brute", metric="euclidean").fit(k)
    return lambda: index.kneighbors(q, return_distance=False), None


def ways(loss: str) -> tuple[Method, ...]:
    """Ours: the engines."""
    return (
        Method("ours, streamed", ours(loss, "streamed")),
        Method("ours, streamed, bfloat16", ours(loss, "streamed", precision="bfloat16")),
        Method("ours, dense", ours(loss, "dense")),
        Method("ours, auto", ours(loss, "auto")),
        Method("ours, ring", ours(loss, "ring"), devices=True),
        Method("ours, dense on the mesh", ours(loss, "dense"), devices=True),
    )


# Bytes of the peers: seen at 1,024 and 2,048 rows, pytorch-metric-learning at 256 to 512 (it sets each of the rows
# positives beside all of the rows^2 negatives).
NT_XENT = (
    *ways("nt_xent"),
    Method("plain jit", plain),
    Method("optax ntxent", optax_loss),
    Method("lightly NTXentLoss", None, on_torch(lightly_loss), "lightly", lambda s: 24.0 * s.rows**2),
    Method(
        "pytorch-metric-learning NTXentLoss",
        None,
        on_torch(metric_learning_loss),
        "pytorch_metric_learning",
        lambda s: 17.0 * s.rows**3,
    ),
)
CLIP = (
    *ways("clip"),
    Method("open_clip ClipLoss", None, on_torch(open_clip_loss), "open_clip", lambda s: 9.0 * s.rows**2),
)
NEAREST = (
    Method("ours, streamed", None, ours_nearest("streamed")),
    Method("ours, dense", None, ours_nearest("dense")),
    Method("NumPy argpartition, all at once", None, numpy_nearest(0), "", lambda s: 16.0 * s.rows**2),
    Method(f"NumPy argpartition, {BLOCK:,} rows at a time", None, numpy_nearest(BLOCK)),
    Method("scikit-learn NearestNeighbors, brute", None, sklearn_nearest),
)
TABLES = {"nt_xent": NT_XENT, "clip": CLIP, "nearest": NEAREST}
