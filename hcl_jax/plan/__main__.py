"""Will it fit, how fast will it be, what will it send? Compiles a recipe's own step for chips that are not there.

python -m hcl_jax.plan --config=simclr:imagenet --topology=v5e:16x16
python -m hcl_jax.plan --config=simclr:imagenet --topology=v5e:8x8,v6e:16x16 --batch-size=1024,4096 --price=1.2
python -m hcl_jax.plan --config=simclr:digits --topology=cpu:8

Needs `pip install -e '.[tpu]'` (libtpu, whose compiler runs without a TPU), no accelerator, no data, no network. All
figures are estimates: cycles are the compiler's own, wires by published link rates (hcl_jax/plan/chips.py).
"""

import argparse
import hashlib
import importlib.util
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from hcl_jax import config as configs
from hcl_jax.cli import read_config, recipe_parser, with_overrides
from hcl_jax.errors import InputError
from hcl_jax.plan import chips, table

CACHE = pathlib.Path("runs/plan")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = recipe_parser("plan", __doc__, workdir="plan the run of this folder")
    parser.add_argument(
        "--topology", required=True, metavar="T[,T]", help="v5e:16x16, 2*v5e:16x16, v5p:8x8x16, h100:64, cpu:8"
    )
    parser.add_argument("--batch-size", metavar="B[,B]", help="global, in examples; the recipe's when left out")
    parser.add_argument("--price", type=float, metavar="P", help="of a chip and hour, for the cost column")
    parser.add_argument(
        "--input-rate", type=float, metavar="R", help="rows/s that a host's input makes: does it keep up?"
    )
    parser.add_argument("--no-advice", action="store_true", help="do not try what would make it fit")
    parser.add_argument("--json", action="store_true", help="print the estimates as JSON")
    parser.add_argument("--chart", type=pathlib.Path, metavar="FILE", help="a PNG of the steps' parts")
    parser.add_argument("--cache", type=pathlib.Path, default=CACHE, metavar="DIR", help=f"of compiles ({CACHE})")
    try:
        known, overrides = with_overrides(parser, sys.argv[1:] if arguments is None else arguments)
        _check(known)
        config = read_config(known, overrides)
        rows = plan(config, known)
    except InputError as error:
        print(f"hcl_jax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hcl_jax: stopped; the same command goes on from the compiles that are kept", file=sys.stderr)
        return 130
    if known.chart and not table.chart(rows, known.chart):
        print("plan: no step has a time, so there is no chart", file=sys.stderr)
    try:
        print(json.dumps(rows, indent=1) if known.json else table.text(rows, known.price, known.input_rate), flush=True)
    except BrokenPipeError:  # whoever read has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 2 if all("refused" in row for row in rows) else 0


def _check(known: argparse.Namespace) -> None:
    """Refuses before the first compile what would fail after the last."""
    if known.price is not None and not 0 <= known.price < math.inf:
        raise InputError("--price", known.price, "a number from 0")
    if known.input_rate is not None and not 0 < known.input_rate < math.inf:
        raise InputError("--input-rate", known.input_rate, "rows a second, more than 0")
    if known.chart:
        if importlib.util.find_spec("matplotlib") is None:
            raise InputError("--chart", "no matplotlib", "pip install matplotlib with it, or no --chart")
        if known.chart.suffix.lower() != ".png" or known.chart.is_dir():
            raise InputError("--chart", repr(str(known.chart)), "a file whose name ends in .png")
        _writable("--chart", known.chart.parent)
    _writable("--cache", known.cache)


def _writable(where: str, folder: pathlib.Path) -> None:
    """Raises InputError unless a file can be made in a folder, or the folder in the nearest that is there."""
    if re.match(r"[a-z][a-z0-9]+:/", str(folder)):
        raise InputError(where, repr(str(folder)), "a folder on a disk")
    try:
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise InputError(where, f"{str(folder)!r} ({error.strerror})", "a folder that can be written") from None


