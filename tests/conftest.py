"""Eight virtual CPU devices, warnings as errors, no silent broadcasting between ranks, shared compiled programs.

Tests compile far more than they compute, so the workers and the child processes of a run of the suite share a folder of
compiled programs, empty at first and removed at the end, unless JAX_COMPILATION_CACHE_DIR names one that is kept.

`--one-slow` keeps one slow case of a kind: the first case of each function that is marked `slow(one=True)`, or a case
that is. `--seconds=F` prints the slowest cases and fails those above F times their mark:
`SECONDS` below, or `@pytest.mark.seconds(n)`.

Properties (tests/properties) are tried on 1,000 examples each, with `--one-slow` on 50, the same ones in every run.
"""

import atexit
import collections
import gc
import importlib
import os
import shutil
import sys
import tempfile
import time

from quick import QUICK

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        QUICK,  # tests compile far more than they compute
        # Eight devices share few cores here: a collective may wait long for the last of them.
        "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    ]
)
PROGRAMS = os.environ.get("JAX_COMPILATION_CACHE_DIR")
if not PROGRAMS:  # the first process of the run; workers and children have its environment
    os.environ["JAX_COMPILATION_CACHE_DIR"] = PROGRAMS = tempfile.mkdtemp(prefix="hcl_jax_programs_")
    atexit.register(shutil.rmtree, PROGRAMS, ignore_errors=True)
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):  # each child would compile the sources of jax and TensorFlow again
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = os.path.join(PROGRAMS, "bytecode")
    sys.dont_write_bytecode = False
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

os.environ["XDG_CACHE_HOME"] = os.path.join(PROGRAMS, "home")  # of children without that folder
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = os.path.join(PROGRAMS, "hypothesis")  # no folder in the tree

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
from once import once  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")

SECONDS = {"fast": 30.0, "slow": 240.0, "faults": 600.0}  # twice what was seen beside other work


def pytest_addoption(parser):
    parser.addoption("--one-slow", action="store_true", help="of the slow, those marked slow(one=True) alone")
    parser.addoption("--seconds", type=float, metavar="F", help="fail what takes above F times its mark")


def pytest_configure(config):
    count = 50 if config.getoption("--one-slow") else 1000
    every = dict(deadline=None, derandomize=True, database=None, suppress_health_check=list(hypothesis.HealthCheck))
    hypothesis.settings.register_profile("counted", max_examples=count, **every)
    hypothesis.settings.load_profile("counted")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--one-slow"):
        return
    left_out = {i for i in items if (slow := i.get_closest_marker("slow")) and not _stands_for_its_kind(i, slow)}
    items[:] = [i for i in items if i not in left_out]
    config.hook.pytest_deselected(items=list(left_out))


def pytest_collection_finish(session):
    """Where cases are judged, none is charged for the imports that it happens to be the first to need."""
    gc.freeze()  # what all modules have imported outlives every case: no collection looks at 650,000 objects again
    if session.config.getoption("--seconds") and session.items:
        from hcl_jax.views.lazy import tf

        _ = tf.float32
        for name in ("tensorflow_datasets", "orbax.checkpoint", "sklearn.linear_model"):
            importlib.import_module(name)


def _stands_for_its_kind(item, slow) -> bool:
    """A case with such a mark of its own, or the first value of every parameter, whatever else is selected."""
    if not slow.kwargs.get("one", False):
        return False
    spec = getattr(item, "callspec", None)
    return spec is None or slow in spec.marks or not any(spec.indices.values())


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory):
    """A run of six steps with checkpoints 2, 4 and 6, trained once for all workers; a test copies what it changes."""
    from test_end_to_end import SMALL

    from hcl_jax.main import main

    def train(folder):
        flags = ["--config.train.steps=6", "--config.checkpoint.keep=3", f"--workdir={folder}"]
        assert main([*SMALL, *flags]) == 0

    return once(tmp_path_factory, "shared_run", train)


def _spent() -> float:
    """CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _mark(item) -> float:
    if own := item.get_closest_marker("seconds"):
        return own.args[0]
    return SECONDS[next((kind for kind in ("faults", "slow") if item.get_closest_marker(kind)), "fast")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Judges the test by itself: fixtures are shared. A busy machine stretches the clock, so it counts a quarter."""
    spent, clock = _spent(), time.monotonic()
    result = yield
    took = max(_spent() - spent, (time.monotonic() - clock) / 4)
    item.user_properties.append(("seconds", took))
    factor = item.config.getoption("--seconds")
    if factor and took > factor * _mark(item):
        pytest.fail(f"took {took:.1f} s; allowed: {factor * _mark(item):.1f} s (tests/conftest.py)", pytrace=False)
    return result


def pytest_terminal_summary(terminalreporter, config):
    if not config.getoption("--seconds"):
        return
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, ()) if r.when == "call"]
    took = sorted(((dict(r.user_properties).get("seconds", 0.0), r.nodeid) for r in reports), reverse=True)
    terminalreporter.section("the 50 slowest cases: CPU seconds")
    for seconds, name in took[:50]:
        terminalreporter.write_line(f"{seconds:7.1f}  {name}")
    modules = collections.Counter()
    for seconds, name in took:
        modules[name.partition("::")[0]] += seconds
    terminalreporter.section("the 20 slowest modules: CPU seconds")
    for name, seconds in modules.most_common(20):
        terminalreporter.write_line(f"{seconds:7.1f}  {name}")
    terminalreporter.write_line(f"{sum(s for s, _ in took):7.0f}  all {len(took)}, without fixtures and imports")
