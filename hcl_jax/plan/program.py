"""The very step that a run would take, compiled for chips that are not there; what the compiler says of it, as JSON.

A process of its own compiles each, so that its memory is given back: python -m hcl_jax.plan.program reads
{"config": ..., "topology": ..., "cache": ...}, writes one JSON object, and leaves in the cache, by the content of the
lowered step, what the compiler says and the compiled program's text.
"""

import gzip
import hashlib
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping
from typing import Any

from hcl_jax.errors import InputError
from hcl_jax.plan import chips, cuda, hlo, shapes, slices
from hcl_jax.workdir import files

FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")  # of the compiler, in the environment
PARTS = ("encoder", "objective", "optimizer", "target", "memory")  # the named scopes of a step


def devices_of(topology: chips.Topology) -> list[Any]:
    """Devices to build a mesh of; nothing is asked of a network or an accelerator."""
    import jax

    if topology.kind in chips.GPUS and cuda.installed():
        return cuda.devices(topology.chips)
    if topology.kind == "cpu" or topology.kind in chips.GPUS:
        return jax.devices("cpu")[: topology.chips]
    from jax.experimental import topologies

    shape = "x".join(map(str, topology.shape))
    options: dict[str, Any] = {"num_slices": topology.slices} if topology.slices > 1 else {}
    if topology.kind == "v4":
        options["chip_config_name"] = "megacore"  # one device a chip, as a run has it
    if math.prod(topology.shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)  # libtpu reckons with hosts of four
    try:
        return topologies.get_topology_desc(f"{topology.kind}:{shape}", platform="tpu", **options).devices
    except Exception as error:  # the plugin raises kinds of its own
        text = str(error).splitlines()[0]
        known = slices.GENERATIONS.get(topology.kind)
        shape = f"a shape that libtpu knows, such as {', '.join(known.topologies) if known else '2x2, 4x4'}"
        # Anything else than a shape is the library itself: it does not load, or is not of this jax.
        whole = "INVALID_ARGUMENT" in text
        allowed = shape if whole else "a libtpu that loads: pip install -e '.[tpu]' brings that of jax's own version"
        raise InputError("--topology", f"{topology.text!r} ({text})", allowed) from None


def lowered(config: Any, topology: chips.Topology, specs: Any = None) -> tuple[Any, dict[str, Any]]:
    """A config's step, lowered for a topology.

    Args:
      config: completed.
      topology: from chips.parse.
      specs: shapes of a batch (shapes.structs); None has TensorFlow work them out.

    Returns:
      (jax.stages.Lowered, what is known before it is compiled: bytes a device by what takes them, rows of an epoch
      where they are known, the place of each device).
    """
    from hcl_jax.parallel import mesh as meshes
    from hcl_jax.plan import roofline
    from hcl_jax.run import Parts, build, epoch_examples

    source, known = shapes.source_of(config)
    devices = devices_of(topology)
    shape = meshes.mesh_shape(config.mesh, len(devices))
    if math.prod(shape) < len(devices):  # a run may leave some idle; a plan of rented ones may not
        sizes = " x ".join(f"{axis} {size}" for axis, size in zip(meshes.AXES, shape, strict=True))
        found = f"{sizes}, {math.prod(shape)} of the {len(devices)} devices of {topology.text}"
        raise InputError("config.mesh", found, "sizes that cover them all, such as data -1")
    mesh = meshes.make_mesh(config.mesh, devices)
    run = build(config, Parts(), source, mesh, specs)
    facts = {
        "sizes": {
            "parameters": _bytes(run.abstract.params),
            "optimizer": _bytes(run.abstract.opt_state),
            "other state": _bytes((run.abstract.target, run.abstract.model_state, run.abstract.memory)),
            "inputs": _bytes(run.abstract_batch),
        },
        "steps": run.steps if known or config.train.steps else 0,
        "examples": epoch_examples(config, source) if known else 0,
        "batch_size": config.data.batch_size,
        "rows": config.data.batch_size * config.train.seeds,  # each seed has a batch of its own
        "input_bytes": _whole(run.abstract_batch),
        "places": [place(d) for d in mesh.devices.flat],
    }
    if topology.kind in chips.GPUS:
        facts["roofline"] = roofline.of_run(run, chips.GPUS[topology.kind])._asdict()
    return run.step().lower(run.abstract, run.abstract_batch), facts


def place(device: Any) -> tuple[int, ...]:
    """(slice, x, y, z) of a device; of a processor all 0."""
    return (getattr(device, "slice_index", None) or 0, *getattr(device, "coords", (0, 0, 0)))


def compiled(lowered: Any, topology: chips.Topology) -> tuple[dict[str, Any], str]:
    """What the compiler says of a lowered step, and the compiled program's text.

    Returns:
      {"fits": True, "memory": bytes a device by what takes them, "flops", "bytes": of a device and step, "seconds": of
      the compilation}; of a program that does not fit {"fits": False, "needs": ...} and "".
    """
    import jax

    began = time.monotonic()
    try:
        program = lowered.compile(cuda.OPTIONS if topology.kind in chips.GPUS else None)
    except jax.errors.JaxRuntimeError as error:
        needs = _needs(str(error))
        if needs is None:
            raise
        return {"fits": False, "needs": needs, "seconds": time.monotonic() - began}, ""
    memory, cost = program.memory_analysis(), program.cost_analysis() or {}
    sizes = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
    }
    used, gpu = sum(sizes.values()), chips.GPUS.get(topology.kind)
    if gpu and used > gpu.memory:  # the CUDA compiler does not mind
        needs = {"used": used, "there": gpu.memory}
        return {"fits": False, "needs": needs, "seconds": time.monotonic() - began}, ""
    return {
        "fits": True,
        "memory": sizes,
        "flops": cost.get("flops", 0.0),
        "bytes": cost.get("bytes accessed", 0.0),
        "seconds": time.monotonic() - began,
    }, program.as_text()


