"""What a test calls is there: every `module.name` of the project's modules that the tests say, found in their text.

A test that only a whole run of the suite reaches breaks when its function is renamed, and no one sees it
before. Nothing is imported or run: a name is what a module's text binds at its top.
"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
OURS = [p for folder in ("hcl_jax", "launch", "configs", "benchmarks") for p in sorted((ROOT / folder).rglob("*.py"))]


def module(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def bound(text):
    """The names that a module binds at its top; None where it may have any: `__getattr__`, or a star."""
    names, todo = set(), list(ast.parse(text).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {a.asname or a.name.partition(".")[0] for a in node.names}
        else:
            names |= {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()
            todo += ast.iter_child_nodes(node)
    return None if names & {"__getattr__", "*"} else names | {"__name__", "__file__", "__doc__", "__path__", "__dict__"}


def table(texts):
    """{module: its names}; a package has its modules too."""
    found = {name: bound(text) for name, text in texts.items()}
    for name in texts:
        above, _, last = name.rpartition(".")
        if found.get(above) is not None:
            found[above].add(last)
    return found


def missing(text, known):
    """ "module.name" that a test says and its module lacks; a name that means two things in the file is left alone."""
    nodes, aliases, bad = list(ast.walk(ast.parse(text))), {}, set()
    for node in nodes:
        if isinstance(node, ast.Import):
            for a in node.names:
                aliases.setdefault(a.asname or a.name.partition(".")[0], set()).add(
                    a.name if a.asname else a.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for a in node.names:
                aliases.setdefault(a.asname or a.name, set()).add(f"{node.module}.{a.name}")
                if known.get(node.module) is not None and a.name not in {*known[node.module], "*"}:
                    bad.add(f"{node.module}.{a.name}")
        elif isinstance(node, ast.arg):
            aliases.setdefault(node.arg, set()).add("")
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            aliases.setdefault(node.id, set()).add("")
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            aliases.setdefault(node.name, set()).add("")
    one = {alias: next(iter(meant)) for alias, meant in aliases.items() if len(meant) == 1}

    def of(node):
        """The dotted name of an expression that begins with a module's alias."""
        if isinstance(node, ast.Name):
            return one.get(node.id, "")
        below = of(node.value) if isinstance(node, ast.Attribute) else ""
        return f"{below}.{node.attr}" if below in known else ""

    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            where = of(node.value)
            if known.get(where) is not None and node.attr not in known[where]:
                bad.add(f"{where}.{node.attr}")
    return bad


def test_what_the_tests_call_is_there():
    known = table({module(p): p.read_text(encoding="utf-8") for p in OURS})
    bad = {p.relative_to(ROOT).as_posix(): missing(p.read_text(encoding="utf-8"), known) for p in TESTS}
    assert {path: names for path, names in bad.items() if names} == {}


KNOWN = {"hcl_jax": {"embed", "a"}, "hcl_jax.embed": {"main"}, "hcl_jax.a": {"b"}, "hcl_jax.a.b": None}


@pytest.mark.parametrize(
    "text",
    ["from hcl_jax import embed\nembed.names_of(1)", "import hcl_jax.embed as e\ndef f():\n  return e.names_of",
     "def f():\n  from hcl_jax.embed import names_of", "import hcl_jax\nhcl_jax.embed.names_of",
     "import hcl_jax\nhcl_jax.c"],
)  # fmt: skip
def test_the_check_can_fail(text):
    assert missing(text, KNOWN)


def test_the_check_lets_other_things_be():
    text = "from hcl_jax import embed\nfrom hcl_jax.a import b\nembed.main()\nb.anything\nnumpy.anything\nembed.new = 1"
    assert not missing(text, KNOWN)
    assert not missing("from hcl_jax import embed\ndef f(embed):\n  embed.names_of()", KNOWN)
    assert bound("import a.b as c\nif x:\n  d: int = 1\ndef e():\n  f = 1") >= {"c", "d", "e"}
    assert "f" not in bound("def e():\n  f = 1") and bound("from a import *") is None
