"""Where the numbers of a run go beside metrics.jsonl. A tracker is a function that opens what they are written to."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hcl_jax.errors import InputError, nearest
from hcl_jax.workdir.writers import TensorBoard, WandB, Writer


class Opening(NamedTuple):
    """What a tracker is opened with, in the first process alone.

    Attributes:
      folder: a folder on the disk for its files.
      workdir: the run's folder as a whole path, which tells it from other runs.
      config: the frozen config.
      start: the step that the run goes on from; 0 for one that begins.
    """

    folder: Path
    workdir: str
    config: Mapping[str, Any]
    start: int


def tensorboard(run: Opening) -> Writer:
    """Files of events in the run's folder."""
    return TensorBoard(run.folder / "tensorboard", run.start + 1)


def wandb(run: Opening) -> Writer:
    """A run of Weights & Biases."""
    log = run.config.get("log", {})
    names = {name: log.get(f"wandb_{name}", "") for name in ("project", "name", "group")}
    return WandB(run.folder, run.workdir, dict(run.config), names)


class MLflow:
    """A run of MLflow, on the server that MLFLOW_TRACKING_URI names, else in files beside the run's; a resumed run goes
    on as the run of its folder.

    Args:
      run: what it is opened with.
    """

    def __init__(self, run: Opening):
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # later releases ask for it
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (run.folder / "mlflow").absolute().as_uri()
        self._client, self._metric = MlflowClient(uri), Metric
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "hcl_jax"
        experiment = self._client.get_experiment_by_name(name)
        where = experiment.experiment_id if experiment else self._client.create_experiment(name)
        quoted = run.workdir.replace("'", "\\'")
        found = self._client.search_runs([where], f"tags.hcl_jax_workdir = '{quoted}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.set_terminated(self._id, "RUNNING")
            return
        tags = {"hcl_jax_workdir": run.workdir}
        self._id = self._client.create_run(where, run_name=Path(run.workdir).name, tags=tags).info.run_id
        params = [Param(k, str(v)[:500]) for k, v in _flat(run.config)]
        for i in range(0, len(params), 100):  # what its protocol takes at once
            self._client.log_batch(self._id, params=params[i : i + 100])

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Sends numbers."""
        now = int(time.time() * 1000)
        rows = [self._metric(k, float(v), now, step) for k, v in metrics.items()]
        for i in range(0, len(rows), 1000):
            self._client.log_batch(self._id, metrics=rows[i : i + 1000])

    def flush(self) -> None:
        """Nothing: numbers are sent as they come."""

    def close(self) -> None:
        """Ends the run there."""
        self._client.set_terminated(self._id)


def failure(name: str, error: Exception, left: str) -> str:
    """The line on a tracker that has raised an error: the error's first line, and what is left out from now on."""
    text = (str(error).splitlines() or [""])[0]
    return f"tracker {name}: {type(error).__name__}: {text}; {left}, the run goes on"


class Guarded:
    """A tracker that never ends the run: the first thing that goes wrong is said in one line, and it gets no more; of
    `pictures`, a `table` or `points`, no more of these.

    Args:
      name: in the table.
      opened: opens it.
      say: where the line goes.
    """

    def __init__(self, name: str, opened: Callable[[], Writer], say: Callable[[str], None]):
        self._name, self._say = name, say
        self._off: set[str] = set()  # methods that have failed
        self._writer: Writer | None = None
        self._writer = self._tried(opened)

    def _tried(self, work: Callable[[], Any], what: str = "") -> Any:
        try:
            return work()
        except Exception as error:  # of whatever kind: a network, a service, the code of a user
            self._say(failure(self._name, error, f"it gets no more {what or 'numbers'}"))
            if what:
                self._off.add(what)
            else:
                self._writer = None

    def __getattr__(self, name: str) -> Callable[..., None]:
        """What else the tracker takes, such as `pictures`."""
        method = None if name.startswith("_") or name in self._off else getattr(self._writer, name)
        if not callable(method):  # an attribute of that name may be anything
            raise AttributeError(name)
        return lambda *given: self._tried(lambda: method(*given), name)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Numbers of a step."""
        if self._writer is not None:
            writer = self._writer
            self._tried(lambda: writer.write(step, metrics))

    def flush(self) -> None:
        """What is kept goes out."""
        if self._writer is not None:
            self._tried(self._writer.flush)

    def close(self) -> None:
        """Ends it."""
        if self._writer is not None:
            self._tried(self._writer.close)


def _flat(tree: Any, path: str = "") -> list[tuple[str, Any]]:
    if not isinstance(tree, Mapping) or not tree:
        return [(path, tree)]
    return [pair for k, v in tree.items() for pair in _flat(v, f"{path}.{k}" if path else str(k))]


TRACKERS: dict[str, Callable[[Opening], Writer]] = {"tensorboard": tensorboard, "wandb": wandb, "mlflow": MLflow}


def chosen(log: Mapping[str, Any], table: Mapping[str, Callable]) -> dict[str, Callable]:
    """{name: function} of what a section `log` asks for. Raises InputError for a name that the table lacks."""
    switched = [name for name in ("tensorboard", "wandb") if log[name]]
    for name in log["trackers"]:
        if name not in table:
            raise InputError("config.log.trackers", repr(name), nearest(name, table))
    return {name: table[name] for name in [*switched, *log["trackers"]]}
