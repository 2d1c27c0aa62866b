"""Rules of towers: encoders and heads of the tables, which heads read which, targets, and memory slots."""

from collections.abc import Mapping
from typing import Any

from hcl_jax.config.check_calls import call, check_sizes, one_of
from hcl_jax.config.check_objectives import check_reference
from hcl_jax.config.fields import check, filled
from hcl_jax.config.specs import MEMORIES
from hcl_jax.core import memory_bank, objectives
from hcl_jax.core.towers import head_order, with_read
from hcl_jax.encoders.own import given_by_tower
from hcl_jax.errors import InputError, nearest


def rows_of(spec: Mapping[str, Any], encoders: Mapping) -> tuple[str, ...]:
    """The outputs of a tower's encoder that are rows of features: `h`, and what the encoder names besides."""
    make = encoders.get(spec["encoder"]["name"])
    return ("h", *getattr(getattr(make, "func", make), "more", ()))


def outputs_of(c: Mapping[str, Any], encoders: Mapping) -> set[str]:
    """Every name that an objective may read: `a.h`, `a.z`, `a.target.z`, `image.memory.queue`; and a head that reads
    what a slot is written from, over the slot's rows: `image.memory.queue.prototypes`."""
    names = set()
    for tower, spec in c["towers"].items():
        made = (*rows_of(spec, encoders), "tokens")
        for view in spec["views"]:
            names |= {f"{view}.{output}" for output in (*made, *spec["heads"])}
            if spec["target"]:
                copied = with_read(spec["target"]["heads"], spec["heads"])
                names |= {f"{view}.target.{output}" for output in (*made, *copied)}
        for slot, s in spec["memory"].items():
            names.add(f"{tower}.memory.{slot}")
            written = {name.rpartition(".")[2] for name in memory_bank.reads(s)}
            names |= {f"{tower}.memory.{slot}.{head}" for head, h in spec["heads"].items() if written == {h["reads"]}}
    return names


def check_towers(c: Mapping[str, Any], encoders: Mapping, heads: Mapping) -> None:
    """Raises InputError for a tower that cannot be built."""
    owner: dict[str, str] = {}
    for name, spec in c["towers"].items():
        where = f"config.towers.{name}"
        if not spec["views"]:
            raise InputError(f"{where}.views", "none", f"some of {nearest('', c['views'])}")
        for view in spec["views"]:
            one_of(f"{where}.views", view, c["views"])
            if view in owner:
                found = f"{view!r}, which tower {owner[view]!r} has"
                raise InputError(f"{where}.views", found, "each view in one tower")
            owner[view] = name
        if c["data"]["batch_size"] // c["train"]["accumulate"] % spec["bn_groups"]:
            raise InputError(f"{where}.bn_groups", spec["bn_groups"], "a divisor of the (accumulated) batch")
        _module(f"{where}.encoder", spec["encoder"], encoders)
        _heads(f"{where}.heads", spec["heads"], heads)
        for head in spec["target"]["heads"] if spec["target"] else ():
            one_of(f"{where}.target.heads", head, spec["heads"])


def _module(where: str, spec: Mapping[str, Any], table: Mapping, own: tuple[str, ...] = ("name",)) -> None:
    one_of(f"{where}.name", spec["name"], table)
    given = {k: v for k, v in spec.items() if k not in own}
    call(where, table[spec["name"]], given, given_by_tower(table[spec["name"]], f"{where}.name"))
    check_sizes(where, table[spec["name"]], given)


def _heads(where: str, specs: Mapping[str, Any], heads: Mapping) -> None:
    for head, h in specs.items():
        _module(f"{where}.{head}", h, heads, ("name", "reads"))
        one_of(f"{where}.{head}.reads", h["reads"], ("h", "tokens", *specs))
    order = head_order(specs)
    for i, head in enumerate(order):
        if specs[head]["reads"] in order[i:]:
            raise InputError(f"{where}.{head}.reads", specs[head]["reads"], "heads that read no circle")


def check_memory(c: Mapping[str, Any], outputs: set[str]) -> None:
    """Raises InputError for a memory slot that cannot be written."""
    for tower, spec in c["towers"].items():
        for slot, s in spec["memory"].items():
            where = f"config.towers.{tower}.memory.{slot}"
            check(MEMORIES[s["kind"]], filled(MEMORIES[s["kind"]], s), where)
            names = memory_bank.reads(s)
            if not names:
                raise InputError(f"{where}.reads", "none", "a name, or a list of names")
            for name in names:
                check_reference(f"{where}.reads", name, outputs, c)
                reference = objectives.parse(name)
                if reference is None or reference.kind not in ("output", "target"):
                    raise InputError(f"{where}.reads", repr(name), "an output of a view")
            batch = c["data"]["batch_size"] * len(names)
            if s["kind"] == "fifo" and s["size"] % batch:
                raise InputError(f"{where}.size", s["size"], f"a multiple of the {batch} rows that a step writes")
