"""TensorFlow is imported without Keras, which stays importable."""

import importlib.util
import sys

import pytest

from hcl_jax.views.lazy import without_keras


@pytest.mark.parametrize("loaded", [False, True])
def test_keras_is_hidden_from_the_import_alone(tmp_path, monkeypatch, loaded):
    """A module as TensorFlow's own: Keras is imported in a `try`. What somebody has imported before stays as it is."""
    (tmp_path / "likes_keras.py").write_text("try:\n    import keras\nexcept ImportError:\n    keras = None\n")
    (tmp_path / "fails.py").write_text("import keras\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    if loaded:
        monkeypatch.setitem(sys.modules, "keras", sys)
    assert without_keras("likes_keras").keras is (sys if loaded else None)
    del sys.modules["likes_keras"]
    assert sys.modules.get("keras") is (sys if loaded else None) and ("keras" in sys.modules) == loaded
    if not loaded:
        with pytest.raises(ImportError):
            without_keras("fails")
        assert "keras" not in sys.modules and importlib.util.find_spec("keras") is not None
