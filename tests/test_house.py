"""The plan of the house, found in its text: rooms and their floors, sizes of files, first lines.

Nothing here is imported or run. Each check has a planted offender beside it.
"""

import ast
import functools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MOST_FILES, MOST_LINES = 12, 500
# Rooms of hcl_jax, from the ground up. A module imports from its own room and from floors below.
FLOORS = (
    ("errors",),
    ("compat", "disk"),
    ("parallel", "runtime", "views", "encoders"),
    ("similarity",),
    ("losses",),
    ("core", "evaluators"),
    ("config", "analysis"),
    ("workdir",),
    ("cli", "data"),
    ("run",),
    ("evaluation",),
    ("check", "trained"),
    ("prepare",),
    ("train",),
    ("main", "embed", "generate", "preview", "claims", "plan", "parts", "tokenizer", "check.__main__"),
    ("compare", "neighbours"),
    ("report",),
)
# Phrases with a plain word of English or of the field in their place.
HOME_MADE = {
    r"[Ff]or ever": "forever, or without limit",
    r"[Nn]obody": "no one, no row, nothing",
    r"[Ss]o many": "that many, or the name of the number",
    r"(?:is|are) none of": "is not one of",
    r"that (?:is|are) none": "without",
    r"(?:is|are) no numbers?": "is not finite, NaN",
    r"[Oo]f users": "for users",
}
# Import -> the only rooms that may have it.
ONLY = {"flax": {"encoders"}, "tensorflow": {"data", "views"}}
# What a loss must not know.
PURE = {"losses": {"core", "config", "data", "workdir", "runtime", "flax", "ml_collections"}}


def sources(*folders):
    return {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8")
            for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))}  # fmt: skip


PACKAGE = sources("hcl_jax")
EVERYTHING = PACKAGE | sources("launch", "configs", "benchmarks")


