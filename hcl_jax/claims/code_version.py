"""Which code a result stands on: the modules that it can reach, without their comments and docstrings."""

import ast
import functools
import hashlib
import importlib.metadata
import inspect
import pathlib
from collections.abc import Iterable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAME = ROOT.name
# Other releases of these may give other numbers.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "scikit-learn")
# Modules and whole rooms. What these decide is in the completed config or in a program's key, or changes no result; the
# loop around the step is held by the tests.
LEFT_OUT = tuple(
    f"{NAME}.{m}"
    for m in (
        *("config", "compat", "errors", "train", "runtime", "workdir"),
        *("claims.claim", "claims.programs", "claims.keys", "claims.cache", "claims.training", "claims.code_version"),
    )
)
KEPT = (f"{NAME}.workdir.init_from",)  # of a room that is left out: it makes the first weights


def left_out(module: str) -> bool:
    """Whether a module's code enters no result."""
    return module not in KEPT and any(f"{module}.".startswith(f"{m}.") for m in LEFT_OUT)


def module_of(part: Any) -> str:
    """The module that a class, a function or a partial of one is written in."""
    while isinstance(part, functools.partial):
        part = part.func
    module = inspect.getmodule(inspect.unwrap(part))
    return module.__name__ if module else ""


def _path(module: str) -> pathlib.Path | None:
    parts = module.split(".")
    if parts[0] != NAME:
        return None
    path = ROOT.joinpath(*parts[1:])
    if path.is_dir():
        return path / "__init__.py"
    return path.with_suffix(".py") if path.with_suffix(".py").is_file() else None


@functools.lru_cache
def _read(path: pathlib.Path) -> tuple[str, tuple[str, ...]]:
    """(code without comments and docstrings, modules of this package that it imports)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            imported += [m if _path(m) else node.module for m in inside]
        elif isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    if path.name == "__init__.py":
        # A table of parts: which of them a run uses is said by its config.
        tree.body = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)]
        imported = []
    return ast.unparse(tree), tuple(m for m in imported if _path(m))


def reach(roots: Iterable[str]) -> dict[str, pathlib.Path]:
    """{module: file} of this package's modules that the roots import, directly or not, and of the roots."""
    found: dict[str, pathlib.Path] = {}
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        path = _path(module)
        if path is None or module in found or left_out(module):
            continue
        found[module] = path
        waiting += _read(path)[1]
    return found


def version(roots: Iterable[str]) -> str:
    """sha256 of the code that the roots reach, and of the packages under it.

    Tables in `__init__.py` are left out, so that a new encoder does not throw away the runs of the others.
    """
    digest = hashlib.sha256()
    for module, path in sorted(reach(roots).items()):
        digest.update(f"{module}\n{_read(path)[0]}\n".encode())
    for package in PACKAGES:
        digest.update(f"{package} {importlib.metadata.version(package)}\n".encode())
    return digest.hexdigest()
