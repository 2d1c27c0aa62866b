"""Reads the tables of parts: names, arguments with defaults, and docstrings. Nothing is built."""

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hcl_jax import config as configs
from hcl_jax.evaluators.entries import GIVEN
from hcl_jax.views import frameworks

# kind -> (module, its table, parameters that a recipe does not give: their names, how many of the first, or all).
TABLES: dict[str, tuple[str, str, Any]] = {
    "encoders": ("hcl_jax.encoders", "ENCODERS", ("parent", "name", "dtype", "param_dtype")),
    "heads": ("hcl_jax.encoders", "HEADS", ("parent", "name", "dtype", "param_dtype")),
    "losses": ("hcl_jax.losses", "LOSSES", ("ids", "row_weights", "engine", "present")),
    "weights": ("hcl_jax.losses", "WEIGHTS", ("ids",)),
    "views": ("hcl_jax.views", "VIEWS", 2),
    "evaluators": ("hcl_jax.evaluators", "EVALUATORS", ("features", "labels", "a", "b", "batches", *GIVEN)),
    "sources": ("hcl_jax.data", "SOURCES", None),
    "optimizers": ("hcl_jax.core.optim", "OPTIMIZERS", None),
}
KINDS = (*TABLES, "recipes")


class Part(NamedTuple):
    """One entry of a table.

    Attributes:
      name: as a recipe writes it.
      arguments: name -> default as text; "" where there is none. "*" stands between a loss's inputs and the rest.
      doc: its docstring.
      home: the module that has it.
    """

    name: str
    arguments: Mapping[str, str]
    doc: str
    home: str

    @property
    def line(self) -> str:
        """The first sentence of the docstring, on one line."""
        paragraph = " ".join(self.doc.split("\n\n")[0].split())
        return re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0]

    @property
    def call(self) -> str:
        """The name with its arguments: "projector(hidden=2048, ...)"."""
        return f"{self.name}({', '.join(f'{k}={v}' if v else k for k, v in self.arguments.items())})"


def catalogue(kind: str) -> dict[str, Part]:
    """All parts of a kind, by name."""
    if kind == "recipes":
        return {name: _recipe(name) for name in configs.recipe_names()}
    module, table, hidden = TABLES[kind]
    entries = getattr(importlib.import_module(module), table)
    likes = frameworks.DEFAULTS if kind == "views" else {}
    return {name: _part(name, function, hidden, likes.get(name, {})) for name, function in entries.items()}


def _part(name: str, function: Callable, hidden: Any, likes: Mapping[str, Any]) -> Part:
    parameters = inspect.signature(function).parameters
    left_out = hidden if isinstance(hidden, tuple) else tuple(parameters)[:hidden]
    shown = {n: p for n, p in parameters.items() if n not in left_out}
    arguments: dict[str, str] = {}
    inputs = [n for n, p in shown.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    for n, p in shown.items():
        if p.kind is p.KEYWORD_ONLY and inputs and "*" not in arguments:
            arguments["*"] = ""
        # What `like` sets has None in the signature; its default is that of no framework.
        shown_default = repr(likes[n][None]) if n in likes else _default(p)
        arguments[f"*{n}" if p.kind is p.VAR_POSITIONAL else n] = shown_default
    inner = _written(function)
    return Part(name, arguments, inspect.getdoc(inner) or "", inspect.unwrap(inner).__module__)


def _default(parameter: inspect.Parameter) -> str:
    return "" if parameter.default is parameter.empty else repr(parameter.default)


def _written(function: Any) -> Any:
    """What somebody wrote a docstring for: the class or function in a partial, or the reader that it is given."""
    while isinstance(function, functools.partial):
        function = next(filter(callable, function.args), function.func)
    return function


def _recipe(name: str) -> Part:
    """A recipe file by its header, and the arguments of its table."""
    path = next(p for folder in configs.recipe_folders() if (p := folder / f"{name}.py").is_file())
    module = configs.read_recipe(path)
    (argument,) = inspect.signature(module.get_config).parameters.values()
    arguments = dict.fromkeys(getattr(module, "ARGUMENTS", (argument.default, "...")), "")
    return Part(name, arguments, inspect.getdoc(module) or "", f"configs/{name}.py")
