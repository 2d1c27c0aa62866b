"""A stuck process writes the stacks of its threads and ends; a slow one, and a phase that is no step, do not (R9)."""

import math
import pathlib
import signal
import subprocess
import sys
import threading
import types

import pytest

from hcl_jax.runtime import watchdog
from hcl_jax.runtime.watchdog import Watchdog

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves; the watchdog is not entered, so no thread looks at it."""
    now = types.SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(watchdog, "time", types.SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def beats(watch, clock, gaps):
    for gap in gaps:
        clock.seconds += gap
        watch.beat()


def test_the_limit_is_a_multiple_of_the_usual_gap(clock):
    watch = Watchdog(least=2.0, factor=10.0)
    beats(watch, clock, [1000.0])  # the compile
    assert watch.limit == 2.0
    beats(watch, clock, [1.0, 1.0, 40.0])
    assert watch.limit == 10.0
    beats(watch, clock, [3.0] * 26)  # with 26 of 29 the median moves
    assert watch.limit == 30.0
    beats(watch, clock, [0.5] * 50)  # the window holds only these
    assert watch.limit == 5.0
    beats(watch, clock, [0.125] * 50)
    assert watch.limit == 2.0


def test_a_phase_that_is_no_step_has_its_own_limit_and_does_not_count(clock):
    watch = Watchdog(least=2.0, factor=10.0)
    beats(watch, clock, [1.0, 1.0, 1.0])
    clock.seconds += 1
    watch.beat(7, allow=500.0)
    beats(watch, clock, [400.0, 1.0])
    assert watch.limit == 10.0
    with watch.allow(60.0):
        assert watch.limit == 60.0
        with watch.allow(math.inf):
            assert watch.limit == math.inf
        assert watch.limit == 60.0
        clock.seconds += 50
    assert watch.limit == 10.0
    beats(watch, clock, [50.0, 1.0])
    assert watch.limit == 10.0 and list(watch._gaps) == [1.0] * 5


def ended(body: str) -> tuple[int, str]:
    """Status and standard error of a process with a watchdog of 0.5 seconds around `body`."""
    text = f"""
import ctypes, math, threading, time
from hcl_jax.runtime import watchdog
def waits_for_a_peer(): time.sleep(30)
def never_lets_go(): ctypes.PyDLL(None).sleep(30)
threading.Thread(target=lambda: time.sleep(30), name="reader", daemon=True).start()
with watchdog.Watchdog(least=LEAST) as watch:
    {body}
print("whole")
""".replace("LEAST", "0" if "# off" in body else "0.5")
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ("whole" in done.stdout) == (done.returncode == 0)
    return done.returncode, done.stderr


def test_a_stuck_process_writes_its_stacks_and_aborts():
    status, said = ended("[watch.beat(n) for n in (1, 2, 3)]; waits_for_a_peer()")
    assert status == -6  # 134 for a shell
    assert "seconds without a step after step 3; the stacks of all threads:" in said
    assert "waits_for_a_peer" in said and said.count("most recent call first") >= 3  # main, reader, watchdog


def test_a_process_whose_interpreter_is_held_is_ended_by_the_alarm():
    status, said = ended("watchdog.MARGIN = 0.5; watch.beat(); never_lets_go()")
    assert status == -14  # 142 for a shell
    assert "never_lets_go" in said


def test_before_the_first_step_only_an_allowed_phase_has_a_limit():
    status, said = ended("allowed = watch.allow(1.0); allowed.__enter__(); waits_for_a_peer()")
    assert status == -6 and "seconds without a step before the first step" in said


@pytest.mark.slow(one=True)
@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(1.5)",  # before the first step
        "watch.beat(); watch.beat(allow=60); time.sleep(1.5)",
        "watch.beat(); a = watch.allow(math.inf); a.__enter__(); time.sleep(1.5); a.__exit__(*[None]*3)",
        "watch.beat(); watch.beat(); time.sleep(1.5)  # off",
    ],
    ids=["compile", "beat", "phase", "off"],
)
def test_what_may_take_long_does(body):
    assert ended(body) == (0, "")


@pytest.mark.slow
def test_nothing_is_armed_after_the_end():
    status, said = ended("watch.beat(); watch.beat()\nwatch.beat()\ntime.sleep(1.5)")
    assert (status, said) == (0, "")


def test_a_beat_starts_no_thread():
    with Watchdog(least=300.0) as watch:
        before = threading.active_count()
        for _ in range(200):
            watch.beat()
        assert threading.active_count() == before
        assert 300 < signal.getitimer(signal.ITIMER_REAL)[0] <= 305
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
