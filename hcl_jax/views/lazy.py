"""TensorFlow, imported at its first use: it takes 4 to 10 s, and --help or a config error must not wait for it."""

import importlib
import os
from typing import Any


class _Lazy:
    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        # oneDNN picks kernels by machine and sums in another order: pictures would differ between hosts.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
        module = importlib.import_module(self._name)
        # TensorFlow only feeds: on a GPU machine it must not take the memory that JAX needs.
        module.config.set_visible_devices([], "GPU")
        self.__dict__.update({k: v for k, v in vars(module).items() if not k.startswith("_")})
        return getattr(module, attribute)


tf: Any = _Lazy("tensorflow")
