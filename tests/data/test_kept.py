"""What a run keeps of its records: the same batches by shape, and none to read."""

import json

import numpy as np
import pytest
from PIL import Image

from hcl_jax import data
from hcl_jax.errors import InputError

MISSING = InputError("config.data.dir", "no folder x", "a folder")


@pytest.mark.parametrize("name", ["digits", "motifs", "blocks", "folder", "mixture"])
def test_all_is_known_but_the_records(name, config, view, tmp_path):
    """Shapes come from what was written; a reader of records gets the reason why there are none."""
    for i, side in enumerate((6, 6, 8)):
        path = tmp_path / "train" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((side, 5, 3), 9, np.uint8)).save(path)
    folder = {"name": "folder", "dir": str(tmp_path)}
    asked = {"mixture": {"parts": {"a": folder, "b": folder}}, "folder": folder}.get(name, {}) | {"name": name}
    asked = config(**{"num_examples": 0 if name == "mixture" else 3} | asked)
    source = data.open_source(asked, "train")
    kind = "graph" if "graph" in source.fields else "image"
    views = {"v": view(kind, *([{"op": "resize", "size": 4}] if kind == "image" else []), kind=kind)}
    made = data.without_records(data.kept(source), asked, "data.json", MISSING)
    size = {"seed": 0, "batch_size": 8, "order": "whole" if source.whole else "shuffled"}
    assert data.batch_specs(made, views, **size) == data.batch_specs(source, views, **size)
    assert list(made.fields.items()) == list(source.fields.items()) and made.fingerprint == source.fingerprint
    assert made.labels == source.labels and made.class_names == source.class_names
    for read in (lambda: made.fetch(np.arange(1)), lambda: data.evaluation_batches(made, views, batch_size=8, rows=[0]),
                 lambda: data.batches(made, views, batch_size=8, rows=[0], seed=0, start=0, stop=1)):  # fmt: skip
        with pytest.raises(InputError, match="no folder x"):
            next(read())


def test_another_file_or_layout_is_refused(config):
    for text, said in (
        ("{", "data.json: found no data.json .JSONDecodeError"),
        ("{}", "found no data.json .KeyError: 'layout'"),
        ('{"layout": 9}', "found layout 9; allowed: layout 1"),
    ):
        with pytest.raises(InputError, match=said):
            data.without_records(text, config(), "data.json", MISSING)


def test_a_changed_value_is_refused_and_a_resume_writes_the_file_again(config, tmp_path):
    """Any value: most would give wrong numbers or a traceback much later."""
    asked, said, path = config(name="digits", num_examples=3), [], tmp_path / "data.json"
    source = data.open_source(asked, "train")
    data.keep(path, source, said.append)
    good = path.read_text()
    data.without_records(good, asked, "data.json", MISSING)
    for field in json.loads(good).keys() - {"layout"}:
        path.write_text(json.dumps(json.loads(good) | {field: "x"}))
        with pytest.raises(InputError, match="data.json: found other contents .* allowed: the file that the run wrote"):
            data.without_records(path.read_text(), asked, "data.json", MISSING)
    data.keep(path, source, said.append)
    assert path.read_text() == good and said == []


def test_a_source_of_ones_own_may_say_its_dtype_as_numpy_does_or_what_no_file_can_hold(config, tmp_path):
    """The file is no reason to end a run that would train."""
    source, said = data.open_source(config(name="digits", num_examples=3), "train"), []
    own = source._replace(fields={k: (shape, np.dtype(dtype)) for k, (shape, dtype) in source.fields.items()})
    assert data.kept(own) == data.kept(source)
    data.keep(tmp_path / "data.json", source._replace(present=object()), said.append)
    (line,) = said
    assert line.startswith("no data.json, so that") and not list(tmp_path.iterdir())
