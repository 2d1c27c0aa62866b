"""The loops of docs/loops.md run as they are printed, and their losses fall."""

import pathlib
import re
import runpy

import numpy as np
import pytest

TEXT = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "loops.md").read_text()
BLOCKS = dict(re.findall(r"^## ([^\n]+)\n+```python\n(.*?)^```", TEXT, re.M | re.S))


def test_there_are_three():
    assert list(BLOCKS) == ["Flax Linen", "Flax NNX", "Equinox"]
    assert len(BLOCKS) + 1 == TEXT.count("```python")
    for block in BLOCKS.values():
        assert "hcl_jax.train" not in block and "nt_xent(" in block
        assert sum(bool(line) and not line.startswith(("import", "from")) for line in block.splitlines()) <= 18


def test_the_mesh_of_the_last_example(tmp_path):
    (tmp_path / "mesh.py").write_text(TEXT.rpartition("```python\n")[2].rpartition("```")[0])
    made = runpy.run_path(str(tmp_path / "mesh.py"))
    assert made["mesh"].size == 8 and np.isfinite(made["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS)
def test_the_loss_falls(name, tmp_path):
    (tmp_path / "loop.py").write_text(BLOCKS[name])
    losses = np.array(runpy.run_path(str(tmp_path / "loop.py"))["losses"])
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 0.5
    assert losses[-10:].max() < losses[:10].min()  # and not by the luck of a batch
