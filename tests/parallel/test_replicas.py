"""R30: a device whose copy differs is named, with the leaf; the digest against NumPy."""

import os
import pathlib
import socket
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from hcl_jax.parallel import replicas
from hcl_jax.parallel.mesh import make_mesh

MESHES = ({"data": 8}, {"data": 4, "fsdp": 2}, {"data": 2, "fsdp": 2, "tensor": 2})


class State(NamedTuple):
    params: dict
    step: np.ndarray
    key: np.ndarray


def arrays(seed=0):
    """A leaf of each kind, among them numbers that are none and zeros of both signs."""
    random = np.random.default_rng(seed)
    kernel = random.normal(size=(8, 12)).astype(np.float32)
    kernel[0, :3] = np.nan, -0.0, np.inf
    return {
        "kernel": kernel,
        "half": random.normal(size=(6,)).astype(ml_dtypes.bfloat16),
        "sixteen": random.normal(size=(4, 3)).astype(np.float16),
        "whole": random.integers(-9, 9, (2, 5)).astype(np.int32),
        "small": random.integers(0, 99, 7).astype(np.uint8),
        "there": random.random(9) > 0.5,
        "nothing": np.zeros((0, 3), np.float32),
        "zeros": np.zeros((8, 4), np.float32),
    }


SPECS = {"kernel": jax.P("fsdp", "tensor"), "whole": jax.P("fsdp"), "zeros": jax.P(("data", "fsdp", "tensor"))}


def placed(mesh, values, flips=()):
    """The state on a mesh; `flips` are (device index, leaf, changed copy of that device's shard)."""
    changed = {(device, leaf): change for device, leaf, change in flips}

    def put(name, value):
        shards = jax.NamedSharding(mesh, SPECS.get(name, jax.P()))
        parts = []
        for device, index in shards.addressable_devices_indices_map(value.shape).items():
            part = np.array(value[index])
            change = changed.get((list(mesh.devices.flat).index(device), name))
            parts.append(jax.device_put(part if change is None else change(part), device))
        return jax.make_array_from_single_device_arrays(value.shape, shards, parts)

    params = {name: put(name, value) for name, value in values.items()}
    whole = jax.NamedSharding(mesh, jax.P())
    key = put("key", np.asarray(jax.random.key_data(jax.random.key(3))))
    return State(params, jax.device_put(jnp.int32(7), whole), jax.random.wrap_key_data(key))


def flipped(bit, at=0):
    """One bit of the word at place `at` the other way round."""

    def change(part):
        bits = part.reshape(-1).view(f"u{part.dtype.itemsize}").copy()
        bits[at] ^= bits.dtype.type(1 << bit)
        return bits.view(part.dtype).reshape(part.shape)

    return change


def swapped(part):
    """Two words have changed places: no plain sum sees it."""
    flat = part.reshape(-1).copy()
    flat[[1, 4]] = flat[[4, 1]]
    return flat.reshape(part.shape)


def line(mesh, device, leaf):
    return f"process 0 device {list(mesh.devices.flat)[device].id}: {leaf}"


@pytest.mark.parametrize("sizes", MESHES, ids=lambda sizes: " x ".join(sizes))
def test_the_device_and_the_leaf_are_named(sizes):
    """One program a mesh serves every case: only the numbers differ."""
    mesh, values = make_mesh(sizes), arrays()
    copies = 8 if len(sizes) == 1 else 4 if len(sizes) == 2 else 2
    replicas._program.cache_clear()
    assert replicas.differing(placed(mesh, values)) == [], "nan is nan, and zeros are zeros"
    cases = [
        (2, "half", flipped(0)),
        (7, "half", flipped(14, 5)),
        (5, "sixteen", flipped(9, 3)),
        (1, "small", flipped(7, 6)),
        (3, "there", lambda x: ~x),
        (4, "there", lambda x: np.where(np.arange(9) == 8, ~x, x)),
        (0, "key", flipped(31, 1)),
        (6, "half", swapped),
    ]
    for device, leaf, change in cases:
        path = leaf if leaf == "key" else f"params/{leaf}"
        assert replicas.differing(placed(mesh, values, [(device, leaf, change)])) == [line(mesh, device, path)]
    # A leaf that is split is compared among the holders of the same shard; two of them cannot say who is right.
    for bit in (0, 22, 31):
        holders = [3] if copies > 2 else [3, 7]
        found = replicas.differing(placed(mesh, values, [(3, "kernel", flipped(bit))]))
        assert found == [line(mesh, d, "params/kernel") for d in holders]
    assert replicas._program.cache_info().misses == 1


