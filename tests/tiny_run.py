"""A run of seconds for the launchers, what it leaves, and how to catch it on its way."""

import os
import pathlib
import subprocess
import sys
import time

from benchmarks.digest import digest as saved_digest
from hcl_jax.workdir.history import last_step

ROOT = pathlib.Path(__file__).resolve().parents[1]
STEPS = 120
PROGRAMS = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")  # variables that conftest.py sets
FLAGS = [
    "--config=simclr:digits",
    "--config.data.num_examples=96",
    "--config.data.batch_size=16",
    "--config.towers.image.encoder.widths=(8,16)",
    "--config.towers.image.heads.z.hidden=16",
    "--config.log.every=1",
    "--config.log.tensorboard=false",
    "--config.checkpoint.every=1000000",
    "--config.optimizer.warmup_epochs=0",
    "--config.evaluate.views={}",
    f"--config.train.steps={STEPS}",
]


def environment() -> dict[str, str]:
    """That of a user's shell: without the tests' flags but their compiled programs, with the project on the path."""
    tests = ("XLA_", "JAX_", "SLURM_", "OMPI_", "PMI")
    kept = {k: v for k, v in os.environ.items() if k.startswith(PROGRAMS) or not k.startswith(tests)}
    bin = str(pathlib.Path(sys.executable).parent)
    return kept | {"PYTHONPATH": str(ROOT), "PATH": f"{bin}:{kept['PATH']}:/usr/sbin:/sbin"}


def latest(workdir: pathlib.Path) -> int:
    """The step of the last line of metrics.jsonl; 0 for none."""
    return last_step(workdir / "metrics.jsonl")


def wait_for(ready, seconds: float = 400, text=lambda: "") -> None:
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, text()
        time.sleep(0.1)


def digest(workdir: pathlib.Path, step: int = STEPS) -> str:
    """That of a step of the run, which must be there."""
    return saved_digest(workdir, step)[1]


def local(workdir: pathlib.Path) -> str:
    """The digest of the run with launch.local, two processes."""
    command = [sys.executable, "-m", "launch.local", "--processes=2", "--", sys.executable, "-m", "hcl_jax.main"]
    command += [*FLAGS, f"--workdir={workdir}"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return digest(workdir)