def plan(config: Any, known: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each topology and batch size. Of several a refused one is a row too; a lone one raises."""
    topologies = [chips.parse(t) for t in known.topology.split(",")]
    if any(t.kind in chips.CHIPS for t in topologies) and importlib.util.find_spec("libtpu") is None:
        raise InputError("--topology", "TPU chips, but libtpu is not installed", "cpu:N, or pip install -e '.[tpu]'")
    config = configs.complete(config)
    sizes = _sizes(known.batch_size) or [config.data.batch_size]
    asked = [(topology, size) for topology in topologies for size in sizes]
    rows = []
    for number, (topology, size) in enumerate(asked, 1):
        print(f"plan: {number} of {len(asked)}: {topology.text}, batch {size}", file=sys.stderr, flush=True)
        row = {"topology": topology.text, "batch_size": size, "chips": topology.chips, "hosts": topology.hosts}
        try:
            rows.append(row | _one(changed(config, {"data.batch_size": size}), topology, known))
        except InputError as error:
            if len(asked) == 1:
                raise
            rows.append(row | {"refused": str(error)})
    return rows


def _one(config: Any, topology: chips.Topology, known: argparse.Namespace) -> dict[str, Any]:
    found = compile_cached(config, topology, known.cache)
    if not found["fits"]:
        tried, helped = ([], {}) if known.no_advice else advice(config, topology, found, known.cache)
        return found | {"tried": tried} | helped
    return found | _estimated(found, topology)


def _estimated(found: dict[str, Any], topology: chips.Topology) -> dict[str, Any]:
    if topology.kind == "cpu":
        return {}
    from hcl_jax.plan import cost  # late, as others below: they import JAX or NumPy, for which --help need not wait

    made = cost.of_gpus(found, topology) if topology.kind in chips.GPUS else cost.estimate(found, topology)
    return {"estimate": made._asdict() | {"wires": [w._asdict() for w in made.wires]}}


def _sizes(text: str | None) -> list[int]:
    if text is None:
        return []
    if not re.fullmatch(r"0*[1-9][0-9]*(,0*[1-9][0-9]*)*", text):
        raise InputError("--batch-size", repr(text), "whole numbers from 1, with commas between")
    return [int(b) for b in text.split(",")]


def advice(
    config: Any, topology: chips.Topology, found: dict[str, Any], cache: pathlib.Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What may make a step fit, one change upon the other, each compiled.

    Returns:
      ([{"fields": all changes so far, "needs": bytes, or "refused": why}], {"helps": fields, "with_them": the row of
      the step that fits}); the second is {} when none does.
    """
    tried: list[dict[str, Any]] = []
    fields: dict[str, Any] = {}
    needs = found["needs"]
    for change in HELPS:
        new = change(config, needs, found["sizes"])
        if not new or all(_get(config, field) == value for field, value in new.items()):
            continue
        text = " ".join(f"{field}={value}" for field, value in new.items())
        print(f"plan: {topology.text}, {_over(needs)} too much, trying {text}", file=sys.stderr, flush=True)
        try:
            with_it = compile_cached(changed(config, fields | new), topology, cache)
        except InputError as error:
            tried.append({"fields": fields | new, "refused": str(error)})
            continue
        fields |= new
        if with_it["fits"]:
            return tried, {"helps": fields, "with_them": with_it | _estimated(with_it, topology)}
        needs = with_it["needs"]
        tried.append({"fields": dict(fields), "needs": needs})
    return tried, {}


def _over(needs: dict[str, int]) -> str:
    return f"{(needs['used'] - needs['there']) / 2**30:.2f} GiB"


def _parts(config: Any, needs: dict[str, int]) -> int:
    """A power of two of parts after which what does not fit would, were all of it rows."""
    return 2 ** math.ceil(math.log2(1.3 * needs["used"] / needs["there"]))


# What may make a step fit, in the order it is tried: (config, needs, sizes) -> fields, {} where it can not help. Those
# that keep the loss as it is come first; accumulation, which makes the contrastive batch smaller, is the last.
HELPS: tuple[Callable[[Any, dict[str, int], dict[str, int]], dict[str, Any]], ...] = (
    lambda config, needs, sizes: {"train.compute_dtype": "bfloat16"},
    lambda config, needs, sizes: {"train.remat": True},
    lambda config, needs, sizes: (
        {"mesh.data": 1, "mesh.fsdp": -1} if sizes["parameters"] + sizes["optimizer"] > needs["there"] / 20 else {}
    ),
    lambda config, needs, sizes: {"train.engine": "ring"},
    lambda config, needs, sizes: {"train.cache": config.train.cache * _parts(config, needs)},
    lambda config, needs, sizes: {"train.accumulate": config.train.accumulate * _parts(config, needs)},
)


def changed(config: Any, fields: dict[str, Any]) -> Any:
    """A completed copy of a config with other values."""
    plain = config.to_dict()
    for field, value in fields.items():
        at = plain
        *path, last = field.split(".")
        for part in path:
            at = at[part]
        at[last] = value
    return configs.complete(configs.ConfigDict(plain))


def _get(config: Any, field: str) -> Any:
    for part in field.split("."):
        config = config[part]
    return config


def compile_cached(config: Any, topology: chips.Topology, cache: pathlib.Path) -> dict[str, Any]:
    """What the compiler says. Nothing is lowered that this code has lowered before, nothing compiled a second time."""
    from hcl_jax.workdir import card, files

    request = {"config": config.to_dict(), "topology": topology.text, "cache": str(cache)}
    text = json.dumps(request, sort_keys=True)
    key = hashlib.sha256((text + json.dumps(card.code(), sort_keys=True)).encode()).hexdigest()[:24]
    path = cache / f"asked-{key}.json"
    facts = files.read_json(path, "program")
    found = None if facts is None else _found(facts, topology, cache)
    if found is None:  # new, or its files are damaged
        facts = _facts(text, topology)
        files.keep(path, json.dumps(facts))
        found = _found(facts, topology, cache)
    if found is None:
        raise InputError("--cache", f"{str(cache)!r}, whose files were changed meanwhile", "a folder of its own")
    return found


def _facts(request: str, topology: chips.Topology) -> dict[str, Any]:
    """Lowers a step, and compiles it unless the cache has it, in a process of its own."""
    from hcl_jax.plan import program

    done = subprocess.run(
        [sys.executable, "-m", "hcl_jax.plan.program"], input=request, env=program.environment(topology),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = f"a step that does not compile ({_why(done.stderr, done.returncode)})"
        raise InputError(f"--topology={topology.text}", said, "another")
    facts = json.loads(done.stdout.splitlines()[-1])
    if "error" in facts:
        raise InputError(*facts["error"])
    return facts


def _why(text: str, status: int) -> str:
    """The line of a traceback that names the error; how the process ended where there is none."""
    if status == -signal.SIGKILL:
        return "the compiler was killed, as Linux does when memory runs out"
    lines = text.strip().splitlines() or [f"status {status}"]
    named = [line for line in lines if re.match(r"[A-Za-z_][\w.]*(Error|Exception)\b", line)]
    return (named or lines)[-1][:300]


def _found(facts: dict[str, Any], topology: chips.Topology, cache: pathlib.Path) -> dict[str, Any] | None:
    """What is known of a step with what the cache has of its program; None when a file is missing or damaged."""
    name = facts["program"]
    if not name:  # only traced: of the memory the state is known
        used, there = facts["roofline"]["state"], chips.GPUS[topology.kind].memory
        return facts | ({"fits": True} if used <= there else {"fits": False, "needs": {"used": used, "there": there}})
    from hcl_jax.plan import program

    made = program.kept_before(cache, name)
    if made is None:
        return None
    said, text = made
    return facts | said | (program.reading(text) if said["fits"] else {})


def _end(*_: Any) -> None:
    sys.exit(143)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)  # an end of this process's own kills the one that compiles
    sys.exit(main())
