"""What a step does, counted from its trace: no compiler has seen it.

XLA's own figure before a compile (`lowered.cost_analysis()`) is of the whole program on all devices and goes through a
scan once; here work is of one device and a scan counts as often as it goes round.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.extend.core
import numpy as np


class Sent(NamedTuple):
    """What a device sends in one kind of collective.

    Attributes:
      kind: "all-reduce", "all-gather", "reduce-scatter", "all-to-all" or "permute".
      bytes: by one device in a step.
      size: devices of a group.
      stride: how many devices apart neighbours of a group are.
    """

    kind: str
    bytes: float
    size: int
    stride: int


class Work(NamedTuple):
    """One device's share of a step.

    Attributes:
      flops: {"bfloat16" | "tf32" | "float32": FLOP of products and convolutions}, by what a GPU computes them with.
      least: bytes of memory that products and convolutions read and write.
      unfused: bytes of memory if every operation read its inputs and wrote its results.
      sent: collectives that the trace shows or implies.
      unknown_loops: loops whose length is known only when they run; their bodies are counted once.
    """

    flops: Mapping[str, float]
    least: float
    unfused: float
    sent: tuple[Sent, ...]
    unknown_loops: int


class Place(NamedTuple):
    """Where an equation stands.

    Attributes:
      times: how often it runs in a step.
      ways: parts that its arrays are in: the devices, or 1 inside a shard_map.
      sizes: {axis: size} of the mesh, in its order.
      state: {shape of a parameter or other state, or that transposed: parts that it is in}.
    """

    times: int
    ways: int
    sizes: Mapping[str, int]
    state: Mapping[tuple[int, ...], int]


def count(jaxpr: Any, sizes: Mapping[str, int], state: Mapping[tuple[int, ...], int]) -> Work:
    """Counts a traced step.

        product [.., M, K] [.., K, N]: 2 batch M N K;  convolution: 2 batch features_in features_out taps

    with the taps of a convolution that fall on a pixel, as XLA counts them: none on padding, none on holes.

    Work is divided evenly over all devices. Arrays with the shape of something in the state are read whole where the
    state is copied. Of a `cond` the branch with the most FLOP counts. Products of rows with rows outside a shard_map
    (the engine `dense`) imply an all-gather of the keys, once for keys of one shape, for what was gathered is kept;
    products over the rows that make no gradient imply an all-reduce. Left out: elementwise FLOP, gathers and scatters
    by index between devices, sums of statistics.

    Args:
      jaxpr: `jitted.trace(...).jaxpr.jaxpr`.
      sizes: {axis: size} of the mesh.
      state: {shape: parts that arrays of this shape in the state are in}.
    """
    both = {s[::-1]: n for s, n in state.items() if len(s) == 2} | dict(state)
    work = _walk(jaxpr, Place(1, math.prod(sizes.values()), sizes, both), {})
    gathers = dict.fromkeys(s for s in work.sent if s.kind == "all-gather")
    return work._replace(sent=(*gathers, *(s for s in work.sent if s.kind != "all-gather")))


def _walk(jaxpr: Any, at: Place, rows: dict[Any, int]) -> Work:
    """Counts the equations; `rows` says which axis has the rows of what was transposed, and learns of more."""
    every = []
    for eqn in jaxpr.eqns:
        every.append(_equation(eqn, at, rows))
        if eqn.primitive.name == "transpose":
            rows[eqn.outvars[0]] = eqn.params["permutation"].index(_rows(eqn.invars[0], rows))
        elif len(eqn.outvars) == 1 and eqn.outvars[0] not in rows:  # the same entries, scaled or cast
            same = [_rows(v, rows) for v in eqn.invars if _shape(v) == _shape(eqn.outvars[0])]
            if any(same):
                rows[eqn.outvars[0]] = max(same)
    flops: dict[str, float] = {}
    for work in every:
        for kind, n in work.flops.items():
            flops[kind] = flops.get(kind, 0.0) + n
    return Work(
        flops, sum(w.least for w in every), sum(w.unfused for w in every), tuple(s for w in every for s in w.sent),
        sum(w.unknown_loops for w in every),
    )  # fmt: skip


def _rows(v: Any, rows: Mapping[Any, int]) -> int:
    return 0 if isinstance(v, jax.extend.core.Literal) else rows.get(v, 0)


def _call(inner: Any, eqn: Any, at: Place, rows: dict[Any, int]) -> Work:
    """A function that runs once, with the equation's operands."""
    known = {v: _rows(given, rows) for v, given in zip(inner.invars, eqn.invars, strict=False)}
    work = _walk(inner, at, known)
    rows.update({v: _rows(made, known) for v, made in zip(eqn.outvars, inner.outvars, strict=False)})
    return work