def module(path):
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@functools.cache
def named(text):
    """[(module, names)] of a file's imports, anywhere in it; no names: `import module`."""
    nodes = list(ast.walk(ast.parse(text)))
    plain = [(alias.name, ()) for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    of_names = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    # Recipes find what they share beside them; nothing else has a relative import.
    assert all(node.level == 0 or re.match(r"from \.(_\w+)? import", ast.unparse(node)) for node in of_names)
    whole = [(".".join(filter(None, ("configs" if n.level else "", n.module))), n.names) for n in of_names]
    return plain + [(base, tuple(a.name for a in names)) for base, names in whole]


def imports(files):
    """{module: the modules and packages that it imports}; a name that is no module counts as the module that has it."""
    known = {module(path) for path in files}

    def of(text):
        for base, names in named(text):
            yield from [f"{base}.{n}" if f"{base}.{n}" in known else base for n in names] or [base]

    return {module(path): set(of(text)) for path, text in files.items()}


def room(name):
    return name.split(".")[1] if name.count(".") else ""


def floor(name):
    """The floor that a module of hcl_jax stands on; None: the table does not say."""
    inner = name.partition(".")[2]
    levels = {entry: level for level, entries in enumerate(FLOORS) for entry in entries}
    return levels.get(inner, levels.get(room(name)))


def arrows_up(files):
    """(who, what) of imports that do not lead down."""
    return {
        (who, what)
        for who, reached in imports(files).items()
        for what in reached
        if what.startswith("hcl_jax.") and room(who) and not (room(who) == room(what) and floor(who) >= floor(what))
        if floor(who) <= floor(what)
    }  # fmt: skip


def circle(files):
    """Modules that import each other in a circle; () if none do."""
    known = {module(path) for path in files}
    arrows = {who: reached & known for who, reached in imports(files).items()}
    done, path = set(), []

    def walk(who):
        if who in path:
            return tuple(path[path.index(who) :])
        if who in done:
            return ()
        path.append(who)
        for what in sorted(arrows[who]):
            if found := walk(what):
                return found
        path.pop()
        done.add(who)
        return ()

    return next((found for who in sorted(arrows) if (found := walk(who))), ())


def strangers(files):
    """(who, what) of imports that a room may not have."""
    found = set()
    for who, reached in imports(files).items():
        for what in reached:
            top = what.split(".")[0]
            if top in ONLY and room(who) not in ONLY[top]:
                found.add((who, what))
            if {top, room(what) if top == "hcl_jax" else ""} & PURE.get(room(who), set()):
                found.add((who, what))
    return found


def too_long(files):
    return {path: lines for path, text in files.items() if (lines := len(text.splitlines())) > MOST_LINES}


def first_lines(files):
    """{path: first line of the docstring} where that is no sentence of its own."""
    lines = {path: (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0] for path, text in files.items()}
    return {path: line for path, line in lines.items() if not re.fullmatch(r"\S.*[.?]", line)}


def home_made(files):
    """{path: {phrase: what to say instead}}."""
    found = {
        path: {phrase: plain for phrase, plain in HOME_MADE.items() if re.search(rf"\b{phrase}\b", text)}
        for path, text in files.items()
    }
    return {path: phrases for path, phrases in found.items() if phrases}


def test_the_top_folder_is_small():
    """A new command is a room with `__main__.py`, or a verb of one that is there."""
    files = sorted(p.name for p in (ROOT / "hcl_jax").iterdir() if p.is_file())
    assert len(files) <= MOST_FILES, files


def test_no_file_is_long():
    assert too_long(EVERYTHING) == {}


def test_every_room_has_a_floor():
    """A new room says where it stands before anything imports it."""
    rooms = {module(path) for path in PACKAGE} - {"hcl_jax"}
    assert {name for name in rooms if floor(name) is None} == set()
    inner = {name.partition(".")[2] for name in rooms}
    assert {entry for entries in FLOORS for entry in entries} - inner == set()


def test_arrows_point_down():
    assert arrows_up(PACKAGE) == set()


def test_no_circle():
    assert circle(EVERYTHING) == ()


def test_each_library_has_its_room():
    assert strangers(PACKAGE) == set()


def test_every_module_says_what_it_is_for():
    assert first_lines(EVERYTHING) == {}


def test_plain_english():
    assert home_made(EVERYTHING) == {}


@pytest.mark.parametrize(
    ("check", "files"),
    [
        (arrows_up, {"hcl_jax/losses/apart.py": "from hcl_jax.core import model"}),
        (arrows_up, {"hcl_jax/workdir/note.py": "def f():\n    from hcl_jax import train", "hcl_jax/train.py": ""}),
        (arrows_up, {"hcl_jax/views/note.py": "import hcl_jax.encoders.mlp"}),  # side by side is not below
        (circle, {"hcl_jax/core/a.py": "from hcl_jax.core import b", "hcl_jax/core/b.py": "import hcl_jax.core.a"}),
        (strangers, {"hcl_jax/core/a.py": "def f():\n    import flax.linen as nn"}),
        (strangers, {"hcl_jax/evaluators/a.py": "from tensorflow.io import gfile"}),
        (strangers, {"hcl_jax/losses/a.py": "from hcl_jax.config import load"}),
        (too_long, {"hcl_jax/core/a.py": "\n" * 501}),
        (home_made, {"launch/a.py": "# A field nobody reads."}),
        (home_made, {"hcl_jax/core/a.py": "# A loss that is no number."}),
        (first_lines, {"launch/a.py": "import ast"}),
        (first_lines, {"launch/a.py": '"""Starts a run on\nmany machines."""'}),
    ],
)  # fmt: skip
def test_the_check_can_fail(check, files):
    assert check(files)


def test_the_checks_let_the_ordinary_be():
    files = {
        "hcl_jax/core/a.py": '"""What a does."""\nfrom hcl_jax.losses import rows\nimport jax',
        "hcl_jax/core/b.py": '"""What b does, for every row that has none."""\nfrom hcl_jax.core import a',
        "hcl_jax/encoders/c.py": '"""Is c the one?\n\nNo."""\nimport flax',
    }
    assert not any(check(files) for check in (arrows_up, circle, strangers, too_long, first_lines, home_made))
