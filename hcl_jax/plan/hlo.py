"""Reads a compiled program's text: its instructions, how often they run, what they cost and what they send.

Only what the compiler itself wrote is read. An instruction without a figure counts as nothing; `Totals` says how many
there are (`unknown_loops`, `unknown_groups`, `without_cycles`).
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from hcl_jax.plan import groups

BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4,
         "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16}  # fmt: skip
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
SCATTER = "all-reduce-scatter"  # in the name of a fusion of an all-reduce and the slices that its devices keep
ASYNC = ("async-start", "call-start")  # a computation beside this one, as on a SparseCore
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all")


class Op(NamedTuple):
    """One instruction.

    Attributes:
      name, kind: such as `fusion.3` and "fusion".
      shape: text of its result.
      operands: names.
      calls: computations that it runs.
      cycles: the compiler's estimate, or None.
      scope: the path of names it was traced under.
      text: the whole line.
    """

    name: str
    kind: str
    shape: str
    operands: tuple[str, ...]
    calls: tuple[str, ...]
    cycles: int | None
    scope: str
    text: str


class Collective(NamedTuple):
    """What one collective sends in a step.

    Attributes:
      kind: without -start; "send" is what goes to the other slices, over the hosts' network.
      bytes: of its result on one device, each time.
      times: how often it runs in a step.
      devices: one group of those that take part, by number.
      cycles: that the compiler schedules between its start and its end; 0 where it waits.
      scope: of the trace.
    """

    kind: str
    bytes: float
    times: int
    devices: tuple[int, ...]
    cycles: int
    scope: str


class Totals(NamedTuple):
    """What a program does in one run.

    Attributes:
      cycles: {scope: the compiler's estimate}, loops as often as they go round.
      traffic: {scope: bytes read from and written to the chip's memory}; what stays in VMEM is not counted.
      collectives: each, once.
      unknown_loops: loops whose length could not be read, counted once.
      unknown_groups: collectives whose devices could not be read, counted as joining all.
      with_cycles, without_cycles: instructions that carry an estimate, and that do work and carry none.
    """

    cycles: Mapping[str, int]
    traffic: Mapping[str, float]
    collectives: tuple[Collective, ...]
    unknown_loops: int
    unknown_groups: int
    with_cycles: int
    without_cycles: int


def parse(text: str) -> tuple[str, dict[str, list[Op]]]:
    """(name of the entry computation, {computation: its instructions})."""
    entry, ops = "", []
    found: dict[str, list[Op]] = {}
    for line in text.splitlines():
        if line.startswith(("%", "ENTRY")) and line.rstrip().endswith("{"):
            match = re.match(r"(ENTRY )?%?([\w.\-]+)", line)
            assert match is not None
            ops = found.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif line.startswith("  ") and (op := _op(line.strip())):
            ops.append(op)
    return entry, found


_HEAD = re.compile(r"(?:ROOT )?%?([\w.\-]+) = ")
_CALLS = re.compile(r"(?:calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


def _op(line: str) -> Op | None:
    head = _HEAD.match(line)
    if head is None:
        return None
    at = _after_shape(line, head.end())
    kind = re.compile(r" ?([\w\-]+)\(").match(line, at)
    if kind is None:
        return None
    inside = line[kind.end() : _closing(line, kind.end())]
    branches = _BRANCHES.search(line)
    calls = tuple(_CALLS.findall(line)) + (tuple(re.findall(r"[\w.\-]+", branches[1])) if branches else ())
    cycles = re.search(r'"estimated_cycles":"(-?\d+)"', line)
    scope = re.search(r'op_name="([^"]*)"', line)
    return Op(
        head[1], kind[1], line[head.end() : at], tuple(re.findall(r"%([\w.\-]+)", inside)), calls,
        int(cycles[1]) if cycles else None, scope[1] if scope else "", line,
    )  # fmt: skip


def _after_shape(line: str, at: int) -> int:
    """Where the text of a shape, a tuple of them among others, ends."""
    if line[at] != "(":
        return line.index(" ", at)
    return _closing(line, at + 1) + 1


def _closing(line: str, at: int) -> int:
    depth = 1
    for i in range(at, len(line)):
        depth += {"(": 1, ")": -1}.get(line[i], 0)
        if not depth:
            return i
    return len(line)


def shape_bytes(shape: str) -> list[float]:
    """Bytes of each array in the text of a shape; layouts and padding are left out."""
    found = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
    return [BYTES[kind] * math.prod(int(n) for n in sizes.split(",") if n) for kind, sizes in found if kind in BYTES]


_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?")


def memory_bytes(shape: str) -> float:
    """Bytes of the arrays in a shape that lie in the chip's memory; a layout with S(n), n > 0, lies elsewhere."""
    found = (m for m in _ARRAY.findall(shape) if m[0] in BYTES and "S(" not in m[2])
    return sum(BYTES[kind] * math.prod(int(n) for n in sizes.split(",") if n) for kind, sizes, _ in found)


def _traffic(op: Op, shapes: Mapping[str, str], computations: Mapping[str, list[Op]]) -> float:
    """Bytes that one instruction reads from and writes to memory."""
    if (
        op.kind in (*FREE, "while", "conditional", "call", *ASYNC)
        or op.kind.endswith("-done")
        or "ConcatBitcast" in op.text
    ):
        return 0.0
    if op.kind in ("copy-start", "slice-start"):
        arrays = [m for m in _ARRAY.finditer(op.shape) if m[1] in BYTES][:2]  # the two ends, of which one is a part
        size = min(shape_bytes(a[0])[0] for a in arrays)
        return size * sum("S(" not in (a[3] or "") for a in arrays)
    if op.kind == "fusion":
        return _traffic_of_fusion(op, shapes, computations)
    return memory_bytes(op.shape) + sum(memory_bytes(shapes.get(name, "")) for name in op.operands)


PARTIAL = ("dynamic-slice", "slice", "gather")


def _traffic_of_fusion(op: Op, shapes: Mapping[str, str], computations: Mapping[str, list[Op]]) -> float:
    """Of an operand that is only sliced, the slices count; of a result that is updated in place, the update."""
    inside = computations.get(op.calls[0], []) if op.calls else []
    number = {o.name: int(m[1]) for o in inside if (m := re.search(r"parameter\((\d+)\)", o.text))}
    users: dict[int, list[Op]] = {}
    for user in inside:
        for name in {n for n in user.operands if n in number}:
            users.setdefault(number[name], []).append(user)
    inner = {o.name: o.shape for o in inside}
    updates = [o for o in inside if o.kind == "dynamic-update-slice"]
    total = 0.0
    for i, name in enumerate(op.operands):
        size, used = memory_bytes(shapes.get(name, "")), users.get(i, [])
        parts = [_slices(u, number, i, updates, computations) for u in used]
        if used and None not in parts:
            size = min(size, sum(p for p in parts if p is not None))
        total += size
    written = memory_bytes(op.shape)
    root = next((o for o in inside if o.text.startswith("ROOT")), None)
    if written and root is not None and root.kind == "dynamic-update-slice":
        written = sum(shape_bytes(inner.get(root.operands[1], "")))
    return total + written


def _slices(
    user: Op, number: Mapping[str, int], i: int, updates: list[Op], computations: Mapping[str, list[Op]]
) -> float | None:
    """Bytes that an instruction of a fusion reads of its operand i where it reads a part; None where it reads all."""
    if user.kind in PARTIAL:
        return sum(shape_bytes(user.shape))
    if user in updates and user.operands[0] in number:
        return 0.0
    if user.kind != "fusion" or not user.calls:
        return None
    total = 0.0
    for at in (k for k, name in enumerate(user.operands) if number.get(name) == i):
        inside = computations.get(user.calls[0], [])
        mine = {o.name: at for o in inside if f" parameter({at})" in o.text}
        used = [o for o in inside if set(o.operands) & set(mine)]
        parts = [_slices(o, mine, at, [], computations) for o in used]
        if not parts or None in parts:
            return None
        total += sum(p for p in parts if p is not None)
    return total


def read(text: str) -> Totals:
    """Counts a whole program.

    Args:
      text: `compiled.as_text()`.
    """
    entry, computations = parse(text)
    numbers = re.findall(r"(?:num_partitions|replica_count)=(\d+)", text.partition("\n")[0])
    devices = max(map(int, numbers), default=1)
    counter = _Counter(computations, devices)
    counter.add(entry, 1)
    found = counter.collectives.values()
    unread = sum(not c.devices for c in found)
    sent = tuple(c if c.devices else c._replace(devices=tuple(range(devices))) for c in found)
    return Totals(
        counter.cycles, counter.traffic, sent, len(counter.unknown_loops), unread,
        counter.with_cycles, counter.without_cycles,
    )  # fmt: skip


class _Counter:
    """Sums over the computations of a program, each as often as it runs.

    Args:
      computations: of `parse`.
      devices: that the program runs on.

    Attributes:
      cycles, traffic, with_cycles, without_cycles: as in `Totals`.
      collectives: {computation/instruction: what it sends}; one is counted once, however many instructions it has.
      unknown_loops: names.
    """

    def __init__(self, computations: Mapping[str, list[Op]], devices: int):
        self._computations, self._devices = computations, devices
        self.cycles: dict[str, int] = {}
        self.traffic: dict[str, float] = {}
        self.collectives: dict[str, Collective] = {}
        self.unknown_loops: set[str] = set()
        self.with_cycles = self.without_cycles = 0

    def add(self, name: str, times: int, beside: int = 0) -> None:
        """Counts a computation that runs `times`, while `beside` cycles of its caller are scheduled next to it."""
        ops = self._computations.get(name, [])
        shapes = {op.name: op.shape for op in ops}
        for i, op in enumerate(ops):
            moved = _traffic(op, shapes, self._computations)
            if moved:
                self.traffic[op.scope] = self.traffic.get(op.scope, 0.0) + moved * times
            if op.cycles is not None:
                self.cycles[op.scope] = self.cycles.get(op.scope, 0) + max(op.cycles, 0) * times
                self.with_cycles += 1
            elif op.kind not in FREE and not op.kind.endswith("-done"):
                self.without_cycles += 1
            sent = _collective(op, ops[i:], times, self._devices)
            if sent is not None:
                self.collectives[f"{name}/{op.name}"] = sent._replace(cycles=max(sent.cycles, beside))
            self._add_called(name, op, ops[i:], times, beside)

    def _add_called(self, name: str, op: Op, later: list[Op], times: int, beside: int) -> None:
        """Counts what an instruction of computation `name` runs; `later` starts with the instruction."""
        if op.kind == "while":
            trips = _trips(op, self._computations)
            if trips is None:
                self.unknown_loops.add(op.name)
            for called in op.calls:
                self.add(called, times * (trips or 1))
        elif op.kind in ("call", *ASYNC):
            for called in op.calls:
                self.add(called, times, _beside(op, later) if op.kind in ASYNC else beside)
        elif op.kind == "conditional" and op.calls:
            # One branch runs: the costliest is counted.
            self.add(max(op.calls, key=lambda called: _cycles_once(called, self._computations)), times)
        elif op.kind == "fusion":
            for key, sent in _of_fusion(op, self._computations, times, self._devices):
                before = self.collectives.get(f"{name}/{key}", sent._replace(cycles=0))
                self.collectives[f"{name}/{key}"] = before._replace(cycles=before.cycles + sent.cycles)


def _cycles_once(name: str, computations: Mapping[str, list[Op]]) -> int:
    """Cycles of a computation and of what it calls, loops once: to choose among branches."""
    ops = computations.get(name, [])
    inside = (_cycles_once(called, computations) for op in ops if op.kind != "fusion" for called in op.calls)
    return sum(max(op.cycles or 0, 0) for op in ops) + sum(inside)


def _of_fusion(
    op: Op, computations: Mapping[str, list[Op]], times: int, devices: int
) -> Iterator[tuple[str, Collective]]:
    """(key, what is sent) of each collective in a fusion.

    One that is split over a chain of fusions keeps its channel, thus its key, and runs beside each of them. Where each
    device keeps its slice of a sum alone, it is a reduce-scatter; all of these have one channel.
    """
    scatters = any(SCATTER in called for called in op.calls)
    for inner in _fused(op, computations):
        sent = _collective(inner, [], times, devices)
        if sent is None:
            continue
        if scatters and sent.kind == "all-reduce":
            yield op.name, sent._replace(kind="reduce-scatter", bytes=sum(shape_bytes(op.shape)))
        else:
            channel = re.search(r"channel_id=(\d+)", inner.text)
            chain = re.search(r'chain_id="(\d+)"', inner.text)
            key = f"{channel and channel[1]}/{chain and chain[1]}/{inner.kind}"
            yield key, sent._replace(cycles=max(op.cycles or 0, 0))


def _fused(op: Op, computations: Mapping[str, list[Op]]) -> Iterator[Op]:
    for called in op.calls:
        for inner in computations.get(called, []):
            yield inner
            if inner.kind == "fusion":
                yield from _fused(inner, computations)


def _trips(op: Op, computations: Mapping[str, list[Op]]) -> int | None:
    """How often a loop goes round: as it says, or the constant that its condition compares a counter from 0 with."""
    said = re.search(r'"known_trip_count":\{"n":"(\d+)"', op.text)
    if said:
        return int(said[1])
    condition = re.search(r"condition=%?([\w.\-]+)", op.text)
    inside = computations.get(condition[1], []) if condition else []
    limits = [int(m[1]) for o in inside if (m := re.search(r"s32\[\]\S* constant\((\d+)\)", o.text))]
    less = [o for o in inside if "direction=LT" in o.text]
    return limits[0] if len(limits) == 1 and len(less) == 1 else None


def _between_slices(op: Op, later: list[Op], times: int) -> Collective | None:
    """What a device gives its host for the other slices: a send, whose answer a recv of the same name brings."""
    name = re.search(r'_xla_host_transfer_rendezvous="([^"]*)"', op.text)
    if op.kind != "send" or name is None or "megascale" not in op.text:
        return None
    answers = {o.name for o in later if o.kind == "recv" and name[0] in o.text}
    beside = 0
    for other in later[1:]:
        if other.kind == "recv-done" and answers & set(other.operands):
            break
        beside += max(other.cycles or 0, 0)
    return Collective("send", shape_bytes(op.shape)[0], times, (0,), beside, op.scope)


def _beside(op: Op, later: list[Op]) -> int:
    """Cycles scheduled between a start and its done."""
    cycles = 0
    for other in later[1:]:
        if other.kind.endswith("-done") and op.name in other.operands:
            break
        cycles += max(other.cycles or 0, 0)
    return cycles


def _collective(op: Op, later: list[Op], times: int, devices: int) -> Collective | None:
    if op.kind == "send":
        return _between_slices(op, later, times)
    kind = op.kind.removesuffix("-start")
    if kind not in COLLECTIVES:
        return None
    sizes = shape_bytes(op.shape)
    if op.kind.endswith("-start") and kind != "all-reduce":
        sizes = [s for s in sizes if s > 4]  # (operands, results, contexts): results as many as operands
        sizes = sizes[len(sizes) // 2 :]
    beside = _beside(op, later) if op.kind.endswith("-start") else 0
    return Collective(kind, sum(sizes), times, groups.first(op.text, devices), beside, op.scope)
