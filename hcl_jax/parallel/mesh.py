"""The device mesh of a run: three axes, `data` (replicas), `fsdp` (replicas that share parameters), `tensor`."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from hcl_jax.errors import InputError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # the axes that split the rows of a batch; every tensor index sees the same rows


def mesh_shape(mesh_config: Mapping[str, Any], available: int) -> tuple[int, int, int]:
    """Sizes of the axes (data, fsdp, tensor) on `available` devices; -1 is what the others leave.

    Args:
      mesh_config: `{"data": -1, "fsdp": 1, "tensor": 1}`; a field left out has that default.
      available: number of devices.

    Returns:
      Three sizes whose product is at most `available`, and exactly that when one of them was -1.

    Raises:
      InputError: naming the field, for a size that is no whole number, more than one -1, or more mesh than devices.
    """
    sizes = {axis: mesh_config.get(axis, -1 if axis == "data" else 1) for axis in AXES}
    for axis, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or (size < 1 and size != -1):
            raise InputError(f"config.mesh.{axis}", repr(size), "a whole number from 1, or -1 for what is left")
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise InputError(f"config.mesh.{free[1]}", f"-1, and mesh.{free[0]} is -1 too", "-1 for one axis")
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    text = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size != -1)
    if fixed > available:
        # The largest axis is the one that asked for too much, most of the time.
        blamed = max((axis for axis in AXES if sizes[axis] != -1), key=lambda axis: sizes[axis])
        raise InputError(
            f"config.mesh.{blamed}", f"{text} = {fixed} devices", f"at most the {available} that are there"
        )
    if free:
        if available % fixed:
            found = f"-1 with {text} = {fixed} on {available} devices"
            raise InputError(
                f"config.mesh.{free[0]}", found, f"sizes that divide {available}, or a size in place of -1"
            )
        sizes[free[0]] = available // fixed
    return sizes["data"], sizes["fsdp"], sizes["tensor"]


def make_mesh(mesh_config: Mapping[str, Any], devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh ("data", "fsdp", "tensor") of a run, neighbours on a TPU's torus placed along one axis.

    `tensor` is innermost: it talks most. Several slices are joined along `data`, which talks least. Fewer devices than
    there are may be asked for; then the first ones are used, in the order they are listed.

    Args:
      mesh_config: `config.mesh`.
      devices: default `jax.devices()`.

    Returns:
      A Mesh with every axis `AxisType.Auto`. (The default of jax 0.10 is Explicit, where `z @ z.T` raises.)

    Raises:
      InputError: see `mesh_shape`; and when a process would be left without a device, because its program would never
        stop waiting for the others.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = mesh_shape(mesh_config, len(devices))
    size = int(np.prod(shape))
    chosen = devices[:size]
    idle = {d.process_index for d in devices} - {d.process_index for d in chosen}
    if idle:
        found = f"a mesh of {size} of {len(devices)} devices, which leaves processes {sorted(idle)} with none"
        raise InputError("config.mesh", found, "at least one device of every process, or fewer processes")
    return Mesh(_placed(shape, chosen, whole=size == len(devices)), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _placed(shape: tuple[int, int, int], devices: list[Any], whole: bool) -> np.ndarray:
    """Devices as an array of `shape`. A part of a torus need not be a box, so only whole ones are placed."""
    if not whole:
        return np.asarray(devices, dtype=object).reshape(shape)
    slices = len({getattr(d, "slice_index", 0) for d in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    data, fsdp, tensor = shape
    if data % slices:
        raise InputError(
            "config.mesh.data", f"{data} on {slices} slices", f"a multiple of {slices}: data joins the slices"
        )
    inner = (data // slices, fsdp, tensor)
    return mesh_utils.create_hybrid_device_mesh(inner, (slices, 1, 1), devices, allow_split_physical_axes=True)


def num_shards(mesh: Mesh) -> int:
    """How many parts a batch is split into: data x fsdp."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raises InputError unless `batch_size` (global, in examples) splits evenly over data x fsdp."""
    shards = num_shards(mesh)
    if batch_size < 1 or batch_size % shards:
        sizes = " x ".join(f"{axis} {mesh.shape[axis]}" for axis in BATCH_AXES)
        raise InputError("config.data.batch_size", batch_size, f"a multiple of {shards} (mesh {sizes})")
