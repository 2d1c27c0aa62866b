"""The least time that a traced step can take on GPUs of published speed. No compile was made.

    step >= max(FLOP / peak, bytes of memory / bandwidth, bytes of wire / links)

An optimistic bound, not an estimate of a step: products run at the datasheet's peak, fused operations move nothing,
the wire is hidden behind the rest. What activations take of the memory is not known without a compile: the state's
bytes are given, and nothing says that a step fits.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from hcl_jax.plan import traced
from hcl_jax.plan.chips import Gpu
from hcl_jax.plan.traced import Sent, Work

AXES = ("data", "fsdp")


class Roofline(NamedTuple):
    """The bound of one step.

    Attributes:
      flops: {arithmetic: FLOP} of a device.
      products: their seconds at peak.
      memory, unfused: seconds of the bytes that must move, and if nothing were fused (no bound: an upper figure).
      wire: seconds of all collectives at full rate.
      step: the largest of products, memory and wire.
      bound: which of them that is.
      state: bytes a device of parameters, optimizer, targets, statistics and memory.
      sent: bytes of wire a device by kind.
      unknown_loops: of the trace, whose bodies are counted once.
    """

    flops: Mapping[str, float]
    products: float
    memory: float
    unfused: float
    wire: float
    step: float
    bound: str
    state: int
    sent: Mapping[str, float]
    unknown_loops: int


def rate(sent: Sent, gpu: Gpu) -> float:
    """Bytes/s that a device can send to its group.

    Inside a host: its links. Over hosts, in steps of which only the last leaves the host: the network's share of each
    member that a host has, at most the links; a permute's slowest hop has one share.
    """
    inside = max(1, min(sent.size, gpu.host // sent.stride))
    if sent.size <= inside:
        return gpu.link
    return gpu.network if sent.kind == "permute" else min(gpu.link, gpu.network * inside)


def gradients(params: Iterable[tuple[int, Sequence[str]]], sizes: Mapping[str, int]) -> tuple[Sent, ...]:
    """What the gradients of parameters send, and parameters that are sharded.

        copied, P bytes on n devices: all-reduce, 2 (n - 1)/n P
        over f of n: an all-gather and a reduce-scatter, each (f - 1)/f P; all-reduce of P/f over the other n/f

    A compiler may gather again for the backward pass.

    Args:
      params: (bytes of a whole parameter as it is computed with, axes that it is sharded over) of each that takes a
        gradient.
      sizes: {axis: size} of the mesh.
    """
    total: dict[tuple[str, int, int], float] = {}

    def add(kind: str, axes: Sequence[str], each: float) -> None:
        size, stride = traced.group(tuple(axes), sizes)
        if size > 1:
            key = kind, size, stride
            total[key] = total.get(key, 0.0) + each * (size - 1) / size

    for whole, axes in params:
        tensor = whole / traced.group(tuple(a for a in axes if a not in AXES), sizes)[0]
        over, rest = [a for a in axes if a in AXES], [a for a in AXES if a not in axes and a in sizes]
        add("all-gather", over, tensor)
        add("reduce-scatter", over, tensor)
        add("all-reduce", rest, 2 * tensor / traced.group(tuple(over), sizes)[0])
    return tuple(Sent(kind, sent, size, stride) for (kind, size, stride), sent in total.items())


def roofline(work: Work, sent: Sequence[Sent], *, state: int, params: int, gpu: Gpu) -> Roofline:
    """The three times and their maximum.

    Memory: what products move (`work.least`), the state read and written once, a gradient written and read once.

    Args:
      work: from traced.count.
      sent: besides work.sent, as from `gradients`.
      state, params: bytes a device.
      gpu: of chips.GPUS.
    """
    always = 2 * state + 2 * params
    every = (*work.sent, *sent)
    kinds: dict[str, float] = {}
    for s in every:
        kinds[s.kind] = kinds.get(s.kind, 0.0) + s.bytes
    times = {
        "products": sum(n / gpu.flops[kind] for kind, n in work.flops.items()),
        "memory": (work.least + always) / gpu.bandwidth,
        "wire": sum(s.bytes / rate(s, gpu) for s in every),
    }
    bound = max(times, key=lambda k: times[k])
    return Roofline(
        flops=dict(work.flops), unfused=(work.unfused + always) / gpu.bandwidth, step=times[bound], bound=bound,
        state=state, sent=kinds, unknown_loops=work.unknown_loops, **times,
    )  # fmt: skip


def of_run(run: Any, gpu: Gpu) -> Roofline:
    """The roofline of a run that was built (run.build) on a mesh of that many devices, of any kind.

    Frozen parameters are counted as if they took a gradient. Gradients cross the wire in the type of the products.
    """
    sizes = dict(run.mesh.shape)
    leaves = jax.tree.leaves(run.abstract)
    parts = {x.shape: x.size // max(1, _own(x)) for x in leaves if x.shape}
    work = traced.count(run.step().trace(run.abstract, run.abstract_batch).jaxpr.jaxpr, sizes, parts)
    params = jax.tree.leaves(run.abstract.params)
    wide = jax.numpy.dtype(run.config.train.compute_dtype).itemsize
    sent = gradients([(x.size * min(wide, x.dtype.itemsize), _axes(x.sharding.spec)) for x in params], sizes)
    return roofline(work, sent, state=_own_bytes(leaves), params=_own_bytes(params), gpu=gpu)


def _own(x: Any) -> int:
    """Entries of an array on one device."""
    return math.prod(x.sharding.shard_shape(x.shape))


def _own_bytes(leaves: Sequence[Any]) -> int:
    return sum(_own(x) * traced.itemsize(x.dtype) for x in leaves)


def _axes(spec: Any) -> list[str]:
    return [a for entry in spec if entry is not None for a in (entry if isinstance(entry, tuple) else (entry,))]
