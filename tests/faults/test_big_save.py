"""kill -9 while 50 MB are being written behind the run."""

import random
import time

import pytest
from faults import runs

# An MLP of 64 -> 2048 -> 3072: 6.4 million parameters, and two moments each.
BIG = (
    *runs.QUIET,
    "--config.towers.image.encoder={'name': 'mlp', 'widths': (2048, 3072)}",
    "--config.train.steps=40",
    "--config.checkpoint.every=2",
)


def size(folder) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def later(folder, step) -> bool:
    return any(p.name.isdecimal() and int(p.name) > step for p in (folder / "checkpoints").glob("*"))


@pytest.mark.faults
def test_a_kill_in_the_middle_of_a_save(tmp_path, cache):
    """R4: at six moments from a seed; the newest step is whole, it is that of a quiet run, and nothing else stays."""
    runs.finish(tmp_path / "whole", *BIG, "--config.checkpoint.keep=100", **runs.ONE, cache=cache)
    folder, drawn = tmp_path / "w", random.Random(4)
    assert size(tmp_path / "whole" / "checkpoints" / "40") >= 50e6
    newest, cut = 0, 0
    for kill in range(6):
        run = runs.start(folder, *BIG, **runs.ONE, cache=cache)
        if newest:
            run.wait_for(lambda run=run: "resumed at step" in run.said())
            assert f"resumed at step {newest} of 40" in run.said() and runs.unfinished(folder) == []
        run.wait_for(lambda before=newest: later(folder, before) and runs.unfinished(folder))
        time.sleep(drawn.uniform(0, 0.4))
        run.kill()
        left = runs.unfinished(folder)
        cut += bool(left)
        newest = runs.saved(folder)[-1]
        print(f"kill {kill + 1}: at step {run.step()}, newest {newest}, unfinished {left}")
        assert runs.digest(folder) == runs.digest(tmp_path / "whole", newest)
    runs.finish(folder, *BIG, **runs.ONE, cache=cache)
    runs.same(folder, tmp_path / "whole")
    assert cut >= 3  # kills that met a save
