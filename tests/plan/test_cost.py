"""From cycles and bytes to seconds: closed forms by hand."""

import pytest

from hcl_jax.errors import InputError
from hcl_jax.plan import chips, cost

CHIP = chips.CHIPS["v5e"]
LATENCY = chips.LATENCY


def collective(kind, size, devices, cycles=0, times=1):
    return {"kind": kind, "bytes": size, "times": times, "group": len(devices), "devices": devices,
            "cycles": cycles, "scope": "", "part": "rest"}  # fmt: skip


def test_a_gather_over_a_row_of_the_torus_takes_two_links():
    row = tuple(range(8))
    found = cost.wire(collective("all-gather", 8e6, row), CHIP, chips.parse("v5e:8x8"))
    assert found.bytes == 7e6
    assert found.seconds == pytest.approx(7e6 / (2 * CHIP.link) + 4 * LATENCY)


def test_an_all_reduce_over_the_whole_torus_sends_twice_over_all_links():
    found = cost.wire(collective("all-reduce", 64e6, tuple(range(64))), CHIP, chips.parse("v5e:8x8"))
    assert found.seconds == pytest.approx(2 * 63e6 / (4 * CHIP.link) + 2 * 8 * LATENCY)


def test_what_runs_beside_a_collective_hides_it():
    half = collective("collective-permute", 1e6, (0, 1), cycles=int((1e6 / CHIP.link + LATENCY) * CHIP.clock / 2))
    found = cost.wire(half, CHIP, chips.parse("v5e:8x8"))
    assert found.exposed == pytest.approx(found.seconds / 2, rel=1e-3)


def test_between_slices_the_network_is_the_limit():
    found = cost.wire(collective("all-reduce", 1e6, (0, 64)), CHIP, chips.parse("2*v5e:8x8"))
    assert found.crosses == "network"
    assert found.seconds == pytest.approx(1e6 / (chips.NETWORK / CHIP.host) + 2 * LATENCY, rel=1e-6)


def found(**fields):
    return {"cycles": {"encoder": int(CHIP.clock)}, "collectives": [], "flops": CHIP.flops / 2, "bytes": 0.0,
            "memory": {"arguments": 2**30, "temporaries": 2**30}, "with_cycles": 5, **fields}  # fmt: skip


def test_a_step_of_a_second():
    one = cost.estimate(found(), chips.parse("v5e:8x8"))
    assert one.step == pytest.approx(1.0) and one.roofline == pytest.approx(0.5) and one.bound == "products"
    assert one.fits and one.from_cycles
    assert not cost.estimate(found(memory={"temporaries": 20 * 2**30}), chips.parse("v5e:8x8")).fits


def test_without_the_compilers_cycles_the_step_is_the_roofline():
    one = cost.estimate(found(cycles={}, with_cycles=0), chips.parse("v5e:8x8"))
    assert not one.from_cycles and one.step == one.roofline == pytest.approx(0.5)


@pytest.mark.parametrize(("text", "said"), [
    ("v5e", "such as v5e:16x16"), ("v9:2x2", "v4"), ("v5e:2x2x2", "2 sides"), ("cpu:2x2", "cpu:N"),
    ("v5p:8x8", "3 sides"),
])  # fmt: skip
def test_a_topology_that_is_none(text, said):
    with pytest.raises(InputError, match=said):
        chips.parse(text)


def test_chips_and_hosts():
    assert (chips.parse("v5e:16x16").chips, chips.parse("v5e:16x16").hosts) == (256, 64)
    assert (chips.parse("2*v5p:4x4x4").chips, chips.parse("cpu:8").hosts) == (128, 1)
