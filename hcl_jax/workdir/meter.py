"""Numbers of a step on their way to the log, fetched while the device is busy with the next step: nothing waits."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from hcl_jax.data import BadRecords
from hcl_jax.run import Run
from hcl_jax.workdir import alarms
from hcl_jax.workdir.metrics import Log
from hcl_jax.workdir.seed_stats import by_seed


class Meter:
    """Writes a step's numbers, with the rates since the last ones, and says what looks wrong in them.

    Args:
      log: where they go.
      run: whose they are.
      start: the step that this process begins after.
      began: when the run began, of time.monotonic(); None: now.
      bad: the records that others stood in for, to be counted.
    """

    def __init__(self, log: Log, run: Run, start: int, began: float | None, bad: BadRecords | None = None):
        self._log, self._run, self._logged, self._bad = log, run, start, bad
        self._pending: tuple[int, Any, jax.Array] | None = None
        self._since, self._waited = time.monotonic(), 0.0
        self._began = self._since if began is None else began
        self._seen = alarms.State()
        for line in log.history.lines:  # their warnings are not repeated
            self._seen, _ = self._warnings(line["step"], line, {})

    def waited(self, seconds: float) -> None:
        """Adds seconds spent waiting for input."""
        self._waited += seconds

    def paused(self, seconds: float) -> None:
        """Adds seconds spent not training."""
        self._since += seconds

    def take(self, step: int, metrics: Any, skipped_steps: jax.Array) -> None:
        """Keeps the numbers of a step, on the device, until the next `fetch`."""
        self._pending = (step, metrics, skipped_steps)

    def fetch(self) -> None:
        """Writes the pending numbers.

        Raises:
          FloatingPointError: too many steps in a row were not finite.
        """
        if self._pending is None:
            return
        step, metrics, skipped_steps = self._pending
        metrics, steps = jax.device_get((metrics, skipped_steps))
        values = by_seed(metrics, self._run.seeds)
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        rows = self._run.config.data.batch_size * len(self._run.seeds)
        values["examples_per_second"] = (step - self._logged) * rows / seconds
        values["input_wait_fraction"] = min(self._waited / seconds, 1.0)
        if self._bad is not None:
            values["bad_records"] = float(self._bad.count())
        values["minutes"] = self._log.history.minutes + (now - self._began) / 60
        self._pending, self._since, self._waited, self._logged = None, now, 0.0, step
        self._log.write(step, values)
        self._log.progress(step, values["loss"], values["examples_per_second"])
        names = [f"seed{s}/" for s in self._run.seeds] if len(self._run.seeds) > 1 else [""]
        # Users count steps from 1, as metrics.jsonl does.
        numbers = {n: [int(s) + 1 for s in row if s >= 0] for n, row in zip(names, np.atleast_2d(steps), strict=True)}
        self._seen, found = self._warnings(step, values, numbers)
        for text in found:
            self._log.say(f"warning: {text}")
        # A short run of nothing but such steps has not trained either.
        if values["skipped"] >= min(self._run.config.train.max_skipped, self._run.steps):
            raise FloatingPointError(
                f"{values['skipped']:.0f} non-finite steps in a row up to step {step}; the state is the last finite "
                "one (usual causes: a learning rate too high, token ids past the vocabulary)"
            )

    def _warnings(self, step: int, values: Mapping[str, float], numbers: Mapping[str, list[int]]) -> Any:
        spec = self._run.config.log
        return alarms.warnings(
            self._seen,
            step,
            values,
            spike_above=spec.spike,
            collapse_below=spec.collapse,
            skipped_steps=numbers,
        )
