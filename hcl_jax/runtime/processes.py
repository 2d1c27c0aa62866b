"""Agreement between the processes of a run, through the coordinator's key-value store.

No device and no collective takes part, and every wait has a limit. A lone process agrees with itself.
"""

import collections
import json
from collections.abc import Callable
from typing import Any

import jax
from jax._src import distributed  # the store has no public name in jax 0.10

from hcl_jax.errors import InputError

_calls: collections.Counter[str] = collections.Counter()
_alone: dict[str, str] = {}


def count() -> int:
    """How many processes the run has. jax.process_count() waits for all of them, minutes long, the first time."""
    joined = distributed.global_state.num_processes or 1
    return joined if joined > 1 else jax.process_count()


def index() -> int:
    """The number of this process; it waits for nobody, as `count`."""
    joined = distributed.global_state.num_processes or 1
    return distributed.global_state.process_id if joined > 1 else jax.process_index()


def publish(name: str, text: str) -> None:
    """Sets a word that every process can read; a name is set once."""
    client = distributed.global_state.client
    if client is None:
        _alone.setdefault(name, text)
    else:
        client.key_value_set(f"hcl_jax/{name}", text)


def published(prefix: str) -> dict[str, str]:
    """The words whose name begins with `prefix` and a slash, {rest of the name: text}."""
    client = distributed.global_state.client
    start = f"{prefix}/"
    if client is None:
        return {k.removeprefix(start): v for k, v in _alone.items() if k.startswith(start)}
    found = client.key_value_dir_get(f"hcl_jax/{start}")
    return {k.partition(f"hcl_jax/{start}")[2]: v for k, v in found}


def from_first(name: str, make: Callable[[], Any], seconds: float) -> Any:
    """What `make` gives in the first process, in all of them; an InputError there is one everywhere.

    Args:
      name: what it is about, for messages. All processes call in the same order.
      make: gives something that JSON can hold; called in the first process only.
      seconds: how long to wait for it.

    Raises:
      TimeoutError: the first process gave nothing in that time.
    """
    if count() == 1:
        return make()
    key = _key(name)
    if index() == 0:
        try:
            said = {"value": make()}
        except InputError as error:
            publish(key, json.dumps({"error": [error.where, str(error.found), error.allowed]}))
            raise
        publish(key, json.dumps(said))
    said = json.loads(_wait(key, seconds, f"process 0 about {name}"))
    if "error" in said:
        raise _shared(*said["error"])
    return said["value"]


def agree(name: str, value: dict[str, str], seconds: float) -> None:
    """Refuses to go on unless all processes have the same value.

    Args:
      name: what it is about, for messages. All processes call in the same order.
      value: {field: text}.
      seconds: how long to wait for the others.

    Raises:
      InputError: naming the process and the field, with both texts.
      TimeoutError: a process said nothing in that time.
    """
    if count() == 1:
        return
    key = _key(name)
    publish(f"{key}/{index()}", json.dumps(value))
    for i in range(count()):
        other = json.loads(_wait(f"{key}/{i}", seconds, f"process {i} about {name}"))
        if i == 0:
            first = other
        for field in sorted(first.keys() | other.keys()):
            if first.get(field) != other.get(field):
                raise _shared(f"process {i}: {field}", other.get(field), f"{first.get(field)}, as process 0 has it")


def together(name: str, work: Callable[[], Any], seconds: float) -> Any:
    """Does the same work in every process; when it is refused in one, all of them raise that one's InputError.

    Without this the others would wait for ever at their next collective for one that has left.
    """
    if count() == 1:
        return work()
    key, mine, result = _key(name), "", None
    try:
        result = work()
    except InputError as error:
        mine = json.dumps([error.where, str(error.found), error.allowed])
    publish(f"{key}/{index()}", mine)
    for i in range(count()):
        said = _wait(f"{key}/{i}", seconds, f"process {i} about {name}")
        if said:
            raise _shared(*json.loads(said))
    return result


def _shared(where: str, found: object, allowed: str) -> InputError:
    error = InputError(where, found, allowed)
    error.shared = True
    return error


def _key(name: str) -> str:
    _calls[name] += 1
    return f"{name}/{_calls[name]}"


def _wait(key: str, seconds: float, what: str) -> str:
    client = distributed.global_state.client
    assert client is not None  # of several processes there is one
    try:
        return client.blocking_key_value_get(f"hcl_jax/{key}", int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        raise TimeoutError(f"waited {seconds:.0f} s for {what}; is that process stuck or gone? ({error})") from None
