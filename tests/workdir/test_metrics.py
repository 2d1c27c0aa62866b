"""metrics.jsonl holds each step once, in order, whatever was killed in between."""

import io
import json
import math
import re
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from hcl_jax.errors import InputError
from hcl_jax.evaluators.groups import Features
from hcl_jax.evaluators.points import points
from hcl_jax.views.drawn import grid
from hcl_jax.workdir.card import markdown
from hcl_jax.workdir.history import TAIL, last_step
from hcl_jax.workdir.metrics import Log
from hcl_jax.workdir.terminal import Terminal, repeated
from hcl_jax.workdir.trackers import TRACKERS, Opening, chosen
from hcl_jax.workdir.writers import WandB


def lines(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def open_log(path, start=0):
    return Log(path, start=start, steps=10, config={}, trackers={}, terminal=Terminal(bar=False))


def test_numbers_of_one_step_share_a_line(tmp_path):
    log = open_log(tmp_path)
    log.write(1, {"loss": 2.0})
    log.write(2, {"loss": 1.0})
    log.write(2, {"eval": 0.5})
    log.write(3, {"loss": 0.5})
    log.close()
    assert lines(tmp_path) == [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.0, "eval": 0.5},
        {"step": 3, "loss": 0.5},
    ]


def test_a_resume_drops_what_lies_past_its_checkpoint_and_half_lines(tmp_path):
    log = open_log(tmp_path)
    for step in range(1, 6):
        log.write(step, {"loss": float(step)})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    log = open_log(tmp_path, start=3)
    log.write(3, {"eval": 1.0})
    log.write(4, {"loss": 40.0})
    log.close()
    assert [(x["step"], x.get("loss")) for x in lines(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
    assert lines(tmp_path)[2]["eval"] == 1.0


def test_the_last_step_of_a_file(tmp_path):
    """The end alone is read, past what a kill cut in two, and more of it where one line is longer."""
    path = tmp_path / "metrics.jsonl"
    assert last_step(path) == 0
    path.write_text("")
    assert last_step(path) == 0
    line = json.dumps({"step": 3, "loss": 1.0}) + "\n"
    path.write_text(line * 2 + '{"step": 4, "lo')
    assert last_step(path) == 3
    path.write_text(line + json.dumps({"step": 5, "loss": 1.0}) + "\n" + json.dumps({"step": 4}) + "\n")
    assert last_step(path) == 5  # of a run that was killed before it went on
    path.write_text(line + json.dumps({"step": 6, "note": "x" * (TAIL + 100)}) + "\n")
    assert last_step(path) == 6


def test_a_number_that_is_not_finite_stays_json(tmp_path):
    log = open_log(tmp_path)
    log.write(1, {"loss": math.nan, "norm": math.inf})
    log.close()
    assert lines(tmp_path) == [{"step": 1, "loss": "nan", "norm": "inf"}]


def test_tensorboard_events_are_written(tmp_path):
    log = Log(tmp_path, start=0, steps=2, config={}, terminal=Terminal(bar=False))
    log.write(1, {"loss": 1.0})
    log.close()
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_plain_lines_say_how_long(tmp_path, capsys):
    log = open_log(tmp_path)
    log.progress(5, 1.25, 321.0, {"epoch": "2.5"})
    log.close()
    assert "step 5/10  loss 1.2500  epoch 2.5  321 examples/s" in capsys.readouterr().out


def test_the_time_left_does_not_count_the_compiler(capsys, monkeypatch):
    terminal = Terminal(bar=False)
    terminal.begin(0, 60)
    for step, now, rate in ((1, 100.0, 0.391), (11, 102.0, 99.6)):
        with monkeypatch.context() as patch:
            patch.setattr("hcl_jax.workdir.terminal.time.monotonic", lambda now=now: now)
            terminal.progress(step, 1.0, rate)
    assert capsys.readouterr().out.splitlines() == [
        "step 1/60  loss 1.0000  0.39 examples/s",
        "step 11/60  loss 1.0000  100 examples/s  0:09 left",
    ]


def test_what_takes_long_is_said_and_nothing_else(capsys):
    terminal = Terminal(bar=False)
    with terminal.while_silent("quick", seconds=60.0):
        pass
    said = threading.Event()
    terminal.say = lambda text: said.set()
    with terminal.while_silent("compiling ...", seconds=0.01):
        assert said.wait(60)
    assert capsys.readouterr().out == ""


def test_what_lasts_is_told_again_and_again_and_what_is_short_never():
    short, told, third = [], [], threading.Event()
    with repeated(short.append):
        pass
    with repeated(lambda seconds: told.append(seconds) or len(told) < 3 or third.set(), seconds=0.01):
        assert third.wait(30)
    assert not short and len(told) >= 3 and 0 < told[0] < told[1] < told[2]


def test_a_run_of_wandb_is_its_folder_and_stays_it(tmp_path, monkeypatch):
    """Two folders of one name are two runs; one that is moved, or that an earlier release began, goes on as it was."""
    asked = []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **given: asked.append(given)))
    for folder in (tmp_path / "a" / "demo", tmp_path / "b" / "demo"):
        folder.mkdir(parents=True)
        WandB(folder, str(folder), {}, {"project": "digits", "name": "", "group": "g"})
    first, second = asked
    assert first["id"] != second["id"] and first["name"] == second["name"] == "demo"
    assert first["project"] == "digits" and first["group"] == "g"
    (tmp_path / "a" / "demo" / "wandb" / f"offline-run-20260101_120000-{first['id']}").mkdir(parents=True)
    moved = (tmp_path / "a" / "demo").rename(tmp_path / "moved")
    WandB(moved, str(moved), {}, {"project": "", "name": "mine", "group": ""})
    assert asked[-1]["id"] == first["id"] and asked[-1]["name"] == "mine" and "project" not in asked[-1]


