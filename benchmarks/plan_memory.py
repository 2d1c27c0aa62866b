"""Memory of a compiled train step on the CPU: what XLA predicts, beside what a process takes.

python benchmarks/plan_memory.py                          every program, XLA's library of fused kernels in three ways
python benchmarks/plan_memory.py --programs=mlp,vit --flags=run --repeats=1

A first process builds a recipe's step as a run does (hcl_jax.run.build, one device) and writes it down (jax.export),
and each of its convolutions alone. Fresh processes that import jax and no TensorFlow read it, compile it, make random
inputs, and take two steps with the state donated. MALLOC_ARENA_MAX=1. Medians over --repeats of:

  predicted    arguments + outputs + temporaries - what outputs share with donated arguments, from memory_analysis()
  measured     peak resident size in the two steps (VmHWM, reset before the first) less that before inputs were made
  scratch      the most that one convolution of the step, alone at its shape, takes beyond its own prediction (once)
  unexplained  measured - predicted - scratch

Flags: "run", as hcl_jax.runtime.distributed.prepare sets it; "jax", as jax has it by itself; "off", without the
library, whose own buffers no prediction counts. Linux only: the figures are those of /proc/self.
"""

import argparse
import ctypes
import gc
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from turns import MIB, resident

from hcl_jax.runtime.distributed import CPU_FLAG

F32 = "--config.train.compute_dtype=float32"  # as everything on a CPU
PROGRAMS = {
    "small": ("simclr:digits", "--config.data.batch_size=4096",
              "--config.towers.image.encoder={'name': 'mlp', 'widths': (1024, 1024, 1024, 1024), 'batch_norm': False}"),
    "mlp": ("simclr:cifar10", "--config.data.batch_size=2048",
            "--config.towers.image.encoder={'name': 'mlp', 'widths': (4096, 4096, 4096)}"),
    "mlp_plain": ("simclr:cifar10", "--config.data.batch_size=2048",
                  "--config.towers.image.encoder={'name': 'mlp', 'widths': (4096, 4096, 4096), 'batch_norm': False}"),
    "vit": ("simclr:imagenet", F32, "--config.data.batch_size=8",
            "--config.towers.image.encoder={'name': 'vit', 'variant': 's/16'}"),
    "clip": ("clip:vit_b", F32, "--config.data.batch_size=16"),
    "resnet50": ("simclr:imagenet", F32, "--config.data.batch_size=8"),
    "convnet": ("simclr:cifar10", "--config.data.batch_size=2048"),
}  # fmt: skip
FLAGS = {
    "run": CPU_FLAG,
    "jax": "",
    "off": "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_INVALID",
}


def main() -> int:
    """Prints a table in Markdown, and writes the figures to --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default=",".join(PROGRAMS), help=f"some of {', '.join(PROGRAMS)}")
    parser.add_argument("--flags", default=",".join(FLAGS), help=f"XLA's library of fused kernels: {', '.join(FLAGS)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path, help="a file for every figure of every repetition")
    parser.add_argument("--write", type=pathlib.Path, help=argparse.SUPPRESS)  # in the first process
    parser.add_argument("--measure", type=pathlib.Path, nargs="+", help=argparse.SUPPRESS)  # in the fresh ones
    known = parser.parse_args()
    for asked, table in ((known.programs, PROGRAMS), (known.flags, FLAGS)):
        for name in asked.split(","):
            if name not in table:
                parser.error(f"{name!r} is not one of {', '.join(table)}")
    if known.write:
        write(PROGRAMS[known.programs], known.write)
        return 0
    if known.measure:
        for path in known.measure:
            print(json.dumps(measured(path)), flush=True)
        return 0
    print(HEAD)
    every = {}
    for name in known.programs.split(","):
        with tempfile.TemporaryDirectory() as folder:
            fresh("", f"--programs={name}", f"--write={folder}")
            for flag in known.flags.split(","):
                every[f"{name}, {flag}"] = found = program(pathlib.Path(folder), flag, known.repeats)
                print(row(name, flag, found), flush=True)
                if known.json:
                    known.json.write_text(json.dumps(every, indent=1), encoding="utf-8")
    return 0


HEAD = """\
| program | XLA flag | arguments | temporaries | predicted | measured | scratch | unexplained | measured / predicted |
|---|---|---:|---:|---:|---:|---:|---:|---:|"""


def row(name: str, flag: str, found: dict[str, Any]) -> str:
    """One line of the table, MiB."""
    steps, scratch = found["steps"], found["scratch"]
    predicted, peak = steps[0]["predicted"], statistics.median(s["measured"] for s in steps)
    sizes = (steps[0]["arguments"], steps[0]["temporaries"], predicted, peak, scratch, peak - predicted - scratch)
    return f"| {name} | {flag} | " + " | ".join(f"{n / MIB:,.0f}" for n in sizes) + f" | {peak / predicted:.2f} |"


def program(folder: pathlib.Path, flag: str, repeats: int) -> dict[str, Any]:
    """Measures what `write` wrote to a folder; each repetition is a fresh process."""
    convolutions = sorted(folder.glob("convolution*"))
    steps = [json.loads(fresh(FLAGS[flag], "--measure", folder / "step")) for _ in range(repeats)]
    alone = fresh(FLAGS[flag], "--measure", *convolutions).splitlines() if convolutions else []
    beyond = [one["measured"] - one["predicted"] for one in map(json.loads, alone)]
    return {"steps": steps, "convolutions": len(beyond), "scratch": max(beyond, default=0)}


def fresh(flags: str, *arguments: Any) -> str:
    """What this file prints in a new process, on one CPU device."""
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "1"}
    env |= {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


# ---- in the first process


def write(flags: tuple[str, ...], folder: pathlib.Path) -> None:
    """Writes a recipe's step, and each convolution in it, as programs of two lists of arrays: donated, and not."""
    import jax

    from hcl_jax import config as configs
    from hcl_jax import data
    from hcl_jax.cli import read_config, with_overrides
    from hcl_jax.parallel import mesh as meshes
    from hcl_jax.run import Parts, build

    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    parser.add_argument("--workdir")
    config = configs.complete(read_config(*with_overrides(parser, [f"--config={flags[0]}", *flags[1:]])))
    source = data.random_like(config.data, config.views, sources=data.SOURCES)
    run = build(config, Parts(), source, meshes.make_mesh(config.mesh, jax.devices()[:1]))
    step = run.step()
    leaves, tree = jax.tree.flatten(run.abstract)
    batch, batch_tree = jax.tree.flatten(run.abstract_batch)

    def flat(state: list[Any], batch: list[Any]) -> Any:
        new, metrics = step(jax.tree.unflatten(tree, state), jax.tree.unflatten(batch_tree, batch))
        return jax.tree.leaves(new), jax.tree.leaves(metrics)

    save(flat, _plain(leaves), _plain(batch), folder / "step")
    inside = _convolutions(jax.make_jaxpr(flat)(leaves, batch).jaxpr)
    seen = {str((e.params, *(v.aval for v in e.invars))): e for e in inside}
    for i, one in enumerate(seen.values()):

        def alone(state: list[Any], operands: list[Any], one: Any = one) -> Any:
            return state, one.primitive.bind(*operands, **one.params)

        save(alone, [], [v.aval for v in one.invars], folder / f"convolution{i:03}")


