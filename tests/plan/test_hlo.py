"""What plan reads from a compiled program: loops, branches, collectives, and the compiler's own cycles."""

import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hcl_jax.plan import hlo

# The shape of what a TPU's compiler prints, cut to what is read.
PROGRAM = (pathlib.Path(__file__).parents[1] / "golden/plan/program.hlo").read_text()


def test_a_program_by_hand():
    found = hlo.read(PROGRAM)
    assert found.cycles == {"jit(step)/jvp(objective)/mul": 500, "": 70}  # five times round; the dearer branch
    assert found.unknown_loops == 0
    permute, reduce, gather = sorted(found.collectives, key=lambda c: ["c", "all-r", "all-g"].index(
        next(x for x in ("c", "all-r", "all-g") if c.kind.startswith(x))))  # fmt: skip
    assert (permute.bytes, permute.times, len(permute.devices), permute.cycles) == (32, 5, 2, 100)
    assert (reduce.bytes, reduce.times, reduce.devices) == (32, 1, (0, 2, 4, 6))
    assert (gather.bytes, gather.devices) == (32 * 4 * 2, (0, 2, 4, 6))
    assert reduce.scope.endswith("optimizer/psum")


def test_a_loop_whose_length_is_not_said_counts_once_and_is_told():
    found = hlo.read(PROGRAM.replace("direction=LT", "direction=NE"))
    assert found.unknown_loops == 1 and found.cycles["jit(step)/jvp(objective)/mul"] == 100


MEMORY = """\
%body (p: f32[16,8], i: s32[]) -> f32[16,8] {
  %p = f32[16,8]{1,0:T(8,128)} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %part = f32[2,8]{1,0:T(8,128)} dynamic-slice(%p, %i, %zero), dynamic_slice_sizes={2,8}
  ROOT %put = f32[16,8]{1,0:T(8,128)} dynamic-update-slice(%p, %part, %i, %zero)
}

ENTRY %main (a: f32[16,8], b: f32[4,8], i: s32[]) -> f32[16,8] {
  %a = f32[16,8]{1,0:T(8,128)} parameter(0)
  %b = f32[4,8]{1,0:T(8,128)S(1)} parameter(1)
  %i = s32[] parameter(2)
  %copy-start = (f32[4,8]{1,0:T(8,128)}, f32[4,8]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) copy-start(%b)
  %copy-done = f32[4,8]{1,0:T(8,128)} copy-done(%copy-start)
  %add = f32[4,8]{1,0:T(8,128)} add(%b, %copy-done), metadata={op_name="x"}
  ROOT %fusion = f32[16,8]{1,0:T(8,128)} fusion(%a, %i), kind=kLoop, calls=%body, metadata={op_name="y"}
}
"""


def test_what_stays_in_vmem_is_no_traffic_and_of_a_part_the_part_counts():
    found = hlo.read(MEMORY).traffic
    # Out of VMEM: 4 x 8 floats. Sum: one operand and the result. In place: a slice of 2 x 8 read, one written.
    assert found == {"": 128, "x": 256, "y": 64 + 4 + 64}


NESTED = """\
%cut (p: f32[9,16,8], i: s32[]) -> f32[16,8] {
  %p = f32[9,16,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %part = f32[1,16,8]{2,1,0} dynamic-slice(%p, %i, %zero, %zero), dynamic_slice_sizes={1,16,8}
}

%outer (q: f32[9,16,8], j: s32[]) -> f32[1,16,8] {
  %q = f32[9,16,8]{2,1,0} parameter(0)
  %j = s32[] parameter(1)
  %inner = f32[1,16,8]{2,1,0} fusion(%q, %j), kind=kLoop, calls=%cut
  ROOT %neg = f32[1,16,8]{2,1,0} negate(%inner)
}

ENTRY %main (a: f32[9,16,8], i: s32[]) -> f32[1,16,8] {
  %a = f32[9,16,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %fusion = f32[1,16,8]{2,1,0} fusion(%a, %i), kind=kOutput, calls=%outer, metadata={op_name="y"}
}
"""


def test_a_slice_in_a_fusion_in_a_fusion_counts_as_a_slice():
    """As in the tiles of a streamed loss, where the whole array would count in every round."""
    assert hlo.read(NESTED).traffic == {"y": 512 + 4 + 512}
    whole = NESTED.replace("negate(%inner)", "negate(%inner), %q").replace("%inner = f32", "%all = f32[9,16,8]{2,1,0} "
                           "negate(%q)\n  %inner = f32")  # fmt: skip
    assert hlo.read(whole).traffic == {"y": 9 * 512 + 4 + 512}


def test_what_goes_to_another_slice_is_a_send_and_what_runs_before_its_answer_hides_it():
    name = '_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="all-reduce.1"'
    text = f"""\
ENTRY %main (a: f32[16]) -> f32[16] {{
  %a = f32[16]{{0}} parameter(0)
  %t = token[] after-all()
  %send = (f32[16]{{0}}, u32[], token[]) send(%a, %t), channel_id=1, frontend_attributes={{{name}}}
  %recv = (f32[16]{{0}}, u32[], token[]) recv(%t), channel_id=2, frontend_attributes={{{name}}}
  %work = f32[16]{{0}} add(%a, %a), backend_config={{"estimated_cycles":"70"}}
  %recv-done = (f32[16]{{0}}, token[]) recv-done(%recv), channel_id=2
  ROOT %after = f32[16]{{0}} add(%a, %a), backend_config={{"estimated_cycles":"900"}}
}}
"""
    (found,) = hlo.read(text).collectives
    assert (found.kind, found.bytes, found.cycles) == ("send", 64, 70)


