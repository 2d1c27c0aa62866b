"""kill -9 at any step: the run goes on to the state and the numbers of the run that nobody disturbed."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from faults import runs

ARRANGEMENTS = {"1x8": (runs.ONE, runs.ONE_FLAGS, 400), "2x4": (runs.TWO, runs.TWO_FLAGS, 40)}


@pytest.fixture
def whole(request, arrangement):
    return request.getfixturevalue({"1x8": "one", "2x4": "two"}[arrangement])


def killed_and_resumed(folder, arrangement, steps, cache, say=print):
    """Kills the run after each of `steps`, starts it again, and lets the last start end.

    Gives the seconds from each kill to the next new step.
    """
    how, flags, length = ARRANGEMENTS[arrangement]
    run = runs.start(folder, *flags, **how, cache=cache)
    seconds = []
    for step in steps:
        run.wait_for_step(step)
        run.kill()
        began, reached = time.monotonic(), run.step()
        assert reached < length, "the run ended before it was killed"
        whole = runs.saved(folder)  # what a kill leaves is whole or is not there
        run = runs.start(folder, *flags, **how, cache=cache)
        run.wait_for(lambda run=run: run.step() > 0)
        seconds.append(time.monotonic() - began)
        if whole:
            assert f"resumed at step {whole[-1]} of {length}" in run.said()
        assert "took over the lock" in run.said()
        say(f"{arrangement}: killed at {reached}, saved {whole[-1:]}, next step after {seconds[-1]:.1f} s")
    assert set(run.end()) == {0}, run.everything()
    return seconds


@pytest.mark.parametrize(
    "arrangement", [pytest.param("1x8", marks=pytest.mark.slow), pytest.param("2x4", marks=pytest.mark.faults)]
)
def test_two_fresh_runs_are_equal(tmp_path, arrangement, whole, cache):
    """R1, R5: the state to the last bit, and every number but the times."""
    how, flags, length = ARRANGEMENTS[arrangement]
    runs.finish(tmp_path / "again", *flags, **how, cache=cache)
    runs.same(tmp_path / "again", whole)
    assert [line["step"] for line in runs.lines(whole)] == list(range(1, length + 1))
    assert runs.digest(whole, runs.saved(whole)[-2])[1] != runs.digest(whole)[1]  # a digest that sees steps


@pytest.mark.slow
@pytest.mark.parametrize("arrangement", ["1x8"])
def test_a_killed_run_goes_on(tmp_path, arrangement, whole, cache):
    """R2, R32, R37: killed twice at steps from a seed; each step stands once in metrics.jsonl, in order."""
    steps = [random.Random(2).randrange(25, 120), random.Random(3).randrange(180, 350)]
    killed_and_resumed(tmp_path / "w", arrangement, steps, cache)
    runs.same(tmp_path / "w", whole)


@pytest.mark.faults
def test_one_of_two_processes_is_killed(tmp_path, two, cache):
    """R5, R8: the other one ends within 20 seconds, not well; both start again and come to the same end."""
    flags = (*runs.TWO_FLAGS, "--config.limits.heartbeat=10")
    run = runs.start(tmp_path / "w", *flags, **runs.TWO, cache=cache)
    run.wait_for_step(random.Random(5).randrange(7, 30))
    run.kill(1)
    began = time.monotonic()
    status = run.end(20)[0]
    print(f"survivor ended with {status} after {time.monotonic() - began:.1f} s, at step {run.step()}")
    assert status not in (0, 1, 2), run.everything()  # launch.restart does not start these again
    runs.finish(tmp_path / "w", *flags, **runs.TWO, cache=cache)
    runs.same(tmp_path / "w", two)


@pytest.mark.faults
@pytest.mark.parametrize("trial", range(10))
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_twenty_runs_killed_at_random(tmp_path, arrangement, trial, whole, cache):
    """R3: ten runs of each arrangement, three kills each, at steps from a seed."""
    drawn = random.Random(f"{arrangement} {trial}")
    length = ARRANGEMENTS[arrangement][2]
    steps = sorted(drawn.sample(range(1, length * 9 // 10), 3))
    killed_and_resumed(tmp_path / "w", arrangement, steps, cache)
    runs.same(tmp_path / "w", whole)


def children(pid):
    """The children of a process, oldest first."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(p) for p in found]


@pytest.mark.faults
def test_a_restart_around_a_launch_needs_nobody(tmp_path, two, cache):
    """R8: a peer is killed under launch.restart and launch.local; the run ends by itself, with status 0."""
    launch = [sys.executable, "-m", "launch.restart", "--wait=0.1", "--", sys.executable, "-m", "launch.local"]
    launch += ["--processes=2", "--devices=4", "--"]
    flags = (*runs.TWO_FLAGS, "--config.limits.heartbeat=10")
    run = runs.start(tmp_path / "w", *flags, command=launch, cache=cache)
    run.wait_for_step(random.Random(8).randrange(7, 30))
    (local,) = children(run.processes[0].pid)
    os.kill(children(local)[1], signal.SIGKILL)
    began, reached = time.monotonic(), run.step()
    run.wait_for(lambda: "resumed at step" in run.said())
    run.wait_for(lambda: run.said().rpartition("resumed at step")[2].count("\nstep ") > 0)
    print(f"killed at {reached}, next step after {time.monotonic() - began:.1f} s")
    assert run.end() == [0], run.everything()
    assert run.said().count("launch.restart: status 137") == 1, run.everything()
    runs.same(tmp_path / "w", two)


CUT_OFF = """
import os, signal
from hcl_jax.evaluation import Evaluation
def online(*_):
    os.kill(os.getpid(), signal.SIGKILL)
Evaluation.online = online
"""
EVALUATED = ("--config.train.steps=8", "--config.checkpoint.every=4", "--config.evaluate.every=4")


@pytest.mark.faults
def test_an_evaluation_that_a_kill_cut_off_is_made_up_for(tmp_path, cache):
    """R32 with evaluate.every: step 4 is saved, and the process dies in its evaluation."""
    runs.finish(tmp_path / "whole", *EVALUATED, **runs.ONE, cache=cache)
    assert runs.start(tmp_path / "w", *EVALUATED, **runs.ONE, cache=cache, before=CUT_OFF).end() == [-9]
    before = runs.lines(tmp_path / "w")
    assert [line["step"] for line in before] == [1, 2, 3, 4] and not any("eval" in json.dumps(x) for x in before)
    runs.finish(tmp_path / "w", *EVALUATED, **runs.ONE, cache=cache)
    runs.same(tmp_path / "w", tmp_path / "whole")
    assert runs.evaluated(tmp_path / "w") == [4, 8]
