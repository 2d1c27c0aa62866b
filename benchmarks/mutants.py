"""Does the suite notice a planted fault? Seeded mutants, each tried on the tests that reach its line.

  python -m pytest -m "not faults" --cov=hcl_jax --cov-context=test --cov-report=          once: writes .coverage
  python benchmarks/mutants.py --tree=. --coverage=.coverage --output=new.jsonl            60 mutants
  python benchmarks/mutants.py --tree=OLD --coverage=OLD/.coverage --output=old.jsonl --like=new.jsonl
  python benchmarks/mutants.py --compare new.jsonl old.jsonl

A mutant changes one line of the package: a comparison, a sign, a number, a boolean, a check that is left out. `--like`
tries the mutants of another output on another tree: the line is looked for by its text, in any module of that tree.
`--tests=fast` leaves out the tests that `make test` leaves out. A tree that is mutated is a copy: a git worktree.

Each mutant is a line of the output, so a run that is stopped goes on where it was. pytest-cov is needed for the first
command only.
"""

import argparse
import ast
import json
import pathlib
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

GROUPS = {
    "losses": ("losses/*.py",),
    "similarity": ("similarity/*.py",),
    "core": ("core/*.py",),
    "data order": ("data/order.py", "data/pipeline.py", "data/noise.py", "data/mixture.py"),
    "config checks": ("config/*.py",),
    "checkpoints": ("workdir/checkpoint*.py", "workdir/manifest.py", "workdir/layouts.py", "workdir/init_from.py"),
}
COMPARE = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.In: "not in"}
BINARY = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.Mod: ("%", "//")}
SYMBOL = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.In: "in"}


class Mutant(NamedTuple):
    """A line of a file and what stands there instead."""

    file: str
    line: int
    before: str
    after: str
    group: str = ""


def _between(source: list[str], left: ast.expr, right: ast.expr, old: str, new: str) -> tuple[int, str] | None:
    """(line, that line with the operator between two operands changed); None where they stand on two lines."""
    if left.end_lineno != right.lineno or left.end_col_offset is None:
        return None
    text = source[right.lineno - 1]
    head, middle, tail = (
        text[: left.end_col_offset],
        text[left.end_col_offset : right.col_offset],
        text[right.col_offset :],
    )
    if middle.strip("() ") != old:
        return None
    return right.lineno, head + middle.replace(old, new) + tail


