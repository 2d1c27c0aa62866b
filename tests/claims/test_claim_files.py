"""Claim files: the packaged ones, and what is refused in one's own."""

import pathlib

import pytest

from hcl_jax import config as configs
from hcl_jax.claims import claim as claims
from hcl_jax.claims.__main__ import main

PACKAGED = claims.files()
GOOD = """
title = "t"
finding = "f"
source = "s"
minutes = 1
seeds = 2
measure = "linear_signal"
[arguments]
run = "a"
view = "image"
[runs.a]
untrained = true
config = "simclr:digits"
[[statements]]
says = "x"
quantity = "product_gap_trained"
below = 0.1
"""


VIEW = '[views.b]\nkind = "image"\nfield = "image"\ntower = "image"\nops = []\n'


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged(name):
    claim = claims.read(name, PACKAGED)
    assert claim.seeds >= 8 and claim.minutes > 0 and claim.statements
    for arm in claim.arms.values():
        config = configs.load(arm.config)
        for field, value in arm.fields.items():
            configs.override(config, field, value if isinstance(value, str) else repr(value))


def test_claims_by_the_beginning_of_their_name():
    for name in ("labels", "linear", "bound", "noise-id", "noise-ood", "spectrum", "nmtune", "quality", "views"):
        assert claims.chosen([name], PACKAGED)


def test_like_takes_the_runs_of_another():
    a, b = (claims.read(n, PACKAGED) for n in ("linear", "bound"))
    assert a.arms == b.arms and a.measure != b.measure


def folder(tmp_path: pathlib.Path, text: str, name: str = "mine") -> pathlib.Path:
    (tmp_path / f"{name}.toml").write_text(text)
    return tmp_path


