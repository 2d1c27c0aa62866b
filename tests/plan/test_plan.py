"""`python -m hcl_jax.plan` end to end on virtual devices of this machine, and what it refuses."""

import importlib.util
import json
import subprocess
import sys

import pytest
import tpu_here

from hcl_jax.plan import __main__ as plan
from hcl_jax.plan import program

SMALL = ["--config=simclr:digits", "--config.data.batch_size=32", "--config.towers.image.encoder.widths=(8,)",
         "--config.towers.image.heads.z.hidden=16"]  # fmt: skip


@pytest.mark.slow
def test_a_plan_for_this_machine_and_its_cache(capsys, tmp_path, monkeypatch):
    flags = [*SMALL, "--topology=cpu:4", f"--cache={tmp_path}", "--json"]
    assert plan.main(flags) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["fits"] and row["chips"] == 4 and len(row["places"]) == 4
    assert row["sizes"]["inputs"] * 4 == row["input_bytes"]  # the batch is split, the parameters are copied
    assert row["memory"]["arguments"] >= row["sizes"]["parameters"] + row["sizes"]["optimizer"]
    assert {c["kind"] for c in row["collectives"]} & {"all-reduce", "all-gather"}
    monkeypatch.setattr(plan.subprocess, "run", None)  # nothing is compiled a second time
    assert plan.main(flags) == 0
    assert json.loads(capsys.readouterr().out) == [row]
    assert plan.main([*flags[:-1], "--price=1"]) == 0
    assert "cpu:4" in capsys.readouterr().out


@pytest.mark.parametrize("message", [
    "Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.",
    "Ran out of memory on HBM, the total memory required for HLO temporaries (20.50G) exceeds available HBM (15.75G).",
])  # fmt: skip
def test_what_is_missing_is_read_from_the_compilers_message(message):
    assert program._needs(message) == {"used": int(20.5 * 2**30), "there": int(15.75 * 2**30)}
    assert program._needs("another error") is None


@pytest.mark.parametrize(("flags", "said"), [
    (["--topology=v9:2x2"], "v9"),
    (["--topology=cpu:4", "--config.data.batch_size=30"], "batch_size"),
    (["--topology=cpu:4", "--config.mesh.data=8"], "mesh.data"),
    (["--topology=cpu:4", "--batch-size=many"], "--batch-size"),
])  # fmt: skip
def test_bad_input_is_one_line(flags, said, capsys, tmp_path):
    assert plan.main([*SMALL, *flags, f"--cache={tmp_path / 'c'}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("hcl_jax: ") and said in error
    assert not (tmp_path / "c").exists()


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_libtpu_the_line_says_what_to_install(capsys):
    assert plan.main([*SMALL, "--topology=v5e:2x4"]) == 2
    assert "pip install hcl_jax[tpu]" in capsys.readouterr().err


def planned(*flags):
    """The rows of a plan in a process that finds libtpu."""
    command = [sys.executable, "-m", "hcl_jax.plan", *SMALL, *flags, "--json"]
    done = subprocess.run(command, env=tpu_here.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@tpu_here.needed
@pytest.mark.slow
def test_a_plan_for_eight_chips_and_for_two_slices(tmp_path):
    flags = (f"--cache={tmp_path}", "--topology=v5e:2x4,2*v5e:2x4")
    one, two = planned(*flags)
    for row in (one, two):
        estimate = row["estimate"]
        assert estimate["from_cycles"] and {"encoder", "objective"} <= set(estimate["compute"])
        assert 0 < estimate["roofline"] <= estimate["step"] <= estimate["unhidden"]
    assert len(one["places"]) == 8 and len({tuple(p) for p in one["places"]}) == 8
    assert {w["crosses"] for w in one["estimate"]["wires"]} == {"links"}
    assert [p[0] for p in two["places"]] == [0] * 8 + [1] * 8  # data joins the slices
    assert {w["crosses"] for w in two["estimate"]["wires"]} == {"links", "network"}
    compiled = sorted(p.stat().st_mtime_ns for p in tmp_path.glob("*.hlo.gz"))
    assert planned(*flags) == [one, two]
    assert sorted(p.stat().st_mtime_ns for p in tmp_path.glob("*.hlo.gz")) == compiled  # nothing twice


@tpu_here.needed
@pytest.mark.slow
def test_a_step_that_does_not_fit_says_how_much_there_is(tmp_path):
    (row,) = planned(f"--cache={tmp_path}", "--topology=v5e:1x1", "--batch-size=1048576", "--no-advice",
                     "--config.data.num_examples=1048576", "--config.train.engine=streamed")  # fmt: skip
    assert not row["fits"] and row["needs"]["used"] > row["needs"]["there"] > 15 * 2**30
