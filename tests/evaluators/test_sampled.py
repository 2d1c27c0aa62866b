"""The kNN on a sample while a run trains: when, on which rows, and that the run is the same with it."""

import functools
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from test_end_to_end import SMALL

from benchmarks.digest import digest
from hcl_jax import evaluation
from hcl_jax.evaluators import sampled as module
from hcl_jax.evaluators.sampled import Sampled, sample_of, sampled
from hcl_jax.main import main
from hcl_jax.workdir.terminal import repeated


def test_the_points_of_a_run_encode_a_sixteenth_of_its_rows_at_most():
    cases = (
        (336, 256, 1437, 360, 256),
        (10**6, 4096, 10**7, 50000, 256),
        (40, 16, 96, 24, 8),
        (200, 2708, 2708, 2708, 2708),
    )
    for steps, rows, train, test, batch in cases:
        plan = sampled(steps, rows, train, test, batch)
        encoded = len(plan.steps) * (-(-plan.bank // batch) + -(-plan.queries // batch)) * batch
        assert 2 <= len(plan.steps) <= 10 and encoded <= steps * rows / 16, plan
        assert plan.steps[0] == 0 and plan.steps[-1] == steps and len(set(plan.steps)) == len(plan.steps)
        assert 0 < plan.bank <= min(2048, train) and 0 < plan.queries <= min(512, test)
    assert sampled(6, 16, 96, 24, 256) == Sampled()
    known = np.array([-1, 3, 0, -1, 1, 2])
    bank, asked = sample_of(known, 6, 3, seed=1), sample_of(known, 6, 3, seed=1, after=3)
    assert sorted([*bank, *asked]) == [1, 2, 4, 5] and list(bank) == sorted(bank)


def lines(folder):
    return [json.loads(line) for line in (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow(one=True)
def test_a_run_is_the_same_with_a_sample_and_resumes_with_it(shared_run, tmp_path, monkeypatch, capsys):
    """A state that an evaluation changed or gave away, a draw that it took, a point that a resume drops or repeats."""
    monkeypatch.setattr(evaluation, "repeated", functools.partial(repeated, seconds=0.02))
    monkeypatch.setattr(module, "SHARE", 1)  # of 96 rows: three points of two batches of 16
    flags = [*SMALL, "--config.checkpoint.keep=3", "--config.evaluate.batch_size=16", f"--workdir={tmp_path}"]
    assert main([*flags, "--config.train.steps=6"]) == 0
    said = capsys.readouterr().out
    assert "watched  kNN of 16 records to 16 at 3 steps from 0 on" in said
    assert re.search(r"evaluation: 0 of 16 train \(a sample\) records, \d s\n", said)
    assert re.search(r"evaluation: image: (knn|spread), (un)?trained \(\d+ rows\), \d s\n", said)
    ours, theirs = lines(tmp_path), lines(shared_run)
    name = "sample/image/knn_accuracy"
    assert [x["step"] for x in ours if name in x] == [0, 3, 6] and not any(name in x for x in theirs)
    assert [x["step"] for x in ours] == list(range(7))
    assert [x["loss"] for x in ours[1:]] == [x["loss"] for x in theirs]
    assert digest(tmp_path, 6)[1] == digest(pathlib.Path(shared_run), 6)[1]

    for step in (4, 6):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    assert main([*flags, "--config.train.steps=6"]) == 0
    again = lines(tmp_path)
    assert [(x["step"], x.get(name)) for x in again] == [(x["step"], x.get(name)) for x in ours]
