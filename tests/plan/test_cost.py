"""From cycles and bytes to seconds: closed forms by hand."""

import pytest

from hcl_jax.errors import InputError
from hcl_jax.plan import chips, cost, slices

CHIP = chips.CHIPS["v5e"]
LATENCY = chips.LATENCY


def collective(kind, size, devices, cycles=0, times=1):
    return {"kind": kind, "bytes": size, "times": times, "devices": devices,
            "cycles": cycles, "scope": "", "part": "rest"}  # fmt: skip


def places(text):
    """(slice, x, y, z) of each device, x first."""
    t = chips.parse(text)
    x, y, z = (*t.shape, 1, 1)[:3]
    return [(s, i, j, k) for s in range(t.slices) for k in range(z) for j in range(y) for i in range(x)]


def wire(sent, text):
    t = chips.parse(text)
    return cost.wire(sent, chips.CHIPS[t.kind], t, places(text))


def test_a_gather_over_a_row_that_is_a_line_takes_one_link():
    found = wire(collective("all-gather", 8e6, tuple(range(8))), "v5e:8x8")
    assert found.bytes == 7e6
    assert found.seconds == pytest.approx(7e6 / CHIP.link + 7 * LATENCY)


def test_a_gather_over_a_row_that_is_a_ring_takes_two():
    found = wire(collective("all-gather", 16e6, tuple(range(16))), "v5e:16x16")
    assert found.seconds == pytest.approx(15e6 / (2 * CHIP.link) + 8 * LATENCY)


def test_an_all_reduce_over_the_whole_torus_sends_twice_over_all_links():
    found = wire(collective("all-reduce", 256e6, tuple(range(256))), "v5e:16x16")
    assert found.seconds == pytest.approx(2 * 255e6 / (4 * CHIP.link) + 2 * 16 * LATENCY)


@pytest.mark.parametrize(("pair", "hops"), [((0, 1), 1), ((0, 15), 1), ((0, 8), 8), ((0, 17), 2)])
def test_a_message_goes_the_short_way_round(pair, hops):
    found = wire(collective("collective-permute", 1e6, pair), "v5e:16x16")
    assert found.seconds == pytest.approx(1e6 / CHIP.link + hops * LATENCY)


def test_a_line_has_one_way():
    found = wire(collective("collective-permute", 1e6, (0, 7)), "v5e:8x8")
    assert found.seconds == pytest.approx(1e6 / CHIP.link + 7 * LATENCY)


@pytest.mark.parametrize(("devices", "links", "hops"), [
    (tuple(range(8)), 1, 7),  # half of a ring is a line
    ((14, 15, 0, 1), 1, 3),  # also where it crosses the end
    (tuple(range(0, 16, 4)), 2 / 4, 8),  # every fourth: three other groups use the same links
    ((0, 4, 8), 2 / 8, 8),
    (tuple(range(0, 256, 16)), 2, 8),  # a column
    (tuple(i + 16 * j for i in range(2) for j in range(2)), 2, 2),
])  # fmt: skip
def test_a_group_that_is_a_part_of_a_ring(devices, links, hops):
    found = wire(collective("all-gather", 16e6, devices), "v5e:16x16")
    share = (len(devices) - 1) / len(devices)
    assert found.seconds == pytest.approx(16e6 * share / (links * CHIP.link) + hops * LATENCY)


def test_a_reduce_scatter_sends_what_the_gather_of_its_result_does():
    gather = wire(collective("all-gather", 16e6, tuple(range(16))), "v5e:16x16")
    scatter = wire(collective("reduce-scatter", 1e6, tuple(range(16))), "v5e:16x16")
    assert (scatter.bytes, scatter.seconds) == pytest.approx((gather.bytes, gather.seconds))
    both = wire(collective("all-reduce", 16e6, tuple(range(16))), "v5e:16x16")
    assert both.bytes == pytest.approx(gather.bytes + scatter.bytes)


def test_what_runs_beside_a_collective_hides_it():
    half = collective("collective-permute", 1e6, (0, 1), cycles=int((1e6 / CHIP.link + LATENCY) * CHIP.clock / 2))
    found = wire(half, "v5e:8x8")
    assert found.exposed == pytest.approx(found.seconds / 2, rel=1e-3)


def test_between_slices_the_network_is_the_limit():
    found = wire(collective("send", 1e6, (0,)), "2*v5e:8x8")
    assert found.crosses == "network"
    assert found.seconds == pytest.approx(1e6 / CHIP.network + chips.NETWORK_LATENCY, rel=1e-6)


def found(**fields):
    return {"cycles": {"encoder": int(CHIP.clock)}, "work": {}, "collectives": [], "flops": CHIP.flops / 2,
            "bytes": 0.0, "traffic": 0.0, "places": places("v5e:8x8"),
            "memory": {"arguments": 2**30, "temporaries": 2**30}, "with_cycles": 5, **fields}  # fmt: skip


def test_a_step_of_a_second():
    one = cost.estimate(found(), chips.parse("v5e:8x8"))
    assert one.step == pytest.approx(1.0) and one.roofline == pytest.approx(0.5) and one.bound == "products"
    assert one.from_cycles


def test_between_slices_the_network_is_a_limit_too():
    sent = collective("send", 1e6, (0,))
    one = cost.estimate(found(collectives=[sent], places=places("2*v5e:8x8")), chips.parse("2*v5e:8x8"))
    assert one.limits["network"] == pytest.approx(1e6 / CHIP.network)
    assert "network" not in cost.estimate(found(), chips.parse("v5e:8x8")).limits


def test_without_the_compilers_cycles_the_step_is_the_roofline():
    one = cost.estimate(found(cycles={}, with_cycles=0), chips.parse("v5e:8x8"))
    assert not one.from_cycles and one.step == one.roofline == pytest.approx(0.5)


@pytest.mark.parametrize(("text", "said"), [
    ("v5e", "such as v5e:16x16"), ("v9:2x2", "v4"), ("v5e:2x2x2", "2 sides"), ("cpu:2x2", "cpu:N"),
    ("v5p:8x8", "3 sides"), ("v5e:0x4", "from 1"), ("0*v5e:2x4", "from 1"), ("cpu:0", "cpu:N"), ("cpu:100000", "cpu:N"),
])  # fmt: skip
def test_a_topology_that_is_none(text, said):
    with pytest.raises(InputError, match=said):
        chips.parse(text)


@pytest.mark.parametrize("slice_", slices.SLICES, ids=str)
def test_hosts_are_those_that_are_rented(slice_):
    for name in (slice_.topology, slice_.accelerator):
        assert (chips.parse(name).chips, chips.parse(name).hosts) == (slice_.chips, slice_.hosts)


def test_chips_and_hosts():
    assert (chips.parse("v5e:16x16").chips, chips.parse("v5e:16x16").hosts) == (256, 64)
    assert chips.parse("v5litepod-256") == chips.parse("v5e:16x16")
    assert (chips.parse("v5e:2x4").hosts, chips.parse("2*v5e:2x4").hosts, chips.parse("v3:4x4").hosts) == (1, 2, 4)
    assert (chips.parse("2*v5p:4x4x4").chips, chips.parse("cpu:8").hosts) == (128, 1)
