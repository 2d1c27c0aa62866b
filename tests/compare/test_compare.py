"""Runs beside each other: paired differences over seeds, shares in per cent, and what is refused."""

import json

import numpy as np
import pytest
from scipy import stats

from hcl_jax import config as configs
from hcl_jax.compare import logged, table
from hcl_jax.compare.__main__ import main
from hcl_jax.workdir import card

ACCURACY = "eval/image/knn_accuracy"


def made(folder, accuracies, *, seed=0, finished=True):
    """The folder of a run whose seeds reached these accuracies, as a run writes it."""
    config = configs.load("simclr:digits")
    config.seed, config.train.seeds, config.train.steps = seed, len(accuracies), 10
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(configs.to_json(configs.complete(config)))
    results = {ACCURACY: float(np.mean(accuracies)), "eval/image/untrained/knn_accuracy": 0.5}
    if len(accuracies) > 1:
        results |= {f"seed{seed + i}/{ACCURACY}": a for i, a in enumerate(accuracies)}
    lines = [{"step": 1, "loss": 2.0}, {"step": 10, "loss": 1.0, **results}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        (folder / "card.json").write_text(json.dumps({"results": results, "steps": 10}))
    return folder


def test_differences_are_paired_by_seed_with_students_interval(tmp_path):
    # Seeds 1, 2 and 3 are in both runs; pairing by place instead would give another mean.
    first = made(tmp_path / "a", [0.10, 0.50, 0.60, 0.90])
    second = made(tmp_path / "b", [0.56, 0.63, 0.96, 0.20], seed=1)
    found = table.differences(*reversed(logged.read([first, second])))["image knn_accuracy"]
    paired = np.array([0.06, 0.03, 0.06])
    half = stats.t.ppf(0.975, 2) * paired.std(ddof=1) / np.sqrt(3)
    assert found.value == pytest.approx(0.05)
    assert (found.judged.low, found.judged.high) == pytest.approx((0.05 - half, 0.05 + half))
    assert table.of_difference("image knn_accuracy", found) == f"+5.0 [{5 - 100 * half:+.1f}, {5 + 100 * half:+.1f}]"


def test_one_seed_has_no_interval(tmp_path):
    runs = logged.read([made(tmp_path / "a", [0.5]), made(tmp_path / "b", [0.7])])
    assert table.differences(runs[1], runs[0])["image knn_accuracy"] == (pytest.approx(0.2), None)


def test_the_table_is_in_per_cent_and_says_what_is_paired(tmp_path, capsys):
    runs = [made(tmp_path / "x/run", [0.5, 0.6]), made(tmp_path / "y/run", [0.7, 0.7], finished=False)]
    assert main([*map(str, runs)]) == 0
    head, row, *notes = capsys.readouterr().out.splitlines()
    assert head.split() == ["x/run", "y/run", "y/run", "-", "x/run"]
    assert row.split()[:4] == ["image", "knn_accuracy", "55.0", "70.0"] and "+15.0 [" in row
    assert notes[0].startswith("y/run: not finished: step 10 of 10") and "2 paired seeds" in notes[1]


def test_a_run_made_longer_shows_its_newest_numbers(tmp_path):
    folder = made(tmp_path / "a", [0.5])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 20, ACCURACY: 0.6}) + "\n" + '{"step": 21, "lo')
    (run,) = logged.read([folder])
    assert not run.finished and run.step == 20 and run.results[ACCURACY] == 0.6


def test_the_printed_table_of_a_run_has_the_same_cells(tmp_path):
    results = {ACCURACY: 0.93, f"{ACCURACY}_se": 0.01, "eval/image/gain_over_raw/knn_accuracy": 0.03, "eval/image/n": 9}
    assert card.cells(results) == {"image knn_accuracy": {"trained": (0.93, 0.01), "gain_over_raw": (0.03, None)}}
    assert card.table(results).split() == [
        "trained",
        "over",
        "raw",
        "image",
        "knn_accuracy",
        "93.0",
        "±",
        "1.0",
        "+3.0",
    ]


def no_metrics(folder):
    (folder / "metrics.jsonl").unlink()
    return [folder]


def no_line(folder):
    (folder / "metrics.jsonl").write_text("{\n")
    return [folder]


def no_card(folder):
    (folder / "card.json").write_text("[1]")
    return [folder]


def no_evaluation(folder):
    (folder / "card.json").unlink()
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    return [folder]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: [folder / "none"], "no config.json"),
        (lambda folder: [folder, folder], "twice; allowed: each run once"),
        (no_metrics, "no metrics.jsonl"),
        (no_line, "no line"),
        (no_card, "no card"),
        (no_evaluation, "no evaluation yet"),
    ],
)
def test_what_is_no_run_is_one_line(spoil, said, tmp_path, capsys):
    assert main([*map(str, spoil(made(tmp_path / "a", [0.5])))]) == 2
    out, error = capsys.readouterr()
    assert not out and said in error and error.count("\n") == 1
