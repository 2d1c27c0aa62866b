"""The table of a run's results, and what it says of the untrained encoder."""

import shlex

import ml_collections
import pytest

from hcl_jax.prepare import last_words
from hcl_jax.workdir import card

CONFIG = ml_collections.ConfigDict({"seed": 4, "train": {"steps": 0, "seeds": 1}})


def results(trained, untrained, error=0.01, gain_error=None):
    """The numbers of an accuracy, and of the spread, which is no share."""
    row = {"eval/image/knn_accuracy": trained, "eval/image/untrained/knn_accuracy": untrained}
    row |= {f"{name}_se": error for name in row}
    if gain_error is not None:
        name = "eval/image/gain_over_untrained/knn_accuracy"
        row |= {name: trained - untrained, f"{name}_se": gain_error}
    return row | {"eval/image/spread": 0.1, "eval/image/untrained/spread": 0.9}


@pytest.mark.parametrize(
    ("numbers", "behind"),
    [
        (results(0.90, 0.95), True),  # 5 points, two errors of both are 2.8
        (results(0.93, 0.95), False),
        (results(0.97, 0.95), False),
        (results(0.93, 0.95, gain_error=0.005), True),  # paired: two errors are 1 point
        (results(0.93, 0.95, gain_error=0.02), False),
    ],
)
def test_the_untrained_encoder_is_better(numbers, behind):
    """By two standard errors, of the paired difference where there is one."""
    assert card.behind(numbers) == ["image knn_accuracy"] * behind
    said = last_words(numbers, "runs/x", CONFIG)
    assert ("the untrained encoder is better in image knn_accuracy" in said[0]) == behind
    assert said[-1].split("  #")[0] == "  python -m hcl_jax.main --workdir=runs/x --config.train.epochs=N"


def test_shares_are_in_per_cent():
    table = card.table(results(0.9312, 0.95)).splitlines()
    assert table[1].split() == ["image", "knn_accuracy", "93.1", "±", "1.0", "95.0", "±", "1.0"]
    assert table[2].split() == ["image", "spread", "0.1000", "0.9000"]


def test_the_commands_named_last_can_be_pasted_where_a_folder_has_spaces():
    lines = last_words({}, "my run's/ü", CONFIG)
    found = [shlex.split(line, comments=True)[3].removeprefix("--workdir=") for line in lines if "python" in line]
    assert found == ["my run's/ü"] * 3


def test_what_is_named_last_works_for_several_seeds_and_for_parts_of_ones_own():
    several = ml_collections.ConfigDict({"seed": 4, "train": {"steps": 0, "seeds": 3}})
    assert "hcl_jax.embed --workdir=runs/x --seed=4 --data=NEW" in last_words({}, "runs/x", several)[2]
    _, page, model, longer = last_words({}, "runs/x", several, ("encoders", "evaluators"))
    assert "views" not in page and "hcl_jax.open('runs/x', seed=4, encoders=...)" in model and "--workdir" not in longer
    _, _, model, longer = last_words({}, "runs/x", CONFIG, ("evaluators",))  # which a model does not need
    assert "hcl_jax.embed" in model and "--workdir" not in longer
