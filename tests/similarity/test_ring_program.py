"""What the ring sends and holds, read from compiled programs; and that sending and computing overlap on a TPU."""

import functools
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
import tpu_here
from jax.sharding import NamedSharding, PartitionSpec

from hcl_jax.losses import clip, info_nce, nt_xent, siglip
from hcl_jax.similarity import ring, streamed

EACH, D = 512, 32  # local rows of a view, features
LOSSES = {
    "nt_xent": functools.partial(nt_xent, temperature=0.1),
    "clip": functools.partial(clip, scale=10.0),
    "info_nce": functools.partial(info_nce, temperature=0.1),
    "siglip": functools.partial(siglip, scale=10.0, bias=-10.0),
}


@functools.cache
def program(name: str, devices: int):
    """Value and gradient of a loss on a ring of so many devices, compiled."""
    axis = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices], axis_types=axis)
    rows = jax.ShapeDtypeStruct((EACH * devices, D), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data")))
    loss = functools.partial(LOSSES[name], engine=ring(mesh, "data", tile=256))
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(rows, rows).compile()


def bodies(text: str) -> dict[str, list[str]]:
    """HLO text as {computation: its lines}."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        head = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            lines = found.setdefault(head[1], [])
        elif line.startswith(" "):
            lines.append(line.strip())
    return found


def moved_bytes(text: str) -> int:
    """Bytes that a device sends by collective-permute in a run: those in a loop as often as it goes round."""
    parts = bodies(text)

    def sent_by(name: str) -> int:
        total = 0
        for line in parts[name]:
            if match := re.search(r"= (\w)(\d+)\[([\d,]*)\]\S* collective-permute\(", line):
                numbers = [int(n) for n in match[3].split(",") if n]
                total += int(match[2]) // 8 * functools.reduce(lambda a, b: a * b, numbers, 1)
            for called in re.findall(r"(?:body|to_apply|calls)=%?([\w.\-]+)", line):
                inside = sent_by(called)
                if inside:  # every loop that sends says how often
                    trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
                    total += inside * (int(trips[1]) if trips else 1)
            for branches in re.findall(r"branch_computations=\{([^}]*)\}", line):
                assert not any(sent_by(b.strip().lstrip("%")) for b in branches.split(","))
        return total

    entry = re.search(r"^ENTRY %?([\w.\-]+) ", text, re.M)
    assert entry
    return sent_by(entry[1])


@pytest.mark.slow(one=True)
@pytest.mark.parametrize(
    ("name", "devices"), [("nt_xent", 2), ("nt_xent", 4), ("nt_xent", 8), ("clip", 2), ("clip", 4)]
)
def test_bytes_moved(name, devices):
    """At most 2 (n - 1) R (d + 2) numbers a device; what docs/losses.md says, less ids that are not sent twice."""
    text = program(name, devices).as_text()
    assert "all-gather" not in text and "all-to-all" not in text
    n, rows = devices, 2 * EACH
    most = 2 * (n - 1) * rows * (D + 2) * 4
    if name == "nt_xent":
        half, there = n // 2, n // 2 - 1
        expected = rows * 4 * (half * (D + 1) + there * 4 + half * (D + 4) + there * D)
    else:
        expected = rows // 2 * 4 * (n - 1) * ((D + 1) + 4 + (D + 4) + D)
    moved = moved_bytes(text)
    assert moved <= most and expected - 3 * rows * 4 <= moved <= expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["info_nce", "siglip"])
def test_bytes_moved_one_way(name):
    n = 4
    expected = EACH * 4 * (n - 1) * ((D + 1) + (D + 1) + D)
    assert expected - EACH * 4 * (n - 1) * (D + 1) <= moved_bytes(program(name, n).as_text()) <= expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nt_xent", "clip"])
def test_memory_does_not_grow_with_the_ring(name):
    """From 4 devices to 8 a loop takes the place of one hop; from then on nothing changes (8 and 64 chips below)."""
    four, eight = (program(name, n).memory_analysis().temp_size_in_bytes for n in (4, 8))
    assert eight < 1.2 * four


@pytest.mark.slow
def test_streamed_memory_is_tiles():
    """Beyond inputs and outputs: the unit rows, their gradient, and a few tiles; far below the matrix."""
    n = 16384
    rows = jax.ShapeDtypeStruct((n // 2, 128), jnp.float32)
    loss = functools.partial(nt_xent, temperature=0.1, engine=streamed())
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(rows, rows).compile()
    assert step.memory_analysis().temp_size_in_bytes < 64 * 2**20 < 4 * n**2 / 8


OVERLAP = """
import functools, re, sys
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec
from hcl_jax.losses import nt_xent
from hcl_jax.parallel.mesh import make_mesh
from hcl_jax.similarity import ring

for name in sys.argv[1:]:
    mesh = make_mesh({}, topologies.get_topology_desc(topology_name=name, platform="tpu").devices)
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    rows = jax.ShapeDtypeStruct((1024 * mesh.size, 128), jnp.float32, sharding=sharding)
    loss = functools.partial(nt_xent, temperature=0.1, engine=ring(mesh))
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(rows, rows).compile()
    print("MEMORY", step.memory_analysis().temp_size_in_bytes)
    if name == sys.argv[1]:
        print(step.as_text())
"""


@pytest.mark.slow
@tpu_here.needed
def test_sending_hides_behind_the_products_on_a_tpu():
    """Compiled for TPU chips: a block's permute starts before the tiles of the block in hand and is done after them."""
    environment = tpu_here.environment()
    command = [sys.executable, "-c", OVERLAP, "v5e:2x4", "v5e:8x8"]
    text = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=True).stdout
    few, many = (int(line.split()[1]) for line in text.splitlines() if line.startswith("MEMORY"))
    assert many < 1.1 * few
    parts = bodies(text)

    def multiplies(name: str) -> bool:
        return any(
            " dot(" in line
            or " convolution(" in line
            or any(
                multiplies(called)
                for group in re.findall(r"(?:body|calls|to_apply|branch_computations)=\{?([%\w.\-, ]+)", line)
                for called in group.replace("%", "").replace(" ", "").split(",")
                if called in parts and called != name
            )
            for line in parts[name]
        )

    hidden = shown = 0
    for lines in parts.values():
        for start, line in enumerate(lines):
            name = re.match(r"(?:ROOT )?%?(collective-permute-start[\w.]*) = \(f32\[2048,\d+\]", line)
            if not name:
                continue
            done = next(
                i for i, x in enumerate(lines) if re.search(rf"collective-permute-done\(.*{re.escape(name[1])}\)", x)
            )
            loops = [re.search(r"body=%?([\w.\-]+)", x) for x in lines[start:done] if " while(" in x]
            within = any(loop and multiplies(loop[1]) for loop in loops)
            hidden, shown = hidden + within, shown + (not within)
    # Forward: the first hop, the last but one, the loop. Backward: the same. In the open: the way home of either.
    assert hidden >= 6 and shown <= 2