def test_small_is_laid_over(tmp_path):
    known = claims.files(folder(tmp_path, GOOD + '\n[small]\nseeds = 3\nruns.a.set = { "train.steps" = 1 }\n'))
    assert claims.read("mine", known).arms["a"].fields == {}
    small = claims.read("mine", known, small=True)
    assert small.seeds == 3 and small.arms["a"].fields == {"train.steps": 1} and small.arms["a"].config


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("below = 0.1", "", ("statements[0]", "no threshold")),
        ("below = 0.1", "below = 0.1\nabove = 0.2", ("above and below", "one of them")),
        ('measure = "linear_signal"', 'measure = "linear"', ("measure", "'linear'", "linear_signal")),
        ("seeds = 2", "seeds = 1", ("mine.toml: seeds: found 1", "a whole number >= 2")),
        ('title = "t"', "", ("mine.toml: title: found no value",)),
        ("minutes = 1", 'minutes = "long"', ("minutes", "'long'")),
        ("[arguments]", "sedes = 3\n[arguments]", ("mine.toml: sedes: found an unknown field", "seeds")),
        ("below = 0.1", 'below = 0.1\ntest = "median"', ("test", "'median'", "sign")),
        ('config = "simclr:digits"', "", ("runs.a.config", "no value")),
        ('config = "simclr:digits"', 'config = "simclr:digits"\nviews = ["b"]', ("runs.a.views", "'b'")),
        ('config = "simclr:digits"', 'config = "simclr:digits"\nvary = { "data.flipped" = [] }', ("vary", "list")),
        ('view = "image"', "", ("arguments", "no view")),
        ('view = "image"', 'view = "image"\nvews = 1', ("arguments", "'vews'", "view")),
        ("below = 0.1", "below = nan", ("statements[0].below", "nan", "a number or None")),
        ("below = 0.1", "above = -inf", ("statements[0].above", "-inf")),
        ("minutes = 1", "minutes = nan", ("minutes", "nan", "a number > 0")),
        ('title = "t"', 'title = " "', ("title", "nothing")),
        ('config = "simclr:digits"', 'config = "simclr:digits"\nseeds = -1', ("runs.a.seeds", "-1")),
        ('config = "simclr:digits"', 'config = "simclr:digits"\nset = { seed = 7 }', ("runs.a.set", "'seed'")),
        ('config = "simclr:digits"', 'config = "simclr:digits"\nviews = [["b"]]', ("runs.a.views", "['b']")),
        ("[[statements]]", '[views.b]\nkind = "image"\n[[statements]]', ("views.b.field", "no value")),
        ("[[statements]]", VIEW + "foo = 1\n[[statements]]", ("views.b.foo", "an unknown field")),
        ("[[statements]]", VIEW + 'splits = ["val"]\n[[statements]]', ("views.b.splits[0]", "val", "test, train")),
        (
            "[[statements]]",
            VIEW.replace("[]", '[{ op = "noize" }]') + "[[statements]]",
            ("views.b.ops[0].op", "noize", "noise"),
        ),
        ("[[statements]]", VIEW.replace("[]", '["noise"]') + "[[statements]]", ("views.b.ops[0]", "'noise'")),
        ("[[statements]]", VIEW + "data = { nam = 1 }\n[[statements]]", ("views.b.data.nam", "name")),
        ('title = "t"', 'title = "t"\nlike = ["mine"]', ("like", "['mine']")),
        ("title =", "title ==", ("no TOML",)),
        ('title = "t"', 'title = "t"\nlike = "other"', ("like", "'other'")),
    ],
)
def test_refused(tmp_path, capsys, old, new, words):
    where = folder(tmp_path, GOOD.replace(old, new, 1))
    assert main(["list", "--claims", str(where), "--cache", str(tmp_path / "cache")]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and all(w in line for w in words), line
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("simclr:digits", "simclr:digitz", ("runs.a.config", "digitz", "digits")),
        ("simclr:digits", "simclar:digits", ("runs.a.config", "simclar", "simclr")),
        ('config = "simclr:digits"', 'config = "simclr:digits"\nset = { "train.stops" = 3 }', ("set.train.stops",)),
        ('config = "simclr:digits"', 'config = "simclr:digits"\nset = { "data.name" = "digitz" }', ("digitz",)),
        (
            'config = "simclr:digits"',
            'config = "simclr:digits"\nset = { "data.flipped" = 1.5 }',
            ("1.5", "data.flipped"),
        ),
        ('config = "simclr:digits"', 'config = "simclr:digits"\nset = { "init_from.path" = "run:b" }', ("'run:b'",)),
        ('config = "simclr:digits"', 'config = "second_stage:linear"', ("config.data.dir", "--dir")),
        # Known before the first training, by shapes and by the measure on made-up features.
        ("product_gap_trained", "gap", ("statements[0].quantity", "'gap'", "product_gap_trained")),
        ('run = "a"', 'run = "b"', ("arguments", "arm 'b'", "a")),
        ('view = "image"', 'view = "imag"', ("arguments", "'imag'", "image")),
        ("[[statements]]", VIEW + 'output = "y"\n[[statements]]', ("runs.a", "y")),
        (
            "[[statements]]",
            VIEW.replace('tower = "image"', 'tower = "tower"') + "[[statements]]",
            ("runs.a", "'tower'"),
        ),
        ("[[statements]]", VIEW + 'label = "class"\n[[statements]]', ("runs.a", "'class'")),
        ('config = "simclr:digits"', 'config = "simclr:digits"\nset = { "data.sample" = 5000 }', ("5000", "1437")),
    ],
)
def test_a_run_is_refused_before_anything_is_written(tmp_path, capsys, old, new, words):
    where = folder(tmp_path, GOOD.replace(old, new, 1))
    assert main(["run", "mine", "--claims", str(where), "--cache", str(tmp_path / "cache")]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "mine.toml" in line and all(w in line for w in words), line
    assert not (tmp_path / "cache").exists()


def test_command(tmp_path, capsys):
    assert main(["run", "nothing"]) == 2
    assert "linear" in capsys.readouterr().err
    assert main(["run"]) == 2
    assert main(["run", "linear", "--dir", "emoji"]) == 2
    assert main(["run", "linear", "--dir", f"emoji={tmp_path / 'no'}"]) == 2
    assert main(["list", "--claims", str(tmp_path / "no")]) == 2
    assert main(["run", "linear", "--dir", "npz=/tmp", "--dir", "npz=/tmp"]) == 2
    assert main(["run", "views", "--small"]) == 2
    assert main(["report", "linear"]) == main(["report", "--small"]) == 2  # not over the sheet of all
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "a b.toml").write_text(GOOD)
    assert main(["list", "--claims", str(tmp_path / "odd")]) == 2
    assert main(["report", "--cache", str(tmp_path / "no"), "--output", str(tmp_path / "docs")]) == 2
    assert not (tmp_path / "docs").exists()
    capsys.readouterr()
    assert main(["list", "--cache", str(tmp_path / "no")]) == 0
    assert "not run" in capsys.readouterr().out


def test_the_example_of_the_readme(tmp_path):
    text = (pathlib.Path(__file__).parents[2] / "claims" / "README.md").read_text()
    known = claims.files(folder(tmp_path, text.split("```toml\n")[1].split("```")[0]))
    for small in (False, True):
        claim = claims.read("mine", known, small=small)
        assert set(claim.arms) == {"simclr", "simsiam"} and claim.seeds == (2 if small else 8)