@pytest.mark.parametrize("sizes", MESHES[:2], ids=lambda sizes: " x ".join(sizes))
def test_several_devices(sizes):
    mesh, values = make_mesh(sizes), arrays()
    two = [(1, "kernel", flipped(3)), (6, "sixteen", flipped(3)), (6, "whole", flipped(3))]
    expected = [line(mesh, 1, "params/kernel"), line(mesh, 6, "params/sixteen")]
    assert replicas.differing(placed(mesh, values, two)) == expected, "each with its first leaf, in the state's order"
    same = [(d, "half", flipped(3)) for d in (2, 4)]
    assert replicas.differing(placed(mesh, values, same)) == [line(mesh, d, "params/half") for d in (2, 4)]
    # Of four against four nobody can say who is right.
    half = [(d, "half", flipped(3)) for d in (0, 2, 4, 6)]
    assert len(replicas.differing(placed(mesh, values, half))) == 8
    values["kernel"][:, 3] = 0.0

    def signed(part):
        return np.where(part == 0, np.float32(-0.0), part)

    assert replicas.differing(placed(mesh, values, [(5, "kernel", signed)])) == [line(mesh, 5, "params/kernel")]


def test_wide_leaves():
    mesh = make_mesh(MESHES[1])
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        values = {"double": random.normal(size=(4, 3)), "long": random.integers(-9, 9, 5), "z": np.ones(3) * 1j}
        assert replicas.differing(placed(mesh, values)) == []
        for leaf, bit in (("double", 0), ("double", 63), ("long", 33)):
            found = replicas.differing(placed(mesh, values, [(2, leaf, flipped(bit, 4))]))
            assert found == [line(mesh, 2, f"params/{leaf}")]
        found = replicas.differing(placed(mesh, values, [(2, "z", np.conj)]))
        assert found == [line(mesh, 2, "params/z")]


def test_without_copies_nothing_is_read():
    replicas._program.cache_clear()
    split = jax.NamedSharding(make_mesh(MESHES[1]), jax.P(("data", "fsdp")))
    states = {"seeds": jax.device_put(np.zeros((8, 3), np.float32), split)}
    assert replicas.differing(states) == []
    alone = jax.NamedSharding(make_mesh({"data": 1}, jax.devices()[:1]), jax.P())
    assert replicas.differing({"x": jax.device_put(np.zeros(3), alone), "y": jnp.zeros(2)}) == []
    assert replicas._program.cache_info().misses == 0


def test_what_a_step_leaves_is_compared():
    """A copy that is wrong stays wrong through a program that reads it, and is found after it."""
    mesh, values = make_mesh({"data": 8}), {"kernel": np.ones((8, 12), np.float32)}
    state = placed(mesh, values, [(6, "kernel", flipped(22))])
    shardings = jax.tree.map(lambda x: x.sharding, state.params)
    after = jax.jit(lambda p: jax.tree.map(lambda x: x * 0.5 + 1, p), out_shardings=shardings)(state.params)
    assert replicas.differing(after) == [line(mesh, 6, "kernel")]
    assert not state.params["kernel"].is_deleted()


def mixed(words):
    """MurmurHash3's fmix32 of numbers, word by word, in Python's integers."""
    total = 0
    for i, word in enumerate(words):
        h = int(word) ^ (i * 0x9E3779B9) % 2**32
        h = ((h ^ h >> 16) * 0x85EBCA6B) % 2**32
        h = ((h ^ h >> 13) * 0xC2B2AE35) % 2**32
        total += h ^ h >> 16
    return total % 2**32


def test_the_digest_of_words():
    digest = jax.jit(replicas._digest)
    for name, x in arrays().items():
        bits = x.reshape(-1).view(f"u{x.dtype.itemsize}") if x.dtype.kind not in "bi" else x.reshape(-1).astype("u4")
        assert int(digest(x)) == mixed(bits), name


CHILD = """
import sys, numpy as np, jax
from hcl_jax.parallel import replicas
from hcl_jax.parallel.mesh import make_mesh
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
mesh = make_mesh({})
for wrong in (None, 3):
    whole, every = jax.NamedSharding(mesh, jax.P()), list(mesh.devices.flat)
    here = whole.addressable_devices
    parts = [jax.device_put(np.full(5, 2 if every.index(d) == wrong else 1, np.float32), d) for d in here]
    x = jax.make_array_from_single_device_arrays((5,), whole, parts)
    print("found", replicas.differing({"x": x}), flush=True)
jax.distributed.shutdown()
"""


@pytest.mark.slow
def test_every_process_gets_the_same_answer():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = pathlib.Path(__file__).resolve().parents[2]
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "PYTHONPATH": str(root),
    }
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(port), str(i)], env=env, stdout=subprocess.PIPE, text=True, cwd=root
        )
        for i in range(2)
    ]
    try:
        answers = [[x for x in child.communicate(timeout=170)[0].splitlines() if "found" in x] for child in children]
    finally:
        for child in children:
            child.kill()
    assert answers[0] == answers[1] and answers[0][0] == "found []"
    assert answers[0][1].startswith("found ['process 1 device ") and answers[0][1].endswith(": x']")
