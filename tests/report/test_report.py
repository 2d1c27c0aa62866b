"""The page on a run: what is in it, what is escaped, a run that is not finished, and what is refused."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from report.outline import Outline

from hcl_jax.compare import logged
from hcl_jax.disk import whole
from hcl_jax.report import curves, drawings, features, sections, written
from hcl_jax.report.__main__ import main
from hcl_jax.report.html import Html, tag


@pytest.fixture(scope="module")
def page(shared_run, tmp_path_factory):
    output = tmp_path_factory.mktemp("report") / "report.html"
    assert main([str(shared_run), f"--output={output}", "--records=24"]) == 0
    return output.read_text(encoding="utf-8")


def test_a_page_has_every_part_and_no_address(page, shared_run):
    outline = Outline(page)
    assert outline.tabs == ["Results", "Curves", "Views", "Features", "Neighbours", "Confusion", "Card"]
    assert all(a.startswith(("data:image/png;base64,", "#")) for a in outline.addresses)
    results = json.loads((shared_run / "card.json").read_text())["results"]
    value, error = (100 * results[f"eval/image/knn_accuracy{end}"] for end in ("", "_se"))
    assert f"{value:.1f} ± {error:.1f}" in outline.text
    assert "learning rate" in outline.text and "nearest packaged recipe" in outline.text
    assert page.count("<use") > 2 * 24 and "finished, 6 steps" in outline.text


def test_a_run_without_checkpoints_that_is_not_finished_has_curves_and_says_so(shared_run, tmp_path):
    folder = tmp_path / "<b>&run"
    folder.mkdir()
    shutil.copy(shared_run / "config.json", folder)
    lines = (shared_run / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text(
        "\n".join([*(x for x in lines if "eval/" not in x)][:4]) + '\n{"step": 5, "lo'
    )
    output = tmp_path / "page.html"
    assert main([str(folder), f"--output={output}"]) == 0
    text = output.read_text(encoding="utf-8")
    outline = Outline(text)
    assert "Curves" in outline.tabs and "Features" not in outline.tabs
    assert "not finished: step 4 of 6" in outline.text and "no features: " in outline.text
    assert "<b>&run" not in text and "<b>&run" in outline.text


def test_text_is_escaped_and_html_is_not():
    assert tag("td", "<a> & b", title='"x"', hidden=False) == '<td title="&quot;x&quot;">&lt;a&gt; &amp; b</td>'
    assert tag("p", Html("<b>1</b>"), class_="n") == '<p class="n"><b>1</b></p>'


def test_a_view_of_each_kind_is_drawn():
    edges, there = np.array([[0, 1], [1, 0], [0, 0]]), np.array([True, True, False])
    graph = {"nodes": np.eye(3, 2), "node_mask": there, "edges": edges, "edge_mask": there}
    assert drawings.record(graph).count("<line") == 1 and drawings.record(graph).count("<use") == 2
    series = drawings.record({"series": np.array([[0.0], [1.0], [np.nan], [0.5], [1.0]])})
    assert re.findall(r"M[\d.]+ [\d.]+", series) == ["M2.0 62.0", "M89.0 32.0"]  # a gap where a value is missing
    words = np.array([1, *(b + 3 for b in b"<red>"), 2])
    assert drawings.record({"tokens": words}) == '<span class="words">&lt;red&gt;</span>'
    assert "absent" in drawings.record(None) and "data:image/png" in drawings.record({"image": np.zeros((4, 4, 3))})


def test_classes_differ_in_shape_or_colour():
    looks = {re.sub(r' x=".*?" y=".*?"', "", drawings.mark(k, 0, 0)) for k in range(drawings.MOST_CLASSES)}
    assert len(looks) == drawings.MOST_CLASSES
    first = [re.search(r'#(m\d).*(c\d)"', drawings.mark(k, 0, 0)).groups() for k in range(6)]
    assert all(len(set(part)) == 6 for part in zip(*first, strict=True))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.3, 0.47), (1e-7, 4e-7), (0, 123456), (2, 2), (99.2, 99.3)])
def test_ticks_are_round_and_inside(low, high):
    found = curves.ticks(low, high)
    assert 1 <= len(found) <= 11 and all(low - 1e-9 <= t <= high + 1e-9 for t in found)
    assert low == high or len({round(b - a, 9) for a, b in zip(found, found[1:], strict=False)}) <= 1


def test_maps_keep_clusters_apart_and_are_the_same_twice():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(15, 8)) + 8 * np.eye(8)[k] for k in (0, 1)]).astype(np.float32)
    maps, shares = features.maps_of(x)
    again, _ = features.maps_of(x)
    for way in ("PCA", "t-SNE"):
        a, b = maps[way][:15], maps[way][15:]
        apart = np.linalg.norm(a.mean(0) - b.mean(0))
        assert apart > max(np.linalg.norm(p - p.mean(0), axis=1).max() for p in (a, b))
        np.testing.assert_array_equal(maps[way], again[way])
    assert 0 < shares[1] <= shares[0] < 1
    assert features.maps_of(np.ones((20, 4), np.float32))[0] == {}


def rows(centres, labels):
    """Records that lie at the centres of their classes, and a little beside."""
    beside = 0.01 * np.random.default_rng(0).normal(size=(len(labels), 4))
    x = (centres[labels] + beside).astype(np.float32)
    return features.Rows(x, np.array(labels), np.arange(len(labels)), [f"record {i}" for i in range(len(labels))])


def test_neighbours_and_guesses_of_a_run_with_folds_leave_out_the_record_itself():
    same = rows(np.eye(4), [0, 0, 0, 1, 1, 1])
    found = features._neighbours(same, same, lambda at: [], lambda at: [], True)
    assert all(q not in row for q, row in zip(found.queries, found.found, strict=True))
    assert (same.labels[found.found[:, :2]] == same.labels[found.queries][:, None]).all()
    counts = features._confusion(same, same, {"k": 2, "temperature": 0.07}, 3, 0).counts
    np.testing.assert_array_equal(counts, [[3, 0], [0, 3]])


def test_confusion_has_a_row_for_each_true_class_and_leaves_the_unknown_out():
    bank, test = rows(np.eye(4), [0, 0, 1, 1, -1]), rows(np.eye(4)[[1, 0]], [0, 1, 0, -1])
    found = features._confusion(test, bank, {"k": 1, "temperature": 0.07}, 0, 0)
    np.testing.assert_array_equal(found.counts, [[0, 2], [1, 0]])
    assert "3 test records, 4 training records" in found.how


def test_records_find_themselves_in_another_view():
    pictures, texts = rows(np.eye(4), [0, 1, 2]), rows(np.eye(4), [2, 1, 0])
    texts = texts._replace(records=np.array([2, 1, 9]), names=["c", "b", "<other>"])
    ends = (("image", "z"), ("text", "z"))
    there, back = features._pairs(ends, [pictures, texts], [lambda at: [None] * len(at)] * 2)
    assert there.title == "image.z to text.z" and back.title == "text.z to image.z"
    assert there.test.records[there.neighbours.queries].tolist() == [1, 2]  # record 0 has no text
    assert there.bank.records[there.neighbours.found[:, 0]].tolist() == [1, 2]
    shown = sections.pair(there)
    assert shown.count("card right") == 2 and shown.count("card wrong") == 4 and "✗ &lt;other&gt;" in shown


def test_of_many_classes_the_frequent_confusions_are_listed():
    counts = 5 * np.eye(25, dtype=int)
    counts[3, 7] = 4
    names = [f"kind <{i}>" for i in range(25)]
    test = rows(np.eye(4), [0])
    found = features.Confusion(counts, np.arange(25), "how")
    shown = sections.confusion(features.Look("image", "h", "kind", names, test, test, {}, (0, 0), None, found))
    assert '<td>kind &lt;7&gt;</td><td class="n">4</td><td class="n">44</td>' in shown and shown.count("<tr>") == 2


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2], [-1, -1, 3, -1, 3]])
def test_queries_take_the_classes_in_turn(labels):
    found = features.queries_of(np.array(labels), 2)
    assert [labels[i] for i in found] == ([0, 1] if labels[0] == 0 else [3, 3])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none", "--output=page.html"], "none: found no config.json; allowed: the folder of a run\n"),
        (["RUN", "--output=page.txt"], "'.txt'"),
        (["RUN", "--output=none/page.html"], "no folder"),
        (["RUN", "RUN", "--output=page.html"], "twice"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(arguments, said, shared_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([a.replace("RUN", str(shared_run)) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_may_not_be_written_is_refused_before_anything_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert main(["none", f"--output={tmp_path / 'page.html'}"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_full_disk_is_one_line(tmp_path, monkeypatch, capsys):
    def full(place, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole, "write", full)
    monkeypatch.setattr(logged, "read", lambda folders: [])
    monkeypatch.setattr(written, "page", lambda parts: "")
    assert main(["run", f"--output={tmp_path / 'page.html'}"]) == 2
    error = capsys.readouterr().err
    assert "No space left" in error and error.count("\n") == 1
