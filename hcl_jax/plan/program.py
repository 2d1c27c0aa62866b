"""The very step that a run would take, compiled for chips that are not there; what the compiler says of it, as JSON.

A process of its own compiles each, so that its memory is given back: python -m hcl_jax.plan.program reads
{"config": ..., "topology": ...} and writes one JSON object.
"""

import json
import math
import os
import re
import sys
import time
from typing import Any

from hcl_jax.errors import InputError
from hcl_jax.plan import chips, hlo

PARTS = ("encoder", "objective", "optimizer", "target", "memory")  # the named scopes of a step


def devices_of(topology: chips.Topology) -> list[Any]:
    """Devices to build a mesh of; nothing is asked of a network or an accelerator."""
    import jax

    if topology.kind == "cpu":
        found = jax.devices("cpu")
        return found[: topology.chips]
    from jax.experimental import topologies

    shape = "x".join(map(str, topology.shape))
    options: dict[str, Any] = {"num_slices": topology.slices} if topology.slices > 1 else {}
    if topology.kind == "v4":
        options["chip_config_name"] = "megacore"  # one device a chip, as a run has it
    try:
        return topologies.get_topology_desc(f"{topology.kind}:{shape}", platform="tpu", **options).devices
    except Exception as error:  # the plugin raises kinds of its own
        text = str(error).splitlines()[0]
        raise InputError("--topology", f"{topology.text!r} ({text})", "a shape that libtpu knows") from None


def compiled(config: Any, topology: chips.Topology) -> dict[str, Any]:
    """Compiles a config's step for a topology.

    Args:
      config: completed.
      topology: from chips.parse.

    Returns:
      {"fits": bool, "memory": {...} bytes a device, "flops", "bytes" a device and step, "cycles": {part: n},
      "collectives": [...], "seconds": of the compilation}; of a program that does not fit, "needs" in place of these.
    """
    import jax

    from hcl_jax import data
    from hcl_jax.parallel import mesh as meshes
    from hcl_jax.run import Parts, build

    source = data.random_like(config.data, config.views, sources=data.SOURCES)
    mesh = meshes.make_mesh(config.mesh, devices_of(topology))
    run = build(config, Parts(), source, mesh)
    sizes = {
        "parameters": _bytes(run.abstract.params),
        "optimizer": _bytes(run.abstract.opt_state),
        "other state": _bytes((run.abstract.target, run.abstract.model_state, run.abstract.memory)),
        "inputs": _bytes(run.abstract_batch),
    }
    began = time.monotonic()
    lowered = run.step().lower(run.abstract, run.abstract_batch)
    common = {
        "sizes": sizes,
        "steps": run.steps,
        "batch_size": config.data.batch_size,
        "input_bytes": _whole(run.abstract_batch),
        "devices": len(mesh.devices.flat),
    }
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needs = _needs(str(error))
        if needs is None:
            raise
        return {**common, "fits": False, "needs": needs, "seconds": time.monotonic() - began}
    memory = program.memory_analysis()
    cost = program.cost_analysis() or {}
    reading = hlo.read(program.as_text())
    parts: dict[str, int] = {}
    for scope, cycles in reading.cycles.items():
        parts[part_of(scope)] = parts.get(part_of(scope), 0) + cycles
    return {
        **common,
        "fits": True,
        "memory": {
            "arguments": memory.argument_size_in_bytes,
            "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "code": memory.generated_code_size_in_bytes,
        },
        "flops": cost.get("flops", 0.0),
        "bytes": cost.get("bytes accessed", 0.0),
        "cycles": parts,
        "collectives": [c._asdict() | {"part": part_of(c.scope)} for c in reading.collectives],
        "unknown_loops": reading.unknown_loops,
        "with_cycles": reading.with_cycles,
        "without_cycles": reading.without_cycles,
        "seconds": time.monotonic() - began,
    }


def part_of(scope: str) -> str:
    """The part of a step that an instruction was traced under."""
    found = re.search(rf"\b({'|'.join(PARTS)})(?=[:/)]|$)", scope)
    return found[1] if found else "rest"


def _bytes(tree: Any) -> int:
    """On one device."""
    import jax

    return sum(math.prod(x.sharding.shard_shape(x.shape)) * _item(x) for x in jax.tree.leaves(tree))


def _whole(tree: Any) -> int:
    import jax

    return sum(math.prod(x.shape) * _item(x) for x in jax.tree.leaves(tree))


def _item(x: Any) -> int:
    import jax

    return 8 if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x.dtype.itemsize


def _needs(text: str) -> dict[str, int] | None:
    """What a program that does not fit asks for, and what there is, from the compiler's message."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    match = re.search(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", text)
    if match is None:
        return None
    return {"used": int(float(match[1]) * units[match[2]]), "there": int(float(match[3]) * units[match[4]])}


def environment(topology: chips.Topology) -> dict[str, str]:
    """What the process that compiles must be started with: no accelerator is looked for, none is asked for."""
    found = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
             "TF_CPP_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3"}  # fmt: skip
    if topology.kind == "cpu":
        found["JAX_NUM_CPU_DEVICES"] = str(topology.chips)
    return {**os.environ, **found}


def main() -> int:
    """Reads the request from standard input, writes the answer to standard output."""
    from hcl_jax import config as configs

    asked = json.loads(sys.stdin.read())
    topology = chips.parse(asked["topology"])
    config = configs.complete(configs.with_younger(asked["config"]))
    try:
        found = compiled(config, topology)
    except InputError as error:
        found = {"error": [error.where, str(error.found), error.allowed]}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
