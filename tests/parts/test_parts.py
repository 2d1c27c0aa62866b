"""`python -m hcl_jax.parts`: every entry of every table, one in full, and one line for a name that does not exist."""

import subprocess
import sys

import pytest

from hcl_jax.parts.__main__ import KINDS, main
from hcl_jax.parts.catalogue import TABLES, catalogue


def test_the_kinds_are_those_of_the_catalogue(capsys):
    assert (*TABLES, "recipes") == KINDS
    assert main([]) == 0
    counts = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert counts == {kind: str(len(catalogue(kind))) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_has_a_line(kind, capsys):
    """A part without a docstring, or whose docstring is that of functools.partial or of Linen, shows here."""
    assert main([kind]) == 0
    shown = capsys.readouterr().out
    for part in catalogue(kind).values():
        assert part.call in shown
        assert len(part.line) > 4 and "partial(" not in part.line and "flax" not in part.line, part


def test_arguments_are_those_that_a_recipe_may_give():
    """A partial's settings stand for the class's, and what the model fills in is left out."""
    heads, losses, views = catalogue("heads"), catalogue("losses"), catalogue("views")
    assert heads["predictor"].arguments["hidden"] == "512" and heads["projector"].arguments["hidden"] == "0"
    assert losses["nt_xent"].call == "nt_xent(za, zb, *, temperature, convention='mean', denominator='all')"
    assert views["flip"].arguments == {"p": "0.5", "axis": "'horizontal'"}
    assert catalogue("encoders")["resnet50"].arguments["depth"] == "50"
    assert list(catalogue("recipes")["clip"].arguments) == ["emoji", "icons", "pairs", "csv", "vit_b", "siglip_b"]


def test_one_in_full(capsys):
    assert main(["losses", "nt_xent"]) == 0
    shown = capsys.readouterr().out
    assert "loss = (1 / 2N) sum_i l_i" in shown and "hcl_jax.losses.nt_xent" in shown
    assert main(["recipes", "simclr:digits"]) == 0  # as --config takes it
    assert "configs/simclr.py" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["losses", "nt_xnt"], "hcl_jax: losses NAME: found 'nt_xnt'; allowed: nt_xent, "),
        (["loss"], "hcl_jax: KIND: found 'loss'; allowed: losses, "),
    ],
)
def test_an_unknown_name_is_one_line(arguments, line, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(line) and said.err.count("\n") == 1


COMMANDS = (
    "main", "embed", "generate", "preview", "check.__main__", "claims.__main__", "compare.__main__",
    "neighbours.__main__", "parts.__main__", "plan.__main__", "report.__main__", "tokenizer.__main__",
)  # fmt: skip


def test_help_imports_neither_jax_nor_tensorflow():
    """Of any command: one process asks all of them, and says which was the first to import what takes seconds."""
    code = f"""
import contextlib, importlib, io, sys
for name in {COMMANDS}:
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        importlib.import_module("hcl_jax." + name).main(["--help"])
    found = {{"jax", "flax", "tensorflow"}} & set(sys.modules)
    if found or not said.getvalue().startswith("usage: python -m hcl_jax." + name.partition(".")[0]):
        sys.exit(f"{{name}}: {{found}} {{said.getvalue()[:60]}}")
"""
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True).stderr == ""
