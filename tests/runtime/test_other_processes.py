"""R11: what one process saved, two and four restore, and what four saved, two: the same leaves, the same next batch."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from quick import QUICK

DEVICES = 4
# Each task is (restore from, save to); "" begins a run, or saves nothing.
WORKER = """
import hashlib, json, pathlib, sys
from hcl_jax.runtime import distributed
distributed.prepare()
distributed.join(100)
import jax, numpy as np
from jax.experimental import multihost_utils
from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.workdir.checkpoint import Checkpoints
from hcl_jax.parallel import mesh as meshes
from hcl_jax.parallel import sharding
from hcl_jax.run import Parts, build, global_batches

config = configs.load("simclr:digits")
for field, text in {
    "data.num_examples": "96", "data.batch_size": "16", "mesh.fsdp": "2", "towers.image.encoder.widths": "(4, 8)",
    "towers.image.heads.z.hidden": "8", "train.steps": "9",
}.items():
    configs.override(config, field, text)
config = configs.complete(config)
source = data.open_source(config.data, "train")
run = build(config, Parts(), source, meshes.make_mesh(config.mesh))
assert any(not s.is_fully_replicated for s in jax.tree.leaves(run.shardings.params)), "nothing is split"

def bits(tree):
    plain = jax.jit(lambda t: jax.tree.map(
        lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x, t))(tree)
    whole = multihost_utils.process_allgather(plain, tiled=True)
    return {k: [str(x.dtype), list(x.shape), hashlib.sha256(np.asarray(x).tobytes()).hexdigest()]
            for k, x in sharding.flat_paths(whole).items()}

said = []
for origin, to in json.loads(sys.argv[1]):
    if origin:
        checkpoints = Checkpoints(origin, keep=1, meta=run.meta(source), read_only=True)
        state = checkpoints.restore(run.abstract, run.shardings)
        checkpoints.close()
        for leaf, at in zip(jax.tree.leaves(state), jax.tree.leaves(run.shardings), strict=True):
            assert leaf.sharding == at
    else:
        state, _ = run.step()(run.init(), next(global_batches(run, source, 0, 1)))
    step = int(state.step)
    if to:
        checkpoints = Checkpoints(to, keep=1, meta=run.meta(source), check_replicas=True)
        checkpoints.save(step, state)
        checkpoints.close()
    batch = next(global_batches(run, source, step, step + 1))
    said.append({"step": step, "processes": jax.process_count(), "state": bits(state), "batch": bits(batch)})
if jax.process_index() == 0:
    pathlib.Path(sys.argv[2]).write_text(json.dumps(said))
"""


@pytest.fixture
def by(tmp_path):
    """Runs tasks in so many processes; what each task restored or made, and its next batch."""

    def run(processes, *tasks):
        answer = tmp_path / "said.json"
        texts = [["" if p is None else str(tmp_path / p) for p in task] for task in tasks]
        call = [sys.executable, "-m", "launch.local", f"--processes={processes}", f"--devices={DEVICES // processes}"]
        call += ["--", sys.executable, "-c", WORKER, json.dumps(texts), str(answer)]
        ran = subprocess.run(
            call,
            cwd=pathlib.Path(__file__).parents[2],
            env=os.environ | {"XLA_FLAGS": QUICK, "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert ran.returncode == 0, ran.stderr[-4000:]
        said = json.loads(answer.read_text())
        assert all(x.pop("processes") == processes for x in said)
        return said

    return run


@pytest.mark.slow
def test_other_numbers_of_processes(by):
    (first,) = by(1, (None, "one"))
    assert first["step"] == 1 and len(first["state"]) > 20
    assert by(4, ("one", "four")) == [first]
    assert by(2, ("one", None), ("four", None)) == [first, first]
