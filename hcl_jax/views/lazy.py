"""TensorFlow, imported at its first use: it takes seconds, and --help or a config error must not wait for it."""

import importlib
import os
import sys
from types import ModuleType
from typing import Any


class _Lazy:
    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        # JAX sets 1 as it is imported, with which TensorFlow tells of each record that it cannot decode in three lines
        # of its own, beside the one that the run has for it; with 2 it still tells of a JPEG that ends too early. What
        # fails is raised, whatever is logged.
        if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
            os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        # oneDNN picks kernels by machine and sums in another order: pictures would differ between hosts.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
        module = without_keras(self._name)
        # TensorFlow only feeds: on a GPU machine it must not take the memory that JAX needs.
        module.config.set_visible_devices([], "GPU")
        self.__dict__.update({k: v for k, v in vars(module).items() if not k.startswith("_")})
        return getattr(module, attribute)


def without_keras(name: str) -> ModuleType:
    """Imports a module that imports Keras for completion's sake, and does without where there is none: of TensorFlow's
    8 CPU seconds 3. `tf.keras` loads when it is asked for, as ever."""
    hidden = "keras" not in sys.modules
    if hidden:
        sys.modules["keras"] = None  # type: ignore[assignment]  # what the import system takes for "not there"
    try:
        return importlib.import_module(name)
    finally:
        if hidden:
            del sys.modules["keras"]


tf: Any = _Lazy("tensorflow")
