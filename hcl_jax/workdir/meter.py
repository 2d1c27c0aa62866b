"""Numbers of a step on their way to the log, fetched while the device is busy with the next step: nothing waits."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hcl_jax.workdir import alarms
from hcl_jax.workdir.metrics import Log
from hcl_jax.workdir.seed_stats import by_seed


class Meter:
    """Writes a step's numbers, with the rates since the last ones, and says what looks wrong in them.

    Args:
      log: where they go.
      seeds: of the runs in the program; with several each number has one value a seed.
      rows: examples of a step, of all seeds.
      max_skipped: this many non-finite steps in a row end the run.
      spike, collapse: thresholds of the warnings, log.spike and log.collapse; 0 is off.
      start: the step that this process begins after.
      began: when the run began, of time.monotonic(); None is now.
      bad_records: counts the records that were replaced; None where there is no data to read.
      steps_per_epoch: for the line of progress; None says no epochs.
    """

    def __init__(
        self,
        log: Log,
        *,
        seeds: Sequence[int],
        rows: int,
        max_skipped: int,
        spike: float,
        collapse: float,
        start: int = 0,
        began: float | None = None,
        bad_records: Callable[[], int] | None = None,
        steps_per_epoch: float | None = None,
    ):
        self._log, self._seeds, self._rows, self._bad_records = log, tuple(seeds), rows, bad_records
        self._steps_per_epoch = steps_per_epoch
        self._max_skipped, self._spike, self._collapse = max_skipped, spike, collapse
        self._logged = start
        self._pending: tuple[int, Any, jax.Array] | None = None
        self._since, self._waited = time.monotonic(), 0.0
        self._began = self._since if began is None else began
        self._state = alarms.State()
        for line in log.history.lines:  # their warnings are not repeated
            self._state, _ = self._warnings(line["step"], line, {})

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
        values = by_seed(metrics, self._seeds)
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        values["examples_per_second"] = (step - self._logged) * self._rows / seconds
        values["input_wait_fraction"] = min(self._waited / seconds, 1.0)
        if self._bad_records is not None:
            values["bad_records"] = float(self._bad_records())
        values["minutes"] = self._log.history.minutes + (now - self._began) / 60
        self._pending, self._since, self._waited, self._logged = None, now, 0.0, step
        self._log.write(step, values)
        also = {} if self._steps_per_epoch is None else {"epoch": f"{step / self._steps_per_epoch:.1f}"}
        also |= {"learning rate": f"{values['learning_rate']:.3g}"} if "learning_rate" in values else {}
        self._log.progress(step, values["loss"], values["examples_per_second"], also)
        names = [f"seed{s}/" for s in self._seeds] if len(self._seeds) > 1 else [""]
        # Users count steps from 1, as metrics.jsonl does.
        numbers = {n: [int(s) + 1 for s in row if s >= 0] for n, row in zip(names, np.atleast_2d(steps), strict=True)}
        self._state, warnings = self._warnings(step, values, numbers)
        for text in warnings:
            self._log.say(f"warning: {text}")
        if values["skipped"] >= self._max_skipped:
            raise FloatingPointError(
                f"{values['skipped']:.0f} non-finite steps in a row up to step {step}; the state is the last finite "
                "one (usual causes: a learning rate too high, token ids past the vocabulary)"
            )

    def _warnings(self, step: int, values: Mapping[str, float], numbers: Mapping[str, list[int]]) -> Any:
        return alarms.warnings(
            self._state,
            step,
            values,
            spike_above=self._spike,
            collapse_below=self._collapse,
            skipped_steps=numbers,
        )