def _equation(eqn: Any, at: Place, rows: dict[Any, int]) -> Work:
    name, params = eqn.primitive.name, eqn.params
    match name:
        case "scan":
            return _walk(params["jaxpr"].jaxpr, at._replace(times=at.times * params["length"]), {})
        case "while":
            body = _walk(params["body_jaxpr"].jaxpr, at, {})
            return body._replace(unknown_loops=body.unknown_loops + 1)
        case "cond":
            return max((_walk(b.jaxpr, at, {}) for b in params["branches"]), key=lambda w: sum(w.flops.values()))
        case "shard_map":
            manual = math.prod(at.sizes.get(a, 1) for a in params["newly_manual_axes"])
            return _walk(params["jaxpr"], at._replace(ways=max(1, at.ways // manual)), {})
        case "custom_jvp_call" | "custom_vjp_call":  # its rules are not run
            return _call(params["call_jaxpr"].jaxpr, eqn, at, rows)
    inner = list(_jaxprs(params))
    if inner and not name.startswith(("reduce", "arg", "cum", "scatter", "sort")):  # those carry a scalar function
        return _call(inner[0], eqn, at, rows)
    moved = at.times * sum(_share(v, at) for v in (*eqn.invars, *eqn.outvars))
    if name in ("dot_general", "conv_general_dilated"):
        flop = (_product if name == "dot_general" else _convolution)(eqn) * at.times / at.ways
        sent = _implied(eqn, at, rows) if name == "dot_general" and at.ways > 1 else ()
        return Work({_arithmetic(eqn): flop}, moved, moved, sent, 0)
    return Work({}, 0.0, moved, _explicit(eqn, at), 0)


def _jaxprs(params: Mapping[str, Any]) -> Iterator[Any]:
    for value in params.values():
        if hasattr(value, "eqns"):
            yield value
        elif hasattr(value, "jaxpr"):
            yield value.jaxpr


def _shape(v: Any) -> tuple[int, ...]:
    return getattr(v.aval, "shape", ())


def _bytes(v: Any) -> int:
    return math.prod(_shape(v)) * itemsize(getattr(v.aval, "dtype", np.dtype(bool)))


def itemsize(dtype: Any) -> int:
    """Bytes of an entry; a random key has two numbers of 4."""
    return 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.extended) else dtype.itemsize


def _share(v: Any, at: Place) -> float:
    """Bytes of an array on one device."""
    return _bytes(v) / min(at.ways, at.state.get(_shape(v), at.ways))


def _product(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return 2 * math.prod(_shape(eqn.outvars[0])) * math.prod(_shape(eqn.invars[0])[i] for i in contracted)


def _convolution(eqn: Any) -> int:
    p, numbers = eqn.params, eqn.params["dimension_numbers"]
    left, kernel, out = _shape(eqn.invars[0]), _shape(eqn.invars[1]), _shape(eqn.outvars[0])
    taps = 1
    for i, (low, _) in enumerate(p["padding"]):
        holes, apart = p["lhs_dilation"][i], p["rhs_dilation"][i]
        size = (left[numbers.lhs_spec[i + 2]] - 1) * holes + 1
        places = np.arange(out[numbers.out_spec[i + 2]])[:, None] * p["window_strides"][i] - low
        places = places + np.arange(kernel[numbers.rhs_spec[i + 2]])[None] * apart
        taps *= int(np.sum((places >= 0) & (places < size) & (places % holes == 0)))
    features_out, features_in = kernel[numbers.rhs_spec[0]], kernel[numbers.rhs_spec[1]]  # in: of one group
    return 2 * left[numbers.lhs_spec[0]] // p["batch_group_count"] * features_out * features_in * taps


def _arithmetic(eqn: Any) -> str:
    """What a GPU multiplies with: jax's default for float32 there is TF32, "highest" is float32."""
    if any(v.aval.dtype.itemsize < 4 for v in eqn.invars):
        return "bfloat16"
    said = str(eqn.params["precision"])
    return "float32" if "HIGHEST" in said or "F32_F32_F32" in said.removeprefix("T") else "tf32"


def _implied(eqn: Any, at: Place, rows: Mapping[Any, int]) -> tuple[Sent, ...]:
    """Collectives of a product whose rows lie on all devices."""
    (left, right), (batch, _) = eqn.params["dimension_numbers"]
    a, b, out = (_shape(v) for v in (*eqn.invars, eqn.outvars[0]))
    row_a, row_b = (_rows(v, rows) for v in eqn.invars)
    if batch or not a or not b or a in at.state or b in at.state or min(a[row_a], b[row_b]) < at.ways:
        return ()
    rest = (at.ways - 1) / at.ways * at.times
    if row_a not in left and row_b not in right:
        return (Sent("all-gather", rest * _bytes(eqn.invars[1]), at.ways, 1),)
    if row_a in left and row_b in right and out not in at.state:
        return (Sent("all-reduce", 2 * rest * _bytes(eqn.outvars[0]), at.ways, 1),)
    return ()


def _explicit(eqn: Any, at: Place) -> tuple[Sent, ...]:
    name, params = eqn.primitive.name, eqn.params
    kind = {"psum": "all-reduce", "psum_invariant": "all-reduce", "pmax": "all-reduce", "pmin": "all-reduce",
            "all_gather": "all-gather", "all_gather_invariant": "all-gather", "reduce_scatter": "reduce-scatter",
            "all_to_all": "all-to-all", "ppermute": "permute"}.get(name)  # fmt: skip
    if kind is None:
        return ()
    axes = params["axes"] if "axes" in params else params["axis_name"]
    size, stride = group(axes if isinstance(axes, tuple) else (axes,), at.sizes)
    rest = (size - 1) / size
    if kind == "permute":
        sent = float(sum(_bytes(v) for v in eqn.invars))
    elif kind == "all-gather":
        sent = rest * sum(_bytes(v) for v in eqn.outvars)
    else:
        sent = rest * sum(_bytes(v) for v in eqn.invars) * (2 if kind == "all-reduce" else 1)
    return (Sent(kind, sent * at.times, size, stride),) if size > 1 else ()


def group(axes: tuple[Any, ...], sizes: Mapping[str, int]) -> tuple[int, int]:
    """(devices of a group over these axes, how far apart they are in the mesh's order)."""
    names = list(sizes)
    last = max((names.index(a) for a in axes if a in sizes), default=len(names) - 1)
    return math.prod(sizes.get(a, 1) for a in axes), math.prod(sizes[a] for a in names[last + 1 :])
