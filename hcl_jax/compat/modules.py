"""Old module names: `import hcl_jax.checkpoint` gives hcl_jax.workdir.checkpoint, with a DeprecationWarning.

The finder stands first in sys.meta_path: below a renamed package the file finder would find the file of today and load
it a second time under the old name.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Sequence
from typing import Any

PACKAGE = __name__.split(".")[0]
# Old name -> new name, both below the package.
MOVED = {
    "state": "core.state",
    "memory": "core.memory_bank",
    "towers": "core.towers",
    "objectives": "core.objectives",
    "cached": "core.grad_cache",
    "model": "core.model",
    "optim": "core.optim",
    "forward": "core.model",
    "validate": "config.validate",
    "files": "workdir.files",
    "checkpoint": "workdir.checkpoint",
    "seal": "workdir.manifest",
    "layouts": "workdir.layouts",
    "init_from": "workdir.init_from",
    "lock": "workdir.lock",
    "lease": "workdir.lease",
    "quiet": "workdir.quiet",
    "card": "workdir.card",
    "log": "workdir.metrics",
    "alarms": "workdir.alarms",
    "seeds": "workdir.seed_stats",
    "meter": "workdir.meter",
    "backend": "runtime.distributed",
    "interruption": "runtime.preemption",
    "watchdog": "runtime.watchdog",
    "parallel.processes": "runtime.processes",
    "parallel.similarity": "similarity",
    "parallel.dense": "similarity.dense",
    "parallel.tiled": "similarity.tiled",
    "parallel.folds": "similarity.kernels",
    "parallel.sweep": "similarity.tiles",
    "parallel.ring": "similarity.ring",
    "parallel.tiles": "similarity.tiles",
    "parallel.shards": "similarity.shards",
    "parallel.gathered": "similarity.all_gather",
    "parallel.seeds": "parallel.vmapped_seeds",
    "slices": "plan.slices",
    "command": "cli",
    "data.random": "data.synthetic",
    "claims.code": "claims.code_version",
    "evaluate.accuracy": "evaluators.accuracy",
    "evaluate.collapse": "evaluators.collapse",
    "evaluate.compare": "evaluators.paired",
    "evaluate.knn": "evaluators.knn",
    "evaluate.label_efficiency": "evaluators.label_efficiency",
    "evaluate.linear": "evaluators.linear",
    "evaluate.neighbours": "evaluators.neighbours",
    "evaluate.one_nn": "evaluators.one_nn",
    "evaluate.raw": "evaluators.raw",
    "evaluate.retrieval": "evaluators.retrieval",
    "evaluate.rows": "evaluators.rows",
    "encoders.rows": "encoders.inputs",
    "losses.rows": "losses.masking",
    "views.rows": "views.row_subset",
    "evaluate.softmax": "evaluators.softmax",
    "evaluate.svm": "evaluators.svm",
    "evaluate": "evaluators",
}


class OldPackage(types.ModuleType):
    """A package under its old name.

    Python binds a module to its package as it is imported; bound to the package of today it would stand in the place of
    a function of that name.
    """

    def __init__(self, name: str, found: types.ModuleType):
        super().__init__(name, found.__doc__)
        self.__dict__.update(found=found, __path__=found.__path__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["found"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(value, types.ModuleType):
            setattr(self.__dict__["found"], name, value)


class OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module by its old name and puts the one of today in its place."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        is_old = name.startswith(f"{PACKAGE}.") and name.removeprefix(f"{PACKAGE}.") in MOVED
        return importlib.machinery.ModuleSpec(name, self) if is_old else None

    def exec_module(self, module: types.ModuleType) -> None:
        old = module.__name__
        new = f"{PACKAGE}.{MOVED[old.removeprefix(f'{PACKAGE}.')]}"
        warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=2)
        found = importlib.import_module(new)
        # The import system hands out what stands here.
        sys.modules[old] = OldPackage(old, found) if hasattr(found, "__path__") else found


def install() -> None:
    """Makes old names importable. Once is enough."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, OldNames())
