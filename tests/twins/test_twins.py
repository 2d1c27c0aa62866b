"""Our train_step beside the runs of official codes (docs/twins.md): every step, free, from a recipe's words."""

import jax
import numpy as np
import pytest

from tests.twins import harness, page
from tests.twins.twins import DATA, TWINS, opened

# Another processor rounds otherwise.
ROUNDING = 1e-13
# A kind of run each: the others compile for seconds.
FAST = ("simclr", "moco_v2", "spectral", "cmc_memory_moco", "dino", "simcse", "trl_dpo", "dinov2_centering")


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in sorted(TWINS)])
def test_it_takes_the_authors_steps(name):
    with jax.enable_x64(True):
        twin = opened(name)
        found = harness.differences(twin, TWINS[name].say(twin))
    assert max(found.values()) <= TWINS[name].within, found
    told = page.stated(page.PAGE.read_text())[name]
    assert found.keys() == told.keys()
    assert all(found[kind] <= max(10 * told[kind], ROUNDING) for kind in found), (found, told)


def test_each_twin_has_its_line():
    text = page.PAGE.read_text()
    told = page.stated(text)
    lines = [page.line(name, told[name]) for name in sorted(TWINS)]
    assert page.renewed(text, {"here": page.table(lines), "absent": page.absent()}) == text


def test_each_file_is_run_and_all_are_small():
    files = {path.stem: path.stat().st_size for path in DATA.glob("*.npz")}
    assert files.keys() == TWINS.keys()
    assert sum(files.values()) < 8e6


@pytest.mark.parametrize("of", ["loss", "params", "state"])
def test_a_wrong_step_shows(of):
    """One number of the official run is off by 1e-8 of the largest."""
    with jax.enable_x64(True):
        twin = opened("cmc_memory_moco")
        arrays, prefix = {"loss": (twin.arrays, "step/loss"), "state": (twin.digests, "memory/ab/queue/rows")}.get(
            of, (twin.digests, "params/l/heads/z/dense/kernel")
        )
        arrays[prefix] = arrays[prefix].copy()
        arrays[prefix].flat[-1] += 1e-8 * np.max(np.abs(arrays[prefix]))
        found = harness.differences(twin, TWINS["cmc_memory_moco"].say(twin))
    assert {kind for kind, far in found.items() if far > 1e-9} == {of}


def test_numbers_of_the_page_are_rounded_up():
    assert [page.shown(x) for x in (1.23e-5, 7e-16, 9.5e-4, 0.0)] == ["2e-05", "7e-16", "1e-03", "0e+00"]
