"""Will it fit, how fast will it be, what will it send? Compiles a recipe's own step for chips that are not there.

python -m hcl_jax.plan --config=simclr:imagenet --topology=v5e:16x16
python -m hcl_jax.plan --config=simclr:imagenet --topology=v5e:8x8,v6e:16x16 --batch-size=1024,4096 --price=1.2
python -m hcl_jax.plan --config=simclr:digits --topology=cpu:8

Needs `pip install hcl_jax[tpu]` (libtpu, whose compiler runs without a TPU), no accelerator, no data, no network. All
figures are estimates: cycles are the compiler's own, wires by published link rates (hcl_jax/plan/chips.py).
"""

import argparse
import hashlib
import importlib.util
import json
import pathlib
import subprocess
import sys
from typing import Any

from hcl_jax import card, files
from hcl_jax import config as configs
from hcl_jax.command import read_config, with_overrides
from hcl_jax.errors import InputError
from hcl_jax.plan import chips, cost, program, table

CACHE = pathlib.Path("runs/plan")
HELPS = {  # what may make a step fit, in the order it is tried
    "train.remat": True,
    "train.compute_dtype": "bfloat16",
    "mesh.fsdp": -1,
    "train.accumulate": 4,
    "train.engine": "ring",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m hcl_jax.plan", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--config", metavar="RECIPE[:ARG]", help="a packaged recipe, or a .py file with get_config")
    parser.add_argument("--config.FIELD", metavar="VALUE", dest="_field", help="sets one field of the config")
    parser.add_argument("--workdir", metavar="DIR", help="plan the run of this folder")
    parser.add_argument("--topology", required=True, metavar="T[,T]", help="v5e:16x16, 2*v5e:16x16, v5p:8x8x16, cpu:8")
    parser.add_argument("--batch-size", metavar="B[,B]", help="global, in examples; the recipe's when left out")
    parser.add_argument("--price", type=float, metavar="P", help="of a chip and hour, for the cost column")
    parser.add_argument("--no-advice", action="store_true", help="do not try what would make it fit")
    parser.add_argument("--json", action="store_true", help="print the estimates as JSON")
    parser.add_argument("--chart", type=pathlib.Path, metavar="FILE", help="a PNG of the steps' parts")
    parser.add_argument("--cache", type=pathlib.Path, default=CACHE, metavar="DIR", help=f"of compiles ({CACHE})")
    try:
        known, overrides = with_overrides(parser, sys.argv[1:] if arguments is None else arguments)
        config = read_config(known, overrides)
        rows = plan(config, known)
    except InputError as error:
        print(f"hcl_jax: {error}", file=sys.stderr)
        return 2
    if known.json:
        print(json.dumps(rows, indent=1))
    else:
        print(table.text(rows, known.price))
    if known.chart:
        table.chart(rows, known.chart)
    return 0


def plan(config: Any, known: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each topology and batch size."""
    topologies = [chips.parse(t) for t in known.topology.split(",")]
    if any(t.kind != "cpu" for t in topologies) and importlib.util.find_spec("libtpu") is None:
        raise InputError("--topology", "TPU chips, but libtpu is not installed", "cpu:N, or pip install hcl_jax[tpu]")
    config = configs.complete(config)
    sizes = _sizes(known.batch_size) or [config.data.batch_size]
    rows = []
    for topology in topologies:
        for size in sizes:
            one = changed(config, {"data.batch_size": size})
            print(f"plan: {topology.text}, batch {size}", file=sys.stderr, flush=True)
            found = compile_cached(one, topology, known.cache)
            row = {"topology": topology.text, "chips": topology.chips, "hosts": topology.hosts, **found}
            if found["fits"] and topology.kind != "cpu":
                row["estimate"] = _plain(cost.estimate(found, topology))
            if not found["fits"] and not known.no_advice:
                row["helps"] = advice(one, topology, known.cache)
            rows.append(row)
    return rows


def _sizes(text: str | None) -> list[int]:
    try:
        return [int(b) for b in text.split(",")] if text else []
    except ValueError:
        raise InputError("--batch-size", repr(text), "whole numbers with commas between") from None


def advice(config: Any, topology: chips.Topology, cache: pathlib.Path) -> list[str]:
    """The first changes, one upon the other, with which the step compiles; [] when none does."""
    fields: dict[str, Any] = {}
    for field, value in HELPS.items():
        if _get(config, field) == value:
            continue
        fields |= {field: value} | ({"mesh.data": 1} if field == "mesh.fsdp" else {})
        print(f"plan: {topology.text}, trying {field}={value}", file=sys.stderr, flush=True)
        if compile_cached(changed(config, fields), topology, cache)["fits"]:
            return [f"--config.{k}={v}" for k, v in fields.items()]
    return []


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
    """What the compiler says, from the cache where this config, code and releases have been compiled before."""
    asked = json.dumps({"config": config.to_dict(), "topology": topology.text}, sort_keys=True)
    key = hashlib.sha256((asked + json.dumps(card.code(), sort_keys=True)).encode()).hexdigest()[:24]
    path = cache / f"{key}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    done = subprocess.run(
        [sys.executable, "-m", "hcl_jax.plan.program"], input=asked, env=program.environment(topology),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise InputError(f"--topology={topology.text}", f"a step that does not compile ({last[0][:300]})", "another")
    found = json.loads(done.stdout.splitlines()[-1])
    if "error" in found:
        raise InputError(*found["error"])
    cache.mkdir(parents=True, exist_ok=True)
    files.write(path, json.dumps(found))
    return found


def _plain(estimate: cost.Estimate) -> dict[str, Any]:
    return estimate._asdict() | {"wires": [w._asdict() for w in estimate.wires]}


if __name__ == "__main__":
    sys.exit(main())
