"""A fault that one process of several meets alone ends all of them, with its line and its status."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = '''
"""hcl_jax.main whose data stream fails in one process: KIND@PROCESS@STEP, then the flags."""
import os, sys
from hcl_jax import train
from hcl_jax.errors import InputError
from hcl_jax.main import main
kind, process, at = sys.argv[1].split("@")
real = train.global_batches
def batches(run, source, start, stop, bad):
    for step, batch in enumerate(real(run, source, start, stop, bad), start):
        if os.environ["JAX_PROCESS_ID"] == process and step == int(at):
            raise InputError("train 17", "unreadable", "a whole record") if kind == "input" else ValueError("boom")
        yield batch
train.global_batches = batches
sys.exit(main(sys.argv[2:]))
'''
SMALL = [
    "--config=simclr:digits", "--config.data.num_examples=96", "--config.data.batch_size=16",
    "--config.towers.image.encoder.widths=(8,)", "--config.towers.image.heads.z.hidden=16",
    "--config.evaluate.views={}", "--config.log.every=1", "--config.checkpoint.every=2", "--config.train.steps=30",
    "--config.log.tensorboard=false", "--config.optimizer.warmup_epochs=0",
]  # fmt: skip


@pytest.mark.parametrize(("fault", "status", "said"), [
    pytest.param("input@1@4", 2, "train 17: found unreadable", marks=pytest.mark.slow),
    pytest.param("input@0@4", 2, "train 17: found unreadable", marks=pytest.mark.faults),
    pytest.param("value@1@4", 1, "ValueError: boom", marks=pytest.mark.faults),
])  # fmt: skip
def test_a_fault_of_one_process(fault, status, said, tmp_path):
    """R8 and R26, of a process that leaves by itself: the others are not left waiting, and nothing is tried again."""
    (tmp_path / "faulty.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "launch.local", "--processes=2", "--",
               sys.executable, str(tmp_path / "faulty.py"), fault, *SMALL, f"--workdir={tmp_path / 'w'}"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert (tmp_path / "w" / "checkpoints" / "2" / "MANIFEST.json").exists()
