"""Records that cannot be used: which ones, what is wrong with them, and which ones stand for them.

Whether a record is bad, and which one stands for it, follows from the record alone. So a global batch is the same for
any number of hosts and after any restart, although each process finds the bad records of its own rows only.
"""

import collections
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from hcl_jax.data import images
from hcl_jax.data.source import Source
from hcl_jax.errors import InputError
from hcl_jax.runtime import processes
from hcl_jax.views.lazy import tf

LOOSE = ("arrays", "string")  # fields that state no one shape
NAMED = 5  # records that the last line of a run names besides the first
LOG = logging.getLogger("hcl_jax")
_made: collections.Counter[str] = collections.Counter()  # another run of the same process starts at none


class BadRecords:
    """The bad records of one source that this process has met, and how many all processes have.

    Args:
      most: more distinct ones than this, over all processes, end the run; 0 is none.
      name: of what is read ("train"). All processes of a run make theirs of one name in the same order.

    Attributes:
      faults: record number -> what is wrong with it.
      said: those that the log has a line of.
    """

    def __init__(self, most: int, name: str = "train"):
        _made[name] += 1
        self.most, self.name = most, f"bad_records/{name}/{_made[name]}"
        self.faults: dict[int, InputError] = {}
        self.said: set[int] = set()

    def add(self, faults: Mapping[int, InputError]) -> None:
        """Notes more bad records, for every process. Raises InputError when there are more than `most`."""
        for number, fault in faults.items():
            if number in self.faults:  # another seed's stream has met it
                continue
            self.faults[number] = fault
            processes.publish(f"{self.name}/{processes.index()}/{number}", fault.where)
        others = self._of_others()
        count = len(self.faults) + len(others)
        if count <= self.most:
            return
        first = next(iter(self.faults.values()))
        if self.most == 0:
            raise first
        names = [*(f.where for f in self.faults.values()), *others.values()][1:]
        shown = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
        found = f"{first.found}, and {count - 1} more bad records: {shown}"
        raise InputError(
            first.where, found, f"{first.allowed}; at most {self.most} bad ones, config.data.max_bad_records"
        )

    def count(self) -> int:
        """Distinct bad records that any process has met since it started."""
        return len(self.faults) + len(self._of_others())

    def _of_others(self) -> dict[int, str]:
        told = {int(key.rpartition("/")[2]): text for key, text in processes.published(self.name).items()}
        return {number: text for number, text in told.items() if number not in self.faults}


def checked(
    record: Mapping[str, Any], source: Source, fields: Mapping[str, bool], index: Any, whole: dict[str, np.ndarray]
) -> dict[str, Any]:
    """The same records, in a graph that fails at one that `fault_of` finds fault with (but for labels).

    Args:
      record: field -> [n, ...].
      source: where they are from.
      fields: those that views read -> whether they are encoded pictures.
      index: int64 [n], their numbers.
      whole: field -> bool [N], of encoded pictures those that were decoded to their end, which is done once; grows.
    """
    made = dict(record)
    for field, picture in fields.items():
        shape, dtype = source.fields[field]
        if dtype not in LOOSE:
            made[field] = tf.ensure_shape(made[field], [index.shape[0], *shape])
        if picture and field not in source.sides:  # those are decoded whole
            known = whole.setdefault(field, np.zeros(source.num_examples, bool))
            made[field] = images.whole_jpegs(made[field], index, known)
    return made


def fault_of(source: Source, fields: Mapping[str, bool], number: int) -> InputError | None:
    """What is wrong with a record, read on its own; None where nothing is.

    Args:
      source: where it is from.
      fields: those that views read -> whether they are encoded pictures.
      number: of the record.
    """
    name = source.describe(number)
    try:
        record = source.fetch(tf.constant([number], tf.int64))
    except Exception as error:  # outside a graph a reader's own kind comes through
        return InputError(
            name, f"unreadable ({str(error).splitlines()[0] if str(error) else error!r})", "a whole record"
        )
    for field, picture in fields.items():
        if picture:
            fault = images.fault(name, record[field].numpy()[0], source, field)
            if fault is not None:
                return fault
        value, (shape, dtype) = record[field], source.fields[field]
        if dtype in LOOSE:
            continue
        if not value.shape[1:].is_compatible_with(shape) or value.dtype.name != dtype:
            found = f"{value.dtype.name}{list(value.shape[1:])}"
            return InputError(f"{name}: field {field}", found, f"{dtype}{list(shape)}")
    labels = {k: record[k].numpy() for k in source.labels}
    return next(iter(label_faults(source, labels, np.array([number])).values()), None)


