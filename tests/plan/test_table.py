"""What a plan's table and advice say, on rows and compilers made up by hand."""

import argparse
import pathlib

import pytest

from hcl_jax import config as configs
from hcl_jax.errors import InputError
from hcl_jax.plan import __main__ as plan
from hcl_jax.plan import chips, table

GIB = 2**30
NEEDS = {"fits": False, "needs": {"used": 40 * GIB, "there": 16 * GIB}, "sizes": {"parameters": 2**20, "optimizer": 0}}


def fitting(step=0.5, steps=7200, **fields):
    wires = [
        {"kind": "all-reduce", "part": "encoder", "crosses": "links", "bytes": 2e6, "seconds": 0.1, "exposed": 0.1}
    ]
    limits = {"products": 0.2, "memory": 0.25, "wire": 0.01}
    estimate = {"step": step, "unhidden": step + 0.1, "roofline": 0.25, "bound": "memory", "limits": limits,
                "compute": {"encoder": 0.3, "objective": 0.05, "optimizer": 0.05},
                "wires": wires, "from_cycles": True,
                "accessed": 0.2, "work": {"encoder backward dot_general": 0.3}}  # fmt: skip
    return {"topology": "v5e:2x4", "batch_size": 256, "chips": 8, "hosts": 2, "fits": True, "steps": steps,
            "memory": {"arguments": GIB, "temporaries": 2 * GIB}, "flops": 3e9, "traffic": 2e9,
            "rows": 256, "input_bytes": 256 * 1000, "unknown_loops": 0, "estimate": estimate} | fields  # fmt: skip


def cells(text):
    head, line = (row.split("  ") for row in text.splitlines()[:2])
    return dict(zip(filter(None, map(str.strip, head)), filter(None, map(str.strip, line)), strict=True))


def test_the_cells_of_a_step_that_fits():
    found = cells(table.text([fitting()], price=2.0))
    assert found["GiB"] == "3.00" and found["temp"] == "2.00" and found["step ms"] == "500.00"
    assert found["no overlap"] == "600.00" and found["ratio"] == "2.00" and found["wire"] == "20.0%"
    assert found["rows/s"] == "512" and found["host rows/s"] == "256"
    assert found["hours"] == "1.00" and found["cost"] == "16"  # an hour of 8 chips at 2


@pytest.mark.parametrize(
    ("rate", "said"), [(None, "256 rows/s and 0 MB/s a host"), (300.0, "keeps up"), (200.0, "does not keep up")]
)
def test_whether_the_input_keeps_up(rate, said):
    assert said in table.text([fitting()], rate=rate)


def test_what_is_not_known_of_any_row_has_no_column():
    """A CPU has no peaks: twelve empty columns, and a small step's work as 0 GFLOP."""
    found = fitting(topology="cpu:4", flops=3e7)
    del found["estimate"]
    head, line = table.text([found]).splitlines()[:2]
    assert "step ms" not in head and "hours" not in head and cells(f"{head}\n{line}")["GFLOP"] == "0.03"
    assert "step ms" in table.text([found, fitting()]).splitlines()[0]


def test_each_seed_has_rows_of_its_own():
    found = cells(table.text([fitting(rows=1024)]))
    assert found["rows/s"] == "2,048" and found["host rows/s"] == "1,024"
    assert "1,024 rows/s and 0 MB/s" in table.text([fitting(rows=1024, input_bytes=1024 * 100)])


def test_a_shape_that_is_no_slice_is_told():
    assert "no slice" in table.text([fitting(topology="v5e:16x32")])
    assert "no slice" not in table.text([fitting(topology="2*v5e:16x16")])


def test_a_chart_has_a_bar_a_row_or_is_not_made(tmp_path):
    no_cycles = fitting()
    no_cycles["estimate"] |= {"from_cycles": False, "compute": {}}
    assert table._milliseconds(no_cycles["estimate"]) == {"bound by memory": 250.0, "wire": 250.0}
    assert sum(table._milliseconds(fitting()["estimate"]).values()) == pytest.approx(500.0)
    assert table.chart([fitting(), no_cycles, row()], tmp_path / "x.png") and (tmp_path / "x.png").stat().st_size
    assert not table.chart([row()], tmp_path / "y.png") and not (tmp_path / "y.png").exists()


