"""Which devices a collective of a compiled program joins, read from its text in the ways that XLA writes it."""

import functools
import math
import re
from typing import Any

import numpy as np

_GROUPS = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_ALL = re.compile(r"replica_groups=\{\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\((?:\[(?P<sizes>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?|(?P<ids>[\d,]+))\))? \{(?P<axes>[^}]*)\}"
)
_AXIS = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")


def first(text: str, count: int) -> tuple[int, ...]:
    """The first group of devices that an instruction joins, of `count`; () where its text says it in no known way."""
    if match := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", text):
        return tuple(sorted({int(match[1]), int(match[2])}))
    if match := _GROUPS.search(text):
        return _numbers(match[1])
    if _ALL.search(text):
        return tuple(range(count))
    if match := _IOTA.search(text):
        return tuple(_devices(match[3], match[4]).reshape(int(match[1]), int(match[2]))[0].tolist())
    if match := _MESH.search(text):
        return _along(match)
    return ()


@functools.cache
def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text))


def _devices(sizes: str, order: str | None) -> Any:
    """0, 1, ... in an array of `sizes`, its dimensions put into `order`."""
    devices = np.arange(math.prod(_numbers(sizes))).reshape(_numbers(sizes))
    return devices.transpose(_numbers(order)) if order else devices


def _along(match: re.Match[str]) -> tuple[int, ...]:
    """The first group along axes of a mesh; `axis:(k)n` is the n of an axis that is split into k, n and the rest."""
    sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", match[1])}
    if match["ids"]:
        devices = np.array(_numbers(match["ids"]))
    else:
        devices = _devices(match["sizes"] or str(math.prod(sizes.values())), match["order"])
    parts = [_AXIS.fullmatch(part) for part in match["axes"].split(",")]
    used = {part[1]: (int(part[2] or 1), int(part[3] or sizes.get(part[1], 0))) for part in parts if part}
    if devices.size != math.prod(sizes.values()) or len(used) != len(parts) or not set(used) <= set(sizes):
        return ()
    shape: list[int] = []
    place: list[int | slice] = []
    for name, size in sizes.items():
        before, n = used.get(name, (1, 1))
        if not before * n or size % (before * n):
            return ()
        shape += (before, n, size // (before * n))
        place += (0, slice(None), 0)
    return tuple(np.ravel(devices.reshape(shape)[tuple(place)]).tolist())
