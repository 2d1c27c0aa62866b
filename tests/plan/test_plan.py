"""`python -m hcl_jax.plan` end to end on virtual devices of this machine, and what it refuses."""

import gzip
import importlib.util
import json
import subprocess
import sys

import pytest
import tpu_here

from hcl_jax import config as configs
from hcl_jax.errors import InputError
from hcl_jax.plan import __main__ as plan
from hcl_jax.plan import chips, program, shapes
from hcl_jax.workdir import files

SMALL = ["--config=simclr:digits", "--config.data.batch_size=32", "--config.towers.image.encoder.widths=(8,)",
         "--config.towers.image.heads.z.hidden=16"]  # fmt: skip


@pytest.mark.slow(one=True)
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


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "said"), [
    (["--topology=v9:2x2"], "v9"),
    (["--topology=cpu:4", "--config.data.batch_size=30"], "batch_size"),
    (["--topology=cpu:4", "--config.mesh.data=8"], "mesh.data"),
    (["--topology=cpu:4", "--config.towers.image.encoder.name=nope"], "encoder.name"),
    (["--topology=cpu:4", "--batch-size=many"], "--batch-size"),
    (["--topology=cpu:4", "--batch-size=0"], "--batch-size"),
    (["--topology=cpu:4", "--batch-size=8,-8"], "--batch-size"),
    (["--topology=cpu:4", "--batch-size="], "--batch-size"),
    (["--topology=cpu:4", "--price=-1"], "--price"),
    (["--topology=cpu:4", "--price=nan"], "--price"),
    (["--topology=cpu:4", "--input-rate=0"], "--input-rate"),
    (["--topology=cpu:4", "--chart=plan.jpg"], ".png"),
    (["--topology=cpu:4", "--chart=/dev/null/plan.png"], "can be written"),
])  # fmt: skip
def test_bad_input_is_one_line(flags, said, capsys, tmp_path):
    assert plan.main([*SMALL, *flags, f"--cache={tmp_path / 'c'}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("hcl_jax: ") and said in error
    assert not (tmp_path / "c").exists()


def test_a_mesh_must_cover_what_is_rented():
    with pytest.raises(InputError, match="2 of the 4 devices"):
        program.lowered(plan.changed(DIGITS, {"mesh.data": 2}), CPU)


@pytest.mark.parametrize("cache", [__file__, f"{__file__}/below", "gs://bucket/plan"])
def test_a_cache_that_can_not_be_written_is_refused_before_a_compile(cache, capsys, monkeypatch):
    monkeypatch.setattr(plan.subprocess, "run", None)
    assert plan.main([*SMALL, "--topology=cpu:4", f"--cache={cache}"]) == 2
    assert "--cache" in capsys.readouterr().err


DIGITS = configs.complete(configs.load("simclr:digits"))
CPU = chips.parse("cpu:4")


class Process:
    """Plays the process that compiles: leaves the files of a program, or fails with a text."""

    def __init__(self, cache, status=0, errors=""):
        self.cache, self.returncode, self.stderr, self.times = cache, status, errors, 0
        self.stdout = json.dumps({"program": "made"}) + "\n"

    def __call__(self, *_, **__):
        self.times += 1
        files.keep(self.cache / "made.hlo.gz", gzip.compress(b"ENTRY %main {\n}\n"))
        files.keep(self.cache / "made.json", json.dumps({"fits": True, "flops": 7.0}))
        return self


@pytest.mark.parametrize("name", ["made.json", "made.hlo.gz", "asked-*.json"])
@pytest.mark.parametrize("damage", [lambda f: f.unlink(), lambda f: f.write_bytes(f.read_bytes()[:10]),
                                    lambda f: f.write_bytes(b"")])  # fmt: skip
def test_a_damaged_cache_is_made_again(name, damage, tmp_path, monkeypatch):
    process = Process(tmp_path)
    monkeypatch.setattr(plan.subprocess, "run", process)
    whole = plan.compile_cached(DIGITS, CPU, tmp_path)
    assert whole["flops"] == 7.0 and plan.compile_cached(DIGITS, CPU, tmp_path) == whole and process.times == 1
    damage(next(tmp_path.glob(name)))
    assert plan.compile_cached(DIGITS, CPU, tmp_path) == whole and process.times == 2


@pytest.mark.parametrize(("status", "errors", "said"), [
    (1, "Traceback\njaxlib._jax.XlaRuntimeError: INTERNAL: no\n more\n", "XlaRuntimeError: INTERNAL: no"),
    (-9, "", "memory runs out"), (3, "", "status 3"),
])  # fmt: skip
def test_a_compile_that_fails_is_one_line(status, errors, said, tmp_path, monkeypatch):
    monkeypatch.setattr(plan.subprocess, "run", Process(tmp_path, status, errors))
    with pytest.raises(InputError, match=said):
        plan.compile_cached(DIGITS, CPU, tmp_path)


def test_ctrl_c_and_a_reader_that_went_away(tmp_path, monkeypatch, capsys):
    def pressed(*_):
        raise KeyboardInterrupt

    flags = [*SMALL, "--topology=cpu:4", f"--cache={tmp_path}"]
    monkeypatch.setattr(plan, "compile_cached", pressed)
    assert plan.main(flags) == 130
    assert "hcl_jax: stopped" in capsys.readouterr().err


def test_rows_that_are_all_refused_are_bad_input(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise InputError("a", "b", "c")

    monkeypatch.setattr(plan, "compile_cached", refuse)
    assert plan.main([*SMALL, "--topology=cpu:4,cpu:8", f"--cache={tmp_path}"]) == 2
    assert "cpu:8, batch 32: a: found b" in capsys.readouterr().out


@pytest.mark.parametrize(("recipe", "known", "examples"), [
    ("simclr:imagenet", True, 1_281_167), ("simclr:digits", True, 1437), ("graphcl:motifs", True, 200),
    ("second_stage:linear", False, 0), ("clip:emoji", False, 0),
])  # fmt: skip
def test_hours_stand_on_examples_that_are_known(recipe, known, examples):
    """Numbers that random_like makes up are not the data's."""
    source, said = shapes.source_of(configs.complete(configs.load(recipe)))
    assert said == known and (not known or source.num_examples == examples)


def test_a_state_that_a_gpu_has_no_room_for_does_not_fit(tmp_path):
    state = {"program": "", "roofline": {"state": 81 * 10**9}}
    assert plan._found(state, chips.parse("h100:8"), tmp_path)["needs"] == {"used": 81 * 10**9, "there": 80 * 10**9}
    assert plan._found({"program": "", "roofline": {"state": 1}}, chips.parse("h100:8"), tmp_path)["fits"]


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_libtpu_the_line_says_what_to_install(capsys):
    assert plan.main([*SMALL, "--topology=v5e:2x4"]) == 2
    assert "pip install -e '.[tpu]'" in capsys.readouterr().err


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
def test_every_collective_of_a_sharded_state_is_read(tmp_path):
    (row,) = planned(f"--cache={tmp_path}", "--topology=v5e:2x4", "--config.mesh.data=2", "--config.mesh.fsdp=4",
                     "--no-advice")  # fmt: skip
    assert row["unknown_groups"] == 0
    sizes = {len(c["devices"]) for c in row["collectives"]}
    assert sizes <= {2, 4, 8} and 4 in sizes
    moved = sum(c["bytes"] for c in row["collectives"] if len(c["devices"]) == 4)
    assert moved > row["sizes"]["parameters"] / 2  # gathered at least once, in bfloat16 or wider


@tpu_here.needed
@pytest.mark.slow
def test_a_step_that_does_not_fit_says_how_much_there_is(tmp_path):
    (row,) = planned(f"--cache={tmp_path}", "--topology=v5e:1x1", "--batch-size=262144", "--no-advice",
                     "--config.train.engine=dense")  # fmt: skip
    assert not row["fits"] and row["needs"]["used"] > row["needs"]["there"] > 15 * 2**30
