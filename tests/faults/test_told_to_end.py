"""SIGTERM and Ctrl-C at any moment: the run saves, ends with its status, and goes on to the same state."""

import re
import signal
import sys

import pytest
from faults import runs

EVALUATED = ("--config.evaluate.views={'image': {'kind': 'image', 'field': 'image', 'ops': (), 'tower': 'image'}}",)
# Each says "now" when it begins, and lasts long enough to be hit.
MOMENTS = {
    "training": "",
    "compile": """
import time, jax
compiled = jax.stages.Lowered.compile
def compile(*a, **k):
    print("now", flush=True); time.sleep(1)
    return compiled(*a, **k)
jax.stages.Lowered.compile = compile
""",
    "evaluation": """
import time
from hcl_jax.evaluation import Evaluation
evaluate = Evaluation.online
def online(*a):
    print("now", flush=True); time.sleep(2)
    return evaluate(*a)
Evaluation.online = online
""",
    "save": """
import time
from hcl_jax.workdir import manifest
write = manifest.write
def slow(*a):
    print("now", flush=True); time.sleep(2)
    return write(*a)
manifest.write = slow
""",
}
LAUNCH = [sys.executable, "-m", "launch.local", "--processes=2", "--devices=4", "--"]
# The twelve cases: the processes, which of them are told, and when.
CASES = [
    pytest.param("1x8", (0,), "compile", marks=pytest.mark.faults),
    pytest.param("1x8", (0,), "training", marks=pytest.mark.faults),
    pytest.param("1x8", (0,), "evaluation", marks=pytest.mark.faults),
    pytest.param("1x8", (0,), "save", marks=pytest.mark.slow),
    pytest.param("2x4", (0,), "training", marks=pytest.mark.faults),
    pytest.param("2x4", (0,), "save", marks=pytest.mark.faults),
    pytest.param("2x4", (1,), "compile", marks=pytest.mark.faults),
    pytest.param("2x4", (1,), "training", marks=pytest.mark.slow),
    pytest.param("2x4", (1,), "evaluation", marks=pytest.mark.faults),
    pytest.param("2x4", (1,), "save", marks=pytest.mark.faults),
    pytest.param("2x4", (0, 1), "training", marks=pytest.mark.faults),
    pytest.param("launch.local", (0,), "training", marks=pytest.mark.faults),
]


@pytest.mark.parametrize(("arrangement", "told", "moment"), CASES)
def test_sigterm_saves_and_ends_well(request, tmp_path, cache, arrangement, told, moment):
    """R6, R7: status 0, the step that is said is saved, and the run that goes on is the run that nobody told."""
    whole = request.getfixturevalue("one" if arrangement == "1x8" else "two")
    flags, how = (runs.ONE_FLAGS, runs.ONE) if arrangement == "1x8" else (runs.TWO_FLAGS, runs.TWO)
    length, at = (400, 100) if arrangement == "1x8" else (40, 10)
    if moment == "evaluation":
        flags = (*flags, *EVALUATED, f"--config.evaluate.every={at}")
    more = {"command": LAUNCH} if arrangement == "launch.local" else how
    run = runs.start(tmp_path / "w", *flags, **more, cache=cache, before=MOMENTS[moment])
    if moment == "training":
        run.wait_for_step(at)
    else:
        run.wait_for(lambda: any("now" in run.said(i) for i in range(len(run.processes))))
    reached = run.step()
    run.signal(signal.SIGTERM, *told)
    assert set(run.end()) == {0}, run.everything()
    where = rf"stopped (?:at step (\d+) of {length}, which is saved|before the first step); --workdir="
    done = int(re.search(where, run.said())[1] or 0)
    print(f"{arrangement}, {told} told in {moment} at step {reached}: saved {done}")
    assert reached <= done < length and [done] == (runs.saved(tmp_path / "w")[-1:] or [0])
    assert (done == 0) == (moment == "compile")
    runs.finish(tmp_path / "w", *flags, **how, cache=cache)
    assert runs.digest(tmp_path / "w") == runs.digest(whole)
    trained = [{k: v for k, v in x.items() if not k.startswith("eval/")} for x in runs.lines(tmp_path / "w")]
    assert trained == runs.lines(whole) and runs.unfinished(tmp_path / "w") == []
    if moment == "evaluation":  # the one that was ended is made up for
        assert runs.evaluated(tmp_path / "w") == list(range(at, length + 1, at))


@pytest.mark.parametrize("times", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.faults)])
def test_ctrl_c(tmp_path, one, cache, times):
    """R6: once saves and ends with 130; a second one does not wait. What was saved is gone on with."""
    before = MOMENTS["save"] if times == 2 else ""
    run = runs.start(tmp_path / "w", *runs.ONE_FLAGS, **runs.ONE, cache=cache, before=before)
    if times == 2:
        run.wait_for(lambda: "now" in run.said())
    else:
        run.wait_for_step(100)
    run.signal(signal.SIGINT)
    run.wait_for(lambda: "Ctrl-C again stops at once" in run.said())
    if times == 2:
        run.signal(signal.SIGINT)
    assert run.end() == [130], run.everything()
    assert "Traceback" not in run.said(), run.said()
    assert (f"stopped; --workdir={tmp_path / 'w'} goes on" if times == 2 else "which is saved") in run.said()
    runs.finish(tmp_path / "w", *runs.ONE_FLAGS, **runs.ONE, cache=cache)
    runs.same(tmp_path / "w", one)
