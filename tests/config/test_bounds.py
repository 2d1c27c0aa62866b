"""No number of a config is without an upper bound, no size below 1, and no batch larger than the machine."""

import dataclasses
import math

import pytest
from refusals import refused
from test_end_to_end import SMALL

from hcl_jax.config import specs
from hcl_jax.config.check_calls import check_sizes
from hcl_jax.config.fields import check_value, fields, members
from hcl_jax.config.schema import Config, Part
from hcl_jax.encoders import ENCODERS, HEADS
from hcl_jax.errors import InputError
from hcl_jax.runtime import machine


def numbers(section, stem):
    """[(name, its kind, its rule)] of every numeric field below a section."""
    for name, field in fields(section).items():
        for kind in members(field.kind):
            inside = getattr(kind, "__args__", (kind,)) if isinstance(kind, type) is False else (kind,)
            for each in inside:
                if dataclasses.is_dataclass(each):
                    yield from numbers(each, f"{stem}.{name}")
                elif each in (int, float):
                    yield f"{stem}.{name}", each, field.rule


SECTIONS = (Config, Part, specs.Fifo, specs.MeanEma, specs.Learned, specs.Scheduled)
EVERY = {name: found for s in SECTIONS for name, *found in numbers(s, s.__name__)}


@pytest.mark.parametrize("value", [1e30, 10**30, 10**400, -(10**400), math.inf])
def test_no_number_is_without_a_bound(value):
    """F6: 25 of 31 numeric fields took 10^30."""
    assert len(EVERY) > 55
    for name, (kind, rule) in EVERY.items():
        with pytest.raises(InputError):
            check_value(name, value, kind, rule)


@pytest.mark.parametrize(
    ("table", "name", "bad", "good"),
    [
        (ENCODERS, "convnet", {"widths": (8, 0)}, {"widths": (8, 1)}),
        (ENCODERS, "convnet", {"widths": (-1,)}, {}),
        (ENCODERS, "mlp", {"widths": (10**9,)}, {"widths": (10**6,)}),
        (ENCODERS, "tcn", {"hidden": 0}, {"dropout": 0.0}),
        (ENCODERS, "tcn", {"dropout": 1.5}, {"mask": 0.5}),
        (ENCODERS, "vit", {"depth": -1}, {"depth": 0, "registers": 0}),
        (HEADS, "linear", {"features": 0}, {"features": 3}),
        (HEADS, "projector", {"features": -1}, {"features": 0, "hidden": 0}),
        (HEADS, "projector", {"layers": 0}, {"layers": 1}),
        (HEADS, "predictor", {"hidden": -4}, {"features": 0}),
    ],
)
def test_sizes(table, name, bad, good):
    """F6: widths of -1 and 0 passed; 0 stays where the docstring gives it a meaning."""
    check_sizes("config.towers.t.encoder", table[name], good)
    (argument,) = bad
    with pytest.raises(InputError, match=f"config.towers.t.encoder.{argument}: found"):
        check_sizes("config.towers.t.encoder", table[name], bad)


def test_sizes_in_a_recipe(capsys, tmp_path):
    said = refused(capsys, *SMALL, "--config.towers.image.encoder.widths=(8,0)", f"--workdir={tmp_path / 'w'}")
    assert "config.towers.image.encoder.widths: found (8, 0)" in said


def test_a_batch_larger_than_memory(capsys, tmp_path, monkeypatch):
    """F6: 96 records and a batch of 10^9 took 16 GB in two minutes."""
    said = refused(capsys, *SMALL, "--config.data.batch_size=1000000000", f"--workdir={tmp_path / 'w'}")
    assert "config.data.batch_size: found 1000000000; allowed: a whole number, 1 <= x <= 16777216" in said
    monkeypatch.setattr(machine, "memory", lambda: 2**16)
    said = refused(capsys, *SMALL, "--config.data.batch_size=4096", f"--workdir={tmp_path / 'w'}")
    assert "config.data.batch_size: found 4096 rows, " in said
    assert not (tmp_path / "w").exists()
