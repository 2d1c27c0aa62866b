"""Views with the same ops are traced once: their graph is a function, called for each view with the words of its draws.

An op of a picture is some hundred TensorFlow ops: of ten crops, eight of them alike, tracing was most of a start.
"""

import collections
from collections.abc import Callable, Mapping
from typing import Any

from hcl_jax.views.draws import Draws
from hcl_jax.views.lazy import tf


class Alike:
    """The traced functions of one graph, by what a view does.

    Args:
      views_config: view -> {kind, field, ops, ...}; of those that no other view is like, nothing is kept.
    """

    def __init__(self, views_config: Mapping[str, Any]):
        self._views = collections.Counter(map(_kind, views_config.values()))
        self._traced: dict[str, tuple[Callable, tuple[str, ...]]] = {}

    def make(self, view: Mapping[str, Any], x: Any, draws: Draws, run: Callable[[Any, Draws], Any]) -> Any:
        """run(x, draws), the same numbers; `run` is called for the first of the views that are alike.

        Args:
          view: of `views_config`.
          x: the field's tensors.
          draws: of this view; its record grows.
          run: (x, draws) -> tensors, the ops of the view.
        """
        kind = _kind(view)
        if self._views[kind] == 1:
            return run(x, draws)
        if kind not in self._traced:
            asked: list[tuple[str, ...]] = []

            def program(x: Any, words: Any) -> Any:
                shared = draws.with_words(words)
                made = run(x, shared)
                asked.append(shared.asked)
                return made, shared.record

            specs = tf.nest.map_structure(tf.TensorSpec.from_tensor, x)
            function = tf.function(program, autograph=False)
            self._traced[kind] = function.get_concrete_function(specs, tf.TensorSpec([None], tf.int64)), asked[-1]
        traced, names = self._traced[kind]
        made, record = traced(x, tf.constant(draws.words_of(names)))
        draws.record.update(record)
        return made


def _kind(view: Mapping[str, Any]) -> str:
    return repr((view["kind"], view["field"], [sorted(dict(op).items()) for op in view.get("ops", ())]))
