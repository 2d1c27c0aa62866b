"""Row tables of real TPU pods, from libtpu's description of their torus (no TPU needed, nothing runs on one)."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tpu_here

pytestmark = tpu_here.needed

# In a process of its own: loading libtpu changes the process, and a host without TPU must be told to be one.
TABLES = """
import json, sys
import numpy as np
from jax.experimental import topologies
from hcl_jax.parallel.mesh import make_mesh
from hcl_jax.parallel.sharding import batch_sharding, local_rows

out = []
for name, config, slices, batch_size in json.loads(sys.argv[1]):
    extra = {"num_slices": slices} if slices > 1 else {}
    devices = topologies.get_topology_desc(topology_name=name, platform="tpu", **extra).devices
    mesh = make_mesh(config, devices)
    sharding = batch_sharding(mesh)
    processes = sorted({d.process_index for d in devices})
    # What each device holds, computed from its place in the mesh alone.
    data, fsdp, tensor = mesh.devices.shape
    each = batch_size // (data * fsdp)
    held = {p: set() for p in processes}
    for (i, j, k), device in np.ndenumerate(mesh.devices):
        held[device.process_index] |= set(range((i * fsdp + j) * each, (i * fsdp + j + 1) * each))
    replicas = [len({d.process_index for d in mesh.devices[i, j]}) for i in range(data) for j in range(fsdp)]
    pairs = [pair for row in mesh.devices[:, 0] for pair in zip(row, row[1:])]
    hops = max([np.abs(np.subtract(a.coords, b.coords)).sum() for a, b in pairs], default=0)
    out.append({
        "shape": mesh.devices.shape,
        "rows": [local_rows(sharding, batch_size, p).tolist() for p in processes],
        "held": [sorted(held[p]) for p in processes],
        "replicas": replicas,
        "hops": int(hops),
        "slices": [getattr(d, "slice_index", 0) for d in mesh.devices[:, 0, 0]],
    })
print("RESULT " + json.dumps(out))
"""

CASES = [
    ("v5e:16x16", {"tensor": 1}, 1, 512),
    ("v5e:16x16", {"tensor": 8}, 1, 512),
    ("v5e:16x16", {"fsdp": 16, "tensor": 1}, 1, 512),
    ("v5p:4x4x8", {"tensor": 1}, 1, 256),
    ("v5p:4x4x8", {"tensor": 8}, 1, 256),
    ("v5p:4x4x8", {"fsdp": 8, "tensor": 2}, 1, 256),
    ("v5e:4x4", {"tensor": 2}, 2, 64),
]
PROCESSES = {"v5e:16x16": 64, "v5p:4x4x8": 32, "v5e:4x4": 8}  # four chips a host; the last has two slices of four hosts


@pytest.fixture(scope="module")
def tables():
    command = [sys.executable, "-c", TABLES, json.dumps(CASES)]
    done = subprocess.run(command, env=tpu_here.environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))[7:])


@pytest.mark.parametrize("i", range(len(CASES)), ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_each_row_is_made_once_a_replica(tables, i):
    (name, config, _, batch_size), found = CASES[i], tables[i]
    ways = found["shape"][0] * found["shape"][1]
    assert found["rows"] == found["held"], "each process makes what its devices hold: no row more, none less"
    assert len(found["rows"]) == PROCESSES[name]
    times = np.bincount(np.concatenate(found["rows"]), minlength=batch_size)
    # A row is made by each process that the tensor group of its shard touches, and by no other.
    np.testing.assert_array_equal(times, np.repeat(found["replicas"], batch_size // ways))
    if config["tensor"] == 1:
        assert set(times) == {1}
    if config["tensor"] == 8:
        assert min(times) >= 2, "eight chips are on two hosts at least: their rows are made twice at least"


@pytest.mark.parametrize("i", [0, 3, 4], ids=lambda i: f"{CASES[i][0]}-{CASES[i][1]}")
def test_the_rows_of_a_process_have_gaps(tables, i):
    """This is why nothing may be computed from the number of a process."""
    rows = [np.asarray(r) for r in tables[i]["rows"]]
    assert all(r[-1] - r[0] + 1 > r.size for r in rows)


@pytest.mark.parametrize("i", [1, 4, 6], ids=lambda i: f"{CASES[i][0]}-{CASES[i][1]}")
def test_tensor_neighbours_are_neighbours_on_the_torus(tables, i):
    assert tables[i]["hops"] == 1


def test_slices_are_joined_along_data(tables):
    slices = tables[6]["slices"]
    assert slices == sorted(slices) and set(slices) == {0, 1}