def test_what_can_not_be_known_is_said():
    assert "num_examples" in table.text([fitting(steps=0)])
    without = fitting()
    without["estimate"] |= {"from_cycles": False}
    assert "no cycles of this compiler" in table.text([without])
    assert "2 loops of unknown length" in table.text([fitting(unknown_loops=2)])


def row(**fields):
    return {"topology": "v5e:2x4", "batch_size": 256, "chips": 8, "hosts": 2} | NEEDS | fields


def test_what_does_not_fit_says_by_how_much_and_what_was_tried():
    tried = [{"fields": {"train.remat": True}, "needs": {"used": 20 * GIB, "there": 16 * GIB}},
             {"fields": {"train.remat": True, "train.cache": 4},
              "refused": "config.train.cache: found 4; allowed: 1"}]  # fmt: skip
    text = table.text([row(tried=tried)])
    assert "needs 40.00 GiB, 16.00 are there" in text and "--config.train.remat=True: 20.00 GiB" in text
    assert "found 4; allowed: 1" in text and "nothing that was tried" in text
    text = table.text([row(tried=tried[:1], helps={"train.remat": True, "train.cache": 2}, with_them=fitting())])
    assert "--config.train.remat=True --config.train.cache=2: fits, 3.00 GiB, 500.00 ms a step" in text


def digits():
    return configs.complete(configs.load("simclr:digits"))


def compiler(monkeypatch, answer):
    """Plays the compiler: `answer` of a config; returns what it was asked."""
    asked = []

    def play(config, topology, cache):
        asked.append({k: config["train"][k] for k in ("compute_dtype", "remat", "cache", "engine", "accumulate")})
        found = answer(config)
        if isinstance(found, str):
            raise InputError("config.train.cache", found, "1")
        return found

    monkeypatch.setattr(plan, "compile_cached", play)
    monkeypatch.setattr(plan, "_estimated", lambda found, topology: {"estimate": {"step": 1.0}})
    return asked


def advice():
    return plan.advice(digits(), chips.parse("v5e:2x4"), NEEDS, pathlib.Path())


def test_advice_puts_one_change_upon_the_other_until_it_fits(monkeypatch):
    asked = compiler(monkeypatch, lambda c: {"fits": True} if c.train.remat else NEEDS)
    tried, helped = advice()
    assert [(a["compute_dtype"], a["remat"]) for a in asked] == [("bfloat16", False), ("bfloat16", True)]
    assert [t["fields"] for t in tried] == [{"train.compute_dtype": "bfloat16"}]
    assert helped["helps"] == {"train.compute_dtype": "bfloat16", "train.remat": True}


def test_a_change_that_is_refused_is_told_and_left_out(monkeypatch):
    compiler(monkeypatch, lambda c: "4" if c.train.cache > 1 else {"fits": True} if c.train.accumulate == 4 else NEEDS)
    tried, helped = advice()
    assert helped["helps"]["train.accumulate"] == 4 and "train.cache" not in helped["helps"]  # 1.3 x 40 / 16, as 2^n
    assert any("refused" in t for t in tried)


def test_when_nothing_helps_every_try_is_told(monkeypatch):
    asked = compiler(monkeypatch, lambda c: NEEDS)
    tried, helped = advice()
    assert helped == {} and len(tried) == len(asked) == 5  # parameters are few, so sharding them is not tried


def test_a_refused_row_among_several_is_a_row(monkeypatch, tmp_path):
    compiler(monkeypatch, lambda c: "x" if c.data.batch_size == 100 else NEEDS)
    known = argparse.Namespace(topology="cpu:4", batch_size="100,256", cache=tmp_path, no_advice=True)
    first, second = plan.plan(digits(), known)
    assert "found x" in first["refused"] and second["tried"] == [] and not second["fits"]
    known.batch_size = "100"
    with pytest.raises(InputError):
        plan.plan(digits(), known)
