"""What is known of the chips that a plan is made for: published figures, and what follows from them."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from hcl_jax.errors import InputError, nearest
from hcl_jax.plan import slices


class Chip(NamedTuple):
    """One accelerator, as JAX counts devices: of v2, v3 and tpu7x a chip has two.

    Attributes:
      flops: bfloat16 products, FLOP/s.
      memory: bytes of its memory.
      bandwidth: of that memory, bytes/s.
      link: of one link of the interconnect, one way, bytes/s.
      links: how many it has.
      clock: cycles/s of its matrix units: flops over what they do in a cycle; 0 where that is not known.
      network: its share of the hosts' network between slices, bytes/s; of v3 and v4 as of v5e, an assumption.
      host: devices of one host.
      cores: devices of one chip.
      source: of these figures.
    """

    flops: float
    memory: int
    bandwidth: float
    link: float
    links: int
    clock: float
    network: float
    host: int
    cores: int
    source: str


GIB = 2**30
GCP = "https://cloud.google.com/tpu/docs/"
# A matrix unit of 128 x 128 does 32,768 FLOP a cycle, one of 256 x 256 131,072.
CHIPS = {
    "v3": Chip(61.5e12, 16 * GIB, 450e9, 70e9, 4, 0.94e9, 3.1e9, 8, 2, GCP + "v3; links and clock: ISCA 2023, table 4"),
    "v4": Chip(275e12, 32 * GIB, 1.2e12, 50e9, 6, 275e12 / (8 * 32_768), 3.1e9, 4, 1, GCP + "v4"),
    "v5e": Chip(197e12, 16 * GIB, 819e9, 50e9, 4, 197e12 / (4 * 32_768), 3.1e9, 4, 1, GCP + "v5e"),
    "v5p": Chip(459e12, 95 * GIB, 2.765e12, 100e9, 6, 459e12 / (8 * 32_768), 6.25e9, 4, 1, GCP + "v5p"),
    "v6e": Chip(918e12, 32 * GIB, 1.638e12, 100e9, 4, 918e12 / (4 * 131_072), 12.5e9, 4, 1, GCP + "v6e"),
    # How many matrix units it has is not published, so cycles can not be turned into seconds.
    "tpu7x": Chip(1153.5e12, 96 * GIB, 3.69e12, 100e9, 6, 0.0, 6.25e9, 8, 2, GCP + "tpu7x"),
}
LATENCY = 1e-6  # seconds a hop: what "How to Scale Your Model" reckons with; no published figure
NETWORK_LATENCY = 1e-4  # seconds a round between slices, an assumption
MOST = 4096  # processors or GPUs of a plan: beyond it the lowering alone takes minutes
WRAPS = {"v4": 4, "v5p": 4, "tpu7x": 4, "v5e": 16, "v6e": 16, "v3": 32}  # sides that are multiples close to a ring


class Gpu(NamedTuple):
    """One GPU and what joins it to others.

    Attributes:
      flops: {arithmetic: dense FLOP/s}.
      memory: bytes.
      bandwidth: of its memory, bytes/s.
      link: inside a host, all links, one way, bytes/s.
      network: between hosts, a GPU's share, one way, bytes/s.
      host: GPUs of a host.
      source: of these figures.
    """

    flops: Mapping[str, float]
    memory: int
    bandwidth: float
    link: float
    network: float
    host: int
    source: str


GPUS = {
    "h100": Gpu(
        {"bfloat16": 989.4e12, "tf32": 494.7e12, "float32": 66.9e12}, 80 * 10**9, 3.35e12, 450e9, 50e9, 8,
        "NVIDIA H100 Tensor Core GPU Architecture, table of the SXM5 (dense); NVLink 900 GB/s both ways; "
        "DGX H100 User Guide, eight ConnectX-7 of 400 Gbit/s",
    ),
}  # fmt: skip


class Topology(NamedTuple):
    """Chips in a box, GPUs in a row, or processors of this machine.

    Attributes:
      text: as the user wrote it.
      kind: a key of CHIPS or of GPUS, or "cpu".
      shape: of one slice.
      slices: how many, joined by the network.
    """

    text: str
    kind: str
    shape: tuple[int, ...]
    slices: int

    @property
    def chips(self) -> int:
        """Of all slices."""
        return self.slices * math.prod(self.shape)

    @property
    def hosts(self) -> int:
        """Machines that hold them. A flat slice of up to 8 chips is one."""
        if self.kind == "cpu":
            return 1
        if self.kind in GPUS:
            return -(-self.chips // GPUS[self.kind].host)
        each = math.prod(self.shape)
        host = CHIPS[self.kind].host // CHIPS[self.kind].cores
        one = each <= host or (len(self.shape) == 2 and each <= 8)
        return self.slices * (1 if one else each // host)


def parse(text: str) -> Topology:
    """`v5e:16x16`, `v5p:8x8x16`, two slices `2*v5e:16x16`, `h100:64`, or `cpu:8`, virtual devices of this machine.

    The accelerator type of a slice (`v5litepod-256`) means its topology.

    Raises:
      InputError: another kind or form.
    """
    if ":" not in text and "-" in text:
        return parse(slices.find(text, "--topology").topology)
    match = re.fullmatch(r"(?:(\d+)\*)?([a-z0-9]+):(\d+(?:x\d+)*)", text)
    if match is None:
        raise InputError("--topology", repr(text), "such as v5e:16x16, v5p:8x8x16, 2*v5e:16x16, h100:64 or cpu:8")
    kind = match[2]
    if kind not in CHIPS and kind not in GPUS and kind != "cpu":
        raise InputError("--topology", f"{text!r} of kind {kind!r}", nearest(kind, [*CHIPS, *GPUS, "cpu"]))
    shape = tuple(int(n) for n in match[3].split("x"))
    if (kind == "cpu" or kind in GPUS) and (len(shape) > 1 or match[1] or not 0 < shape[0] <= MOST):
        raise InputError("--topology", repr(text), f"{kind}:N, N devices, 1 to {MOST:,}")
    if kind in GPUS and shape[0] > GPUS[kind].host and shape[0] % GPUS[kind].host:
        raise InputError("--topology", repr(text), f"1 to {GPUS[kind].host}, or a multiple of {GPUS[kind].host}")
    sides = {"v3": 2, "v5e": 2, "v6e": 2, "v4": 3, "v5p": 3, "tpu7x": 3}.get(kind, 1)
    if len(shape) != sides:
        raise InputError(
            "--topology", repr(text), f"{sides} sides for {kind}, such as {kind}:{'x'.join(['4'] * sides)}"
        )
    if not math.prod(shape) or not int(match[1] or 1):
        raise InputError("--topology", repr(text), "numbers from 1")
    return Topology(text, kind, shape, int(match[1] or 1))
