"""What can be known before the first training: do the views fit the models, does the measure give what is asked?"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.check.evaluation import check_evaluation
from hcl_jax.claims.claim import Claim, evaluation_view
from hcl_jax.claims.keys import Prints
from hcl_jax.claims.measures import MEASURES
from hcl_jax.claims.measures.reading import Reading, Split
from hcl_jax.claims.programs import Program, views_of
from hcl_jax.config import validate
from hcl_jax.errors import InputError, nearest
from hcl_jax.parallel import mesh as meshes
from hcl_jax.run import build

CURVE = {"x", "y"}
ROWS, CLASSES, WIDTH = 96, 4, 16


def check_program(program: Program, views: Mapping[str, Any], prints: Prints, where: str) -> None:
    """Builds the run and encodes the shapes of its views; reads a few records and trains nothing.

    Raises:
      InputError: what the run or its evaluation would refuse, with `where` before it.
    """
    plain = program.config.to_dict()
    plain["evaluate"]["views"] = {n: evaluation_view(v) for n, v in views.items() if not v.get("data")}
    parts = prints.parts
    try:
        for name, view in views.items():
            label = view.get("label")
            if label and label not in program.config.data.labels:
                found = f"{label!r} of the view {name}"
                raise InputError("label", found, f"config.data.labels: {', '.join(program.config.data.labels)}")
        config = configs.complete(configs.ConfigDict(plain))
        validate.check(config, **parts.checked())
        if program.points_at is not None:
            return
        train, test = (
            data.open_source(config.data, config.data[f"{s}_split"], parts.sources) for s in ("train", "test")
        )
        check_evaluation(build(config, parts, train, meshes.make_mesh(config.mesh)), train, test)
    except InputError as error:
        raise error.below(where) from None


def rehearse(claim: Claim, plan: list[Program], where: str) -> None:
    """Runs the measure on made-up features, and looks for the quantities of the statements.

    Raises:
      InputError: arguments that the measure does not take, or a quantity that it does not give.
    """
    arms: dict[str, list[Reading]] = {}
    counts = [p.value for p in plan if isinstance(p.value, int) and not isinstance(p.value, bool)]
    rows = max([ROWS, *counts])
    for program in {(p.arm, str(p.value)): p for p in plan if 0 in p.seeds}.values():
        arm = claim.arms[program.arm]
        if len(program.seeds) < claim.seeds and not arm.per_seed:
            continue  # of fewer seeds: not for the measure
        views = {n: _made(v, rows) for n, v in views_of(arm, claim.views).items()}
        arms.setdefault(program.arm, []).append(Reading(program.value, views, views if arm.untrained else None))
    try:
        found = MEASURES[claim.measure](arms, 0, **claim.arguments)
    except InputError as error:
        raise error.below(where) from None
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        found_text = f"what {claim.measure} cannot use ({type(error).__name__}: {error})"
        raise InputError(f"{where}: arguments", found_text, "as its docstring says") from None
    check_quantities(claim, found, where)


def check_quantities(claim: Claim, found: Mapping[str, Any], where: str) -> None:
    """Raises InputError for a statement about a quantity that the measure does not give."""
    known = [k for k, v in found.items() if not (isinstance(v, dict) and set(v) == CURVE)]
    for i, statement in enumerate(claim.statements):
        if statement.quantity not in known:
            raise InputError(
                f"{where}: statements[{i}].quantity",
                repr(statement.quantity),
                nearest(statement.quantity, known, most=20),
            )


def _made(view: Mapping[str, Any], rows: int) -> dict[str, Split]:
    rng = np.random.default_rng(0)
    out = {}
    for split in view.get("splits", ("train", "test")):
        count = rows if split == "train" else ROWS
        labels = np.arange(count) % CLASSES
        features = np.eye(CLASSES, WIDTH)[labels] + rng.standard_normal((count, WIDTH))
        out[split] = Split(features.astype(np.float32), labels, np.ones(count, bool))
    return out
