"""The number of threads that a run's last bits follow from is recorded, and said where it changes."""

import json
import os
import shutil

import pytest

from hcl_jax.main import main
from hcl_jax.runtime import machine


def test_threads(monkeypatch):
    """As XLA:CPU counts them: a variable, else the cores that the process may use."""
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert machine.threads() == machine.usable_cores() == 3
    monkeypatch.setenv("NPROC", "7")
    assert machine.threads() == 7 and machine.usable_cores() == 3
    monkeypatch.setenv("PJRT_NPROC", "many")
    assert machine.threads() == 7
    assert 2**20 < machine.memory() < 2**60


@pytest.mark.slow
def test_another_number_of_threads_is_said(shared_run, tmp_path, monkeypatch, capsys):
    """D8: a run that goes on with another number names the one that keeps its bits; card.json has both."""
    before = machine.threads()
    folder = shutil.copytree(shared_run, tmp_path / "w")
    card = json.loads((folder / "card.json").read_text())["devices"]
    assert (card["host_cores"], card["cpu_threads"]) == (machine.usable_cores(), before)
    assert main([f"--workdir={folder}"]) == 0
    assert "threads of XLA:CPU" not in capsys.readouterr().out
    monkeypatch.setenv("NPROC", str(before + 1))
    assert main([f"--workdir={folder}"]) == 0
    said = capsys.readouterr().out
    assert said.count(f"threads of XLA:CPU: {before} -> {before + 1}") == 1 and f"NPROC={before} keeps them" in said
