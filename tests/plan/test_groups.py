"""The devices of a collective, from each way that XLA writes them; the groups are written out by hand."""

import pytest

from hcl_jax.plan import groups


@pytest.mark.parametrize(("text", "expected"), [
    ("replica_groups={{0,2,4,6},{1,3,5,7}}, use_global", (0, 2, 4, 6)),
    ("replica_groups={}, to_apply=%add", tuple(range(8))),
    ("source_target_pairs={{3,0},{0,1},{1,2},{2,3}}", (0, 3)),
    # rows of 0 1 2 3 / 4 5 6 7, and its columns
    ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
    ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
    ("replica_groups=mesh['axis_0'=8] {'axis_0'}", tuple(range(8))),
    ("replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}, dimensions={0}", (0, 1, 2, 3)),
    ("replica_groups=mesh['data'=2,'fsdp'=4] {'data'}", (0, 4)),
    ("replica_groups=mesh['a'=2,'b'=1,'c'=4] {'a','b'}", (0, 4)),
    # 0 1 / 2 3 / 4 5 / 6 7, its columns as the rows of the mesh
    ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", (0, 2, 4, 6)),
    ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}", (0, 1)),
    ("replica_groups=mesh['a'=2,'b'=2], device_ids=(3,1,2,0) {'b'}", (3, 1)),
    # an axis of 8 as 2 x 4: its last part are neighbours, its first is four apart
    ("replica_groups=mesh['a'=8] {'a':(2)4}", (0, 1, 2, 3)),
    ("replica_groups=mesh['a'=8] {'a':(1)2}", (0, 4)),
    ("replica_groups=mesh['a'=8] {'a':(2)2}", (0, 2)),
])  # fmt: skip
def test_the_first_group(text, expected):
    assert groups.first(f"%x = f32[4] all-reduce(%y), channel_id=3, {text}", 8) == expected


@pytest.mark.parametrize("text", [
    "", "replica_groups=torus[2,4]", "replica_groups=mesh['a'=8] {'b'}", "replica_groups=mesh['a'=8] {'a:(2)4'}",
    "replica_groups=mesh['a'=8] {'a':(3)2}", "replica_groups=mesh['a'=8], device_ids=(0,1) {'a'}",
])  # fmt: skip
def test_what_is_written_in_no_known_way_is_no_group(text):
    assert groups.first(f"%x = f32[4] all-reduce(%y), {text}", 8) == ()
