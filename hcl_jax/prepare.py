"""Everything of a run that can be refused before a file is written."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from hcl_jax import config as configs
from hcl_jax import data, workdir
from hcl_jax.config import validate
from hcl_jax.core import objectives
from hcl_jax.errors import InputError
from hcl_jax.evaluation import check as evaluation_check
from hcl_jax.evaluation import is_evaluated
from hcl_jax.parallel import mesh as meshes
from hcl_jax.run import Parts, Run, build, epoch_examples, steps_of


class Prepared(NamedTuple):
    """A run before anything is written.

    Attributes:
      config: completed.
      run, source, test: what it is made of; test is None where nothing is evaluated.
      changed: {open field: (frozen, given)} where the workdir's config differs.
      lowered: the step, traced and ready to compile.
    """

    config: Any
    run: Run
    source: data.Source
    test: data.Source | None
    changed: dict[str, tuple[Any, Any]]
    lowered: Any


def prepare(config: Any, workdir_path: str | pathlib.Path, parts: Parts, try_steps: int | None) -> Prepared:
    """Checks a completed config and binds it to its data.

    Args:
      config: completed.
      workdir_path: the run's folder.
      parts: tables of parts.
      try_steps: how many steps on random input, or None.

    Raises:
      InputError: the first thing that is wrong.
    """
    validate.check(config, **parts.checked())
    if try_steps is not None:
        config = shortened(config, try_steps)
    changed = workdir.check(workdir_path, config, functools.partial(plain_inputs, parts.losses))
    if try_steps is not None and workdir.has_run(workdir_path):
        raise InputError(f"--steps={try_steps}", "the folder of a run", "another --workdir, or none")
    if try_steps is not None:
        source, test = data.random_like(config.data, config.views, sources=parts.sources), None
    else:
        source = data.open_source(config.data, config.data.train_split, parts.sources)
        evaluated = is_evaluated(config, parts)
        test = data.open_source(config.data, config.data.test_split, parts.sources) if evaluated else None
    run = build(config, parts, source, meshes.make_mesh(config.mesh))
    check_length(run, source, changed)
    if test is not None:
        evaluation_check(run, source, test)
    # Shapes that do not fit show here.
    lowered = run.step().lower(run.abstract, run.abstract_batch)
    return Prepared(config, run, source, test, changed, lowered)


def plain_inputs(losses: Mapping, config: Any) -> Any:
    """A config whose objectives have lists as inputs, for comparison with another: names say the same."""
    plain = config.to_dict()
    plain["objectives"] = objectives.with_bound_inputs(plain["objectives"], losses)
    return configs.ConfigDict(plain)


def check_length(run: Run, source: data.Source, changed: Mapping[str, tuple[Any, Any]]) -> None:
    """A run that goes on may grow, never shrink, also where steps and epochs change places.

    Raises:
      InputError: `changed`, {field: (old, new)}, holds a shorter run.
    """
    steps, epochs = (changed.get(f"train.{f}", (run.config.train[f],))[0] for f in ("steps", "epochs"))
    old = steps_of(steps, epochs, epoch_examples(run.config, source), run.config.data.batch_size)
    if run.steps < old:
        raise InputError("config.train.steps", run.steps, f"at least {old}, as the frozen config has it")


def shortened(config: Any, steps: int) -> Any:
    """The same run, `steps` long, on random input."""
    if steps < 1:
        raise InputError("--steps", steps, ">= 1")
    plain = config.to_dict()
    plain["train"]["steps"] = steps
    plain["log"]["every"] = 1
    return configs.complete(configs.ConfigDict(plain))
