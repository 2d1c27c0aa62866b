"""Forms of the schedules against loops written from the authors' codes, which fill tables with NumPy on the host."""

import math
import re

import jax
import numpy as np
import pytest

from hcl_jax.core.schedules import decay_schedule, make_schedule
from hcl_jax.errors import InputError

PEAK, STEPS, EPOCH, WARMUP = 0.4, 42, 7, 14


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def rates(steps_per_epoch=float(EPOCH), steps=STEPS, **fields):
    rate = make_schedule({"learning_rate": PEAK, **fields}, steps=steps, batch_size=64, steps_per_epoch=steps_per_epoch)
    return jax.jit(rate)(np.arange(steps))


def half_cosine(start, end, count):
    return [end + 0.5 * (start - end) * (1 + math.cos(math.pi * i / count)) for i in range(count)]


def test_closed_is_the_linspace_of_dino_and_swav():
    """utils.cosine_scheduler: the warm-up's last update has the peak, and the cosine begins at it once more."""
    expected = np.concatenate([np.linspace(0.3, PEAK, WARMUP), half_cosine(PEAK, 1e-3, STEPS - WARMUP)])
    found = rates(warmup_epochs=2.0, warmup_form="closed", warmup_start=0.3, end_rate=1e-3)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    assert found[0] == pytest.approx(0.3) and found[WARMUP - 1] == found[WARMUP] == pytest.approx(PEAK)
    assert list(rates(warmup_steps=1, warmup_form="closed", warmup_start=0.3)[:2]) == pytest.approx([0.3, PEAK])


@pytest.mark.parametrize("records", [448, 450])
def test_milestones_are_moco_v1s(records):
    """adjust_learning_rate of main_moco.py, called as each epoch begins; 450 records make epochs of 7.03 batches."""
    expected = []
    for t in range(STEPS):
        rate = PEAK
        for milestone in (2, 4):
            rate *= 0.1 if 64 * t // records >= milestone else 1.0
        expected.append(rate)
    found = rates(records / 64, schedule="multistep", milestones=(2.0, 4.0))
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    assert rates(schedule="multistep", milestones=(1.0,), gamma=0.5, warmup_steps=3)[-1] == pytest.approx(PEAK / 2)
    assert (rates(5004.0, schedule="multistep", milestones=(1e6,)) == PEAK).all()  # an update past int32


def test_ahead_is_open_clips_warmup():
    expected = [PEAK * (t + 1) / WARMUP for t in range(WARMUP)] + half_cosine(PEAK, 0, STEPS - WARMUP)
    np.testing.assert_allclose(rates(warmup_steps=WARMUP, warmup_form="ahead"), expected, rtol=1e-13)


def test_the_end_as_a_share_is_of_the_scaled_peak():
    """adjust_learning_rate of Barlow Twins: q base + (1 - q) 0.001 base, base = batch / 256."""
    base, expected = PEAK * 64 / 256, []
    for t in range(STEPS):
        q = 0.5 * (1 + math.cos(math.pi * (t - WARMUP) / (STEPS - WARMUP)))
        expected.append(base * t / WARMUP if t < WARMUP else q * base + (1 - q) * 0.001 * base)
    np.testing.assert_allclose(rates(scaling="linear", warmup_steps=WARMUP, end_share=0.001), expected, rtol=1e-13)


@pytest.mark.parametrize("records", [448, 450])
def test_by_epoch_the_rate_changes_when_an_epoch_begins(records):
    """450 records make epochs of 7.03 batches of 64: update t reads the records from 64 t on."""
    per_epoch = records / 64
    epochs, expected = STEPS / per_epoch, []
    for t in range(STEPS):
        epoch = 64 * t // records
        expected.append(PEAK * 0.5 * (1 + math.cos(math.pi * epoch / epochs)))
    found = rates(per_epoch, schedule_by="epoch")
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert len(np.unique(np.asarray(found))) == 6


