"""TPU slices as they are rented: the accelerator type of a topology, its chips, hosts, image and zones.

`v5litepod-256` and `v5e:16x16` are the same slice: the first is what Cloud TPU calls it, the second what libtpu does.
No JAX is imported.
"""

import math
from typing import NamedTuple

from hcl_jax.errors import InputError, nearest


class Generation(NamedTuple):
    """What the slices of one generation have in common.

    Attributes:
      prefix: of its accelerator types.
      cores: of a chip, as the number in an accelerator type counts; 2 where it counts TensorCores.
      gke: the node label cloud.google.com/gke-tpu-accelerator.
      runtime: image of a TPU VM.
      topologies: shapes that have an accelerator type.
      zones: where TPU VMs of it are offered to everybody.
    """

    prefix: str
    cores: int
    gke: str
    runtime: str
    topologies: tuple[str, ...]
    zones: tuple[str, ...]


FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")
LARGE = ("16x16x16", "16x16x24")
# https://cloud.google.com/tpu/docs/runtimes, regions-zones, v4, v5e, v5p, v6e and tpu7x, as of 2026. TPU7x is rented
# through GKE alone, so it has neither image nor zones here.
GENERATIONS = {
    "v4": Generation("v4", 2, "tpu-v4-podslice", "tpu-ubuntu2204-base", CUBES, ("us-central2-b",)),
    "v5e": Generation("v5litepod", 1, "tpu-v5-lite-podslice", "v2-alpha-tpuv5-lite", FLAT,
                      ("us-central1-a", "us-south1-a", "us-west1-c", "us-west4-a", "europe-west4-b")),
    "v5p": Generation("v5p", 2, "tpu-v5p-slice", "v2-alpha-tpuv5", CUBES + LARGE,
                      ("us-central1-a", "us-east5-a", "europe-west4-b")),
    "v6e": Generation("v6e", 1, "tpu-v6e-slice", "v2-alpha-tpuv6e", FLAT,
                      ("us-central1-b", "us-east1-d", "us-east5-a", "us-east5-b", "europe-west4-a", "asia-northeast1-b",
                       "southamerica-west1-a")),
    "tpu7x": Generation("tpu7x", 2, "tpu7x", "", CUBES + LARGE, ()),
}  # fmt: skip


class Slice(NamedTuple):
    """A slice that can be rented.

    Attributes:
      generation: a key of GENERATIONS.
      shape: such as "16x16".
    """

    generation: str
    shape: str

    @property
    def topology(self) -> str:
        """As libtpu has it: `v5e:16x16`."""
        return f"{self.generation}:{self.shape}"

    @property
    def accelerator(self) -> str:
        """The accelerator type of Cloud TPU: `v5litepod-256`."""
        known = GENERATIONS[self.generation]
        return f"{known.prefix}-{self.chips * known.cores}"

    @property
    def chips(self) -> int:
        """All of them."""
        return math.prod(map(int, self.shape.split("x")))

    @property
    def chips_a_host(self) -> int:
        """Of one machine: 4, but a flat slice of up to 8 chips is one machine."""
        return self.chips if self.shape.count("x") == 1 and self.chips <= 8 else 4

    @property
    def hosts(self) -> int:
        """Machines, each with one process."""
        return self.chips // self.chips_a_host


SLICES = tuple(Slice(name, shape) for name, known in GENERATIONS.items() for shape in known.topologies)


def find(name: str, where: str = "--type") -> Slice:
    """The slice of an accelerator type (`v5litepod-256`) or a topology (`v5e:16x16`).

    Raises:
      InputError: no slice has that name; the nearest are listed.
    """
    for each in SLICES:
        if name in (each.accelerator, each.topology):
            return each
    names = [each.topology if ":" in name else each.accelerator for each in SLICES]
    raise InputError(where, repr(name), nearest(name, names))
