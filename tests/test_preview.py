"""Pictures of views: each kind, and its one line."""

import numpy as np
import pytest

from hcl_jax import preview


@pytest.mark.parametrize("recipe", ["grace:blocks", "graphcl:motifs", "dpo:preferences", "simclr:digits"])
def test_every_kind_of_view_is_drawn(recipe, tmp_path, capsys):
    output = tmp_path / "views.png"
    assert preview.main([f"--config={recipe}", f"--output={output}", "--rows=2"]) == 0
    assert output.stat().st_size > 1000
    assert "2 rows of step 0" in capsys.readouterr().out


def test_a_text_with_dollars_is_no_formula(tmp_path):
    tokens = np.array([[b + 3 for b in b"a_$b^$c"]])
    preview.draw({"t": {"tokens": tokens}}, {}, 1, str(tmp_path / "t.png"))
    assert (tmp_path / "t.png").exists()


def test_bytes_are_shown_as_text_and_other_ids_as_numbers():
    assert preview.text(np.array([1, *(b + 3 for b in b"red car"), 2, 0])) == "red car"
    assert preview.text(np.array([5, 17, 1, 3, 0])) == "5 17 1 3"
