"""Random numbers of a view, a pure function of (seed, step, global row, salt, name): any set of hosts draws the same.

Numbers are drawn for the whole global batch and gathered at the rows made here. That costs each host the draws of all
rows, so wide shapes of large batches are drawn row by row instead, from a seed that holds the row.
"""

import contextlib
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from hcl_jax.errors import InputError
from hcl_jax.views.lazy import tf

# Numbers a row, and numbers a batch, up to which all rows are drawn at once: 2^18 take 2 ms, a row on its own 0.03 ms.
# Part of the stream: another value here draws other numbers.
NARROW, SMALL = 32, 2**18


class Draws:
    """Stateless random numbers for the local rows of one step.

    number(r) = philox(key = (crc32("seed/salt/name"), step))[r]

    Args:
      seed: the run's seed.
      step: int or scalar tensor, the global step.
      batch_size: B, rows of the global batch.
      rows: int [n], the global rows made here.
      salt: views with the same salt share random numbers.

    Attributes:
      record: name -> numbers drawn, [n, *shape].
      targets: name -> what an op made for a head, [n, ...].
    """

    def __init__(self, seed: int, step: Any, batch_size: int, rows: Any, salt: str):
        self.batch_size, self.salt, self.rows = int(batch_size), str(salt), rows
        self._words: Any = None
        self._asked: list[str] = []
        self._all_rows, self._part = rows, (None, None, None)
        self.record: dict[str, Any] = {}
        self.targets: dict[str, Any] = {}
        self._seed, self._step, self._prefix = int(seed), step, ""
        if isinstance(rows, np.ndarray | Sequence):
            known = np.asarray(rows)
            if known.ndim != 1 or (known.size and not 0 <= known.min() <= known.max() < batch_size):
                raise InputError("rows", f"{known!r}", f"row numbers [n] from 0 to {batch_size - 1}")

    def scope(self, name: str) -> "Draws":
        """The same draws with `name/` before every name; record and targets are shared."""
        child = object.__new__(type(self))
        child.__dict__.update(self.__dict__, _prefix=f"{self._prefix}{name}/")
        return child

    def with_words(self, words: Any) -> "Draws":
        """The draws of a graph that several salts share, with a record and targets of its own.

        `words` int64 [k] hold the words that the salt gives: `words_of` the names in `asked`, which are known once the
        graph is traced.
        """
        child = object.__new__(type(self))
        child.__dict__.update(self.__dict__, record={}, targets={}, _words=words, _asked=[])
        return child

    def part(self, begin: Any, count: Any, graph: Any) -> "Draws":
        """The same draws for `count` of the rows, from number `begin` on, with a record and targets of its own.

        For a loop over parts of the rows: what is drawn for all rows is drawn once, in the `graph` that the loop is in.
        """
        child = object.__new__(type(self))
        end = begin + count
        rows = tf.convert_to_tensor(self.rows)[begin:end]
        child.__dict__.update(self.__dict__, rows=rows, record={}, targets={}, _part=(begin, end, graph))
        return child

    @property
    def asked(self) -> tuple[str, ...]:
        """The names that `with_words` draws took words for, in order."""
        return tuple(self._asked)

    def words_of(self, names: Sequence[str]) -> np.ndarray:
        """int64 [k], the words of these names under this salt."""
        return np.array([zlib.crc32(f"{self._seed}/{self.salt}/{name}".encode()) for name in names], np.int64)

    def uniform(self, name: str, shape: Sequence[int] = (), low: float = 0.0, high: float = 1.0) -> Any:
        """Uniform numbers in [low, high): float32 [n, *shape]."""
        return self._keep(name, low + (high - low) * self._draw(name, shape, "uniform"))

    def normal(self, name: str, shape: Sequence[int] = ()) -> Any:
        """Standard normal numbers: float32 [n, *shape]."""
        return self._keep(name, self._draw(name, shape, "normal"))

    def coin(self, name: str, p: float) -> Any:
        """True with probability p: bool [n]; p = 0 is never, p = 1 always."""
        return self._keep(name, self._draw(name, (), "uniform") < p)

    def shared(self, name: str, shape: Sequence[int] = ()) -> Any:
        """Uniform numbers in [0, 1), drawn once for the global batch, the same on every host: float32 [*shape].

        Recorded as [n, *shape], like all others.
        """
        seed = tf.stack([self._word(name), tf.cast(self._step, tf.int64)])
        value = tf.random.stateless_uniform([int(s) for s in shape], seed, alg="philox")
        self._keep(name, tf.repeat(value[None], tf.size(self.rows), axis=0))
        return value

    def target(self, name: str, value: Any) -> None:
        """Hands what an op made for a head, [n, ...], to the view."""
        if name in self.targets:
            raise InputError(f"target {name!r}", "made by two ops of one view", "another name for one of them")
        self.targets[name] = value

    def _word(self, name: str) -> Any:
        """The first half of a draw's key, an int64 scalar."""
        if self._words is None:
            return tf.constant(int(self.words_of([self._prefix + name])[0]), tf.int64)
        self._asked.append(self._prefix + name)
        return self._words[len(self._asked) - 1]

    def _keep(self, name: str, value: Any) -> Any:
        if self._prefix + name in self.record:
            # The same name gives the same numbers: two uses would be silently correlated.
            raise InputError(f"draw {self._prefix + name!r}", "drawn twice", "a name of its own for each draw")
        self.record[self._prefix + name] = value
        return value

    def _draw(self, name: str, shape: Sequence[int], kind: str) -> Any:
        make = tf.random.stateless_uniform if kind == "uniform" else tf.random.stateless_normal
        shape = [int(s) for s in shape]
        width = math.prod(shape)
        together = width <= NARROW or width * self.batch_size <= SMALL
        begin, end, graph = self._part
        with graph.as_default() if graph is not None else contextlib.nullcontext():
            word, step = self._word(name), tf.cast(self._step, tf.int64)
            if together:
                everyone = make([self.batch_size, *shape], tf.stack([word, step]), alg="philox")
                mine = tf.gather(everyone, self._all_rows)
        if together:
            return mine if graph is None else mine[begin:end]

        def one(row: Any) -> Any:
            return make(shape, tf.stack([word + row * 2**32, step]), alg="philox")

        rows = tf.cast(tf.convert_to_tensor(self.rows), tf.int64)
        return tf.map_fn(one, rows, fn_output_signature=tf.TensorSpec(shape, tf.float32))