def label_faults(source: Source, labels: Mapping[str, np.ndarray], index: np.ndarray) -> dict[int, InputError]:
    """Record number -> fault of those whose class is not in -1..C-1.

    Args:
      source: says how many classes each label has.
      labels: label -> [n, ...].
      index: int [n], the record of each row.
    """
    found: dict[int, InputError] = {}
    for label, classes in source.labels.items():
        if not classes:
            continue
        value = labels[label].reshape(len(index), -1)
        wrong = (value < -1) | (value >= classes)
        for row in np.flatnonzero(wrong.any(axis=1)):
            where = f"{source.describe(int(index[row]))}: label {label}"
            worst = value[row][np.argmax(wrong[row])]
            found.setdefault(int(index[row]), InputError(where, worst, f"0 to {classes - 1}, or -1 for unknown"))
    return found


def faults_of(source: Source, fields: Mapping[str, bool], numbers: Iterable[int]) -> dict[int, InputError]:
    """Record number -> fault of the bad ones among `numbers`, each read on its own."""
    numbers = list(dict.fromkeys(numbers))
    with ThreadPoolExecutor() as pool:  # reading and decoding let go of the interpreter
        found = list(pool.map(lambda number: fault_of(source, fields, number), numbers))
    return {number: fault for number, fault in zip(numbers, found, strict=True) if fault is not None}


def extend(
    stands: dict[int, int],
    bad: BadRecords,
    following: Callable[[int], int | None],
    fault: Callable[[int], InputError | None],
) -> None:
    """Gives every bad record, in place, the next good one: r -> the first of r + 1, r + 2, ... that is good.

    Args:
      stands: bad record -> the one that stands for it.
      bad: bad ones that are met on the way are added.
      following: record -> the next one, round and round; None for a record that these batches do not hold.
      fault: record -> what is wrong with it.

    Raises:
      InputError: too many bad records, or no good one.
    """
    waiting = list(bad.faults)
    for first in waiting:  # those that are met on the way join its end
        last = stands.get(first, first)
        while last in bad.faults:
            step = following(last)
            if step is None:
                break
            if step == first:
                raise bad.faults[first]
            last = step
            wrong = None if last in bad.faults else fault(last)
            if wrong is not None:
                bad.add({last: wrong})
                waiting.append(last)
        if last != first:
            stands[first] = last


def following(num_examples: int, rows: np.ndarray | None = None, starts: tuple[int, ...] = ()) -> Any:
    """The function record -> the next one.

    Args:
      num_examples: N; after N - 1 comes 0.
      rows: int64 [m], rising: a sample, of which the next one is the next in the sample; None is all.
      starts: numbers at which a part of a mixture begins, 0 among them: the next one is of the same part.

    Returns:
      int -> int, or None for a record outside of the sample.
    """
    edges = [*(starts or (0,)), num_examples]

    def next_of(record: int) -> int | None:
        if rows is not None:
            at = int(np.searchsorted(rows, record))
            return int(rows[(at + 1) % len(rows)]) if at < len(rows) and rows[at] == record else None
        part = int(np.searchsorted(edges, record, side="right"))
        return record + 1 if record + 1 < edges[part] else edges[part - 1]

    return next_of


def replaced(stands: Mapping[int, int]) -> Callable[[Any], tuple[Any, Any]]:
    """The function index int64 [n] -> (index with the stand-ins, bool [n] of the rows that have one), for graphs."""
    if not stands:
        return lambda index: (index, tf.zeros_like(index, tf.bool))
    with tf.device("CPU:0"):  # outside of the graph: inside they would be constants of it
        bad = tf.constant(sorted(stands), tf.int64)
        good = tf.constant([stands[number] for number in sorted(stands)], tf.int64)

    def replace(index: Any) -> tuple[Any, Any]:
        at = tf.minimum(tf.searchsorted(bad, index), len(stands) - 1)
        hit = tf.gather(bad, at) == index
        return tf.where(hit, tf.gather(good, at), index), hit

    return replace


def warn(bad: BadRecords, source: Source, stands: Mapping[int, int]) -> None:
    """A line for each bad record that had none yet: what is wrong with it, and what becomes of its row."""
    for number in bad.faults.keys() - bad.said:
        bad.said.add(number)
        fault, other = bad.faults[number], stands.get(number)
        then = "its row is left out" if other is None else f"{source.describe(other)} stands for it"
        LOG.warning("bad record %d: %s: found %s; %s", number, fault.where, fault.found, then)
