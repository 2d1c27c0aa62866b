"""A claim from file to verdict: what is cached, what is noticed, what a kill loses."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hcl_jax.claims import claim as claims
from hcl_jax.claims import report, study
from hcl_jax.claims.cache import alone
from hcl_jax.claims.keys import Prints
from hcl_jax.claims.programs import programs, run_folder
from hcl_jax.run import Parts

CLAIM = """
title = "Flipped labels"
finding = "They cost something."
source = "none"
minutes = 1
seeds = 2
measure = "recovery"

[arguments]
clean = "clean"
damaged = "damaged"
remedy = "clean"
control = "damaged"
view = "features"

[views.features]
kind = "features"
field = "features"
ops = []
tower = "head"
output = "y"

[runs.clean]
config = "second_stage:linear"
set = { "train.steps" = 4, "data.batch_size" = 16, "data.num_classes" = 3, "towers.head.heads.y.features" = 3 }

[runs.damaged]
config = "second_stage:linear"

[runs.damaged.set]
"train.steps" = 4
"data.batch_size" = 16
"data.num_classes" = 3
"towers.head.heads.y.features" = 3
"data.flipped" = 0.5

[[statements]]
says = "they cost something"
quantity = "lost"
above = 0.0
"""


def data(folder: pathlib.Path, shift: float = 0.0) -> pathlib.Path:
    folder.mkdir(exist_ok=True)
    for split, n in (("train", 48), ("test", 30)):
        rng = np.random.default_rng(n)
        label = np.arange(n) % 3
        features = 3 * np.eye(3, 5)[label] + rng.standard_normal((n, 5)) + shift
        np.savez(folder / f"{split}.npz", features=features.astype(np.float32), label=label)
    return folder


@pytest.fixture
def world(tmp_path):
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "mine.toml").write_text(CLAIM)
    data(tmp_path / "data")
    return tmp_path


def run(world: pathlib.Path) -> tuple[dict, list[str]]:
    said: list[str] = []
    known = claims.files(world / "claims")
    options = {"cache": world / "cache", "dirs": {"npz": str(world / "data")}}
    return study.run("mine", known, **options, say=said.append), said


def trained(said: list[str]) -> int:
    return sum(line.startswith("  train ") for line in said)


@pytest.mark.slow
def test_cached_noticed_reported(world, capsys):
    first, said = run(world)
    assert trained(said) == 2 and any("2, 0 cached" in line for line in said)
    assert set(first["numbers"]) == {"0", "1"} and first["statements"][0]["n"] == 2
    assert first["numbers"]["0"]["lost"] != first["numbers"]["1"]["lost"]

    again, said = run(world)
    assert not trained(said) and again["numbers"] == first["numbers"]
    assert not any("features" in line or "measure" in line for line in said)

    # Another threshold is another claim, of the same runs.
    (world / "claims" / "mine.toml").write_text(CLAIM.replace("above = 0.0", "above = -2.0"))
    loose, said = run(world)
    assert not trained(said) and any("other claim file" in line for line in said)
    assert loose["statements"][0]["verdict"] == "holds"

    # Another field of one arm: that arm alone.
    (world / "claims" / "mine.toml").write_text(CLAIM.replace('"data.flipped" = 0.5', '"data.flipped" = 0.6'))
    _, said = run(world)
    assert trained(said) == 1 and any("other config" in line for line in said)

    # Other data: everything, and nothing of the old is read.
    (world / "claims" / "mine.toml").write_text(CLAIM)
    data(world / "data", shift=1.0)
    known = claims.files(world / "claims")
    options = {"cache": world / "cache", "dirs": {"npz": str(world / "data")}}
    with pytest.raises(ValueError, match="another claim file"):
        study.state_of("mine", known, **options)
    other, said = run(world)
    assert trained(said) == 2 and any("data" in line and "other" in line for line in said)
    assert other["numbers"] != first["numbers"]
    data(world / "data", shift=2.0)
    kept, since = study.state_of("mine", known, **options)
    assert kept["numbers"] == other["numbers"] and since.startswith("other data")
    data(world / "data", shift=1.0)
    assert study.state_of("mine", known, **options)[1] == ""

    options["dirs"] = {}  # the result knows them
    text = report.write(["mine"], known, output=world / "docs", **options)
    assert "1 claims" in text and str(world) not in (world / "docs" / "claims.json").read_text()
    sheet = (world / "docs" / "claims.md").read_text()
    statement = other["statements"][0]
    assert "they cost something" in sheet and statement["verdict"] in sheet
    assert f"{statement['value']:+.3f} ± {statement['half_width']:.3f}" in sheet
    written = json.loads((world / "docs" / "claims.json").read_text())
    assert written["claims"]["mine"]["numbers"] == other["numbers"]
    assert (world / "docs" / "claims" / "mine.png").stat().st_size > 5000

    # A cache that is lost: the sheet says the same, and whether code and data are still the same.
    options |= {"cache": world / "none", "dirs": {"npz": str(world / "data")}}
    assert "0 measured before" in report.write(["mine"], known, output=world / "docs", **options)
    assert (world / "docs" / "claims.md").read_text() == sheet
    # Another claim under the same name has no result.
    (world / "claims" / "mine.toml").write_text(CLAIM.replace("above = 0.0", "above = -2.0"))
    with pytest.raises(ValueError, match="no claim with a result"):
        report.write(["mine"], known, output=world / "docs", **options)
    assert (world / "docs" / "claims.md").read_text() == sheet


def test_the_sheet_of_the_repository_outlives_its_code(tmp_path, monkeypatch):
    """What was measured with the code of before is reported as it was, from docs/claims.json alone."""
    docs = pathlib.Path(__file__).resolve().parents[2] / "docs"
    (tmp_path / "claims.json").write_bytes((docs / "claims.json").read_bytes())
    monkeypatch.setattr(study, "programs", lambda *a, **k: [])
    monkeypatch.setattr(study, "_key", lambda *a: ("other", {"config": "c", "data": "d", "code": "e"}))
    monkeypatch.setattr(report, "_plot", lambda *a: None)
    known = claims.files(None)
    line = report.write(list(known), known, output=tmp_path, cache=tmp_path / "cache", dirs={})
    assert f"{len(known)} claims" in line and f"{len(known)} measured before, 0 without" in line
    assert (tmp_path / "claims.json").read_bytes() == (docs / "claims.json").read_bytes()
    head, _, rest = (tmp_path / "claims.md").read_text().partition("\n## Measured before\n")
    assert rest.count("other config, data, code than when it was measured") == len(known)
    assert head + rest[rest.index("\n## ") :] == (docs / "claims.md").read_text()


@pytest.mark.slow
def test_bad_features_and_quantities(world):
    (world / "claims" / "mine.toml").write_text(CLAIM.replace('quantity = "lost"', 'quantity = "losst"'))
    with pytest.raises(ValueError, match=r"statements\[0\].quantity.*losst.*lost"):
        run(world)
    (world / "claims" / "mine.toml").write_text(CLAIM.replace('control = "damaged"', 'controls = "damaged"'))
    with pytest.raises(ValueError, match="mine.toml: arguments.*control"):
        run(world)
    assert not (world / "cache").exists()


@pytest.mark.slow
def test_damaged_files_are_made_again(world):
    first, _ = run(world)
    cache = world / "cache"
    for path in (
        *cache.glob("measured/*/seed0.json"),
        *cache.glob("results/*.json"),
        *cache.glob("features/*/seed1.npz"),
    ):
        path.write_bytes(path.read_bytes()[:40])
    sorted(cache.glob("runs/*/done.json"))[0].write_text("{}")
    again, said = run(world)
    assert again["numbers"] == first["numbers"]
    assert sum("features of" in line for line in said) == 2


@pytest.mark.slow
def test_a_tie_stops_no_report(world):
    text = CLAIM.replace('quantity = "lost"', 'quantity = "over_control"\ntest = "sign"')
    (world / "claims" / "mine.toml").write_text(text.replace('remedy = "clean"', 'remedy = "damaged"'))
    result, said = run(world)
    assert result["statements"][0]["n"] == 0 and "every seed on the threshold" in said[-1]
    known = claims.files(world / "claims")
    options = {"cache": world / "cache", "dirs": {"npz": str(world / "data")}}
    report.write(["mine"], known, output=world / "docs", **options)
    assert "every seed on the threshold" in (world / "docs" / "claims.md").read_text()


@pytest.mark.slow
def test_one_command_at_a_time(world):
    known = claims.files(world / "claims")
    claim = claims.read("mine", known)
    plan = programs(claim, "", prints=Prints({"npz": str(world / "data")}, Parts()), cache=world / "cache")
    with alone(run_folder(world / "cache", plan[0])):
        with pytest.raises(ValueError, match="another command at work"):
            run(world)
    run(world)


def test_features_of_another_view_are_other_data(world):
    """A second stage on features: what the view is made of is in its key."""

    def keys() -> list[str]:
        known = claims.files(world / "claims")
        claim = claims.read("mine", known)
        prints = Prints({"npz": str(world / "data")}, Parts())
        return [p.key for p in programs(claim, "", prints=prints, cache=world / "cache")]

    stage = (
        '\n[runs.{}]\nconfig = "second_stage:linear"\nper_seed = true\nset = {{ "data.dir" = "features:clean/{}" }}\n'
    )
    view = '\n[views.other]\nkind = "features"\nfield = "features"\nops = []\ntower = "head"\noutput = "h"\n'
    text = CLAIM + view + stage.format("one", "features") + stage.format("two", "other")
    (world / "claims" / "mine.toml").write_text(text)
    first = keys()
    assert len(set(first)) == len(first) == 6
    (world / "claims" / "mine.toml").write_text(text.replace('output = "y"', 'output = "h"'))
    second = keys()
    assert first[:2] == second[:2] and not set(first[2:]) & set(second[2:])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.pop("features"), "features"),
        (lambda a: a["features"].__setitem__((0, 0), np.nan), "not finite"),
        (lambda a: a.__setitem__("label", a["label"][:-1]), "one record in every array"),
    ],
)
def test_a_features_file_that_does_not_fit(world, change, words):
    path = world / "data" / "train.npz"
    arrays = dict(np.load(path))
    change(arrays)
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=words):
        run(world)
    assert not (world / "cache").exists()


def command(world: pathlib.Path) -> list[str]:
    flags = ["--claims", world / "claims", "--cache", world / "cache", "--dir", f"npz={world / 'data'}"]
    return [sys.executable, "-m", "hcl_jax.claims", "run", "mine", *map(str, flags)]


@pytest.mark.slow
def test_kill_loses_the_run_in_flight_alone(world):
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(command(world), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list((world / "cache").glob("runs/*/done.json")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {p: p.stat().st_mtime_ns for p in (world / "cache").glob("runs/*/done.json")}
    assert len(kept) == 1 and not (world / "cache" / "results").exists()
    result, said = run(world)
    assert trained(said) == 1
    assert all(p.stat().st_mtime_ns == at for p, at in kept.items())
    # The same numbers as without a kill.
    (world / "cache").rename(world / "killed")
    quiet, _ = run(world)
    assert quiet["numbers"] == result["numbers"]