class Replay:
    """Gives the numbers of a `Draws.record` back, name by name, so that the same picture can be made again.

    Args:
      record: name -> numbers [n, *shape], arrays or tensors.

    Raises:
      InputError: a name that the record lacks.
    """

    def __init__(self, record: dict[str, Any]):
        self.record, self._prefix = dict(record), ""
        self.targets: dict[str, Any] = {}

    scope = Draws.scope
    target = Draws.target

    def uniform(self, name: str, shape: Sequence[int] = (), low: float = 0.0, high: float = 1.0) -> Any:
        """The recorded numbers, [n, *shape]."""
        del low, high
        return self._find(name, shape)

    def normal(self, name: str, shape: Sequence[int] = ()) -> Any:
        """The recorded numbers, [n, *shape]."""
        return self._find(name, shape)

    def coin(self, name: str, p: float) -> Any:
        """The recorded coins, bool [n]."""
        del p
        return self._find(name, ())

    def shared(self, name: str, shape: Sequence[int] = ()) -> Any:
        """The recorded numbers of the first row, [*shape]: they are those of every row."""
        return self._find(name, shape)[0]

    def _find(self, name: str, shape: Sequence[int]) -> Any:
        name = self._prefix + name
        if name not in self.record:
            raise InputError(f"draw {name!r}", "not in the record", ", ".join(sorted(self.record)) or "nothing")
        value = tf.convert_to_tensor(self.record[name])
        if value.shape.rank != 1 + len(shape) or not value.shape[1:].is_compatible_with(list(shape)):
            raise InputError(f"draw {name!r}", f"shape {value.shape}", f"[n, {', '.join(map(str, shape))}]")
        return value
