"""The card of a run on the page: what differs from the recipe, data, device, steps, versions; and what alarms said."""

import json
from typing import Any

from hcl_jax import config as configs
from hcl_jax.compare.logged import Logged
from hcl_jax.errors import InputError
from hcl_jax.report.html import Html, join, tag
from hcl_jax.report.sections import rows
from hcl_jax.workdir import alarms


def warnings(run: Logged) -> list[str]:
    """What the alarms say of the lines of a run, as it was told while it trained."""
    state, found = alarms.State(), []
    limits = {"spike_above": run.config.log.spike, "collapse_below": run.config.log.collapse}
    for line in run.lines:
        numbers = {k: v for k, v in line.items() if k != "step"}
        state, texts = alarms.warnings(state, line["step"], numbers, **limits)
        found += texts
    return found


def nearest_recipe(config: Any) -> tuple[str, dict[str, tuple[Any, Any]]]:
    """(recipe with argument, {field: (its value, the run's)}) of the packaged recipe that a config differs least from.

    A frozen config has the name of its recipe and not the argument. ("", {}) for a recipe that is not packaged.
    """
    if config.name not in configs.recipe_names():
        return "", {}
    path = next(p for folder in configs.recipe_folders() if (p := folder / f"{config.name}.py").is_file())
    table = getattr(configs.read_recipe(path), "ARGUMENTS", None) or (config.data.name,)
    found = {}
    for text in (f"{config.name}:{argument}" for argument in table):
        try:
            found[text] = configs.differences(configs.complete(configs.load(text)), config)
        except InputError:  # an argument that needs something which is not here
            continue
    best = min(found, key=lambda text: len(found[text]), default="")
    return best, found.get(best, {})


def card(run: Logged) -> Html:
    """Everything that is known of how the run was made."""
    recipe, apart = nearest_recipe(run.config)
    known = run.card or {}
    facts: list[list[str]] = [["folder", run.folder], ["state", run.state]]
    facts += [["recipe", recipe or run.config.name or "of its own"]]
    seeds = run.seeds
    facts += [["seeds", f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])]]
    facts += [["batch", f"{run.config.data.batch_size:,} rows"]]
    if known:
        devices = known["devices"]
        mesh = " × ".join(f"{k} {v}" for k, v in devices["mesh"].items() if v > 1) or "1"
        facts += [["minutes", f"{known['minutes']:,}"], ["written", known["written"]]]
        facts += [["device", f"{devices['count']} × {devices['kind']}, mesh {mesh}, {devices['processes']} processes"]]
        facts += [["parameters", ", ".join(f"{k} {v:,}" for k, v in known["parameters"].items() if v)]]
        for split, data in known["data"].items():
            said = f"{data['examples']:,} of {data['name']}, {data['licence']}, fingerprint {data['fingerprint'][:12]}"
            facts += [[f"{split} data", said]]
        facts += [["versions", ", ".join(f"{k} {v}" for k, v in known["versions"].items())]]
    else:
        minutes = run.lines[-1].get("minutes")
        facts += [["minutes", f"{minutes:.1f} so far"]] if minutes else []
        facts += [["card", "none yet: it is written when the run ends"]]
    terms = (tag("div", tag("dt", what), tag("dd", text)) for what, text in facts)
    parts = [tag("dl", *terms, class_="facts")]
    if recipe:
        lines = [[k, repr(old), repr(new)] for k, (old, new) in apart.items()]
        caption = f"What differs from {recipe}, the nearest packaged recipe" + ("" if lines else ": nothing")
        parts.append(rows(["field", "recipe", "run"], lines, words=3, caption=caption))
    frozen = json.dumps(run.config.to_dict(), indent=1, default=str)
    parts.append(tag("details", tag("summary", "The whole config"), tag("pre", frozen)))
    return join(*parts)