def mutations(source: list[str], tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every (line, mutated line) of a module, in order, outside of annotations and docstrings."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in (n for statement in function.body for n in ast.walk(statement)):
            change = None
            if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARE:
                kind = type(node.ops[0])
                change = _between(source, node.left, node.comparators[0], SYMBOL[kind], COMPARE[kind])
            elif isinstance(node, ast.BinOp) and type(node.op) in BINARY:
                change = _between(source, node.left, node.right, *BINARY[type(node.op)])
            elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
                text, at = source[node.lineno - 1], node.col_offset
                sign = "not " if isinstance(node.op, ast.Not) else "-"
                if text[at:].startswith(sign):
                    change = node.lineno, text[:at] + text[at + len(sign) :]
            elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
                text, at, end = source[node.lineno - 1], node.col_offset, node.end_col_offset
                new = not node.value if isinstance(node.value, bool) else node.value + 1
                change = node.lineno, text[:at] + repr(new) + text[end:]
            elif isinstance(node, ast.Raise) and node.lineno == node.end_lineno:
                text = source[node.lineno - 1]
                change = node.lineno, text[: node.col_offset] + "pass"
            if change and change[1] != source[change[0] - 1]:
                yield change


def candidates(package: pathlib.Path, reached: dict[str, dict[int, set[str]]], group: str) -> list[Mutant]:
    """The mutants of a group whose line some test reaches."""
    found = []
    for path in sorted(p for pattern in GROUPS[group] for p in package.glob(pattern)):
        name, text = path.relative_to(package.parent).as_posix(), path.read_text(encoding="utf-8")
        source = text.splitlines()
        for line, after in mutations(source, ast.parse(text)):
            if reached.get(name, {}).get(line):
                found.append(Mutant(name, line, source[line - 1], after, group))
    return found


def contexts(database: pathlib.Path) -> dict[str, dict[int, set[str]]]:
    """{file of the package: {line: tests}} of a .coverage file with contexts. Lines are kept there as bit sets."""
    reached: dict[str, dict[int, set[str]]] = {}
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as db:
        rows = db.execute(
            "select file.path, context.context, line_bits.numbits from line_bits"
            " join file on file.id = line_bits.file_id join context on context.id = line_bits.context_id"
        )
        for path, context, bits in rows:
            test = context.partition("|")[0]
            if not test:
                continue
            lines = reached.setdefault("hcl_jax/" + path.rpartition("/hcl_jax/")[2], {})
            for i, byte in enumerate(bits):
                for bit in range(8):
                    if byte >> bit & 1:
                        lines.setdefault(i * 8 + bit, set()).add(test)
    return reached


def choose(tree: pathlib.Path, reached: dict[str, dict[int, set[str]]], count: int, seed: int) -> list[Mutant]:
    """As many mutants of each group, at most one a line, drawn by the seed."""
    draw = random.Random(seed)
    chosen = []
    for group in GROUPS:
        by_line: dict[tuple[str, int], list[Mutant]] = {}
        for mutant in candidates(tree / "hcl_jax", reached, group):
            by_line.setdefault((mutant.file, mutant.line), []).append(mutant)
        for key in draw.sample(sorted(by_line), min(count // len(GROUPS), len(by_line))):
            chosen.append(draw.choice(by_line[key]))
    return chosen


def located(tree: pathlib.Path, mutant: Mutant) -> Mutant | None:
    """The mutant in another tree: where the same line stands, once; in a file of the same name if there are several."""
    places = []
    for path in sorted((tree / "hcl_jax").rglob("*.py")):
        for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line == mutant.before:
                places.append((path.relative_to(tree).as_posix(), i))
    same = [p for p in places if pathlib.Path(p[0]).name == pathlib.Path(mutant.file).name]
    places = same if len(same) == 1 else places
    return mutant._replace(file=places[0][0], line=places[0][1]) if len(places) == 1 else None


def attempt(tree: pathlib.Path, mutant: Mutant, tests: list[str], which: list[str], seconds: float) -> tuple[str, str]:
    """("killed", the first test that fails), ("survived", ""), or ("undecided", why)."""
    path = tree / mutant.file
    whole = path.read_text(encoding="utf-8")
    lines = whole.split("\n")
    assert lines[mutant.line - 1] == mutant.before, f"{path}:{mutant.line} has changed"
    lines[mutant.line - 1] = mutant.after
    names = tree / ".mutant_tests"
    names.write_text("\n".join(tests))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *which, f"@{names}"]
    try:
        path.write_text("\n".join(lines), encoding="utf-8")
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return "undecided", f"no failure in {seconds:.0f} s"
    finally:
        path.write_text(whole, encoding="utf-8")
        names.unlink()
    if done.returncode == 0:
        return "survived", ""
    failed = [x for x in done.stdout.splitlines() if x.startswith(("FAILED", "ERROR"))]
    if done.returncode == 5:
        return "survived", "no test"
    return ("killed", failed[0][:200]) if failed else ("killed", f"status {done.returncode}")


def compare(new: pathlib.Path, old: pathlib.Path) -> int:
    """Prints the counts of two outputs and the mutants on which they differ; 1 where the new suite catches fewer."""
    results = [{(r["before"], r["after"]): r for r in map(json.loads, p.read_text().splitlines())} for p in (new, old)]
    both = sorted(results[0].keys() & results[1].keys())
    caught = [sum(r[k]["verdict"] == "killed" for k in both) for r in results]
    print(f"{len(both)} mutants in both: {caught[0]} caught by {new}, {caught[1]} by {old}")
    for k in both:
        first, second = (r[k]["verdict"] for r in results)
        if first != second:
            where = "{file}:{line}".format(**results[0][k])
            print(f"{where}: {first}, {second}: {k[0].strip()} -> {k[1].strip()}")
    return int(caught[0] < caught[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=pathlib.Path, default=pathlib.Path("."))
    parser.add_argument("--coverage", type=pathlib.Path, default=pathlib.Path(".coverage"))
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--like", type=pathlib.Path, help="an output whose mutants are tried")
    parser.add_argument("--tests", choices=("all", "fast"), default="all")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=600.0, help="for one mutant")
    parser.add_argument("--compare", type=pathlib.Path, nargs=2, metavar=("NEW", "OLD"))
    arguments = parser.parse_args()
    if arguments.compare:
        return compare(*arguments.compare)
    if arguments.output is None:
        parser.error("--output is needed")
    tree, reached = arguments.tree.resolve(), contexts(arguments.coverage)
    if arguments.like:
        wanted = [
            Mutant(*(r[f] for f in Mutant._fields)) for r in map(json.loads, arguments.like.read_text().splitlines())
        ]
        mutants = [m for m in (located(tree, w) for w in wanted) if m]
        print(f"{len(mutants)} of {len(wanted)} lines are in {tree}")
    else:
        mutants = choose(tree, reached, arguments.count, arguments.seed)
    done = arguments.output.read_text().splitlines() if arguments.output.exists() else []
    seen = {(r["before"], r["after"]) for r in map(json.loads, done)}
    which = ["-m", "not faults", *(["--one-slow"] if arguments.tests == "fast" else [])]
    for i, mutant in enumerate(mutants, 1):
        if (mutant.before, mutant.after) in seen:
            continue
        tests = sorted(reached.get(mutant.file, {}).get(mutant.line, set()))
        began = time.monotonic()
        verdict, by = attempt(tree, mutant, tests, which, arguments.seconds) if tests else ("survived", "no test")
        result = {**mutant._asdict(), "verdict": verdict, "by": by, "tests": len(tests)}
        result["seconds"] = round(time.monotonic() - began, 1)
        with arguments.output.open("a") as out:
            out.write(json.dumps(result) + "\n")
        print(f"{i}/{len(mutants)} {mutant.file}:{mutant.line} {verdict} {by} ({result['seconds']} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
