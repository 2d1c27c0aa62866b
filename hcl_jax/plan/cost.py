"""From what the compiler says of a step to its time: the compiler's cycles, and the wire by published link rates.

step = sum of estimated cycles / clock + sum over collectives of max(0, t_wire - cycles scheduled beside it / clock)

Nothing here is a measurement. The cycles are the compiler's own cost model; they stand on computing instructions, not
on collectives, whose time is bytes over links and hops times a latency that is assumed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hcl_jax.plan.chips import CHIPS, LATENCY, NETWORK, Chip, Topology


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
      memory: bytes a chip, by what takes them.
      fits: whether they are there.
      compute: {part: seconds} by the compiler's cycles; empty where it gave none.
      wires: its collectives.
      step, unhidden: seconds; unhidden counts every collective in full.
      roofline: max(FLOP / peak, bytes of memory / bandwidth, bytes of wire / links), seconds.
      bound: which of the three that is.
      from_cycles: whether step stands on the compiler's cycles; else it is the roofline.
    """

    memory: dict[str, int]
    fits: bool
    compute: dict[str, float]
    wires: tuple[Wire, ...]
    step: float
    unhidden: float
    roofline: float
    bound: str
    from_cycles: bool


def estimate(found: Mapping[str, Any], topology: Topology) -> Estimate:
    """The time of a compiled step (plan.program.compiled) that fits, on the chips of a topology other than cpu."""
    chip = CHIPS[topology.kind]
    compute = {part: cycles / chip.clock for part, cycles in found["cycles"].items()}
    wires = tuple(wire(c, chip, topology) for c in found["collectives"])
    limits = {
        "products": found["flops"] / chip.flops,
        "memory": found["bytes"] / chip.bandwidth,
        "wire": sum(w.bytes for w in wires if w.crosses == "links") / (chip.link * chip.links),
    }
    bound = max(limits, key=lambda k: limits[k])
    from_cycles = found["with_cycles"] > 0
    busy = sum(compute.values()) if from_cycles else limits[bound]
    memory = dict(found["memory"])
    return Estimate(
        memory=memory,
        fits=sum(memory.values()) <= chip.memory,
        compute=compute,
        wires=wires,
        step=busy + sum(w.exposed for w in wires),
        unhidden=busy + sum(w.seconds for w in wires),
        roofline=limits[bound],
        bound=bound,
        from_cycles=from_cycles,
    )


def wire(collective: Mapping[str, Any], chip: Chip, topology: Topology) -> Wire:
    """Seconds of one collective.

        gather, scatter, all-to-all: b (g - 1)/g / r;  all-reduce: twice that;  permute: b / link

    b bytes, g devices, r = link times the links of the torus dimensions that the group spans. Hops: the sides of the
    group, twice for an all-reduce.
    """
    group, times = collective["group"], collective["times"]
    sizes = _sides(collective["devices"], topology)
    between = len({d // math.prod(topology.shape) for d in collective["devices"]}) > 1
    kind = collective["kind"]
    rounds = 2 if kind == "all-reduce" else 1
    if kind == "collective-permute":
        sent, rate, hops = collective["bytes"], chip.link, 1
    else:
        sent = rounds * collective["bytes"] * (group - 1) / max(group, 1)
        spanned = max(1, sum(s > 1 for s in sizes))
        rate = chip.link * min(2 * spanned, chip.links)
        hops = rounds * max(1, sum(s // 2 for s in sizes))
    if between:
        rate = NETWORK / chip.host
    each = sent / rate + hops * LATENCY
    beside = collective["cycles"] / chip.clock
    return Wire(
        kind, collective["part"], "network" if between else "links", sent * times, each * times,
        max(0.0, each - beside) * times,
    )  # fmt: skip


def _sides(devices: Sequence[int], topology: Topology) -> list[int]:
    """How many places a group takes along each dimension of the torus.

    Devices are counted as JAX lists them, which on a slice follows its dimensions.
    """
    inside = np.array(devices) % math.prod(topology.shape)
    places = np.unravel_index(inside, topology.shape[::-1])
    return [len(set(p.tolist())) for p in places]