def save(function: Any, state: list[Any], batch: list[Any], path: pathlib.Path) -> None:
    """A function of two lists of arrays, on one device of any process."""
    import jax
    from jax import export

    path.write_bytes(bytes(export.export(jax.jit(function))(state, batch).serialize()))


def _plain(leaves: list[Any]) -> list[Any]:
    """Without shardings: the file is read where there is one device."""
    import jax

    return [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]


def _convolutions(jaxpr: Any) -> Iterator[Any]:
    """The equations of convolutions, inner programs included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _convolutions(inner)


# ---- in a fresh process, which imports jax and no TensorFlow


def measured(path: pathlib.Path, steps: int = 2) -> dict[str, Any]:
    """Predicted and measured bytes of a program that `write` wrote."""
    import jax
    from jax import export

    exported = export.deserialize(bytearray(path.read_bytes()))
    (state, batch), _ = jax.tree.unflatten(exported.in_tree, [
        jax.ShapeDtypeStruct(a.shape, a.dtype) for a in exported.in_avals
    ])  # fmt: skip
    compiled = jax.jit(lambda state, batch: exported.call(state, batch), donate_argnums=0).lower(state, batch).compile()
    memory = compiled.memory_analysis()
    draws = iter(range(10**6))
    before = settled()
    state, batch = jax.tree.map(lambda a: _random(a, next(draws)), (state, batch))
    settled()
    resident(reset=True)
    for _ in range(steps):
        state, rest = compiled(state, batch)
        jax.block_until_ready((state, rest))
    peak = resident("VmHWM")
    if peak is None or before is None:
        raise SystemExit("plan_memory: /proc/self/status has no VmHWM: Linux only")
    if "tensorflow" in sys.modules:
        raise SystemExit("plan_memory: TensorFlow is in the process that is measured")
    parts = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
    }
    predicted = parts["arguments"] + parts["outputs"] - parts["aliased"] + parts["temporaries"]
    return {**parts, "predicted": predicted, "measured": peak - before}


def settled() -> int | None:
    """Bytes in memory after what is free was given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident()


def _random(like: Any, seed: int) -> Any:
    """A random array that is not a view of NumPy's: such a one could not be donated."""
    import jax
    import numpy as np

    if jax.dtypes.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.key(seed)
    rng = np.random.default_rng(seed)
    if jax.dtypes.issubdtype(like.dtype, np.floating):
        made = rng.random(like.shape, np.float32) * np.float32(0.02)
    else:
        made = rng.integers(0, 2, like.shape)
    return jax.block_until_ready(jax.numpy.array(np.asarray(made).astype(like.dtype), copy=True))


if __name__ == "__main__":
    sys.exit(main())
