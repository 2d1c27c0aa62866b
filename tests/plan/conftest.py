"""A plan reads what the compiler says, so its processes compile."""

import pytest


@pytest.fixture(autouse=True)
def compiles_itself(monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
