"""The memory that plan reads from a compiled step, beside what a process that runs the step takes."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
MIB = 2**20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self")
def test_a_process_takes_what_the_compiler_says(tmp_path):
    found = tmp_path / "found.json"
    command = [sys.executable, "benchmarks/plan_memory.py", "--programs=small", "--flags=run", "--repeats=1"]
    subprocess.run([*command, f"--json={found}"], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    (program,) = json.loads(found.read_text(encoding="utf-8")).values()
    (step,) = program["steps"]
    assert step["predicted"] >= 256 * MIB
    assert step["aliased"] > 0.99 * step["outputs"]  # the donated state is not there twice
    assert 0.95 * step["predicted"] < step["measured"] < 1.3 * step["predicted"]