def test_trackers_of_a_user_get_the_numbers_and_one_that_fails_is_left(tmp_path, capsys):
    """A name that is not looked up, a failure that ends the run, is said at every step, or is sent numbers still."""
    seen, failed = [], []

    def mine(run):
        seen.append((run.workdir, run.start))
        return SimpleNamespace(
            write=lambda *new: seen.append(new), flush=lambda: None, close=lambda: seen.append("end")
        )

    def down(step, metrics):
        failed.append(step)
        raise ConnectionError("no route\nto the host")

    broken = SimpleNamespace(write=down, flush=lambda: None, close=lambda: failed.append("end"))
    trackers = {"mine": mine, "down": lambda run: broken, "lost": lambda run: 1 / 0}
    log = Log(tmp_path, start=0, steps=2, config={}, terminal=Terminal(bar=False), trackers=trackers)
    for step in (1, 2):
        log.write(step, {"loss": 2.0})
    log.close()
    assert seen == [(str(tmp_path), 0), (1, {"loss": 2.0}), (2, {"loss": 2.0}), "end"] and failed == [1]
    said = capsys.readouterr().out.splitlines()
    left = "it gets no more numbers, the run goes on"
    zero = f"tracker lost: ZeroDivisionError: division by zero; {left}"
    assert said == [zero, f"tracker down: ConnectionError: no route; {left}"]
    assert len(lines(tmp_path)) == 2
    asked = {"tensorboard": True, "wandb": False, "trackers": ("mlflow", "tensorboard")}
    assert chosen(asked, TRACKERS) == {"tensorboard": TRACKERS["tensorboard"], "mlflow": TRACKERS["mlflow"]}
    with pytest.raises(InputError, match="config.log.trackers: found 'mlflo'.*mlflow"):
        chosen(asked | {"trackers": ("mlflo",)}, TRACKERS)


def test_what_is_drawn_costs_no_number(tmp_path, capsys):
    """An attribute that is no method, a failing method that takes the numbers with it, a map of TensorBoard that cannot
    be written and ends the run."""
    seen = []
    plain = SimpleNamespace(write=lambda *new: seen.append(new), flush=lambda: None, close=lambda: None)
    mine = SimpleNamespace(**vars(plain), table={}, pictures=lambda *new: 1 / 0)
    own = {"tensorboard": TRACKERS["tensorboard"], "mine": lambda run: mine}
    log = Log(tmp_path, start=0, steps=2, config={}, terminal=Terminal(bar=False), trackers=own)
    (tmp_path / "tensorboard/projector").write_text("")
    for step in (1, 2):
        log.show("pictures", step, {})
        log.show("table", step, "results", "text")
        log.write(step, {"loss": 2.0})
    log.show("points", 2, {"image": (np.ones((1, 2)), {"record": ["a"]})})
    log.close()
    assert seen == [(1, {"loss": 2.0}), (2, {"loss": 2.0})]
    division, folder = capsys.readouterr().out.splitlines()
    assert division.startswith("tracker mine: ZeroDivisionError") and "no more pictures, the run goes on" in division
    assert folder.startswith("tracker tensorboard: ") and "has not taken its points, the run goes on" in folder


