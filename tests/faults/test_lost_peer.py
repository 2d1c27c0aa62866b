"""A peer that is lost where the others read, save or evaluate: they end as launch.restart starts again."""

import os
import subprocess
import sys

import pytest
from faults import runs

from launch.local import environments, free_port

# One of two processes dies once: before the step that is to be saved, in the comparison of replicas, in an evaluation.
SCRIPT = '''
"""hcl_jax.main in which process 1 kills itself once: PLACE FLAG-FILE, then the flags."""
import os, pathlib, signal, sys
from hcl_jax import evaluation, train
from hcl_jax.main import main
from hcl_jax.parallel import replicas
place, mark = sys.argv[1], pathlib.Path(sys.argv[2])
def die():
    if os.environ["JAX_PROCESS_ID"] == "1" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
def before(module, name):
    real = getattr(module, name)
    def called(*a, **k):
        die()
        return real(*a, **k)
    setattr(module, name, called)
real = train.global_batches
def batches(run, source, start, stop, bad):
    for step, batch in enumerate(real(run, source, start, stop, bad), start):
        if step == 5:  # the sixth, of which every third is saved
            die()
        yield batch
if place == "step":
    train.global_batches = batches
elif place == "replicas":
    before(replicas, "differing")
else:
    before(evaluation.Evaluation, "full")
sys.exit(main(sys.argv[3:]))
'''


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("step", marks=pytest.mark.slow),
        pytest.param("replicas", marks=pytest.mark.faults),
        pytest.param("evaluation", marks=pytest.mark.faults),
    ],
)
def test_a_survivor_is_started_again(tmp_path, cache, place):
    """R8: each process has a wrapper of its own, as on two machines; both end with 0, and nobody helps."""
    (tmp_path / "faulty.py").write_text(SCRIPT)
    evaluated = place == "evaluation"
    flags = [*runs.FLAGS, *(() if evaluated else runs.QUIET), "--config.train.steps=9", "--config.checkpoint.every=3",
             "--config.limits.heartbeat=10", f"--workdir={tmp_path / 'w'}"]  # fmt: skip
    wrapper = [sys.executable, "-m", "launch.restart", "--wait=0.1", "--"]
    command = [*wrapper, sys.executable, str(tmp_path / "faulty.py"), place, str(tmp_path / "dead"), *flags]
    children = []
    for mine in environments(2, free_port(), 4):
        environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | mine
        environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONPATH": str(runs.ROOT)}
        children.append(
            subprocess.Popen(
                command, cwd=runs.ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    said = [child.communicate(timeout=runs.PATIENCE)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], "\n".join(said)
    assert (tmp_path / "dead").exists()
    assert said[0].count("launch.restart: status 134") == 1 and said[1].count("launch.restart: status 137") == 1, said
    assert runs.saved(tmp_path / "w")[-1] == 9
