"""The run card: config, data, versions, devices and results of a run, in card.json and as a table."""

import datetime
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from hcl_jax import config as configs
from hcl_jax.runtime import machine
from hcl_jax.workdir import files

PACKAGES = ("hcl_jax", "jax", "jaxlib", "libtpu", "jax-cuda12-pjrt", "flax", "optax", "orbax-checkpoint", "numpy",
            "tensorflow", "tensorflow-cpu", "tensorflow-datasets", "scikit-learn")  # fmt: skip


def versions() -> dict[str, str]:
    """Installed versions of what a run depends on."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def code() -> dict[str, str]:
    """What the processes of one run must share besides the config: releases, and the package's own source."""
    digest = hashlib.sha256()
    root = pathlib.Path(__file__).resolve().parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    releases = {f"the release of {k}": v for k, v in versions().items()}
    # The launchers of clouds say which commit they installed.
    commit = {"the commit": os.environ["HCL_JAX_COMMIT"]} if os.environ.get("HCL_JAX_COMMIT") else {}
    return releases | commit | {"the source of hcl_jax": digest.hexdigest()[:16]}


def write(
    folder: files.Path,
    config: Any,
    *,
    sources: Mapping[str, Any],
    mesh: jax.sharding.Mesh,
    steps: int,
    params: Any,
    minutes: float,
    results: Mapping[str, float],
) -> None:
    """Writes card.json, whole or not at all."""
    text = configs.to_json(config)
    card = {
        "recipe": config.name,
        "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "config": config.to_dict(),
        "data": {
            split: {
                "name": s.name,
                "examples": int(s.num_examples),
                "fingerprint": s.fingerprint,
                "licence": s.licence,
                "citation": s.citation,
            }
            for split, s in sources.items()
        },
        "versions": versions(),
        "devices": {
            "kind": jax.devices()[0].device_kind,
            "platform": jax.default_backend(),
            "count": int(mesh.size),
            "mesh": {k: int(v) for k, v in mesh.shape.items()},
            "processes": jax.process_count(),
            "host_cores": machine.usable_cores(),
            **({"cpu_threads": machine.cpu_threads()} if machine.cpu_threads() else {}),
        },
        "seed": config.seed,
        "seeds": config.train.seeds,
        "steps": steps,
        "parameters": {k: int(sum(np.prod(x.shape) for x in jax.tree.leaves(v))) for k, v in params.items()},
        "minutes": round(minutes, 2),
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "results": dict(results),
    }
    files.write(folder / "card.json", json.dumps(card, indent=1) + "\n")


COLUMNS = {
    "trained": "trained",
    "untrained": "untrained",
    "raw": "raw input",
    "chance": "chance",
    "gain_over_untrained": "over untrained",
    "gain_over_raw": "over raw",
}
SHARES = re.compile(r"accuracy$|recall_\d+$|contrastive_top1")  # rows that are a share of something: in per cent
SETTINGS = ("n", "draws", "linear_l2")  # numbers of the evaluators themselves: on the card, not in the table


def cells(results: Mapping[str, float]) -> dict[str, dict[str, tuple[float, float | None]]]:
    """The results as {row: {column of COLUMNS: (value, its standard error or None)}}, rows in the order of the run.

    `eval/image/linear_accuracy` 0.93 and `eval/image/raw/linear_accuracy` 0.90 stand in one row.
    """
    found: dict[str, dict[str, tuple[float, float | None]]] = {}
    for name, value in results.items():
        if re.match(r"seed\d+/", name):  # each run's own numbers are on the card; here stand means over seeds
            continue
        parts = name.removeprefix("eval/").split("/")
        if name.endswith("_se") or parts[-1] in SETTINGS:
            continue
        column = next((c for c in COLUMNS if c in parts), "trained")
        row = " ".join(p for p in parts if p != column)
        found.setdefault(row, {})[column] = value, results.get(f"{name}_se")
    return found


def table(results: Mapping[str, float]) -> str:
    """The results as text: a row a metric, shares in per cent, a column a set of features, paired differences, all with
    standard errors."""
    rows = cells(results)
    if not rows:
        return ""
    used = [c for c in COLUMNS if any(c in row for row in rows.values())]
    width = max(map(len, rows))
    lines = ["  ".join([" " * width, *(f"{COLUMNS[c]:>16}" for c in used)])]
    for row, values in rows.items():
        texts = (shown(row, *values[c], sign=c.startswith("gain")) if c in values else "" for c in used)
        lines.append("  ".join([row.ljust(width), *(f"{text:>16}" for text in texts)]).rstrip())
    return "\n".join(lines)


def markdown(results: Mapping[str, float]) -> str:
    """The same table in Markdown."""
    rows = cells(results)
    used = [c for c in COLUMNS if any(c in row for row in rows.values())]
    lines = [["", *(COLUMNS[c] for c in used)], ["---"] * (len(used) + 1)]
    for row, values in rows.items():
        lines.append([row, *(shown(row, *values[c], sign=c.startswith("gain")) if c in values else "" for c in used)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else ""


def is_share(row: str) -> bool:
    """Whether a row of a result table is a share of something, and shown in per cent."""
    return bool(SHARES.search(row))


def shown(row: str, value: float, error: float | None = None, *, sign: bool = False) -> str:
    """A number as a table has it: shares in per cent, others with four digits.

    Example:
      >>> shown("image linear_accuracy", 0.9306, 0.0134), shown("image spread", 0.25, sign=True)
      ('93.1 ± 1.3', '+0.2500')
    """
    factor, digits = (100, 1) if is_share(row) else (1, 4)
    text = f"{factor * value:{'+' if sign else ''}.{digits}f}"
    return text if error is None else f"{text} ± {factor * error:.{digits}f}"


def behind(results: Mapping[str, float]) -> list[str]:
    """The shares of which the untrained encoder has more than the trained one, by two standard errors of the
    difference, or of both where that has none."""
    found = []
    for row, values in cells(results).items():
        if not is_share(row) or not {"trained", "untrained"} <= set(values):
            continue
        (ours, e), (theirs, f) = values["trained"], values["untrained"]
        gain, error = values.get("gain_over_untrained", (ours - theirs, None))
        if gain < -2 * (math.hypot(e or 0.0, f or 0.0) if error is None else error):
            found.append(row)
    return found