def test_supcontrast_counts_epochs_from_one_and_its_cosine_begins_under_the_warmup():
    """adjust_learning_rate(epoch) and warmup_learning_rate of its util.py, warm-up to the peak."""
    end, expected = PEAK * 0.1**3, []
    for t in range(STEPS):
        share = 0.5 * (1 + math.cos(math.pi * (t // EPOCH + 1) / (STEPS // EPOCH)))
        expected.append(0.01 + (PEAK - 0.01) * t / WARMUP if t < WARMUP else end + (PEAK - end) * share)
    fields = {"schedule_by": "epoch_end", "cosine_over": "run", "end_rate": end}
    np.testing.assert_allclose(rates(warmup_epochs=2.0, warmup_start=0.01, **fields), expected, rtol=1e-13)


def test_i_jepas_schedules_are_stretched_and_one_update_ahead():
    """src/utils/schedulers.py: step() counts up first; T_max is 1.25 times the run's length."""
    lr, wd, total = [], [], int(1.25 * STEPS)
    for count in range(1, STEPS + 1):
        after = (count - WARMUP) / (total - WARMUP)
        warm = 0.1 + count / WARMUP * (PEAK - 0.1)
        lr.append(warm if count < WARMUP else 0.01 + (PEAK - 0.01) * 0.5 * (1 + math.cos(math.pi * after)))
        wd.append(0.4 + (0.04 - 0.4) * 0.5 * (1 + math.cos(math.pi * count / total)))
    course = {"schedule_stretch": 1.25, "schedule_ahead": 1}
    np.testing.assert_allclose(
        rates(warmup_steps=WARMUP, warmup_start=0.1, end_rate=0.01, **course), lr, rtol=1e-13, atol=1e-15
    )
    decay = decay_schedule({"weight_decay": 0.04, "weight_decay_end": 0.4, **course}, steps=STEPS)
    np.testing.assert_allclose(decay(np.arange(STEPS)), wd, rtol=1e-13)


def test_epochs_that_a_run_reads_ahead_have_rates_of_their_own():
    """The table of epochs goes as far as the updates are read; it would repeat its last epoch."""
    found = rates(schedule_by="epoch", schedule_stretch=3.0, schedule_ahead=STEPS)
    epochs = [(STEPS + t) // EPOCH for t in range(STEPS)]
    expected = [0.5 * PEAK * (1 + math.cos(math.pi * e * EPOCH / (3 * STEPS))) for e in epochs]
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_a_course_longer_than_int32_counts():
    assert rates(schedule_stretch=1e9) == pytest.approx(PEAK)
    decay = decay_schedule({"weight_decay": 0.3, "weight_decay_end": 0.4, "schedule_stretch": 1e9}, steps=STEPS)
    assert float(decay(STEPS)) == pytest.approx(0.3)


def test_the_decay_moves_only_where_it_has_an_end():
    assert decay_schedule({"weight_decay": 0.3}, steps=STEPS) == 0.3
    decay = decay_schedule({"weight_decay": 0.04, "weight_decay_end": 0.4}, steps=STEPS)
    np.testing.assert_allclose(decay(np.arange(STEPS)), half_cosine(0.04, 0.4, STEPS), rtol=1e-13)
    assert float(decay(10 * STEPS)) == 0.4


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"warmup_form": "late"}, "warmup_form: found 'late'; allowed: open, closed, ahead"),
        ({"schedule_by": "batch"}, "schedule_by: found 'batch'; allowed: step, epoch, epoch_end"),
        ({"warmup_form": "closed"}, "warmup_form: found 'closed'; allowed: 'open' where there is no warm-up"),
        ({"warmup_start": 0.1}, "warmup_start: found 0.1; allowed: 0.0 where there is no warm-up"),
        ({"end_rate": 0.1, "end_share": 0.1}, "end_share: found 0.1; allowed: 0 where end_rate is 0.1"),
        (
            {"schedule": "multistep"},
            "milestones: found (); allowed: one epoch or more where schedule is 'multistep', and none elsewhere",
        ),
        (
            {"milestones": (3.0,)},
            "milestones: found (3.0,); allowed: one epoch or more where schedule is 'multistep', and none elsewhere",
        ),
        ({"end_rate": 0.1, "schedule": "constant"}, "end_rate: found 0.1; allowed: 0.0 where schedule is 'constant'"),
        (
            {"schedule_by": "epoch", "schedule": "constant"},
            "schedule_by: found 'epoch'; allowed: 'step' where schedule is 'constant'",
        ),
        ({"gamma": 0.5}, "gamma: found 0.5; allowed: 0.1 where schedule is 'cosine'"),
        (
            {"schedule": "multistep", "milestones": (3.0,), "schedule_stretch": 2.0},
            "schedule_stretch: found 2.0; allowed: 1.0 where schedule is 'multistep' and there is no weight_decay_end",
        ),
        (
            {"schedule": "multistep", "milestones": (3.0, 3.0)},
            "milestones: found (3.0, 3.0); allowed: rising epochs",
        ),
        ({"end_rate": -1.0}, "end_rate: found -1.0"),
        ({"schedule_stretch": 0.5}, "schedule_stretch: found 0.5"),
    ],
)
def test_bad_input_names_the_field(fields, text):
    with pytest.raises(InputError, match=re.escape(f"config.optimizer.{text}")):
        rates(**fields)
