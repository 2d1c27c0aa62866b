"""A claim from file to verdict: train what is missing, extract, measure, judge. Each piece is cached by its content."""

import json
import os
import pathlib
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

from hcl_jax.claims import claim as claims
from hcl_jax.claims import code_version, features
from hcl_jax.claims.cache import alone, forget
from hcl_jax.claims.claim import Claim
from hcl_jax.claims.keys import FEATURES_CODE, Prints, sha, views_key
from hcl_jax.claims.measures import MEASURES
from hcl_jax.claims.measures.reading import Arms, Reading
from hcl_jax.claims.programs import Program, programs, run_folder, views_of
from hcl_jax.claims.rehearsal import check_program, check_quantities, rehearse
from hcl_jax.claims.training import is_trained, minutes_of, train
from hcl_jax.claims.verdict import judge
from hcl_jax.errors import InputError
from hcl_jax.run import Parts
from hcl_jax.workdir import card, files


def run(
    name: str,
    known: Mapping[str, pathlib.Path],
    *,
    cache: pathlib.Path,
    dirs: Mapping[str, str],
    small: bool = False,
    parts: Parts | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Runs what a claim still lacks, and judges it.

    Args:
      name: of the claim.
      known: claim files by name.
      cache: folder of all results; a killed run loses what it was doing and nothing before.
      dirs: {data set: folder}; the result keeps them for its report.
      small: the claim's small form.
      parts: tables of parts, where the claim's recipes need some of one's own.
      say: where a line of progress goes.

    Returns:
      The result, as `results/<name>.json` in the cache has it.

    Raises:
      InputError: bad input, naming the claim's file and field.
    """
    where = str(known[name])
    prints = Prints(dirs, parts or Parts())
    claim = claims.read(name, known, small=small)
    plan = programs(claim, where, prints=prints, cache=cache)
    key, why = _key(claim, plan, prints, where)
    old = stored(cache, name, small)
    if old is not None and old["key"] != key:
        changed = [part for part in why if old["why"].get(part) != why[part]]
        say(f"{name}: other {', '.join(changed)} than when it was measured; what depends on that is made again")
    began = time.monotonic()
    # Claims that differ in their statements alone share what was measured.
    what = [why["config"], why["data"], why["code"], claim.measure, claim.arguments, claim.views, claim.seeds]
    measured = cache / "measured" / sha(what)[:24]
    numbers = {s: files.read_json(measured / f"seed{s}.json") for s in range(claim.seeds)}
    if not all(numbers.values()):
        folders = _made(claim, plan, prints, where, cache=cache, small=small, say=say)
        numbers = {s: n or _measured(claim, plan, folders, s, measured, where, say) for s, n in numbers.items()}
    statements = _judged(claim, {s: n for s, n in numbers.items() if n}, where)
    result: dict[str, Any] = {
        "name": name,
        "small": small,
        "key": key,
        "why": why,
        "title": claim.title,
        "finding": claim.finding,
        "source": claim.source,
        "note": claim.note,
        "axes": claim.axes,
        "dirs": dict(dirs),
        "measure": claim.measure,
        "seeds": claim.seeds,
        "programs": len(plan),
        "minutes": {
            "planned": claim.minutes,
            "training": round(sum(minutes_of(cache, p) for p in plan), 2),
            "this_call": round((time.monotonic() - began) / 60, 2),
        },
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "versions": card.versions()},
        "statements": statements,
        "numbers": {str(s): n for s, n in numbers.items()},
    }
    files.keep(_result_path(cache, name, small), json.dumps(result, indent=1) + "\n")
    for statement in statements:
        say(f"{name}: {statement['verdict']}: {statement['says']} ({line(statement)})")
    return result


def state_of(
    name: str,
    known: Mapping[str, pathlib.Path],
    *,
    cache: pathlib.Path,
    dirs: Mapping[str, str],
    small: bool = False,
    parts: Parts | None = None,
    sheet: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], str]:
    """The result of a claim, and what is different today: "", or such as "other code than when it was measured".

    Args:
      sheet: {name: result} for claims that the cache lacks, as docs/claims.json has them.

    Raises:
      InputError: the claim has no result, or its file has changed since: that is another claim.
    """
    lying = (stored(cache, name, small), (sheet or {}).get(name))
    candidates = [r for r in lying if r is not None and r["small"] == small]
    if not candidates:
        raise InputError(name, "no result", f"python -m hcl_jax.claims run {name} first")
    claim, where = claims.read(name, known, small=small), str(known[name])
    result = next((r for r in candidates if r["why"]["claim file"] == claim.sha256), None)
    if result is None:
        raise InputError(name, "a result of another claim file", f"python -m hcl_jax.claims run {name} again")
    prints = Prints({**result.get("dirs", {}), **dirs}, parts or Parts())
    try:
        key, why = _key(claim, programs(claim, where, prints=prints, cache=cache), prints, where)
    except InputError as error:  # data that lie elsewhere, or a recipe that has changed
        return result, f"not compared with today's data: {error.where.rpartition(': ')[2]}, found {error.found}"
    changed = [part for part in why if result["why"].get(part) != why[part]]
    return result, f"other {', '.join(changed)} than when it was measured" if key != result["key"] else ""


def stored(cache: pathlib.Path, name: str, small: bool = False) -> dict[str, Any] | None:
    """The result that lies in the cache, whatever has changed since."""
    return files.read_json(_result_path(cache, name, small), "key", "why", "statements", "numbers")


def line(statement: Mapping[str, Any]) -> str:
    """`+0.031 ± 0.012, above 0`: the number, half its interval, what was asked."""
    asked = asked_of(statement)
    if statement["test"] == "sign":
        if not statement["n"]:
            return f"every seed on the threshold, {asked}"
        return f"{statement['value']:.2f} of {statement['n']} seeds {asked}, p {statement['p']:.3f}"
    if statement["test"] == "each":
        return f"{statement['low']:.4g} to {statement['high']:.4g}, each {asked}"
    return f"{statement['value']:+.4f} ± {statement['half_width']:.4f}, {asked}"


def asked_of(statement: Mapping[str, Any]) -> str:
    """`above 0`; of what each seed must do `at least 1`, where equality counts."""
    each = {"above": "at least", "below": "at most"}
    word = each[statement["direction"]] if statement["test"] == "each" else statement["direction"]
    return f"{word} {statement['threshold']:g}"


def _result_path(cache: pathlib.Path, name: str, small: bool) -> pathlib.Path:
    return cache / "results" / f"{name}{'.small' if small else ''}.json"


def _key(claim: Claim, plan: list[Program], prints: Prints, where: str) -> tuple[str, dict[str, str]]:
    """What a result stands on. Statements are judged anew each time, but a changed file is another claim."""
    why = {part: sha([p.why[part] for p in plan]) for part in ("config", "data", "code")}
    read = {name: views_key(views_of(arm, claim.views), prints, where) for name, arm in claim.arms.items()}
    why["data"] = sha(why["data"], read)
    why["code"] = sha(
        why["code"], code_version.version([code_version.module_of(MEASURES[claim.measure]), FEATURES_CODE])
    )
    why["claim file"] = claim.sha256
    return sha(why)[:24], why


def _made(
    claim: Claim,
    plan: list[Program],
    prints: Prints,
    where: str,
    *,
    cache: pathlib.Path,
    small: bool,
    say: Callable[[str], None],
) -> dict[str, pathlib.Path]:
    """Trains and extracts what is missing; {key of a program: folder of its features}."""
    used = _arms_used(claim, plan)
    views = {name: views_of(arm, claim.views) for name, arm in claim.arms.items()}
    left = {(p.arm, str(p.value)): p for p in plan if not is_trained(cache, p)}
    for program in left.values():
        wanted = views[program.arm] if program.arm in used else {}
        check_program(program, wanted, prints, f"{where}: runs.{program.arm}")
    rehearse(claim, plan, where)
    progress = _Progress(claim, plan, cache, small, say)
    folders: dict[str, pathlib.Path] = {}
    for program in plan:
        at = f"{where}: runs.{program.arm}"
        with alone(run_folder(cache, program)):
            progress.show(program)
            data_dir = features.pointer_dir(program, folders, at)
            try:
                train(program, cache, data_dir, prints.parts, say)
            except InputError as error:
                raise error.below(at) from None
            if program.arm in used:
                folders[program.key] = features.extract(
                    program,
                    views[program.arm],
                    untrained=claim.arms[program.arm].untrained,
                    cache=cache,
                    data_dir=data_dir,
                    prints=prints,
                    where=at,
                    say=say,
                )
                forget()
    return folders


def _arms_used(claim: Claim, plan: list[Program]) -> set[str]:
    """Arms that the measure names, and those whose features others are trained on."""
    words: set[str] = set()

    def collect(value: Any) -> None:
        if isinstance(value, str):
            words.add(value)
        elif isinstance(value, Mapping):
            words.update(value)
            for v in value.values():
                collect(v)
        elif isinstance(value, list):
            for v in value:
                collect(v)

    collect(claim.arguments)
    return (set(claim.arms) & words) | {p.points_at[0] for p in plan if p.points_at}


def _measured(
    claim: Claim,
    plan: list[Program],
    folders: Mapping[str, pathlib.Path],
    seed: int,
    folder: pathlib.Path,
    where: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    say(f"  measure {claim.measure}: seed {seed}")
    try:
        found = MEASURES[claim.measure](_arms(claim, plan, folders, seed), seed, **claim.arguments)
    except InputError as error:
        raise error.below(where) from None
    text = json.dumps(found)
    files.keep(folder / f"seed{seed}.json", text)
    return json.loads(text)  # the same types as next time


def _arms(claim: Claim, plan: list[Program], folders: Mapping[str, pathlib.Path], seed: int) -> Arms:
    arms: dict[str, list[Reading]] = {}
    for program in plan:
        if program.key in folders and seed in program.seeds:
            folder = folders[program.key]
            before = features.read(folder, seed, untrained=True) if claim.arms[program.arm].untrained else None
            arms.setdefault(program.arm, []).append(Reading(program.value, features.read(folder, seed), before))
    return arms


def _judged(claim: Claim, numbers: Mapping[int, Mapping[str, Any]], where: str) -> list[dict[str, Any]]:
    check_quantities(claim, numbers[0], where)
    out = []
    for i, statement in enumerate(claim.statements):
        values = [float(n[statement.quantity]) for n in numbers.values()]
        try:
            verdict = judge(values, statement.direction, statement.threshold, statement.test)
        except InputError as error:
            raise InputError(f"{where}: statements[{i}].quantity", error.found, error.allowed) from None
        finite = {k: None if v != v else v for k, v in verdict._asdict().items()}  # JSON has no nan
        out.append({**statement._asdict(), **finite, "half_width": verdict.half_width, "values": values})
    return out


class _Progress:
    """A line before each program: how far, how long, how much longer by what the finished ones took."""

    def __init__(self, claim: Claim, plan: list[Program], cache: pathlib.Path, small: bool, say: Callable[[str], None]):
        self.claim, self.plan, self.cache, self.small, self.say = claim, plan, cache, small, say

    def show(self, program: Program) -> None:
        """Says where the claim stands before this program."""
        if is_trained(self.cache, program):
            return
        done = [p for p in self.plan if is_trained(self.cache, p)]
        left = [p for p in self.plan if not is_trained(self.cache, p)]
        minutes = sum(self._expected(p, done) for p in left)
        basis = f"by {len(done)} finished ones" if done else "as its file says"
        left_text = f"about {minutes:.0f} min of training left, {basis}"
        number = self.plan.index(program) + 1
        self.say(
            f"{self.claim.name}: program {number} of {len(self.plan)}, {len(done)} cached; "
            f"{'no estimate yet' if self.small and not done else left_text}"
        )

    def _expected(self, program: Program, done: list[Program]) -> float:
        alike = [p for p in done if p.arm == program.arm] or done
        if not alike:
            return self.claim.minutes / len(self.plan)
        return sum(minutes_of(self.cache, p) for p in alike) / len(alike)
