"""From what the compiler says of a step to its time: the compiler's cycles, and the wire by published link rates.

step = sum of estimated cycles / clock + sum over collectives of max(0, t_wire - cycles scheduled beside it / clock)

Nothing here is a measurement. The cycles are the compiler's own cost model; they stand on computing instructions, not
on collectives, whose time is bytes over links and hops times a latency that is assumed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hcl_jax.plan.chips import CHIPS, GPUS, LATENCY, NETWORK_LATENCY, WRAPS, Chip, Gpu, Topology
from hcl_jax.plan.roofline import rate
from hcl_jax.plan.traced import Sent


class Wire(NamedTuple):
    """One collective of a step: seconds if nothing ran beside it, and those that nothing hides."""

    kind: str
    part: str
    crosses: str  # "links" within a slice, "network" between slices
    bytes: float
    seconds: float
    exposed: float


class Estimate(NamedTuple):
    """A step on one topology.

    Attributes:
      compute: {part: seconds} by the compiler's cycles; empty where it gave none.
      work: the same by part, direction and operation, the longest.
      wires: its collectives.
      step, unhidden: seconds; unhidden counts every collective in full.
      limits: {"products": FLOP / peak, "memory": bytes of memory / bandwidth, "wire": bytes of wire / links}, seconds;
        of several slices "network": bytes between them / the hosts' network.
      roofline: the largest of these.
      bound: which one that is.
      accessed: seconds that the compiler's "bytes accessed", VMEM included, would take from memory.
      from_cycles: whether step stands on the compiler's cycles; else it is the roofline.
    """

    compute: dict[str, float]
    work: dict[str, float]
    wires: tuple[Wire, ...]
    step: float
    unhidden: float
    limits: dict[str, float]
    roofline: float
    bound: str
    accessed: float
    from_cycles: bool


def estimate(found: Mapping[str, Any], topology: Topology) -> Estimate:
    """The time of a compiled step (plan.program) that fits, on the chips of a TPU topology."""
    chip = CHIPS[topology.kind]
    from_cycles = found["with_cycles"] > 0 and chip.clock > 0
    compute = {part: cycles / chip.clock for part, cycles in found["cycles"].items()} if from_cycles else {}
    wires = tuple(wire(c, chip, topology, found["places"]) for c in found["collectives"])
    limits = {
        "products": found["flops"] / chip.flops,
        "memory": found["traffic"] / chip.bandwidth,
        "wire": sum(w.bytes for w in wires if w.crosses == "links") / (chip.link * chip.links),
    }
    if topology.slices > 1:
        limits["network"] = sum(w.bytes for w in wires if w.crosses == "network") / chip.network
    bound = max(limits, key=lambda k: limits[k])
    busy = sum(compute.values()) if from_cycles else limits[bound]
    return Estimate(
        compute=compute,
        work={words: cycles / chip.clock for words, cycles in found["work"].items()} if from_cycles else {},
        wires=wires,
        step=busy + sum(w.exposed for w in wires),
        unhidden=busy + sum(w.seconds for w in wires),
        limits=limits,
        roofline=limits[bound],
        bound=bound,
        accessed=found["bytes"] / chip.bandwidth,
        from_cycles=from_cycles,
    )


def of_gpus(found: Mapping[str, Any], topology: Topology) -> Estimate:
    """The roofline of a step on GPUs: no compiler says how long its kernels take.

    FLOP are counted from the trace; memory and wire are those of the compiled program where there is one, else those
    that the trace shows: what products move, and collectives in full.
    """
    gpu, bound = GPUS[topology.kind], found["roofline"]
    limits = {k: bound[k] for k in ("products", "memory", "wire")}
    wires: tuple[Wire, ...] = ()
    if found["program"]:
        wires = tuple(_between_gpus(c, gpu) for c in found["collectives"])
        limits |= {"memory": found["traffic"] / gpu.bandwidth, "wire": sum(w.seconds for w in wires)}
    longest = max(limits, key=lambda k: limits[k])
    busy = max(limits["products"], limits["memory"])
    return Estimate(
        compute={}, work={}, wires=wires, step=limits[longest],
        unhidden=busy + limits["wire"], limits=limits, roofline=limits[longest], bound=longest, accessed=0.0,
        from_cycles=False,
    )  # fmt: skip


def _between_gpus(collective: Mapping[str, Any], gpu: Gpu) -> Wire:
    devices, times = collective["devices"], collective["times"]
    size = len(devices)
    stride = abs(devices[1] - devices[0]) if size > 1 else 1
    sent = Sent(collective["kind"].removeprefix("collective-"), _sent_bytes(collective), size, stride)
    seconds = sent.bytes / rate(sent, gpu)
    crosses = "links" if size * stride <= gpu.host else "network"
    return Wire(collective["kind"], collective["part"], crosses, sent.bytes * times, seconds * times, seconds * times)


def _sent_bytes(collective: Mapping[str, Any]) -> float:
    """Bytes that one device sends, with b those of its result and m devices.

    gather, all-to-all, broadcast: b (m - 1)/m;   all-reduce: twice that;   reduce-scatter: b (m - 1);   permute: b
    """
    kind, size, m = collective["kind"], collective["bytes"], len(collective["devices"])
    shares = {"all-reduce": 2 * (m - 1) / m, "reduce-scatter": m - 1, "collective-permute": 1}
    return size * shares.get(kind, (m - 1) / m)


def wire(collective: Mapping[str, Any], chip: Chip, topology: Topology, places: Sequence[Sequence[int]]) -> Wire:
    """Seconds of one collective, one round over the links of a slice and one between slices.

        gather, scatter, all-to-all: sent / r + hops l;   all-reduce: sent / r + 2 hops l
        permute: sent / link + hops l;   send to the other slices: b (s - 1) / n + l_n

    sent as in _sent_bytes, b bytes, r the links of the torus dimensions that the group spans (see _span), n a device's
    share of its host's network, s the number of slices.

    Args:
      collective: kind, bytes, devices, times, cycles, part.
      chip: of the topology.
      topology: from chips.parse.
      places: (slice, x, y, z) of each device, in the order that the program numbers them.
    """
    kind, size, times = collective["kind"], collective["bytes"], collective["times"]
    beside = collective["cycles"] / chip.clock if chip.clock else 0.0
    if kind == "send":
        sent = size * max(1, topology.slices - 1)
        seconds = sent / chip.network + NETWORK_LATENCY
        exposed = max(0.0, seconds - beside) * times
        return Wire(kind, collective["part"], "network", sent * times, seconds * times, exposed)
    here = [tuple(places[d]) for d in collective["devices"]]
    sent, rounds = _sent_bytes(collective), 2 if kind == "all-reduce" else 1
    sides = [(side, side > 2 and side % WRAPS.get(topology.kind, side) == 0) for side in (*topology.shape, 1, 1)[:3]]
    if kind == "collective-permute":
        first, last = here[0], here[-1]
        apart = [abs(a - b) for a, b in zip(first[1:], last[1:], strict=True)]
        hops = max(1, sum(min(d, side - d) if ring else d for d, (side, ring) in zip(apart, sides, strict=True)))
        seconds = sent / chip.link + hops * LATENCY
    elif len(here) > 1:
        spans = [_span({p[i + 1] for p in here}, side, ring) for i, (side, ring) in enumerate(sides)]
        links = min(sum(links for links, _ in spans) or 1, chip.links)
        seconds = sent / (chip.link * links) + rounds * max(1, sum(hops for _, hops in spans)) * LATENCY
    else:
        seconds = 0.0
    exposed = max(0.0, seconds - beside) * times
    return Wire(kind, collective["part"], "links", sent * times, seconds * times, exposed)


def _span(at: set[int], side: int, ring: bool) -> tuple[float, int]:
    """(links that a device of a group has along a dimension, hops to the farthest) with the group's devices `at`.

    Devices spread evenly round a ring send both ways, others one. Every k-th device alone is in the group: its links
    serve k - 1 other groups as well, and 1/k of them is its own.
    """
    if len(at) == 1:
        return 0.0, 0
    order = sorted(at)
    gaps = [b - a for a, b in zip(order, order[1:] + [order[0] + side], strict=True)]
    if ring and max(gaps) == min(gaps):
        return 2 / gaps[0], side // 2
    extent = side - max(gaps) if ring else order[-1] - order[0]
    return (len(at) - 1) / extent, extent
