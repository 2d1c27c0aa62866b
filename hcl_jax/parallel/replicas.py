"""Do the devices that should hold the same numbers hold them? A flipped bit is found, and the device that has it."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hcl_jax.parallel.sharding import flat_paths

# The finaliser of MurmurHash3 and 2^32 over the golden ratio.
FIRST, SECOND, GOLDEN = 0x85EBCA6B, 0xC2B2AE35, 0x9E3779B9


def differing(state: Any) -> list[str]:
    """The devices whose copy of a leaf is not, bit by bit, that of most devices that should hold the same shard.

    digest = sum_i mix(word_i xor 2654435769 i) mod 2^32, on each device, over its own copy of each leaf

    mix is one to one, so that one changed word of 32 bits changes the digest for certain, and any other damage does
    with 1 - 2^-32. The state is read once, nothing of it moves: the host sees 4 bytes a leaf and device. The program
    is compiled at the first call. Every process of a run must call this, and every one gets the same answer.

    Args:
      state: pytree of arrays with a NamedSharding on one mesh, as a step leaves it. Of a leaf that is split over all
        of the mesh (several seeds) there is no second copy: it is not read.

    Returns:
      `["process 0 device 3: params/image/encoder/stem/kernel"]`: each such device, with its first leaf that differs;
      [] when all agree. Where no value is the most frequent one (two copies), every holder of that shard is named.
    """
    copied = {path: leaf for path, leaf in flat_paths(state).items() if _copies(leaf.sharding) > 1}
    if not copied:
        return []
    mesh = next(iter(copied.values())).sharding.mesh
    specs = tuple(leaf.sharding.spec for leaf in copied.values())
    digests = np.asarray(_program(mesh, specs)(list(copied.values())))
    found: dict[int, str] = {}
    for path, spec, digest in zip(copied, specs, digests, strict=True):
        for place in np.argwhere(_odd(digest, _split(spec, mesh))):
            device = mesh.devices[tuple(place)]
            found.setdefault(device.id, f"process {device.process_index} device {device.id}: {path}")
    return [found[number] for number in sorted(found)]


def _split(spec: PartitionSpec, mesh: Mesh) -> tuple[bool, ...]:
    """Which axes of the mesh a spec splits an array over."""
    used = {name for entry in spec if entry is not None for name in ((entry,) if isinstance(entry, str) else entry)}
    return tuple(name in used for name in mesh.axis_names)


def _copies(sharding: Any) -> int:
    """How many devices hold the same shard."""
    if len(sharding.device_set) == 1:
        return 1
    split = _split(sharding.spec, sharding.mesh)
    return math.prod(size for size, over in zip(sharding.mesh.devices.shape, split, strict=True) if not over)


@functools.lru_cache(maxsize=4)
def _program(mesh: Mesh, specs: tuple[PartitionSpec, ...]) -> Any:
    """leaves -> uint32 [leaves, *mesh], on every device: one program a run."""

    def each(leaves: list[Array]) -> Array:
        return jnp.stack([_digest(x) for x in leaves]).reshape(-1, *(1,) * mesh.devices.ndim)

    # Inside shard_map a device reads its own copy. Outside, XLA takes copies to be equal and may read any of them;
    # check_vma would take the digests to be equal too.
    every = jax.shard_map(
        each, mesh=mesh, in_specs=(list(specs),), out_specs=PartitionSpec(None, *mesh.axis_names), check_vma=False
    )
    return jax.jit(every, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _digest(x: Array) -> Array:
    """The digest of an array, uint32 []."""
    words = _words(x)
    place, stride = jnp.zeros(words.shape, jnp.uint32), 1
    # Counted along the axes: a reshape to one axis would copy the array where its memory is tiled.
    for axis in reversed(range(words.ndim)):
        place += lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    h = words ^ (place * jnp.uint32(GOLDEN))
    h = (h ^ (h >> 16)) * jnp.uint32(FIRST)
    h = (h ^ (h >> 13)) * jnp.uint32(SECOND)
    return jnp.sum(h ^ (h >> 16), dtype=jnp.uint32)


def _words(x: Array) -> Array:
    """The bits of an array as uint32, no value of it changed; two words where an element has 64 bits."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    if x.dtype.itemsize == 8:
        return lax.bitcast_convert_type(x, jnp.uint32)
    if jnp.issubdtype(x.dtype, jnp.floating):
        # As numbers -0 equals 0 and NaN equals nothing.
        x = lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize])
    return x.astype(jnp.uint32)


def _odd(digest: np.ndarray, split: tuple[bool, ...]) -> np.ndarray:
    """bool of digest's shape [*mesh]: not the most frequent value among the holders of the same shard."""
    over = [axis for axis, is_split in enumerate(split) if is_split]
    order = over + [axis for axis, is_split in enumerate(split) if not is_split]
    moved = digest.transpose(order)
    rows = moved.reshape(math.prod(moved.shape[: len(over)]), -1)
    odd = np.zeros(rows.shape, bool)
    for i in np.flatnonzero((rows != rows[:, :1]).any(axis=1)):
        values, counts = np.unique(rows[i], return_counts=True)
        most = values[counts == counts.max()]
        odd[i] = rows[i] != most[0] if len(most) == 1 else True
    return odd.reshape(moved.shape).transpose(np.argsort(order))