def reading(text: str) -> dict[str, Any]:
    """What a compiled program's text says: {"cycles": {part: n}, "work": {words: n}, "traffic", "collectives", ...}."""
    found = hlo.read(text)
    parts: dict[str, int] = {}
    for scope, cycles in found.cycles.items():
        parts[part_of(scope)] = parts.get(part_of(scope), 0) + cycles
    return {
        "cycles": parts,
        "traffic": sum(found.traffic.values()),
        "collectives": [c._asdict() | {"part": part_of(c.scope)} for c in found.collectives],
        "work": _work(found.cycles),
        "unknown_loops": found.unknown_loops,
        "unknown_groups": found.unknown_groups,
        "with_cycles": found.with_cycles,
        "without_cycles": found.without_cycles,
    }


def _work(cycles: Mapping[str, int]) -> dict[str, int]:
    """Cycles by part, direction and operation, the most first."""
    found: dict[str, int] = {}
    for scope, n in cycles.items():
        way = "backward" if "transpose(" in scope else "forward"
        words = f"{part_of(scope)} {way} {scope.rpartition('/')[2] or 'unnamed'}"
        found[words] = found.get(words, 0) + n
    return dict(sorted(found.items(), key=lambda item: -item[1])[:8])


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


# Two ways in which a TPU's compiler says it.
TOO_MUCH = (
    r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm",
    r"HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)",
)


def _needs(text: str) -> dict[str, int] | None:
    """What a program that does not fit asks for, and what there is, from the compiler's message."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    for pattern in TOO_MUCH:
        if match := re.search(pattern, text):
            return {"used": int(float(match[1]) * units[match[2]]), "there": int(float(match[3]) * units[match[4]])}
    return None


def environment(topology: chips.Topology) -> dict[str, str]:
    """What the process that compiles must be started with: no accelerator is looked for, none is asked for."""
    # No chip is opened, so that a second process beside this one is no danger. One arena keeps a tenth of the memory.
    found = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
             "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "MALLOC_ARENA_MAX": "1", "JAX_TRACEBACK_FILTERING": "off",
             "TF_CPP_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3"}  # fmt: skip
    if topology.kind == "cpu" or topology.kind in chips.GPUS:
        found["JAX_NUM_CPU_DEVICES"] = str(topology.chips)
    return {**os.environ, **found}


def main() -> int:
    """Reads the request from standard input, leaves the program in its cache, writes what is known to stdout."""
    from hcl_jax import config as configs
    from hcl_jax.runtime import distributed

    text = sys.stdin.read()
    asked = json.loads(text)
    topology = chips.parse(asked["topology"])
    if topology.kind == "cpu":
        distributed.prepare()  # the compiler's flag that a run has, which costs memory
    config = configs.complete(configs.with_younger(asked["config"]))
    try:
        step, facts = lowered(config, topology, _specs(text))
        only_traced = topology.kind in chips.GPUS and not cuda.installed()
        facts["program"] = "" if only_traced else kept(step, topology, pathlib.Path(asked["cache"]))
    except InputError as error:
        facts = {"error": [error.where, str(error.found), error.allowed]}
    print(json.dumps(facts))
    return 0


def _specs(request: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "hcl_jax.plan.shapes"], input=request, stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    if "error" in found:
        raise InputError(*found["error"])
    return shapes.structs(found["specs"])


def kept(step: Any, topology: chips.Topology, cache: pathlib.Path) -> str:
    """Compiles a lowered step unless the cache has it; returns its name there, NAME.json and NAME.hlo.gz."""
    from hcl_jax.workdir import card

    releases = {k: v for k, v in card.versions().items() if k in ("jax", "jaxlib", "libtpu", "jax-cuda12-pjrt")}
    asked = [step.as_text(), topology.text if topology.kind != "cpu" else "cpu", json.dumps(releases)]
    asked += [f"{k}={os.environ[k]}" for k in FLAGS if k in os.environ]
    name = hashlib.sha256("\0".join(asked).encode()).hexdigest()[:24]
    if kept_before(cache, name) is None:
        facts, text = compiled(step, topology)
        files.keep(cache / f"{name}.hlo.gz", gzip.compress(text.encode(), 3))
        files.keep(cache / f"{name}.json", json.dumps(facts))
    return name


def kept_before(cache: pathlib.Path, name: str) -> tuple[dict[str, Any], str] | None:
    """What `compiled` gave; None when the cache lacks it, or a part of it is damaged."""
    facts = files.read_json(cache / f"{name}.json", "fits")
    if facts is None:
        return None
    try:
        text = gzip.decompress((cache / f"{name}.hlo.gz").read_bytes()).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        return None
    return (facts, text) if text or not facts["fits"] else None


if __name__ == "__main__":
    sys.exit(main())
