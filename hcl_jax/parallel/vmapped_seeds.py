"""Several runs in one program: every array gets a leading axis of seeds, split over the devices."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hcl_jax.errors import InputError
from hcl_jax.parallel.mesh import BATCH_AXES, num_shards


def seeds_sharding(mesh: Mesh, seeds: int) -> NamedSharding:
    """Seeds split over data x fsdp: each device has whole runs, and the runs never talk to each other.

    Raises:
      InputError: seeds that the mesh does not divide, or a mesh with a tensor axis.
    """
    shards = num_shards(mesh)
    if seeds % shards:
        sizes = " x ".join(f"{axis} {mesh.shape[axis]}" for axis in BATCH_AXES)
        raise InputError("config.train.seeds", seeds, f"1, or a multiple of {shards} (mesh {sizes})")
    if mesh.shape["tensor"] > 1:
        raise InputError("config.mesh.tensor", mesh.shape["tensor"], "1 where train.seeds > 1")
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def over_seeds(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`step` of one run as a step of many: vmapped over the seeds of a device, no communication between devices.

    Left to the partitioner, convolutions with kernels of their own for each seed would be gathered on every device.

    Args:
      step: pure function of pytrees of one run.
      mesh: whose data and fsdp axes split the seeds.

    Returns:
      The same function of pytrees with a leading axis of seeds.
    """
    spec = PartitionSpec(BATCH_AXES)
    # Nothing is replicated and no collective runs inside, so there is nothing for check_vma to check.
    return jax.shard_map(jax.vmap(step), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
