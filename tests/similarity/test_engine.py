"""train.engine: a run on any engine is the same run; a wrong one is refused before anything is written."""

import json

import numpy as np
import pytest

from hcl_jax.main import main
from tests.refusals import refused

FLAGS = [
    "--config=simclr:digits",
    "--config.data.batch_size=64",
    "--config.data.num_examples=256",
    "--config.train.steps=3",
    "--config.towers.image.encoder.widths=(8,)",
    "--config.log.every=1",
    "--config.log.tensorboard=False",
    "--config.evaluate.views={}",
]


def losses(folder, *flags) -> list[float]:
    assert main([*FLAGS, *flags, f"--workdir={folder}"]) == 0
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return losses(tmp_path_factory.mktemp("dense") / "run", "--config.train.engine=dense")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["streamed", "ring"])
def test_a_run_is_the_same_on_any_engine(tmp_path, dense, engine):
    """Eight devices, float32: the sums are taken in another order."""
    other = losses(tmp_path / engine, f"--config.train.engine={engine}")
    assert len(dense) == 3
    np.testing.assert_allclose(other, dense, rtol=2e-5)


@pytest.mark.slow
def test_engine_and_limit_may_change_on_resume(tmp_path, capsys):
    folder = tmp_path / "run"
    losses(folder, "--config.train.engine=dense")
    again = ["--config.train.engine=auto", "--config.train.similarity_mib=0", "--config.train.steps=4"]
    flags = [flag for flag in FLAGS if "steps" not in flag]
    assert main([*flags, *again, f"--workdir={folder}"]) == 0
    out = capsys.readouterr().out
    assert "config.train.engine: 'dense' -> 'auto'" in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.train.engine=tiles"], "config.train.engine: found 'tiles'; allowed"),
        (["--config.objectives.contrast.engine=rings"], "config.objectives.contrast.engine: found 'rings'"),
        (["--config.train.similarity_mib=-1"], "config.train.similarity_mib: found -1"),
        (["--config.train.engine=ring", "--config.train.seeds=8"], "config.train.engine: found 'ring'; allowed: auto"),
    ],
)
def test_bad_engines_are_refused(capsys, tmp_path, flags, words):
    assert words in refused(capsys, *FLAGS, *flags, f"--workdir={tmp_path / 'new'}")
    assert not (tmp_path / "new").exists()
