"""A long run: one trace of the step, no transfer that nobody asked for, and memory that does not grow."""

import json

import pytest
from faults import runs

WATCHED = """
import json, os, pathlib, sys
import jax
from hcl_jax import run, train
from hcl_jax.workdir.metrics import Log

found = {"traces": 0, "rss": {}}
step, loop, write = run.train_step, train.loop, Log.write

def traced(*a, **k):
    found["traces"] += 1
    return step(*a, **k)

def guarded(*a, **k):
    with jax.transfer_guard("disallow"):
        return loop(*a, **k)

def measured(self, at, metrics):
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    found["rss"][at] = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    write(self, at, metrics)
    if at == 1000: print("found " + json.dumps(found), flush=True)

run.train_step, train.loop, Log.write = traced, guarded, measured
"""


@pytest.mark.faults
@pytest.mark.parametrize("devices", [8])
def test_a_thousand_steps(tmp_path, cache, devices):
    """R33: counted, guarded and measured in a process of its own, with ten saves."""
    flags = (*runs.QUIET, f"--config.mesh.data={devices}", "--config.train.steps=1000", "--config.checkpoint.every=100")
    run = runs.finish(tmp_path / "w", *flags, processes=1, devices=devices, cache=cache, before=WATCHED)
    (line,) = [x for x in run.said().splitlines() if x.startswith("found ")]
    found = json.loads(line.removeprefix("found "))
    assert found["traces"] == 1
    early, late = found["rss"]["200"], found["rss"]["1000"]
    print(f"resident: {early:.1f} MiB at step 200, {late:.1f} MiB at step 1000: {100 * (late / early - 1):+.2f} %")
    assert late < 1.05 * early
