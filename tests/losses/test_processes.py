"""A loss is the same number, with the same gradient, over several processes: 2 x 4 CPU devices joined by Gloo.

The processes hold as many rows and not as many valid ones, so that a mean of the processes' means is another number.
"""

import inspect
import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcl_jax.losses import LOSSES
from launch.local import environments, free_port
from tests.losses.cases import assert_same, normal
from tests.quick import QUICK

N, D, SLOTS = 32, 5, 24
PROCESSES, DEVICES_EACH, SECONDS = 2, 4, 300
IDS = np.arange(N, dtype=np.int32)
IDS[[1, 2, 3, 5, 6, 8, 9, 10, 12, 13, 14, 20]] = -1  # eleven of the first process, whose third device has one row left
IDS[[7, 17, 30]] = 4  # positives in both processes
WEIGHTS = np.random.default_rng(3).uniform(0.5, 2.0, N).astype(np.float32)
# loss -> (arrays, learned numbers)
CALLS = {
    "nt_xent": (normal(0, 2, N, D), {"temperature": 0.2}),
    "info_nce": ((*normal(1, 2, N, D), normal(2, SLOTS, D)), {"temperature": 0.3}),
    "clip": (normal(3, 2, N, D), {"scale": 5.0}),
    "siglip": (normal(4, 2, N, D), {"scale": 5.0, "bias": -3.0}),
    "sup_con": (normal(5, 2, N, D), {"temperature": 0.2}),
    "vicreg": (normal(6, 2, N, D), {}),
    "barlow_twins": (normal(7, 2, N, D), {}),
}
PROCESS = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.config.update("jax_enable_x64", True)
from hcl_jax.runtime import distributed
distributed.join()
from tests.losses import test_processes
test_processes.work(sys.argv[2])
"""


def engines(name: str) -> tuple[str, ...]:
    return ("dense", "ring", "gathered") if "engine" in inspect.signature(LOSSES[name]).parameters else ("dense",)


def value_and_gradients(name: str, place, **more) -> tuple:
    """Of the arrays and of the learned numbers, each array where `place` puts it."""
    arrays, learned = CALLS[name]
    fixed = {"ids": place(IDS), "row_weights": place(WEIGHTS)}

    def loss(arrays, learned, fixed):
        return LOSSES[name](*arrays, **learned, **fixed, **more)

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), compiler_options={"xla_backend_optimization_level": 0})
    return step(tuple(map(place, arrays)), {key: jnp.float64(x) for key, x in learned.items()}, fixed)


def work(output: str) -> None:
    """What each process does: every loss by every engine, its own rows given, all results written as text."""
    from jax.experimental import multihost_utils

    from hcl_jax.parallel.mesh import make_mesh
    from hcl_jax.parallel.sharding import batch_sharding, local_rows, to_global
    from hcl_jax.similarity import dense, gathered, ring

    assert jax.process_count() == PROCESSES and jax.local_device_count() == DEVICES_EACH
    mesh = make_mesh({})
    sharding = batch_sharding(mesh)

    def place(x: np.ndarray) -> jax.Array:
        rows = local_rows(sharding, len(x))
        assert len(rows) == len(x) // PROCESSES
        return to_global(x[rows], sharding, rows, len(x))

    made = {"dense": dense(), "ring": ring(mesh), "gathered": gathered(mesh)}
    results = {}
    for name in CALLS:
        for engine in engines(name):
            given = {"engine": made[engine]} if len(engines(name)) > 1 else {}
            found = multihost_utils.process_allgather(value_and_gradients(name, place, **given), tiled=True)
            results[f"{name}, {engine}"] = [np.asarray(x).tolist() for x in jax.tree.leaves(found)]
    pathlib.Path(output).write_text(json.dumps(results))
    multihost_utils.sync_global_devices("done")


def run(folder: pathlib.Path) -> list[dict]:
    """The results of each process; none outlives this call."""
    env = os.environ | {"XLA_FLAGS": QUICK}
    env["PYTHONPATH"] = os.pathsep.join([os.getcwd(), env.get("PYTHONPATH", "")])
    outputs, logs = ([folder / f"{i}.{end}" for i in range(PROCESSES)] for end in ("json", "log"))
    children: list[subprocess.Popen] = []
    until = time.monotonic() + SECONDS
    try:
        for variables, output, log in zip(environments(PROCESSES, free_port()), outputs, logs, strict=True):
            command = [sys.executable, "-c", PROCESS, str(DEVICES_EACH), str(output)]
            with log.open("wb") as said:
                children.append(subprocess.Popen(command, env=env | variables, stdout=said, stderr=said))
        statuses: list[int | None] = [None]
        # When one fails, the others would wait for it.
        while None in statuses and not any(statuses) and time.monotonic() < until:
            time.sleep(0.1)
            statuses = [child.poll() for child in children]
        assert statuses == [0] * PROCESSES, f"{statuses}: " + "".join(log.read_text()[-3000:] for log in logs)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()
    return [json.loads(output.read_text()) for output in outputs]


@pytest.mark.slow
def test_equal_over_processes(tmp_path):
    half = N // PROCESSES
    assert [(IDS[i : i + half] >= 0).sum() for i in range(0, N, half)] == [5, 15]
    found = run(tmp_path)
    assert found[0] == found[1]
    assert len(found[0]) == sum(len(engines(name)) for name in CALLS) == 5 * 3 + 2  # two have no engine
    with jax.enable_x64(True):
        for name in CALLS:
            value, gradients = jax.device_get(value_and_gradients(name, jnp.asarray))
            assert abs(value) > 1e-2 and max(abs(x).max() for x in gradients[0]) > 1e-3
            wanted = jax.tree.leaves((value, gradients))
            for engine in engines(name):
                got = [np.array(x) for x in found[0][f"{name}, {engine}"]]
                assert [x.shape for x in got] == [x.shape for x in wanted]
                assert_same(got, wanted, f"{name}, {engine}")