def test_a_collective_on_the_sparse_core_counts_and_is_hidden_by_what_runs_before_its_end():
    text = """\
%called (p: f32[8,4]) -> f32[64,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %all-gather = f32[64,4]{1,0} all-gather(%p), replica_groups=mesh['axis_0'=8] {'axis_0'}, dimensions={0}
}

ENTRY %main (a: f32[8,4], t: token[]) -> f32[64,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %t = token[] after-all()
  %start = ((f32[8,4]{1,0}, token[]), f32[64,4]{1,0}) call-start(%a, %t), to_apply=%called
  %work = f32[8,4]{1,0} negate(%a), backend_config={"estimated_cycles":"70"}
  ROOT %done = f32[64,4]{1,0} call-done(%start)
}
"""
    found = hlo.read(text)
    (sent,) = found.collectives
    assert (sent.kind, sent.bytes, len(sent.devices), sent.cycles) == ("all-gather", 1024, 8, 70)
    assert sum(found.traffic.values()) == (1024 + 128) + (128 + 128)  # the gather's two ends, and those of the work


def test_a_sum_of_which_each_keeps_a_slice_is_a_reduce_scatter():
    body = """\
%all-reduce-scatter.N (p: f32[64,4]) -> f32[8,4] {
  %p = f32[64,4]{1,0} parameter(0)
  %sum = f32[64,4]{1,0} all-reduce(%p), channel_id=1, replica_groups=mesh['a'=8] {'a'}, to_apply=%add
  ROOT %mine = f32[8,4]{1,0} slice(%sum), slice={[0:8], [0:4]}
}

"""
    text = f"""\
HloModule jit_step, is_scheduled=true, num_partitions=8

{body.replace("N", "1")}{body.replace("N", "2")}ENTRY %main (a: f32[64,4]) -> f32[8,4] {{
  %a = f32[64,4]{{1,0}} parameter(0)
  %b = f32[64,4]{{1,0}} negate(%a)
  %one = f32[8,4]{{1,0}} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
  %two = f32[8,4]{{1,0}} fusion(%b), kind=kCustom, calls=%all-reduce-scatter.2
  ROOT %sum.1 = f32[8,4]{{1,0}} add(%one, %two)
}}
"""
    found = hlo.read(text)
    assert [(c.kind, c.bytes, len(c.devices)) for c in found.collectives] == [("reduce-scatter", 8 * 4 * 4, 8)] * 2
    assert found.unknown_groups == 0


def test_a_gather_in_a_chain_of_fusions_counts_once_and_is_hidden_by_what_they_compute():
    gather = 'all-gather(%p), channel_id=7, replica_groups={}, frontend_attributes={chain_id="3"}'
    pieces = "".join(f"""\
%piece.{i} (p: f32[8,4]) -> f32[64,4] {{
  %p = f32[8,4]{{1,0}} parameter(0)
  ROOT %gather.{i} = f32[64,4]{{1,0}} {gather}
}}

""" for i in range(3))  # fmt: skip
    text = f"""\
HloModule jit_step, num_partitions=8

{pieces}ENTRY %main (a: f32[8,4]) -> f32[64,4] {{
  %a = f32[8,4]{{1,0}} parameter(0)
  %start = f32[64,4]{{1,0}} fusion(%a), kind=kCustom, calls=%piece.0
  %between = f32[64,4]{{1,0}} fusion(%a), kind=kOutput, calls=%piece.1, backend_config={{"estimated_cycles":"70"}}
  ROOT %done = f32[64,4]{{1,0}} fusion(%a), kind=kCustom, calls=%piece.2
}}
"""
    (sent,) = hlo.read(text).collectives
    assert (sent.kind, sent.bytes, len(sent.devices), sent.cycles) == ("all-gather", 1024, 8, 70)


def test_a_collective_that_does_not_say_among_whom_joins_all_and_is_told():
    text = """\
HloModule jit_step, num_partitions=8

ENTRY %main (a: f32[8,4]) -> f32[64,4] {
  %a = f32[8,4]{1,0} parameter(0)
  ROOT %gather = f32[64,4]{1,0} all-gather(%a), replica_groups=torus[8], dimensions={0}
}
"""
    found = hlo.read(text)
    assert found.unknown_groups == 1 and found.collectives[0].devices == tuple(range(8))


@pytest.mark.parametrize(("shape", "expected"), [
    ("f32[8]{0:T(128)}", [32]), ("(bf16[2,3]{1,0}, s32[])", [12, 4]), ("pred[4]", [4]), ("f32[]", [4]), ("s4[6]", [3]),
])  # fmt: skip
def test_bytes_of_a_shape(shape, expected):
    assert hlo.shape_bytes(shape) == expected


def test_the_collectives_of_a_real_program():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())

    def loss(w, x):
        return jax.lax.fori_loop(0, 3, lambda _, w: w - jnp.mean(x @ w, 0)[:, None] * 1e-3, w)

    shapes = (jax.ShapeDtypeStruct((16, 16), jnp.float32, sharding=whole),
              jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=rows))  # fmt: skip
    found = hlo.read(jax.jit(loss, out_shardings=whole).lower(*shapes).compile().as_text())
    sent = [c for c in found.collectives if c.kind == "all-reduce"]
    assert [(c.bytes, c.times, len(c.devices)) for c in sent] == [(64, 3, 8)]
