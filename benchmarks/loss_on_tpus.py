"""NT-Xent on TPU chips that are not there: what plan reckons for each engine.

python benchmarks/loss_on_tpus.py [--topology=v5e:16x16,v5p:8x8x16] [--batch-size=65536] [--engine=dense,gathered,ring]
Needs pip install -e '.[tpu]' and no TPU. A minute each on 2 cores.
"""

import argparse
import functools
import os
import sys
from typing import Any

from hcl_jax.errors import InputError
from hcl_jax.plan import chips, cost, program

ENGINES = ("dense", "gathered", "ring")


def compiled(topology: chips.Topology, batch: int, engine: str, precision: str) -> dict[str, Any]:
    """What the compiler says of the loss's value and gradient."""
    import jax
    import jax.numpy as jnp

    from hcl_jax import similarity
    from hcl_jax.losses import nt_xent
    from hcl_jax.parallel import mesh as meshes

    mesh = meshes.make_mesh({}, program.devices_of(topology))
    makers = {"ring": similarity.ring, "gathered": similarity.gathered}
    made = makers[engine](mesh, precision=precision) if engine in makers else similarity.dense(precision)
    rows = jax.NamedSharding(mesh, jax.P(("data", "fsdp")))
    shape = jax.ShapeDtypeStruct((batch, 128), jnp.float32, sharding=rows)
    loss = jax.named_scope("objective")(functools.partial(nt_xent, temperature=0.1, engine=made))
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), out_shardings=(None, (rows, rows)))
    facts, text = program.compiled(step.lower(shape, shape), topology)
    return facts | program.reading(text) | {"places": [program.place(d) for d in mesh.devices.flat]}


def main() -> int:
    """Prints a line for each topology and engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:16x16,v5p:8x8x16")
    parser.add_argument("--batch-size", type=int, default=65536)
    parser.add_argument("--engine", default="dense,gathered,ring")
    parser.add_argument("--precision", default="highest")
    known = parser.parse_args()
    engines = known.engine.split(",")
    if not set(engines) <= set(ENGINES) or known.batch_size < 1:
        parser.error(f"--engine of {', '.join(ENGINES)}, and --batch-size from 1")
    try:
        topologies = [chips.parse(text) for text in known.topology.split(",")]
    except InputError as error:
        parser.error(str(error))
    if any(t.kind not in chips.CHIPS or known.batch_size % t.chips for t in topologies):
        parser.error("--topology of TPU chips, whose number divides the batch size")
    os.environ.update(program.environment(topologies[0]))
    for topology in topologies:
        for engine in engines:
            found = compiled(topology, known.batch_size, engine, known.precision)
            if not found["fits"]:
                needs = {k: f"{v / 2**30:.2f} GiB" for k, v in found["needs"].items()}
                print(f"{topology.text}, batch {known.batch_size}, {engine}: does not fit, {needs}", flush=True)
                continue
            e = cost.estimate(found, topology)
            wire = sum(w.exposed for w in e.wires)
            print(
                f"{topology.text}, batch {known.batch_size}, {engine}: {e.step * 1e3:.2f} ms, of which wire "
                f"{wire * 1e3:.2f}; temporaries {found['memory']['temporaries'] / 2**20:.1f} MiB",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
