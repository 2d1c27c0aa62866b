"""The cheap claims in their small form, from the command line to the sheet; and what their files point at."""

import json
import pathlib

import numpy as np
import pytest

from hcl_jax.claims import claim as claims
from hcl_jax.claims import features, programs, rehearsal
from hcl_jax.claims.__main__ import main
from hcl_jax.claims.keys import Prints
from hcl_jax.errors import InputError
from hcl_jax.run import Parts
from hcl_jax.workdir import write_arrays

CHEAP = ["linear", "bound"]
PACKAGED = claims.files()


@pytest.mark.slow
def test_cheap_claims(tmp_path, capsys):
    """From training to the sheet: two claims that share a run."""
    flags = ["--small", "--cache", str(tmp_path / "cache")]
    assert main(["run", *CHEAP, *flags]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.count("train ssl") == 1
    assert main(["report", *CHEAP, *flags, "--output", str(tmp_path / "docs")]) == 0
    sheet = json.loads((tmp_path / "docs" / "claims.json").read_text())["claims"]
    assert list(sheet) == CHEAP
    for result in sheet.values():
        for s in result["statements"]:
            assert s["verdict"] in ("holds", "fails", "undecided") and len(s["values"]) == 2
            if s["test"] == "mean" and s["half_width"] > abs(s["value"] - s["threshold"]):
                assert s["verdict"] == "undecided"
    assert [s["verdict"] for s in sheet["bound"]["statements"]] == ["holds"] * 3  # no training is needed for a theorem
    assert main(["list", *CHEAP, *flags]) == 0
    assert "not run" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["labels-digits", "quality-moco"])
def test_what_needs_no_training_of_others(name, tmp_path):
    """Their runs are built, their views fit the models, and the measure gives every quantity of the statements."""
    claim = claims.read(name, PACKAGED, small=True)
    programs_ = plan(name, tmp_path)
    for program in {p.arm: p for p in programs_}.values():
        views = programs.views_of(claim.arms[program.arm], claim.views)
        rehearsal.check_program(program, views, Prints({}, Parts()), name)
    rehearsal.rehearse(claim, programs_, name)
    with pytest.raises(InputError, match="no_such"):
        wrong = claim._replace(statements=tuple(s._replace(quantity="no_such") for s in claim.statements))
        rehearsal.rehearse(wrong, programs_, name)


def plan(name: str, tmp_path: pathlib.Path, small: bool = True) -> list[programs.Program]:
    claim = claims.read(name, PACKAGED, small=small)
    return programs.programs(claim, str(PACKAGED[name]), prints=Prints({}, Parts()), cache=tmp_path)


def test_a_program_points_at_the_folder_of_another(tmp_path):
    judge, *others = plan("quality-moco", tmp_path)
    assert judge.seeds == (0,) and {p.arm for p in others} == {"clean", "plain", "random", "quality"}
    for p in others:
        assert p.config.init_from.path == str(tmp_path / "runs" / judge.key) and p.needs == (judge,)
        assert p.seeds == (0, 1) and p.config.train.seeds == 2
    assert len({p.key for p in (judge, *others)}) == 5
    # The folder's own name decides nothing; what is in it does.
    elsewhere = plan("quality-moco", tmp_path / "other")
    assert [p.key for p in elsewhere] == [p.key for p in (judge, *others)]


def test_features_of_a_seed_as_data(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    kinds = {"image": ("train", "test"), "noisy": ("test",), "other": ("train", "test"), "wide": ("test",)}
    for view, splits in kinds.items():
        for split in splits:
            n = 6 if split == "train" else 4
            arrays |= {
                f"{view}/{split}/features": rng.standard_normal((n, 5 if view == "wide" else 3)).astype(np.float32),
                f"{view}/{split}/labels": np.arange(n),
                f"{view}/{split}/present": np.arange(n) != 1,
            }
    write_arrays(tmp_path / "seed2.npz", arrays)
    folder = features.as_data(tmp_path, 2, "image", "here")
    train, test = (dict(np.load(folder / f"{s}.npz")) for s in ("train", "test"))
    np.testing.assert_array_equal(train["label"], [0, 2, 3, 4, 5])  # the row without the view is left out
    np.testing.assert_array_equal(test["domain"], [0, 0, 0, 1, 1, 1])  # neither another data set nor another width
    np.testing.assert_array_equal(test["features"][3:], arrays["noisy/test/features"][[0, 2, 3]])
    with pytest.raises(ValueError, match="no training features of the view 'noisy'"):
        features.as_data(tmp_path, 2, "noisy", "here")


def test_pointers(tmp_path):
    noisy, *heads = plan("nmtune-labels", tmp_path, small=False)
    assert noisy.seeds == tuple(range(8)) and len(heads) == 24
    assert all(len(p.seeds) == 1 and p.needs == (noisy,) for p in heads)
    # Per-seed programs differ in what they are trained on, and so in their keys.
    assert len({p.key for p in heads}) == 24


def test_views_of_an_arm():
    claim = claims.read("labels-digits", PACKAGED)
    assert set(programs.views_of(claim.arms["scratch"], claim.views)) == {"head"}
    linear = claims.read("linear", PACKAGED)
    assert set(programs.views_of(linear.arms["ssl"], linear.views)) == {"image"}