def test_a_run_of_mlflow_is_that_of_its_folder(tmp_path, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking", reason="mlflow-skinny is an extra")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for start in (0, 1):
        run = TRACKERS["mlflow"](Opening(tmp_path, str(tmp_path), {"train": {"steps": 2}}, start))
        run.write(start + 1, {"loss": 2.0 - start, "eval/image/knn_accuracy": 0.5})
        run.close()
    client = tracking.MlflowClient((tmp_path / "mlflow").as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("hcl_jax").experiment_id])
    assert found.data.params == {"train.steps": "2"} and found.info.status == "FINISHED"
    assert [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, "loss")] == [(1, 2.0), (2, 1.0)]


def events_of(folder):
    """(step, value) of each summary in the files of events, by tag."""
    from hcl_jax.views.lazy import tf

    found = {}
    for path in sorted(folder.glob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found[value.tag] = event.step, value
    return found


def test_pictures_a_table_and_points_are_read_back(tmp_path, capsys):
    """What TensorBoard, its text tab and its projector get; a tracker without these methods is not asked, and one whose
    method fails gets no more."""
    asked = []
    plain = SimpleNamespace(write=lambda *new: asked.append(new), flush=lambda: None, close=lambda: None)
    broken = SimpleNamespace(**vars(plain), pictures=lambda *given: 1 / 0)
    own = {"tensorboard": TRACKERS["tensorboard"], "plain": lambda run: plain, "broken": lambda run: broken}
    log = Log(tmp_path, start=0, steps=2, config={}, terminal=Terminal(bar=False), trackers=own)
    assert log.shows("pictures") and not log.shows("songs")
    pixels = grid({"image": np.linspace(0, 1, 3 * 8 * 8 * 3).reshape(3, 8, 8, 3)}, np.array([True, False, True]))
    log.show("pictures", 1, {"views/a": pixels})
    log.show(
        "table", 2, "results", markdown({"eval/image/linear_accuracy": 0.25, "eval/image/raw/linear_accuracy": 0.5})
    )
    found = Features(
        {"image": {"h": np.arange(6.0).reshape(3, 2)}}, {}, {"label": np.array([1, -1, 0])},
        {"image": np.array([True, True, False])}, np.array([4, 5, 6]),
    )  # fmt: skip
    log.show("points", 2, points(found, {"image": "h"}, "a\tfile\udcff {}".format, {"label": ("hat", "cat")}))
    log.close()
    board = tmp_path / "tensorboard"
    read = events_of(board)
    step, value = read["views/a"]
    shown = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
    assert step == 1 and (shown == pixels).all() and shown.shape == (68, 3 * 66 + 2, 3)
    assert (shown[2:66, 68:132] == 200).all()  # the absent row
    step, value = read["results/text_summary"]
    assert step == 2 and b"| image linear_accuracy | 25.0 | 50.0 |" in value.tensor.string_val[0]
    assert (board / "projector/image/tensors.tsv").read_text() == "0\t1\n2\t3\n"
    assert (board / "projector/image/metadata.tsv").read_text() == "record\tlabel\na file? 4\tcat\na file? 5\t\n"
    config = (board / "projector_config.pbtxt").read_text()
    assert all((board / path).exists() for path in re.findall(r'_path: "(.*?)"', config)) and config.count("_path") == 2
    assert capsys.readouterr().out.startswith("tracker broken: ZeroDivisionError") and not asked


def test_what_can_be_drawn_is():
    """A series as lines with its gap, a graph not at all, a picture of two channels or of nan without an error."""
    series = np.full((1, 40, 2), np.nan)
    series[0, :10, 0], series[0, 30:, 0] = 0.0, 1.0
    cell = grid({"series": series})[2:-2, 2:-2]
    dark = (cell != 255).any(axis=(0, 2))
    assert dark[:30].all() and not dark[40:90].any() and dark[100:].all()
    assert grid({"nodes": np.ones((2, 3, 4))}) is None and grid({"image": np.ones((2, 9))}) is None
    assert grid({"image": np.full((20, 200, 100, 2), np.nan)}).shape == (4 * 202 + 2, 4 * 102 + 2, 3)


def test_points_are_few():
    rows = np.arange(3000)
    outputs = {"x": {"h": np.zeros((3000, 3)), "t": np.zeros((3000, 2, 2))}}
    found = Features(outputs, {}, {"label": rows % 3 - 1}, {"x": rows >= 0}, rows)
    assert len(points(found, {"x": "h"}, str, {})["x"].features) == 2000
    assert not points(found, {"x": "t"}, str, {})
    some = points(found, {"x": "h"}, str, {}, labelled=True)["x"]
    assert len(some.features) == 2000 and set(some.columns["label"]) == {"0", "1"}
    bare = found._replace(labels={})  # a graph without labels, a view that no record has
    assert len(points(bare, {"x": "h"}, str, {}, labelled=True)["x"].features) == 2000
    assert not points(bare._replace(present={"x": rows < 0}), {"x": "h"}, str, {})
